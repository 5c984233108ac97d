// The order of float32 operations is XGBoost's: trees in file order, per tree one multiply and one add. This
// file is compiled with -ffp-contract=off; a fused multiply-add would change the last bit.
#include "tests/cpp/plain_forest.h"

namespace confidential_ml::test {

void PlainForest::predict_margins(RoundRange rounds, const float* rows, size_t row_count,
                                  const float* base_margin, float* margins) const {
  const size_t groups = model_.group_count;
  const bool linear = model_.booster == Booster::kGblinear;
  for (size_t i = 0; i < row_count; ++i) {
    const float* row = rows + i * model_.feature_count;
    float* margin = margins + i * groups;
    for (size_t g = 0; g < groups; ++g) {
      // gblinear starts every group from the first base score, as XGBoost's gblinear.cc does.
      margin[g] = base_margin != nullptr ? base_margin[i * groups + g] : model_.base_margin[linear ? 0 : g];
    }
    if (linear) {
      add_linear(row, margin);
    } else {
      add_trees(rounds, row, margin);
    }
  }
}

void PlainForest::add_trees(RoundRange rounds, const float* row, float* margin) const {
  const size_t end = model_.round_begin[rounds.end];
  for (size_t t = model_.round_begin[rounds.begin]; t < end; ++t) {
    const Tree& tree = model_.trees[t];
    const Node& leaf = find_leaf(tree, row);
    if (model_.leaf_size == 1) {
      margin[tree.group] += leaf.value * tree.weight;
    } else {
      const float* values = model_.leaf_values.data() + leaf.leaf_vector;
      for (size_t g = 0; g < model_.leaf_size; ++g) margin[g] += values[g] * tree.weight;
    }
  }
}

void PlainForest::add_linear(const float* row, float* margin) const {
  const size_t groups = model_.group_count;
  const float* biases = model_.linear_weights.data() + size_t{model_.feature_count} * groups;
  for (size_t g = 0; g < groups; ++g) {
    float sum = biases[g] + margin[g];
    for (size_t f = 0; f < model_.feature_count; ++f) {
      if (row[f] == row[f]) sum += row[f] * model_.linear_weights[f * groups + g];
    }
    margin[g] = sum;
  }
}

const Node& PlainForest::find_leaf(const Tree& tree, const float* row) const {
  const Node* node = &model_.nodes[tree.root];
  while (!node->is_leaf()) {
    node = &model_.nodes[goes_left(*node, row[node->feature()]) ? node->left : node->left + 1];
  }
  return *node;
}

bool PlainForest::goes_left(const Node& node, float x) const {
  if (x != x) return node.missing_goes_left();
  if (node.is_categorical()) return !set_contains(node.category_set, x);
  return x < node.value;
}

bool PlainForest::set_contains(uint32_t category_set, float x) const {
  constexpr float kCategoryBound = 16777216.0f;  // above, float32 does not hold every integer
  if (x < 0.0f || x >= kCategoryBound) return false;
  const auto category = static_cast<uint32_t>(x);
  const CategorySet& set = model_.category_sets[category_set];
  if (category / 32 >= set.word_count) return false;
  return (model_.category_words[set.first_word + category / 32] >> (category % 32) & 1u) != 0;
}

}  // namespace confidential_ml::test
