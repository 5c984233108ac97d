// The inner loops: 32 rows per vector, or a bit for each of 256; and for a single row 32 nodes per vector.
// kernel_avx2.cpp or kernel_portable.cpp, CMake chooses; both are kernel_encode_steps.h, kernel_steps.h and
// kernel_row_steps.h over different vectors.
//
// No branch and no address depends on a row: both follow from the plan alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "enclave/plan.h"

namespace confidential_ml {

// Scratch memory of add_trees(), 32-byte aligned.
size_t scratch_bytes(const Plan& plan);

// What is made of some rows, 32 to a vector; both memories are 32-byte aligned.
struct EncodedRows {
  size_t vector_count;  // at most kBitVectors if there are conditions
  uint8_t* columns;     // vector_count times
  // Plan::column_bytes; or Plan::split_columns, where only conditions are asked of categorical splits.
  size_t column_bytes;
  // Plan::condition_count x kConditionBytes, or nullptr: then complete parts look at columns.
  uint8_t* conditions;
};

// Fills columns and conditions from row_count rows, which are those of all vectors but up to 31.
void encode_rows(const Plan& plan, const float* rows, size_t row_count, const EncodedRows& encoded);

// Adds trees [begin, end): sums[vector][group][32].
void add_trees(const Plan& plan, size_t begin, size_t end, const EncodedRows& encoded, uint8_t* scratch,
               float* sums);

// ---- a single row ----

// Sizes of `codes` and of the scratch memory, both 32-byte aligned.
size_t row_code_bytes(const Plan& plan);
size_t row_scratch_bytes(const Plan& plan);

// One byte per column.
void encode_row(const Plan& plan, const float* row, uint8_t* codes);

// Adds trees [begin, end) for an encoded row: sums[group].
void add_trees_to_row(const Plan& plan, size_t begin, size_t end, const uint8_t* codes, uint8_t* scratch,
                      float* sums);

}  // namespace confidential_ml
