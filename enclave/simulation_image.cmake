# Images of the simulation build: one shared library, signed once per identity.

confidential_ml_edge_code(confidential_ml "${PROJECT_SOURCE_DIR}/edl/confidential_ml.edl")

add_library(enclave_unsigned MODULE ecalls.cpp)
target_link_libraries(enclave_unsigned PRIVATE confidential_ml_options enclave_trusted)
confidential_ml_simulation_image(enclave_unsigned confidential_ml)
# What is measured should be all that runs; only the C library stays outside.
if(NOT CONFIDENTIAL_ML_SANITIZE)
  target_link_options(enclave_unsigned PRIVATE -static-libgcc -static-libstdc++)
  target_sources(enclave_unsigned PRIVATE "${PROJECT_SOURCE_DIR}/simulation/exception_pool.cpp")
endif()

function(confidential_ml_image name conf key output)
  add_custom_command(
    OUTPUT "${output}"
    COMMAND simulation_sign sign --image "$<TARGET_FILE:enclave_unsigned>" --conf "${conf}" --key "${key}" --output
            "${output}"
    DEPENDS simulation_sign enclave_unsigned "${conf}" "${key}"
    VERBATIM)
  add_custom_target(${name} DEPENDS "${output}")
endfunction()
