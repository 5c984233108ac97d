// The transforms that cost time, over whole arrays: transform_avx2.cpp, 8 at a time, or
// transform_portable.cpp, CMake chooses. Oblivious, and the bits of objective.cpp's rules.
#pragma once

#include <cstddef>
#include <cstdint>

namespace confidential_ml {

// Each in place.
void exp_all(float* values, size_t count);
void sigmoid_all(float* values, size_t count);
void softmax_all(float* rows, size_t row_count, uint32_t group_count);

}  // namespace confidential_ml
