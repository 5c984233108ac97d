// A parsed flat model (docs/formats.md section 1). Whoever holds a Model may rely on every rule of the
// format.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "enclave/objective.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

enum class Booster : uint32_t { kGbtree = 1, kDart = 2, kGblinear = 3 };

// A node of any tree. Which fields mean something follows from the word.
struct Node {
  static constexpr uint32_t kLeaf = 1u << 31;
  static constexpr uint32_t kCategorical = 1u << 30;
  static constexpr uint32_t kMissingLeft = 1u << 29;
  static constexpr uint32_t kFeatureMask = kMissingLeft - 1;

  uint32_t word;
  union {
    float value;            // threshold of a numeric split; leaf value if leaf_size is 1
    uint32_t category_set;  // of a categorical split
    uint32_t leaf_vector;   // of a leaf: where its values start in leaf_values
  };
  uint32_t left;  // index of the left child in Model::nodes; the right child follows it

  bool is_leaf() const { return (word & kLeaf) != 0; }
  bool is_categorical() const { return (word & kCategorical) != 0; }
  bool missing_goes_left() const { return (word & kMissingLeft) != 0; }
  uint32_t feature() const { return word & kFeatureMask; }
};

struct Tree {
  uint32_t root;  // index in Model::nodes
  uint32_t group;
  float weight;
};

struct CategorySet {
  uint32_t first_word;
  uint32_t word_count;
};

struct Model {
  Booster booster;
  Objective objective;
  uint32_t leaf_size;
  uint32_t feature_count;
  uint32_t group_count;
  uint32_t round_count;
  uint32_t depth;
  uint32_t node_count;

  SecretVector<float> base_margin;  // base score after the link, one per group
  SecretVector<uint32_t> round_begin;
  SecretVector<Tree> trees;
  SecretVector<Node> nodes;
  SecretVector<float> leaf_values;
  SecretVector<CategorySet> category_sets;
  SecretVector<uint32_t> category_words;
  SecretVector<float> linear_weights;  // gblinear: (feature_count + 1) x group_count
};

// Reads the whole of `data` or refuses it. May throw std::bad_alloc.
[[nodiscard]] Status parse_model(const uint8_t* data, size_t size, Model* model);

}  // namespace confidential_ml
