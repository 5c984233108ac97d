// The reference for the engine: walks every tree, row by row. Its branches and addresses depend on the rows,
// so it is no part of the enclave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "enclave/forest.h"
#include "enclave/model.h"

namespace confidential_ml::test {

class PlainForest {
 public:
  explicit PlainForest(Model model) : model_(std::move(model)) {}

  const Model& model() const { return model_; }

  // margins[row_count x group_count] of rows[row_count x feature_count]; NaN is a missing value.
  // `base_margin` is nullptr or row_count x group_count. For gblinear the range is without effect.
  void predict_margins(RoundRange rounds, const float* rows, size_t row_count, const float* base_margin,
                       float* margins) const;

 private:
  void add_trees(RoundRange rounds, const float* row, float* margin) const;
  void add_linear(const float* row, float* margin) const;
  const Node& find_leaf(const Tree& tree, const float* row) const;
  bool goes_left(const Node& node, float x) const;
  bool set_contains(uint32_t category_set, float x) const;

  Model model_;
};

}  // namespace confidential_ml::test
