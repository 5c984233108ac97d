// The engine against a walk over the model as it was built, which shares no line with the engine, its parser
// or the format's node order: same margins, bit for bit.

#include "enclave/forest.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "enclave/masks.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::BuiltModel;
using test::BuiltNode;
using test::BuiltTree;
using test::Kind;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();

using Floats = std::vector<float>;

// ---- the naive walk ----

bool goes_right(const BuiltNode& node, float x) {
  if (std::isnan(x)) return !node.missing_left;
  if (!node.is_categorical) return !(x < node.value);
  if (x < 0 || x >= 16777216.0f) return false;
  const auto category = static_cast<size_t>(x);
  const size_t word = category / 32;
  return word < node.categories.size() && (node.categories[word] >> (category % 32) & 1u) != 0;
}

const BuiltNode& leaf_of(const BuiltTree& tree, const float* row) {
  size_t index = 0;
  while (!tree.nodes[index].is_leaf) {
    const BuiltNode& node = tree.nodes[index];
    index = goes_right(node, row[node.feature]) ? node.right : node.left;
  }
  return tree.nodes[index];
}

void add_tree(const BuiltModel& model, const BuiltTree& tree, const float* row, float* margin) {
  const BuiltNode& leaf = leaf_of(tree, row);
  if (model.leaf_size == 1) {
    const float step = leaf.value * tree.weight;
    margin[tree.group] = margin[tree.group] + step;
    return;
  }
  for (size_t g = 0; g < model.leaf_size; ++g) {
    const float step = leaf.leaf_vector[g] * tree.weight;
    margin[g] = margin[g] + step;
  }
}

void add_linear(const BuiltModel& model, const float* row, float* margin) {
  const size_t groups = model.group_count;
  for (size_t g = 0; g < groups; ++g) {
    float sum = model.linear_weights[model.feature_count * groups + g] + margin[g];
    for (size_t f = 0; f < model.feature_count; ++f) {
      if (std::isnan(row[f])) continue;
      const float step = row[f] * model.linear_weights[f * groups + g];
      sum = sum + step;
    }
    margin[g] = sum;
  }
}

Floats walk(const BuiltModel& model, RoundRange range, const Floats& rows, const Floats& base_margin) {
  const size_t row_count = rows.size() / model.feature_count;
  Floats margins(row_count * model.group_count);
  for (size_t i = 0; i < row_count; ++i) {
    const float* row = rows.data() + i * model.feature_count;
    float* margin = margins.data() + i * model.group_count;
    for (size_t g = 0; g < model.group_count; ++g) {
      const float score = model.base_score[model.booster == 3 ? 0 : g];
      margin[g] = base_margin.empty() ? score : base_margin[i * model.group_count + g];
    }
    if (model.booster == 3) add_linear(model, row, margin);
    for (size_t r = range.begin; model.booster != 3 && r < range.end; ++r) {
      for (const BuiltTree& tree : model.rounds[r]) add_tree(model, tree, row, margin);
    }
  }
  return margins;
}

// ---- comparing ----

Forest forest_of(const BuiltModel& built) {
  const test::Bytes flat = test::flat_bytes(built);
  Model model{};
  EXPECT_EQ(Status::kOk, parse_model(flat.data(), flat.size(), &model));
  return Forest(std::move(model));
}

Floats predict(const Forest& forest, RoundRange range, const Floats& rows, const Floats& base_margin = {}) {
  const size_t row_count = rows.size() / forest.model().feature_count;
  const size_t used = row_count * forest.model().group_count;
  Floats margins(used + 1, -77.0f);
  forest.predict_margins(range, rows.data(), row_count, base_margin.empty() ? nullptr : base_margin.data(),
                         margins.data());
  EXPECT_EQ(-77.0f, margins.back()) << "written past the end";
  margins.resize(used);
  return margins;
}

// Bit for bit, except that one NaN is as good as another.
void expect_same(const Floats& expected, const Floats& actual, const std::string& where) {
  ASSERT_EQ(expected.size(), actual.size()) << where;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(actual[i])) continue;
    ASSERT_EQ(bits_of(expected[i]), bits_of(actual[i]))
        << where << ", margin " << i << ": " << expected[i] << " and " << actual[i];
  }
}

Floats random_rows(const BuiltModel& model, size_t row_count, bool categorical, test::Random* random) {
  Floats rows(row_count * model.feature_count);
  for (float& x : rows) x = random->feature(categorical);
  return rows;
}

RoundRange whole(const BuiltModel& model) {
  return {0, static_cast<uint32_t>(model.booster == 3 ? model.linear_rounds : model.rounds.size())};
}

class Engine : public ::testing::TestWithParam<Kind> {};

// Batches of every size around that of a kernel's block, and the ranges of rounds in between.
TEST_P(Engine, AgreesWithTheNaiveWalk) {
  constexpr size_t kRowCounts[] = {0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 100, 257};
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const BuiltModel built = test::random_model(GetParam(), seed);
    const Forest forest = forest_of(built);
    test::Random random(seed + 1000);
    const RoundRange all = whole(built);
    for (const size_t row_count : kRowCounts) {
      const Floats rows = random_rows(built, row_count, GetParam() == Kind::kCategorical, &random);
      const uint32_t end = random.below(all.end + 1);
      const RoundRange range = row_count % 2 == 0 ? all : RoundRange{random.below(end + 1), end};
      Floats base_margin;
      for (size_t i = 0; seed % 3 == 0 && i < row_count * built.group_count; ++i) {
        base_margin.push_back(random.number());
      }
      expect_same(walk(built, range, rows, base_margin), predict(forest, range, rows, base_margin),
                  "seed " + std::to_string(seed) + ", rows " + std::to_string(row_count));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Engine, ::testing::ValuesIn(test::kAllKinds),
                         [](const auto& kind) { return std::string(test::name_of(kind.param)); });

// ---- one split at a time ----

BuiltModel stump(float threshold, bool missing_left) {
  BuiltModel model;
  BuiltTree tree = test::chain(1);
  tree.nodes[0].value = threshold;
  tree.nodes[0].missing_left = missing_left;
  tree.nodes[1].value = 1;
  tree.nodes[2].value = 2;
  model.rounds = {{tree}};
  model.base_score = {0};
  return model;
}

float ask(const BuiltModel& model, float x) { return predict(forest_of(model), whole(model), {x})[0]; }

TEST(NumericSplit, LessThanTheThresholdGoesLeft) {
  for (const float threshold : {0.0f, -0.0f, 1.5f, -1.5f, kTiny, -kTiny, 3e38f, -3e38f, 1e-39f}) {
    const BuiltModel model = stump(threshold, false);
    EXPECT_EQ(2.0f, ask(model, threshold)) << threshold;
    EXPECT_EQ(1.0f, ask(model, std::nextafter(threshold, -kInfinity))) << threshold;
    EXPECT_EQ(2.0f, ask(model, std::nextafter(threshold, kInfinity))) << threshold;
    EXPECT_EQ(1.0f, ask(model, -kInfinity)) << threshold;
    EXPECT_EQ(2.0f, ask(model, kInfinity)) << threshold;
  }
}

TEST(NumericSplit, ZerosOfEitherSignAreEqual) {
  EXPECT_EQ(2.0f, ask(stump(0.0f, false), -0.0f));
  EXPECT_EQ(2.0f, ask(stump(-0.0f, false), 0.0f));
}

TEST(NumericSplit, SubnormalsAreNotFlushedToZero) {
  EXPECT_EQ(1.0f, ask(stump(kTiny, false), 0.0f));
  EXPECT_EQ(2.0f, ask(stump(kTiny, false), kTiny));
  EXPECT_EQ(1.0f, ask(stump(0.0f, false), -kTiny));
}

TEST(NumericSplit, AnyNanIsMissing) {
  for (const float nan : {kNan, -kNan, std::numeric_limits<float>::signaling_NaN()}) {
    EXPECT_EQ(1.0f, ask(stump(0, true), nan));
    EXPECT_EQ(2.0f, ask(stump(0, false), nan));
  }
}

BuiltModel category_stump(std::vector<uint32_t> categories, bool missing_left = true) {
  BuiltModel model = stump(0, missing_left);
  model.rounds[0][0].nodes[0].is_categorical = true;
  model.rounds[0][0].nodes[0].categories = std::move(categories);
  return model;
}

TEST(CategoricalSplit, MembersGoRightAndAllOthersLeft) {
  const BuiltModel model = category_stump({0x80000001u, 0, 0x00000002u});
  for (const float member : {0.0f, -0.0f, 0.5f, kTiny, 31.0f, 31.99f, 65.0f}) {
    EXPECT_EQ(2.0f, ask(model, member)) << member;
  }
  for (const float other : {1.0f, 30.0f, 32.0f, 63.0f, 64.0f, 66.0f, 95.0f}) {
    EXPECT_EQ(1.0f, ask(model, other)) << other;
  }
}

TEST(CategoricalSplit, WhatIsNoCategoryGoesLeft) {
  const BuiltModel model = category_stump({UINT32_MAX, UINT32_MAX, UINT32_MAX});
  for (const float x : {-kTiny, -0.5f, -1.0f, -3e38f, -kInfinity, 96.0f, 1e6f, 16777215.0f, 16777216.0f,
                        4294967296.0f, 3e38f, kInfinity}) {
    EXPECT_EQ(1.0f, ask(model, x)) << x;
  }
  for (const float x : {0.0f, 95.0f, 95.99f}) EXPECT_EQ(2.0f, ask(model, x)) << x;
}

TEST(CategoricalSplit, MissingFollowsItsOwnRule) {
  EXPECT_EQ(1.0f, ask(category_stump({UINT32_MAX}, true), kNan));
  EXPECT_EQ(2.0f, ask(category_stump({UINT32_MAX}, false), kNan));
  EXPECT_EQ(2.0f, ask(category_stump({2}, false), -kNan));
}

TEST(CategoricalSplit, LargestSetReachesTheLastCategory) {
  std::vector<uint32_t> words(1u << 19, 0);
  words.back() = 1u << 31;
  const BuiltModel model = category_stump(words);
  EXPECT_EQ(2.0f, ask(model, 16777215.0f));
  EXPECT_EQ(1.0f, ask(model, 16777214.0f));
  EXPECT_EQ(1.0f, ask(model, 16777216.0f));
}

// ---- order of operations, extremes ----

TEST(Sum, IsTakenInFileOrderInFloat32) {
  BuiltModel model;
  model.base_score = {0};
  for (const float value : {1e8f, 1.0f, -1e8f, 1.0f}) {
    BuiltTree tree;
    tree.nodes[0].value = value;
    model.rounds.push_back({tree});
  }
  EXPECT_EQ(1.0f, ask(model, 0)) << "1 vanishes next to 1e8; a wider sum would give 2";
}

// 16777217 x 3 is not a float: with a fused multiply-add the product would not be rounded before it is added.
TEST(Sum, RoundsTheProductBeforeItIsAdded) {
  BuiltModel model;
  model.booster = 2;
  BuiltTree tree;
  tree.nodes[0].value = 1.0f + 0x1p-12f;
  tree.weight = 1.0f + 0x1p-12f;
  model.rounds = {{tree}};
  model.base_score = {-1.0f - 0x1p-11f};
  EXPECT_EQ(0.0f, ask(model, 0)) << "fused: 2^-24";
}

TEST(DeepTree, IsWalkedToItsEnd) {
  BuiltModel model;
  model.rounds = {{test::chain(4096)}};
  model.base_score = {0};
  const Forest forest = forest_of(model);
  const Floats rows = {-1.0f, 0.0f, 17.5f, 4094.0f, 4095.0f, 5000.0f, kNan};
  expect_same(walk(model, whole(model), rows, {}), predict(forest, whole(model), rows), "chain");
  EXPECT_EQ(-1.0f, predict(forest, whole(model), {5000.0f})[0]);
}

TEST(Rounds, EmptyRangeGivesTheBaseScore) {
  const BuiltModel model = test::random_model(Kind::kScalar, 3);
  const Forest forest = forest_of(model);
  const Floats rows(model.feature_count, 0.5f);
  for (uint32_t r = 0; r <= whole(model).end; ++r) {
    expect_same(walk(model, {r, r}, rows, {}), predict(forest, {r, r}, rows), "round " + std::to_string(r));
  }
}

TEST(Linear, SkipsMissingFeaturesAndIgnoresTheRange) {
  BuiltModel model;
  model.booster = 3;
  model.leaf_size = 0;
  model.feature_count = 3;
  model.linear_rounds = 4;
  model.linear_weights = {1, 10, 100, 1000};
  model.base_score = {0.5f};
  const Forest forest = forest_of(model);
  EXPECT_EQ((Floats{1111.5f, 1101.5f, 1000.5f}),
            predict(forest, {2, 3}, {1, 1, 1, 1, kNan, 1, kNan, kNan, kNan}));
}

TEST(Linear, StartsEveryGroupFromTheFirstBaseScore) {
  BuiltModel model;
  model.booster = 3;
  model.leaf_size = 0;
  model.group_count = 2;
  model.linear_weights = {1, 2, 10, 20};
  model.base_score = {0.5f, 7.0f};
  EXPECT_EQ((Floats{11.5f, 22.5f}), predict(forest_of(model), {0, 0}, {1}));
}

}  // namespace
}  // namespace confidential_ml
