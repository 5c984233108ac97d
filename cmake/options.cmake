# What every C++ target of this project is compiled with, and the values read from enclave.conf.

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(Python 3.11 REQUIRED COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)

# Own code only: generated edge code of the SDK and pybind11's headers do not promise to be free of warnings.
add_library(confidential_ml_options INTERFACE)
target_include_directories(confidential_ml_options INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_options(confidential_ml_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wswitch -Wundef $<$<BOOL:${CONFIDENTIAL_ML_WARNINGS_AS_ERRORS}>:-Werror>
  -ffp-contract=off) # a fused multiply-add would change the last bit of a margin

if(CONFIDENTIAL_ML_SANITIZE)
  add_compile_options(-fsanitize=${CONFIDENTIAL_ML_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${CONFIDENTIAL_ML_SANITIZE})
  if(CONFIDENTIAL_ML_SANITIZE MATCHES undefined)
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
elseif(NOT CMAKE_BUILD_TYPE STREQUAL Debug)
  add_compile_options(-fstack-protector-strong)
endif()

if(CONFIDENTIAL_ML_INSTRUCTION_SET STREQUAL auto)
  set(cpu_flags "")
  if(CONFIDENTIAL_ML_PLATFORM STREQUAL simulation AND EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo cpu_flags REGEX "^flags" LIMIT_COUNT 1)
  else()
    set(cpu_flags "avx2 fma")
  endif()
  if(cpu_flags MATCHES "(^| )avx2( |$)" AND cpu_flags MATCHES "(^| )fma( |$)")
    set(instruction_set avx2)
  else()
    set(instruction_set portable)
  endif()
else()
  set(instruction_set "${CONFIDENTIAL_ML_INSTRUCTION_SET}")
endif()
if(NOT instruction_set MATCHES "^(avx2|portable)$")
  message(FATAL_ERROR "CONFIDENTIAL_ML_INSTRUCTION_SET is '${instruction_set}'; it must be auto, avx2 or portable.")
endif()
if(instruction_set STREQUAL portable AND CONFIDENTIAL_ML_PLATFORM STREQUAL openenclave)
  message(FATAL_ERROR "The openenclave build runs on CPUs with SGX, which all have AVX2: "
                      "CONFIDENTIAL_ML_INSTRUCTION_SET must be avx2.")
endif()
message(STATUS "confidential_ml ${PROJECT_VERSION}: platform ${CONFIDENTIAL_ML_PLATFORM}, ${instruction_set}")

set(CONFIDENTIAL_ML_CONF "${PROJECT_SOURCE_DIR}/enclave/enclave.conf")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CONFIDENTIAL_ML_CONF}")
file(STRINGS "${CONFIDENTIAL_ML_CONF}" CONFIDENTIAL_ML_NUM_TCS REGEX "^NumTCS=[0-9]+$")
string(REPLACE "NumTCS=" "" CONFIDENTIAL_ML_NUM_TCS "${CONFIDENTIAL_ML_NUM_TCS}")
if(NOT CONFIDENTIAL_ML_NUM_TCS)
  message(FATAL_ERROR "enclave/enclave.conf must have a line NumTCS=<number>.")
endif()

# libcrypto of the host: in the simulated enclave, and in the tools that sign images. Static: what is measured runs.
set(OPENSSL_USE_STATIC_LIBS TRUE)
find_package(OpenSSL 3.0 REQUIRED COMPONENTS Crypto)
