# Images of the Open Enclave builds: edge code by oeedger8r, signed by oesign.

set(edl "${PROJECT_SOURCE_DIR}/edl/confidential_ml.edl")
set(edge "${CMAKE_CURRENT_BINARY_DIR}/edge")
foreach(side IN ITEMS trusted untrusted)
  string(SUBSTRING ${side} 0 1 letter)
  add_custom_command(
    OUTPUT "${edge}_${side}/confidential_ml_${letter}.c" "${edge}_${side}/confidential_ml_${letter}.h"
           "${edge}_${side}/confidential_ml_args.h"
    COMMAND openenclave::oeedger8r --${side} "${edl}" --search-path "${OE_INCLUDEDIR}" --search-path
            "${OE_INCLUDEDIR}/openenclave/edl/sgx" --${side}-dir "${edge}_${side}"
    DEPENDS "${edl}"
    VERBATIM)
endforeach()

add_library(confidential_ml_edge_untrusted STATIC "${edge}_untrusted/confidential_ml_u.c")
target_include_directories(confidential_ml_edge_untrusted PUBLIC "${edge}_untrusted")
target_link_libraries(confidential_ml_edge_untrusted PUBLIC openenclave::oehost)

add_library(confidential_ml_edge_trusted OBJECT "${edge}_trusted/confidential_ml_t.c")
target_include_directories(confidential_ml_edge_trusted PUBLIC "${edge}_trusted")
target_link_libraries(confidential_ml_edge_trusted PRIVATE enclave_trusted)

function(confidential_ml_oe_executable name)
  add_executable(${name} EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/enclave/ecalls.cpp" ${ARGN})
  target_link_libraries(${name} PRIVATE confidential_ml_options confidential_ml_edge_trusted enclave_trusted)
endfunction()

if(CONFIDENTIAL_ML_PLATFORM STREQUAL openenclave)
  confidential_ml_oe_executable(enclave_unsigned)

  function(confidential_ml_unsigned_image name conf key)
    set(unsigned enclave_unsigned PARENT_SCOPE)
  endfunction()
else()
  # A simulated enclave cannot measure itself under the real runtime. So each image is linked twice: once with an empty
  # identity, to be measured, and once with that measurement compiled in.
  set(compiled_identity "${PROJECT_SOURCE_DIR}/simulation/compiled_identity.cpp")
  confidential_ml_oe_executable(enclave_unmeasured "${compiled_identity}")
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/unmeasured/compiled_identity.inc" "{}\n")
  target_include_directories(enclave_unmeasured PRIVATE "${CMAKE_CURRENT_BINARY_DIR}/unmeasured")

  function(confidential_ml_unsigned_image name conf key)
    set(directory "${CMAKE_CURRENT_BINARY_DIR}/${name}")
    add_custom_command(
      OUTPUT "${directory}/compiled_identity.inc"
      COMMAND "${CMAKE_COMMAND}" -E make_directory "${directory}"
      COMMAND simulation_sign identity --image "$<TARGET_FILE:enclave_unmeasured>" --conf "${conf}" --key "${key}"
              --output "${directory}/compiled_identity.inc"
      DEPENDS simulation_sign enclave_unmeasured "${conf}" "${key}"
      VERBATIM)
    confidential_ml_oe_executable(${name}_unsigned "${compiled_identity}" "${directory}/compiled_identity.inc")
    target_include_directories(${name}_unsigned PRIVATE "${directory}")
    set(unsigned ${name}_unsigned PARENT_SCOPE)
  endfunction()
endif()

function(confidential_ml_image name conf key output)
  confidential_ml_unsigned_image(${name} "${conf}" "${key}")
  add_custom_command(
    OUTPUT "${output}"
    COMMAND openenclave::oesign sign -e "$<TARGET_FILE:${unsigned}>" -c "${conf}" -k "${key}" -o "${output}"
    DEPENDS ${unsigned} "${conf}" "${key}"
    VERBATIM)
  add_custom_target(${name} DEPENDS "${output}")
endfunction()
