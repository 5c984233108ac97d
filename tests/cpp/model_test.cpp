// docs/formats.md section 1, rule by rule: what parse_model accepts and with which status it refuses the
// rest.

#include "enclave/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "common/limits.h"
#include "enclave/masks.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::BuiltModel;
using test::BuiltNode;
using test::BuiltTree;
using test::Bytes;
using test::FlatSections;
using test::Kind;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Status parse(const Bytes& bytes) {
  Model model{};
  return parse_model(bytes.data(), bytes.size(), &model);
}

Status parse(const FlatSections& flat) { return parse(flat.bytes()); }

BuiltNode split_on(uint32_t feature, size_t left, size_t right) {
  BuiltNode node;
  node.is_leaf = false;
  node.feature = feature;
  node.left = left;
  node.right = right;
  return node;
}

BuiltNode leaf_of(std::vector<float> vector) {
  BuiltNode node;
  node.leaf_vector = std::move(vector);
  return node;
}

// Two rounds, three trees (a stump, a chain of 5 nodes, a leaf), two features, two groups.
BuiltModel plain_model() {
  BuiltModel model;
  model.feature_count = 2;
  model.group_count = 2;
  model.base_score = {0.5f, 0.25f};
  BuiltTree leaf;
  leaf.group = 1;
  model.rounds = {{test::chain(1), test::chain(2)}, {leaf}};
  return model;
}

// One tree of three leaves with vectors of two.
BuiltModel vector_model() {
  BuiltModel model;
  model.leaf_size = model.group_count = 2;
  model.base_score = {0, 0};
  BuiltTree tree;
  tree.nodes = {split_on(0, 1, 2), leaf_of({1, 2}), split_on(0, 3, 4), leaf_of({3, 4}), leaf_of({5, 6})};
  model.rounds = {{tree}};
  return model;
}

// One tree with two categorical splits, sets of 1 and 3 words.
BuiltModel categorical_model() {
  BuiltModel model;
  BuiltTree tree = test::chain(2);
  tree.nodes[0].is_categorical = tree.nodes[2].is_categorical = true;
  tree.nodes[0].categories = {5};
  tree.nodes[2].categories = {0, 0, 1};
  model.rounds = {{tree}};
  return model;
}

BuiltModel linear_model() {
  BuiltModel model;
  model.booster = 3;
  model.leaf_size = 0;
  model.feature_count = 2;
  model.group_count = 2;
  model.base_score = {0.5f, 0.5f};
  model.linear_weights = {1, 2, 3, 4, 5, 6};
  return model;
}

BuiltModel model_of(BuiltTree tree) {
  BuiltModel model;
  model.rounds = {{std::move(tree)}};
  return model;
}

// Breaks one thing; counts and sizes are made to fit afterwards unless that is what is broken.
using Break = std::function<void(FlatSections&)>;

Status parse_broken(const BuiltModel& model, const Break& breaking, bool recount = true) {
  FlatSections flat = test::flatten(model);
  EXPECT_EQ(Status::kOk, parse(flat)) << "before it is broken";
  breaking(flat);
  if (recount) flat.count();
  return parse(flat);
}

Status with_header(const BuiltModel& model, const Break& breaking) {
  return parse_broken(model, breaking, false);
}

// ---- what is accepted ----

void expect_same_tree(const Model& model, uint32_t index, const BuiltTree& tree, size_t built_index) {
  const Node& node = model.nodes[index];
  const BuiltNode& built = tree.nodes[built_index];
  ASSERT_EQ(built.is_leaf, node.is_leaf());
  if (built.is_leaf) {
    if (model.leaf_size == 1) {
      EXPECT_EQ(bits_of(built.value), bits_of(node.value));
      return;
    }
    ASSERT_LE(size_t{node.leaf_vector} + model.leaf_size, model.leaf_values.size());
    const float* values = model.leaf_values.data() + node.leaf_vector;
    EXPECT_EQ(0, std::memcmp(built.leaf_vector.data(), values, model.leaf_size * sizeof(float)));
    return;
  }
  EXPECT_EQ(built.feature, node.feature());
  EXPECT_EQ(built.missing_left, node.missing_goes_left());
  ASSERT_EQ(built.is_categorical, node.is_categorical());
  if (built.is_categorical) {
    const CategorySet& set = model.category_sets[node.category_set];
    const uint32_t* words = model.category_words.data() + set.first_word;
    EXPECT_EQ(built.categories, std::vector<uint32_t>(words, words + set.word_count));
  } else {
    EXPECT_EQ(bits_of(built.value), bits_of(node.value));
  }
  expect_same_tree(model, node.left, tree, built.left);
  expect_same_tree(model, node.left + 1, tree, built.right);
}

void expect_same_model(const BuiltModel& built, const Model& model) {
  EXPECT_EQ(built.booster, static_cast<uint32_t>(model.booster));
  EXPECT_EQ(built.objective, static_cast<uint32_t>(model.objective));
  EXPECT_EQ(built.leaf_size, model.leaf_size);
  EXPECT_EQ(built.feature_count, model.feature_count);
  EXPECT_EQ(built.group_count, model.group_count);
  EXPECT_EQ(built.base_score, std::vector<float>(model.base_margin.begin(), model.base_margin.end()));
  EXPECT_EQ(built.linear_weights,
            std::vector<float>(model.linear_weights.begin(), model.linear_weights.end()));
  EXPECT_EQ(built.booster == 3 ? built.linear_rounds : built.rounds.size(), model.round_count);
  size_t tree = 0;
  for (size_t round = 0; round < built.rounds.size(); ++round) {
    EXPECT_EQ(tree, model.round_begin[round]);
    for (const BuiltTree& built_tree : built.rounds[round]) {
      ASSERT_LT(tree, model.trees.size());
      EXPECT_EQ(built_tree.group, model.trees[tree].group);
      EXPECT_EQ(built_tree.weight, model.trees[tree].weight);
      expect_same_tree(model, model.trees[tree].root, built_tree, 0);
      ++tree;
    }
  }
  EXPECT_EQ(tree, model.trees.size());
}

class ParsesKind : public ::testing::TestWithParam<Kind> {};

TEST_P(ParsesKind, AsItWasBuilt) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const BuiltModel built = test::random_model(GetParam(), seed);
    const Bytes flat = test::flat_bytes(built);
    Model model{};
    ASSERT_EQ(Status::kOk, parse_model(flat.data(), flat.size(), &model)) << "seed " << seed;
    expect_same_model(built, model);
  }
}

TEST_P(ParsesKind, AtNoOtherLength) {
  const Bytes flat = test::flat_bytes(test::random_model(GetParam(), 3));
  const size_t step = 1 + flat.size() / 500;
  for (size_t size = 0; size < flat.size(); size += size < 100 ? 1 : step) {
    const Bytes cut(flat.begin(), flat.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_EQ(size < 8 ? Status::kModelNotFlat : Status::kModelSizeWrong, parse(cut)) << size;
  }
  Bytes longer = flat;
  longer.push_back(0);
  EXPECT_EQ(Status::kModelSizeWrong, parse(longer));
  longer.insert(longer.end(), {0, 0, 0});
  EXPECT_EQ(Status::kModelSizeWrong, parse(longer));
}

INSTANTIATE_TEST_SUITE_P(All, ParsesKind, ::testing::ValuesIn(test::kAllKinds),
                         [](const auto& kind) { return std::string(test::name_of(kind.param)); });

TEST(ParseModel, AcceptsEveryObjective) {
  for (uint32_t objective = 1; objective <= 20; ++objective) {
    EXPECT_EQ(Status::kOk, parse_broken(plain_model(), [&](auto& f) { f.objective = objective; }))
        << objective;
  }
}

TEST(ParseModel, KnowsTheDepthOfTheDeepestTree) {
  const auto depth_of = [](const BuiltModel& built) {
    const Bytes flat = test::flat_bytes(built);
    Model model{};
    EXPECT_EQ(Status::kOk, parse_model(flat.data(), flat.size(), &model));
    return model.depth;
  };
  EXPECT_EQ(0u, depth_of(model_of(BuiltTree{})));
  EXPECT_EQ(1u, depth_of(model_of(test::chain(1))));
  EXPECT_EQ(2u, depth_of(plain_model()));
  EXPECT_EQ(100u, depth_of(model_of(test::chain(100))));
  EXPECT_EQ(4096u, depth_of(model_of(test::chain(4096))));
  EXPECT_EQ(0u, depth_of(linear_model()));
}

// ---- header ----

TEST(Header, OtherMagicIsNotFlat) {
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(Status::kModelNotFlat, with_header(plain_model(), [&](auto& f) { f.magic[i] ^= 0x20; })) << i;
  }
  EXPECT_EQ(Status::kModelNotFlat, parse(Bytes{}));
  EXPECT_EQ(Status::kModelNotFlat, parse(Bytes(1000, 0)));
  EXPECT_EQ(Status::kModelNotFlat, parse_model(nullptr, 0, nullptr));
}

TEST(Header, OtherVersionsAreUnsupported) {
  for (const uint32_t version : {0u, 2u, 0x01000000u, UINT32_MAX}) {
    EXPECT_EQ(Status::kModelVersionUnsupported,
              with_header(plain_model(), [&](auto& f) { f.version = version; }));
  }
}

TEST(Header, OtherBoostersAndObjectivesAreUnknown) {
  for (const uint32_t code : {0u, 4u, 0x100u, UINT32_MAX}) {
    EXPECT_EQ(Status::kModelBoosterUnknown, with_header(plain_model(), [&](auto& f) { f.booster = code; }));
  }
  for (const uint32_t code : {0u, 21u, 0x100u, UINT32_MAX}) {
    EXPECT_EQ(Status::kModelObjectiveUnknown,
              with_header(plain_model(), [&](auto& f) { f.objective = code; }));
  }
}

struct Limit {
  const char* name;
  uint32_t FlatSections::*field;
  uint32_t lowest, highest;
  Status at_highest;  // what else is wrong then: the sections are not there
};

TEST(Header, CountsBeyondTheirLimitsAreRefused) {
  const Limit limits[] = {
      {"features", &FlatSections::feature_count, 1, 1u << 22, Status::kOk},
      {"groups", &FlatSections::group_count, 1, 1u << 16, Status::kModelSizeWrong},
      {"rounds", &FlatSections::round_count, 0, 1u << 20, Status::kModelSizeWrong},
      {"trees", &FlatSections::tree_count, 0, 1u << 20, Status::kModelTreeWrong},  // fewer nodes than trees
      {"nodes", &FlatSections::node_count, 0, 1u << 24, Status::kModelSizeWrong},
  };
  for (const Limit& limit : limits) {
    const auto with = [&](uint32_t value) {
      return with_header(plain_model(), [&](auto& f) { f.*limit.field = value; });
    };
    EXPECT_EQ(limit.at_highest, with(limit.highest)) << limit.name;
    EXPECT_EQ(Status::kModelLimitExceeded, with(limit.highest + 1)) << limit.name;
    EXPECT_EQ(Status::kModelLimitExceeded, with(UINT32_MAX)) << limit.name;
    if (limit.lowest == 1) {
      EXPECT_EQ(Status::kModelLimitExceeded, with(0)) << limit.name;
    }
  }
}

TEST(Header, TotalSizeBeyondItsLimitIsRefused) {
  const auto with = [](uint64_t size) {
    return with_header(plain_model(), [&](auto& f) { f.total_size = size; });
  };
  EXPECT_EQ(Status::kModelSizeWrong, with(uint64_t{128} << 20));
  EXPECT_EQ(Status::kModelLimitExceeded, with((uint64_t{128} << 20) + 1));
  EXPECT_EQ(Status::kModelLimitExceeded, with(UINT64_MAX));
  EXPECT_EQ(Status::kModelLimitExceeded, with(test::flatten(plain_model()).total_size + (uint64_t{1} << 32)));
}

TEST(Header, CountsThatDoNotAddUpToTheSizeAreRefused) {
  const auto linear_too = [](uint32_t FlatSections::*field) {
    return field == &FlatSections::feature_count || field == &FlatSections::group_count;
  };
  for (const auto field :
       {&FlatSections::group_count, &FlatSections::round_count, &FlatSections::tree_count,
        &FlatSections::node_count, &FlatSections::leaf_value_count, &FlatSections::categorical_count,
        &FlatSections::category_word_count, &FlatSections::feature_count}) {
    if (field != &FlatSections::feature_count) {
      EXPECT_EQ(Status::kModelSizeWrong, with_header(plain_model(), [&](auto& f) { ++(f.*field); }));
    }
    if (linear_too(field)) {
      EXPECT_EQ(Status::kModelSizeWrong, with_header(linear_model(), [&](auto& f) { ++(f.*field); }));
    }
  }
  for (const uint64_t change : {uint64_t{1}, uint64_t{4}, UINT64_MAX, UINT64_MAX - 3}) {
    EXPECT_EQ(Status::kModelSizeWrong, with_header(plain_model(), [&](auto& f) { f.total_size += change; }));
  }
}

// Wide enough to overflow 32 bits of a product or sum somewhere; nothing of it may be believed.
TEST(Header, LargestCountsAllTogetherAreRefused) {
  EXPECT_EQ(Status::kModelSizeWrong, with_header(linear_model(), [](auto& f) {
              f.feature_count = 1u << 22;
              f.group_count = 1u << 16;
            }));
  EXPECT_EQ(Status::kModelSizeWrong, with_header(plain_model(), [](auto& f) {
              f.leaf_value_count = f.categorical_count = f.category_word_count = UINT32_MAX;
            }));
}

TEST(Header, LeafSizeIsOneOrTheNumberOfGroups) {
  const auto with = [](uint32_t leaf_size, uint32_t groups) {
    BuiltModel model = vector_model();
    return with_header(model, [&](auto& f) {
      f.leaf_size = leaf_size;
      f.group_count = groups;
    });
  };
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(0, 2));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(2, 1));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(2, 3));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(3, 2));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(UINT32_MAX, 2));
}

TEST(Header, LinearModelsHaveNothingOfTrees) {
  const auto with = [](const Break& breaking) { return with_header(linear_model(), breaking); };
  EXPECT_EQ(Status::kModelLeafSizeWrong, with([](auto& f) { f.leaf_size = 1; }));
  EXPECT_EQ(Status::kModelTreeWrong, with([](auto& f) { f.tree_count = 1; }));
  EXPECT_EQ(Status::kModelTreeWrong, with([](auto& f) { f.node_count = 1; }));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with([](auto& f) { f.leaf_value_count = 1; }));
  EXPECT_EQ(Status::kModelCategoriesWrong, with([](auto& f) { f.categorical_count = 1; }));
  EXPECT_EQ(Status::kModelCategoriesWrong, with([](auto& f) { f.category_word_count = 1; }));
  EXPECT_EQ(Status::kOk, with([](auto& f) { f.round_count = 1u << 20; }));
  EXPECT_EQ(Status::kModelLimitExceeded, with([](auto& f) { f.round_count = (1u << 20) + 1; }));
}

TEST(Header, EveryTreeHasANode) {
  EXPECT_EQ(Status::kModelTreeWrong, with_header(plain_model(), [](auto& f) { f.node_count = 2; }));
}

// ---- numbers ----

TEST(Numbers, AreFiniteWhereverTheyStand) {
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity, std::numeric_limits<float>::signaling_NaN()}) {
    const auto refused = [&](const BuiltModel& model, std::vector<float> FlatSections::*section) {
      const size_t count = (test::flatten(model).*section).size();
      for (size_t i = 0; i < count; ++i) {
        EXPECT_EQ(Status::kModelNotFinite, parse_broken(model, [&](auto& f) { (f.*section)[i] = bad; })) << i;
      }
    };
    refused(plain_model(), &FlatSections::base_score);
    refused(plain_model(), &FlatSections::tree_weights);
    refused(plain_model(), &FlatSections::node_values);
    refused(vector_model(), &FlatSections::leaf_values);
    refused(linear_model(), &FlatSections::linear_weights);
    BuiltModel dart = plain_model();
    dart.booster = 2;
    refused(dart, &FlatSections::tree_weights);
  }
}

TEST(Numbers, OfAnyFiniteSizeAreTaken) {
  for (const float good : {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), -0.0f,
                           std::numeric_limits<float>::denorm_min()}) {
    EXPECT_EQ(Status::kOk, parse_broken(plain_model(), [&](auto& f) {
                f.base_score[0] = good;
                for (float& value : f.node_values) value = good;
              }));
  }
}

TEST(Numbers, BaseScoreMustHaveAMargin) {
  const auto with = [](uint32_t objective, float base_score) {
    return parse_broken(plain_model(), [&](auto& f) {
      f.objective = objective;
      f.base_score[1] = base_score;
    });
  };
  for (const uint32_t logistic : {5u, 6u}) {
    EXPECT_EQ(Status::kOk, with(logistic, 0));
    EXPECT_EQ(Status::kOk, with(logistic, -0.0f));
    EXPECT_EQ(Status::kOk, with(logistic, 1));
    EXPECT_EQ(Status::kModelBaseScoreWrong, with(logistic, std::nextafter(1.0f, 2.0f)));
    EXPECT_EQ(Status::kModelBaseScoreWrong, with(logistic, -std::numeric_limits<float>::denorm_min()));
  }
  for (const uint32_t logarithmic : {8u, 9u, 10u, 11u, 12u}) {
    EXPECT_EQ(Status::kOk, with(logarithmic, 0));
    EXPECT_EQ(Status::kOk, with(logarithmic, std::numeric_limits<float>::max()));
    EXPECT_EQ(Status::kModelBaseScoreWrong, with(logarithmic, -std::numeric_limits<float>::denorm_min()));
  }
  for (const uint32_t plain : {1u, 2u, 3u, 4u, 7u, 13u, 14u, 15u, 16u, 17u, 18u, 19u, 20u}) {
    EXPECT_EQ(Status::kOk, with(plain, -5));
  }
}

// ---- rounds and trees ----

TEST(Rounds, CoverTheTreesInOrder) {
  const auto with = [](std::vector<uint32_t> begin) {
    return parse_broken(plain_model(), [&](auto& f) { f.round_begin = std::move(begin); });
  };
  EXPECT_EQ(Status::kOk, with({0, 3}));
  EXPECT_EQ(Status::kOk, with({0, 0, 1, 1, 3, 3}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({1, 3}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({0, 2}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({0, 4}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({0, 2, 1, 3}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({0, 4, 3}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({0, UINT32_MAX, 3}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({0}));
  EXPECT_EQ(Status::kModelRoundsWrong, with({3}));
}

TEST(Trees, HaveSizesThatCoverTheNodes) {
  const auto with = [](std::vector<uint32_t> sizes) {
    return parse_broken(plain_model(), [&](auto& f) { f.tree_sizes = std::move(sizes); });
  };
  EXPECT_EQ(Status::kOk, with({3, 5, 1}));
  EXPECT_EQ(Status::kModelTreeWrong, with({3, 5, 0}));
  EXPECT_EQ(Status::kModelTreeWrong, with({3, 5, 2}));
  EXPECT_EQ(Status::kModelTreeWrong, with({3, 5, 3}));
  EXPECT_EQ(Status::kModelTreeWrong, with({3, 3, 1}));
  EXPECT_EQ(Status::kModelTreeWrong, with({5, 3, 1}));
  EXPECT_EQ(Status::kModelTreeWrong, with({UINT32_MAX, 5, 1}));
  EXPECT_EQ(Status::kModelTreeWrong, with({3, UINT32_MAX, 7}));  // the sum is 9 in 32 bits
}

TEST(Trees, HaveAGroupOfTheModel) {
  EXPECT_EQ(Status::kModelTreeWrong, parse_broken(plain_model(), [](auto& f) { f.tree_groups[2] = 2; }));
  EXPECT_EQ(Status::kModelTreeWrong,
            parse_broken(plain_model(), [](auto& f) { f.tree_groups[2] = UINT32_MAX; }));
  EXPECT_EQ(Status::kModelTreeWrong, parse_broken(vector_model(), [](auto& f) { f.tree_groups[0] = 1; }));
}

TEST(Trees, HaveAWeightInDartOnly) {
  for (const float weight : {0.0f, -1.0f, 0.5f, std::nextafter(1.0f, 2.0f)}) {
    const auto with = [&](uint32_t booster) {
      return parse_broken(plain_model(), [&](auto& f) {
        f.booster = booster;
        f.tree_weights[1] = weight;
      });
    };
    EXPECT_EQ(Status::kModelTreeWrong, with(1));
    EXPECT_EQ(Status::kOk, with(2));
  }
}

// ---- nodes ----

TEST(Nodes, LeavesHaveNoOtherBit) {
  for (uint32_t bit = 0; bit < 31; ++bit) {
    EXPECT_EQ(Status::kModelTreeWrong,
              parse_broken(plain_model(), [&](auto& f) { f.node_words[1] |= 1u << bit; }))
        << bit;
  }
}

TEST(Nodes, FeaturesAreThoseOfTheModel) {
  const auto with = [](uint32_t feature, uint32_t bits) {
    return parse_broken(plain_model(), [&](auto& f) { f.node_words[0] = feature | bits; });
  };
  for (const uint32_t bits : {0u, test::kMissingLeftBit}) {
    EXPECT_EQ(Status::kOk, with(1, bits));
    EXPECT_EQ(Status::kModelTreeWrong, with(2, bits));
    EXPECT_EQ(Status::kModelTreeWrong, with((1u << 29) - 1, bits));
  }
}

TEST(Nodes, UnusedValuesAreZeroBits) {
  for (const float value : {-0.0f, 1.0f, std::numeric_limits<float>::denorm_min()}) {
    EXPECT_EQ(Status::kModelTreeWrong,
              parse_broken(vector_model(), [&](auto& f) { f.node_values[1] = value; }));
    EXPECT_EQ(Status::kModelTreeWrong,
              parse_broken(categorical_model(), [&](auto& f) { f.node_values[0] = value; }));
  }
}

// Read as a queue, breadth first: every node takes one waiting place and an internal one adds two.
bool is_tree(uint32_t leaf_bits, uint32_t size) {
  int waiting = 1;
  for (uint32_t i = 0; i < size; ++i) {
    if (waiting == 0) return false;
    waiting += (leaf_bits >> i & 1u) != 0 ? -1 : 1;
  }
  return waiting == 0;
}

TEST(Nodes, OfEverySequenceOfLeavesAndSplitsOnlyTreesAreAccepted) {
  size_t accepted = 0;
  for (const uint32_t size : {1u, 3u, 5u, 7u, 9u, 11u}) {
    FlatSections flat = test::flatten(model_of(test::chain((size - 1) / 2)));
    for (uint32_t leaf_bits = 0; leaf_bits < 1u << size; ++leaf_bits) {
      for (uint32_t i = 0; i < size; ++i)
        flat.node_words[i] = (leaf_bits >> i & 1u) != 0 ? test::kLeafWord : 0;
      const bool expected = is_tree(leaf_bits, size);
      accepted += expected;
      ASSERT_EQ(expected ? Status::kOk : Status::kModelTreeWrong, parse(flat)) << leaf_bits << " of " << size;
    }
  }
  EXPECT_EQ(1u + 1 + 2 + 5 + 14 + 42, accepted) << "the Catalan numbers";
}

TEST(Nodes, ATreeMayNotReachIntoTheNextOne) {
  // Two trees of one and three nodes whose words would only make sense as trees of three and one.
  BuiltModel model;
  model.rounds = {{BuiltTree{}, test::chain(1)}};
  EXPECT_EQ(Status::kModelTreeWrong, parse_broken(model, [](auto& f) {
              f.node_words = {0, test::kLeafWord, test::kLeafWord, test::kLeafWord};
            }));
}

TEST(Nodes, OneLevelBelowTheLimitIsTooDeep) {
  EXPECT_EQ(Status::kOk, parse(test::flat_bytes(model_of(test::chain(kMaxDepth)))));
  EXPECT_EQ(Status::kModelTooDeep, parse(test::flat_bytes(model_of(test::chain(kMaxDepth + 1)))));
}

// ---- leaf vectors and categories ----

TEST(LeafVectors, AreOnePerLeaf) {
  const auto with = [](const BuiltModel& model, std::vector<float> values) {
    return parse_broken(model, [&](auto& f) { f.leaf_values = std::move(values); });
  };
  EXPECT_EQ(Status::kOk, with(vector_model(), {1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(vector_model(), {1, 2, 3, 4, 5}));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(vector_model(), {1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(vector_model(), {}));
  EXPECT_EQ(Status::kModelLeafSizeWrong, with(plain_model(), {1}));
}

TEST(Categories, SetsAreOnePerSplitAndCoverTheWords) {
  const auto with = [](std::vector<uint32_t> sizes, std::vector<uint32_t> words) {
    return parse_broken(categorical_model(), [&](auto& f) {
      f.set_sizes = std::move(sizes);
      f.category_words = std::move(words);
    });
  };
  EXPECT_EQ(Status::kOk, with({1, 3}, {5, 0, 0, 1}));
  EXPECT_EQ(Status::kOk, with({3, 1}, {0, 0, 1, 5}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1}, {5}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, 3, 1}, {5, 0, 0, 1, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, 2}, {5, 0, 0, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, 2}, {5, 1, 1, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, 4}, {5, 0, 0, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({0, 4}, {5, 0, 0, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({4, 0}, {5, 0, 0, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, UINT32_MAX}, {5, 0, 0, 1}));
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, 3}, {0, 0, 0, 1})) << "a set's last word is 0";
  EXPECT_EQ(Status::kModelCategoriesWrong, with({1, 3}, {5, 1, 1, 0})) << "a set's last word is 0";
}

TEST(Categories, SetsEndWhereFloatsStopBeingIntegers) {
  const auto with_words = [](size_t count) {
    BuiltModel model = categorical_model();
    model.rounds[0][0].nodes[2].categories.assign(count, 1);
    return parse(test::flat_bytes(model));
  };
  EXPECT_EQ(Status::kOk, with_words(kMaxCategoryWords));
  EXPECT_EQ(Status::kModelCategoriesWrong, with_words(kMaxCategoryWords + 1));
}

TEST(Categories, AModelWithoutCategoricalSplitsHasNoSets) {
  EXPECT_EQ(Status::kModelCategoriesWrong, parse_broken(plain_model(), [](auto& f) {
              f.set_sizes = {1};
              f.category_words = {1};
            }));
  EXPECT_EQ(Status::kModelCategoriesWrong,
            parse_broken(plain_model(), [](auto& f) { f.category_words = {1}; }));
}

// ---- sizes at the limits ----

TEST(Limits, AreReachedByRealModels) {
  BuiltModel widest;
  widest.feature_count = kMaxFeatures;
  BuiltTree tree = test::chain(1);
  tree.nodes[0].feature = kMaxFeatures - 1;
  widest.rounds = {{tree}};
  widest.group_count = kMaxGroups;
  widest.base_score.assign(kMaxGroups, 0.5f);
  EXPECT_EQ(Status::kOk, parse(test::flat_bytes(widest)));

  FlatSections longest = test::flatten(BuiltModel{});
  longest.tree_sizes.assign(kMaxTrees, 1);
  longest.tree_groups.assign(kMaxTrees, 0);
  longest.tree_weights.assign(kMaxTrees, 1.0f);
  longest.node_words.assign(kMaxTrees, test::kLeafWord);
  longest.node_values.assign(kMaxTrees, 1.0f);
  for (uint32_t t = 1; t <= kMaxTrees; ++t) longest.round_begin.push_back(t);
  longest.count();
  EXPECT_EQ(kMaxRounds, longest.round_count);
  EXPECT_EQ(Status::kOk, parse(longest));
}

// Either a refusal of this block or a model that still holds together; never anything else.
TEST(ParseModel, SurvivesEveryValueOfEveryByteOfASmallModel) {
  const Bytes genuine = test::flat_bytes(categorical_model());
  for (size_t i = 0; i < genuine.size(); ++i) {
    for (uint32_t value = 0; value < 256; ++value) {
      Bytes bytes = genuine;
      bytes[i] = static_cast<uint8_t>(value);
      const auto status = static_cast<uint32_t>(parse(bytes));
      ASSERT_TRUE(status == 0 || (status >= 301 && status <= 313)) << status;
    }
  }
}

}  // namespace
}  // namespace confidential_ml
