// Flat models for the tests (docs/formats.md section 1), in two steps:
//
//   BuiltModel    trees with explicit children, so that a test can walk them without the rules of the format
//   FlatSections  every field of the file as it is written, so that a test can break any one of them
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace confidential_ml::test {

using Bytes = std::vector<uint8_t>;

inline constexpr uint32_t kLeafWord = 1u << 31;
inline constexpr uint32_t kCategoricalBit = 1u << 30;
inline constexpr uint32_t kMissingLeftBit = 1u << 29;

struct BuiltNode {
  bool is_leaf = true;
  bool is_categorical = false;
  bool missing_left = false;
  uint32_t feature = 0;
  float value = 0;                   // threshold, or leaf value
  std::vector<float> leaf_vector;    // if the model has leaf vectors
  std::vector<uint32_t> categories;  // words of the set that goes right
  size_t left = 0, right = 0;        // in BuiltTree::nodes
};

struct BuiltTree {
  std::vector<BuiltNode> nodes{BuiltNode{}};  // the root comes first, the others in any order
  uint32_t group = 0;
  float weight = 1;
};

struct BuiltModel {
  uint32_t booster = 1, objective = 1, leaf_size = 1, feature_count = 1, group_count = 1;
  uint32_t linear_rounds = 0;  // gblinear: n_rounds, which is information only
  std::vector<float> base_score{0.5f};
  std::vector<std::vector<BuiltTree>> rounds;
  std::vector<float> linear_weights;
};

struct FlatSections {
  uint8_t magic[8] = {'C', 'M', 'L', 'F', 'L', 'A', 'T', 0};
  uint32_t version = 1, booster = 1, objective = 1, leaf_size = 1, feature_count = 1, group_count = 1;
  uint32_t round_count = 0, tree_count = 0, node_count = 0, leaf_value_count = 0, categorical_count = 0;
  uint32_t category_word_count = 0;
  uint64_t total_size = 0;
  std::vector<float> base_score;
  std::vector<uint32_t> round_begin, tree_sizes, tree_groups;
  std::vector<float> tree_weights;
  std::vector<uint32_t> node_words;
  std::vector<float> node_values, leaf_values;
  std::vector<uint32_t> set_sizes, category_words;
  std::vector<float> linear_weights;

  // Sets every count and the total size to what the sections hold.
  void count();
  Bytes bytes() const;
};

FlatSections flatten(const BuiltModel& model);
inline Bytes flat_bytes(const BuiltModel& model) { return flatten(model).bytes(); }

enum class Kind { kScalar, kMultiGroup, kDart, kVectorLeaf, kCategorical, kLinear, kStumps, kNoTrees };
inline constexpr Kind kAllKinds[] = {Kind::kScalar,      Kind::kMultiGroup, Kind::kDart,   Kind::kVectorLeaf,
                                     Kind::kCategorical, Kind::kLinear,     Kind::kStumps, Kind::kNoTrees};
const char* name_of(Kind kind);

// The same on every machine for the same seed (the standard's distributions are not).
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(engine_() % bound); }
  bool chance(uint32_t percent) { return below(100) < percent; }
  float number();  // finite; often one that other draws give too, so that rows meet thresholds
  float feature(bool categorical);  // what a row may hold: numbers, categories and their neighbours, NaN, inf

 private:
  std::mt19937_64 engine_;
};

// A valid model of the kind, objective reg:squarederror. At most 3 groups, 6 features.
BuiltModel random_model(Kind kind, uint64_t seed);

// A tree in which every left child is a leaf: `depth` edges from the root to the deepest leaf.
BuiltTree chain(uint32_t depth);

// All leaves at the same depth, all splits of feature 0.
BuiltTree complete_tree(uint32_t depth);

}  // namespace confidential_ml::test
