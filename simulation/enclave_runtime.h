// The one entry point of a simulated enclave image, shared by image and loader.
#ifndef CONFIDENTIAL_ML_SIMULATION_ENCLAVE_RUNTIME_H
#define CONFIDENTIAL_ML_SIMULATION_ENCLAVE_RUNTIME_H

#include <openenclave/bits/result.h>

// Copies `input` in, calls, copies the result out to `output`. Both sizes must be multiples of 16.
extern "C" oe_result_t confidential_ml_simulation_ecall(uint64_t function_id, const uint8_t* input,
                                                        size_t input_size, uint8_t* output,
                                                        size_t output_size, size_t* output_written);

#endif  // CONFIDENTIAL_ML_SIMULATION_ENCLAVE_RUNTIME_H
