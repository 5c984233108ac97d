# What else the Open Enclave SDK must be, and how its enclaves are made; only for the two Open Enclave platforms.

if(NOT TARGET openenclave::oecryptoopenssl_3)
  message(FATAL_ERROR "This Open Enclave SDK was built without OpenSSL 3 (openenclave::oecryptoopenssl_3).")
endif()
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  message(FATAL_ERROR "Open Enclave builds its enclaves with clang: set CC=clang and CXX=clang++.")
endif()
