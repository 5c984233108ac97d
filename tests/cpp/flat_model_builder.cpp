#include "tests/cpp/flat_model_builder.h"

#include <cstring>
#include <limits>

namespace confidential_ml::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();
constexpr float kHuge = std::numeric_limits<float>::max();

// Where float32 comparisons are easily got wrong.
constexpr float kCommonNumbers[] = {0.0f,   -0.0f, kTiny,  -kTiny,          1.0f,        -1.0f, 0.5f, -0.5f,
                                    1e-39f, kHuge, -kHuge, 1.17549435e-38f, 16777216.0f, 3.0f};

// Around the edges of category sets: of a word, of float32's integers, of the set.
constexpr float kCategories[] = {-kInfinity, -1.0f,  -0.5f,       -kTiny,      -0.0f,       0.0f,  kTiny,
                                 0.999f,     31.0f,  31.5f,       32.0f,       63.0f,       64.0f, 95.0f,
                                 96.0f,      127.0f, 16777215.0f, 16777216.0f, 16777218.0f, kHuge, kInfinity};

template <typename T>
void append(Bytes* bytes, const T* values, size_t count) {
  if (count == 0) return;
  const size_t start = bytes->size();
  bytes->resize(start + count * sizeof(T));
  std::memcpy(bytes->data() + start, values, count * sizeof(T));
}

template <typename T>
void append(Bytes* bytes, const std::vector<T>& values) {
  append(bytes, values.data(), values.size());
}

uint32_t size32(size_t size) { return static_cast<uint32_t>(size); }

void append_node(const BuiltNode& node, FlatSections* flat) {
  if (node.is_leaf) {
    flat->node_words.push_back(kLeafWord);
    flat->node_values.push_back(flat->leaf_size > 1 ? 0.0f : node.value);
    flat->leaf_values.insert(flat->leaf_values.end(), node.leaf_vector.begin(), node.leaf_vector.end());
    return;
  }
  flat->node_words.push_back(node.feature | (node.missing_left ? kMissingLeftBit : 0) |
                             (node.is_categorical ? kCategoricalBit : 0));
  flat->node_values.push_back(node.is_categorical ? 0.0f : node.value);
  if (!node.is_categorical) return;
  flat->set_sizes.push_back(size32(node.categories.size()));
  flat->category_words.insert(flat->category_words.end(), node.categories.begin(), node.categories.end());
}

void append_tree(const BuiltTree& tree, FlatSections* flat) {
  flat->tree_sizes.push_back(size32(tree.nodes.size()));
  flat->tree_groups.push_back(tree.group);
  flat->tree_weights.push_back(tree.weight);
  std::vector<size_t> level{0};
  while (!level.empty()) {
    std::vector<size_t> next;
    for (const size_t index : level) {
      const BuiltNode& node = tree.nodes[index];
      append_node(node, flat);
      if (!node.is_leaf) next.insert(next.end(), {node.left, node.right});
    }
    level = next;
  }
}

// Draws trees of one model.
class Grower {
 public:
  Grower(Kind kind, const BuiltModel& model, Random* random) : kind_(kind), model_(model), random_(*random) {}

  BuiltTree tree() {
    BuiltTree tree;
    tree.nodes.clear();
    tree.group = model_.leaf_size > 1 ? 0 : random_.below(model_.group_count);
    if (kind_ == Kind::kDart) tree.weight = random_.number();
    grow(&tree, kind_ == Kind::kStumps ? random_.below(2) : 1 + random_.below(6));
    return tree;
  }

 private:
  size_t grow(BuiltTree* tree, uint32_t depth_left) {
    const size_t index = tree->nodes.size();
    const bool is_leaf = depth_left == 0 || (index > 0 && random_.chance(25));
    tree->nodes.push_back(is_leaf ? leaf() : split());
    if (is_leaf) return index;
    const size_t left = grow(tree, depth_left - 1);
    const size_t right = grow(tree, depth_left - 1);
    tree->nodes[index].left = left;
    tree->nodes[index].right = right;
    return index;
  }

  BuiltNode leaf() {
    BuiltNode node;
    node.value = random_.number();
    for (uint32_t i = 0; model_.leaf_size > 1 && i < model_.leaf_size; ++i) {
      node.leaf_vector.push_back(random_.number());
    }
    return node;
  }

  BuiltNode split() {
    BuiltNode node;
    node.is_leaf = false;
    node.feature = random_.below(model_.feature_count);
    node.missing_left = random_.chance(50);
    node.is_categorical = kind_ == Kind::kCategorical && random_.chance(60);
    node.value = random_.number();
    if (!node.is_categorical) return node;
    const uint32_t words = random_.chance(5) ? 100 : 1 + random_.below(4);
    for (uint32_t i = 0; i < words; ++i) node.categories.push_back(i < 4 ? random_.below(UINT32_MAX) : 0);
    node.categories.back() |= 1u << 31;
    return node;
  }

  const Kind kind_;
  const BuiltModel& model_;
  Random& random_;
};

}  // namespace

void FlatSections::count() {
  if (booster != 3) round_count = size32(round_begin.size() - 1);
  tree_count = size32(tree_sizes.size());
  node_count = size32(node_words.size());
  leaf_value_count = size32(leaf_values.size());
  categorical_count = size32(set_sizes.size());
  category_word_count = size32(category_words.size());
  total_size = bytes().size();
}

Bytes FlatSections::bytes() const {
  Bytes bytes;
  append(&bytes, magic, sizeof magic);
  const uint32_t header[] = {version,       booster,          objective,         leaf_size,
                             feature_count, group_count,      round_count,       tree_count,
                             node_count,    leaf_value_count, categorical_count, category_word_count};
  append(&bytes, header, sizeof header / sizeof header[0]);
  append(&bytes, &total_size, 1);
  append(&bytes, base_score);
  for (const auto* words : {&round_begin, &tree_sizes, &tree_groups}) append(&bytes, *words);
  append(&bytes, tree_weights);
  append(&bytes, node_words);
  for (const auto* values : {&node_values, &leaf_values}) append(&bytes, *values);
  for (const auto* words : {&set_sizes, &category_words}) append(&bytes, *words);
  append(&bytes, linear_weights);
  return bytes;
}

FlatSections flatten(const BuiltModel& model) {
  FlatSections flat;
  flat.booster = model.booster;
  flat.objective = model.objective;
  flat.leaf_size = model.leaf_size;
  flat.feature_count = model.feature_count;
  flat.group_count = model.group_count;
  flat.base_score = model.base_score;
  flat.linear_weights = model.linear_weights;
  flat.round_count = model.linear_rounds;
  if (model.booster != 3) flat.round_begin.push_back(0);
  for (const auto& round : model.rounds) {
    for (const BuiltTree& tree : round) append_tree(tree, &flat);
    flat.round_begin.push_back(size32(flat.tree_sizes.size()));
  }
  flat.count();
  return flat;
}

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kScalar:
      return "Scalar";
    case Kind::kMultiGroup:
      return "MultiGroup";
    case Kind::kDart:
      return "Dart";
    case Kind::kVectorLeaf:
      return "VectorLeaf";
    case Kind::kCategorical:
      return "Categorical";
    case Kind::kLinear:
      return "Linear";
    case Kind::kStumps:
      return "Stumps";
    case Kind::kNoTrees:
      return "NoTrees";
  }
  return "";
}

float Random::number() {
  constexpr uint32_t kCommon = sizeof kCommonNumbers / sizeof kCommonNumbers[0];
  if (chance(30)) return kCommonNumbers[below(kCommon)];
  return (static_cast<float>(below(1u << 20)) - static_cast<float>(1u << 19)) / 100000.0f;
}

float Random::feature(bool categorical) {
  constexpr uint32_t kEdges = sizeof kCategories / sizeof kCategories[0];
  if (chance(15)) return std::numeric_limits<float>::quiet_NaN();
  if (chance(5)) return chance(50) ? kInfinity : -kInfinity;
  if (!categorical) return number();
  return chance(40) ? kCategories[below(kEdges)] : static_cast<float>(below(140));
}

BuiltModel random_model(Kind kind, uint64_t seed) {
  Random random(seed);
  BuiltModel model;
  model.feature_count = 1 + random.below(6);
  const bool grouped = kind == Kind::kMultiGroup || kind == Kind::kVectorLeaf || random.chance(25);
  model.group_count = grouped ? 2 + random.below(2) : 1;
  if (kind == Kind::kVectorLeaf) model.leaf_size = model.group_count;
  model.base_score.clear();
  for (uint32_t g = 0; g < model.group_count; ++g) model.base_score.push_back(random.number());
  if (kind == Kind::kLinear) {
    model.booster = 3;
    model.leaf_size = 0;
    model.linear_rounds = random.below(10);
    const uint32_t weights = (model.feature_count + 1) * model.group_count;
    for (uint32_t i = 0; i < weights; ++i) model.linear_weights.push_back(random.number());
    return model;
  }
  if (kind == Kind::kDart) model.booster = 2;
  Grower grower(kind, model, &random);
  const uint32_t round_count = kind == Kind::kNoTrees ? random.below(3) : 1 + random.below(8);
  for (uint32_t r = 0; r < round_count; ++r) {
    std::vector<BuiltTree> round;
    const uint32_t tree_count = kind == Kind::kNoTrees ? 0 : random.below(4) + (r == 0 ? 1 : 0);
    for (uint32_t t = 0; t < tree_count; ++t) round.push_back(grower.tree());
    model.rounds.push_back(round);
  }
  return model;
}

BuiltTree chain(uint32_t depth) {
  BuiltTree tree;
  for (uint32_t i = 0; i < depth; ++i) {
    const size_t here = 2 * size_t{i};
    tree.nodes.resize(here + 3);
    tree.nodes[here].is_leaf = false;
    tree.nodes[here].value = static_cast<float>(i);
    tree.nodes[here].left = here + 1;
    tree.nodes[here].right = here + 2;
    tree.nodes[here + 1].value = static_cast<float>(i) + 0.5f;
  }
  tree.nodes.back().value = -1;
  return tree;
}

BuiltTree complete_tree(uint32_t depth) {
  BuiltTree tree;
  tree.nodes.resize((size_t{2} << depth) - 1);
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    BuiltNode& node = tree.nodes[i];
    node.value = static_cast<float>(i) * 0.25f;
    node.is_leaf = 2 * i + 2 >= tree.nodes.size();
    if (node.is_leaf) continue;
    node.left = 2 * i + 1;
    node.right = 2 * i + 2;
  }
  return tree;
}

}  // namespace confidential_ml::test
