// The inference engine behind one narrow header: margins of a batch of rows, bit for bit XGBoost's.
//
// It is oblivious: for one model, range and row count it executes the same instructions and touches the same
// addresses, whatever the rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "enclave/model.h"
#include "enclave/plan.h"

namespace confidential_ml {

// Boosting rounds [begin, end).
struct RoundRange {
  uint32_t begin;
  uint32_t end;
};

class Forest {
 public:
  explicit Forest(Model model);

  // Without its nodes, leaf vectors and categories, whose place the plan takes.
  const Model& model() const { return model_; }
  size_t plan_size() const { return plan_.size(); }

  // margins[row_count x group_count] of rows[row_count x feature_count]; NaN is a missing value.
  // `base_margin` is nullptr or row_count x group_count. For gblinear the range is without effect.
  // May throw std::bad_alloc.
  void predict_margins(RoundRange rounds, const float* rows, size_t row_count, const float* base_margin,
                       float* margins) const;

 private:
  struct Block;
  struct BlockShape;

  float start_of(size_t row, size_t group, const float* base_margin) const;
  void predict_blocks(RoundRange rounds, const BlockShape& shape, const float* rows, size_t row_count,
                      const float* base_margin, float* margins) const;
  void predict_block(RoundRange rounds, const Block& block, const float* base_margin, float* margins) const;
  void predict_few(RoundRange rounds, const float* rows, size_t row_count, const float* base_margin,
                   float* margins) const;
  void add_linear(const float* row, float* margin) const;

  Model model_;
  Plan plan_;
};

}  // namespace confidential_ml
