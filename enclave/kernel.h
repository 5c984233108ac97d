// The inner loops, 32 rows per vector. kernel_avx2.cpp or kernel_portable.cpp, CMake chooses; both are
// kernel_steps.h over different vectors.
//
// No branch and no address depends on a row: both follow from the plan alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "enclave/plan.h"

namespace confidential_ml {

// Scratch memory of add_trees(), 32-byte aligned.
inline constexpr size_t kSlotBytes = 2 * kExits * kLanes;
size_t scratch_bytes(const Plan& plan);

// Fills plan.column_bytes at `columns` (32-byte aligned) from 1 to 32 rows.
void encode_rows(const Plan& plan, const float* rows, size_t row_count, uint8_t* columns);

// Adds trees [begin, end) for vector_count x 32 encoded rows: sums[vector][group][32].
void add_trees(const Plan& plan, size_t begin, size_t end, const uint8_t* columns, size_t vector_count,
               uint8_t* scratch, float* sums);

}  // namespace confidential_ml
