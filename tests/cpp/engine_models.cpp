#include "tests/cpp/engine_models.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

namespace confidential_ml::test {
namespace {

struct Shape {
  uint32_t features = 5;
  uint32_t groups = 1;
  bool vector_leaves = false;
  uint32_t categorical_percent = 0;
  uint32_t distinct = 0;    // thresholds per feature; 0: as many as there are splits
  uint32_t categories = 0;  // 0: as many as there may be
};

float draw_threshold(const Shape& shape, Random* random) {
  if (shape.distinct == 0) return random->number() + static_cast<float>(random->below(1u << 16)) * 0x1p-10f;
  return static_cast<float>(random->below(shape.distinct)) * 0.25f - 3.0f;
}

std::vector<uint32_t> draw_categories(const Shape& shape, Random* random) {
  if (shape.categories != 0) {
    std::vector<uint32_t> words((shape.categories + 31) / 32);
    for (uint32_t c = 0; c < shape.categories; ++c) words[c / 32] |= uint32_t{random->chance(50)} << (c % 32);
    words.back() |= 1u << ((shape.categories - 1) % 32);  // the format has no zero at the end
    return words;
  }
  constexpr uint32_t kWordCounts[] = {1, 1, 2, 4, 8, 9, 300};
  std::vector<uint32_t> words(kWordCounts[random->below(7)]);
  for (size_t i = 0; i < words.size(); i += 1 + random->below(5)) words[i] = random->below(UINT32_MAX);
  words.back() |= 1u << random->below(32);
  return words;
}

void make_split(const Shape& shape, Random* random, BuiltNode* node) {
  node->is_leaf = false;
  node->feature = random->below(shape.features);
  node->missing_left = random->chance(50);
  node->is_categorical = random->chance(shape.categorical_percent);
  if (node->is_categorical) {
    node->categories = draw_categories(shape, random);
  } else {
    node->value = draw_threshold(shape, random);
  }
}

// Splits leaves until there are leaf_count: the oldest first (complete trees), the newest (chains) or any.
enum class Growth { kLevels, kNewest, kAny };

BuiltTree grown(const Shape& shape, uint32_t leaf_count, Growth growth, Random* random) {
  BuiltTree tree;
  std::vector<size_t> open{0};
  while (open.size() < leaf_count) {
    const auto size = static_cast<uint32_t>(open.size());
    const uint32_t chosen = growth == Growth::kLevels   ? 0
                            : growth == Growth::kNewest ? size - 1
                                                        : random->below(size);
    const size_t parent = open[chosen];
    open.erase(open.begin() + chosen);
    const size_t left = tree.nodes.size();
    tree.nodes.resize(left + 2);
    make_split(shape, random, &tree.nodes[parent]);
    tree.nodes[parent].left = left;
    tree.nodes[parent].right = left + 1;
    open.push_back(left);
    open.push_back(left + 1);
  }
  for (const size_t leaf : open) {
    tree.nodes[leaf].value = random->number();
    for (uint32_t g = 0; shape.vector_leaves && g < shape.groups; ++g) {
      tree.nodes[leaf].leaf_vector.push_back(random->number());
    }
  }
  return tree;
}

struct TreeShape {
  uint32_t leaf_count;
  Growth growth;
};

BuiltModel forest(const Shape& shape, const std::vector<TreeShape>& trees, Random* random) {
  BuiltModel model;
  model.feature_count = shape.features;
  model.group_count = shape.groups;
  model.leaf_size = shape.vector_leaves ? shape.groups : 1;
  model.base_score.assign(shape.groups, 0.25f);
  for (const TreeShape& tree : trees) {
    model.rounds.push_back({grown(shape, tree.leaf_count, tree.growth, random)});
    if (!shape.vector_leaves) model.rounds.back()[0].group = random->below(shape.groups);
  }
  return model;
}

std::vector<TreeShape> every_depth() {
  std::vector<TreeShape> trees;
  for (uint32_t depth = 0; depth <= 10; ++depth) {
    trees.push_back({1u << depth, Growth::kLevels});
    if (depth > 1) trees.push_back({(1u << depth) - 1, Growth::kLevels});
    if (depth > 1) trees.push_back({(1u << depth) + 1, Growth::kLevels});
  }
  return trees;
}

}  // namespace

std::vector<NamedModel> engine_models(uint64_t seed) {
  Random random(seed);
  std::vector<NamedModel> models;
  for (const Kind kind : kAllKinds) models.push_back({name_of(kind), random_model(kind, seed)});
  const auto add = [&](const char* name, const Shape& shape, const std::vector<TreeShape>& trees) {
    models.push_back({name, forest(shape, trees, &random)});
  };
  const auto lossguide = [&](uint32_t leaves) { return TreeShape{leaves, Growth::kAny}; };
  add("EveryDepth", {7, 3, false, 0, 200}, every_depth());
  add("FullWindow", {1, 1, false, 0, 255}, {lossguide(200), lossguide(250), lossguide(256), lossguide(255)});
  add("SecondWindow", {1, 1, false, 0, 256},
      {lossguide(300), lossguide(300), lossguide(300), lossguide(300)});
  add("ManyWindows", {2, 2, false, 0, 0}, {lossguide(900), lossguide(900), lossguide(700)});
  add("Lossguide", {9, 1, false, 0, 60}, {lossguide(255), lossguide(256), lossguide(257), lossguide(31)});
  add("ManyParts", {4, 2, false, 20, 0}, {lossguide(5000), {700, Growth::kNewest}, {4096, Growth::kLevels}});
  add("VectorLeavesInParts", {4, 3, true, 10, 0}, {lossguide(600), lossguide(20), {8, Growth::kLevels}});
  add("CategoriesAndNumbers", {3, 1, false, 60, 40}, {lossguide(64), lossguide(8), {64, Growth::kLevels}});
  add("FewCategories", {3, 1, false, 80, 40, 7}, {lossguide(64), lossguide(8), {64, Growth::kLevels}});
  add("ShortSets", {2, 1, false, 90, 40, 120}, {lossguide(200), {64, Growth::kLevels}, lossguide(100)});
  add("JustTooLongSets", {2, 1, false, 90, 40, 121}, {lossguide(200), {64, Growth::kLevels}});
  // Blocks of 32 parts that are complete and of one depth: with columns that fit a byte, with more, and with
  // more than it is worth looking at for the nodes there are.
  const auto complete = [](size_t count, uint32_t leaves) {
    return std::vector<TreeShape>(count, {leaves, Growth::kLevels});
  };
  add("CompleteBlocks", {6, 2, false, 0, 60}, complete(40, 16));
  // Without other parts nobody asks for the columns of categorical splits.
  add("CompleteFewCategories", {3, 1, false, 70, 40, 7}, complete(9, 64));
  add("CompleteShortSets", {2, 2, false, 80, 300, 120}, complete(9, 128));
  add("CompleteFewShortSets", {3, 1, false, 80, 40, 120}, complete(1, 32));
  add("CompleteLongSets", {3, 1, false, 60, 40, 121}, complete(9, 32));
  add("CompleteBlocksOfManyColumns", {150, 1}, complete(40, 16));
  add("CompleteBlocksOfTooManyColumns", {1000, 1}, complete(600, 2));
  // The same with sets of categories in the nodes; with those of more features than there are numbers for.
  add("CompleteBlocksOfCategories", {12, 2, false, 70, 40, 60}, complete(40, 16));
  add("CompleteBlocksOfCategoriesAndManyColumns", {150, 1, false, 30, 0, 9}, complete(60, 16));
  add("CompleteBlocksOfCategoriesAndTooManyColumns", {1000, 1, false, 10, 0, 9}, complete(700, 2));
  add("CompleteBlocksOfManyCategoryFeatures", {400, 1, false, 100, 0, 20}, complete(100, 16));
  add("LossguideOfCategories", {12, 1, false, 70, 40, 60}, {lossguide(255), lossguide(90), lossguide(300)});
  // Values for several groups that are chosen for 32 parts at once.
  add("CompleteBlocksOfVectorLeaves", {6, 3, true, 0, 60}, complete(70, 32));
  models.push_back({"Deepest", {}});
  models.back().model.rounds = {{chain(4096)}};
  return models;
}

std::vector<float> engine_rows(const BuiltModel& model, size_t row_count, Random* random) {
  std::vector<std::vector<float>> thresholds(model.feature_count);
  for (const auto& round : model.rounds) {
    for (const BuiltTree& tree : round) {
      for (const BuiltNode& node : tree.nodes) {
        if (!node.is_leaf && !node.is_categorical) thresholds[node.feature].push_back(node.value);
      }
    }
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> rows(row_count * model.feature_count);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<float>& own = thresholds[i % model.feature_count];
    if (own.empty() || random->chance(40)) {
      rows[i] = random->feature(random->chance(50));
      continue;
    }
    rows[i] = own[random->below(static_cast<uint32_t>(own.size()))];
    if (random->chance(30)) rows[i] = std::nextafter(rows[i], -kInfinity);
    if (random->chance(30)) rows[i] = std::nextafter(rows[i], kInfinity);
    if (random->chance(5)) rows[i] = -rows[i];
  }
  return rows;
}

Model parsed(const BuiltModel& model) {
  const Bytes flat = flat_bytes(model);
  Model result{};
  if (parse_model(flat.data(), flat.size(), &result) != Status::kOk) std::abort();
  return result;
}

RoundRange all_rounds(const Model& model) { return {0, model.round_count}; }

}  // namespace confidential_ml::test
