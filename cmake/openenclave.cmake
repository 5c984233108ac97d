# The Open Enclave SDK, v0.19 or later; only for the two Open Enclave platforms.

find_package(OpenEnclave 0.19 CONFIG QUIET)
if(NOT OpenEnclave_FOUND)
  message(FATAL_ERROR "CONFIDENTIAL_ML_PLATFORM=${CONFIDENTIAL_ML_PLATFORM} needs the Open Enclave SDK v0.19 or later: "
                      "install it and point CMAKE_PREFIX_PATH at it (docs/building.md).")
endif()
if(NOT TARGET openenclave::oecryptoopenssl_3)
  message(FATAL_ERROR "This Open Enclave SDK was built without OpenSSL 3 (openenclave::oecryptoopenssl_3).")
endif()
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  message(FATAL_ERROR "Open Enclave builds its enclaves with clang: set CC=clang and CXX=clang++.")
endif()
