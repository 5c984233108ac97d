// The engine against the walking reference, bit for bit, on every path through the kernel.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "enclave/forest.h"
#include "enclave/guarded.h"
#include "enclave/kernel.h"
#include "enclave/masks.h"
#include "tests/cpp/engine_models.h"
#include "tests/cpp/plain_forest.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
// The linker puts this in front of the platform's (--wrap), which never fails.
Status real_random(uint8_t* output, size_t size) __asm__("__real__ZN15confidential_ml15platform_randomEPhm");
Status scarce_random(uint8_t* output,
                     size_t size) __asm__("__wrap__ZN15confidential_ml15platform_randomEPhm");

bool random_fails = false;

Status scarce_random(uint8_t* output, size_t size) {
  return random_fails ? Status::kRandomFailed : real_random(output, size);
}

// And this in front of the kernel's, to see what the engine asks of it.
void real_encode_rows(
    const Plan& plan, const float* rows, size_t row_count,
    const EncodedRows&
        encoded) __asm__("__real__ZN15confidential_ml11encode_rowsERKNS_4PlanEPKfmRKNS_11EncodedRowsE");
void seen_encode_rows(
    const Plan& plan, const float* rows, size_t row_count,
    const EncodedRows&
        encoded) __asm__("__wrap__ZN15confidential_ml11encode_rowsERKNS_4PlanEPKfmRKNS_11EncodedRowsE");

struct EncodedBlock {
  size_t row_count;
  bool has_conditions;
};
std::vector<EncodedBlock> encoded_blocks;

void seen_encode_rows(const Plan& plan, const float* rows, size_t row_count, const EncodedRows& encoded) {
  encoded_blocks.push_back({row_count, encoded.conditions != nullptr});
  real_encode_rows(plan, rows, row_count, encoded);
}
}  // namespace confidential_ml

namespace confidential_ml::test {
namespace {

using Floats = std::vector<float>;

template <typename Engine>
Floats margins_of(const Engine& engine, RoundRange range, const Floats& rows, const Floats& base_margin) {
  const size_t row_count = rows.size() / engine.model().feature_count;
  Floats margins(row_count * engine.model().group_count, -77.0f);
  engine.predict_margins(range, rows.data(), row_count, base_margin.empty() ? nullptr : base_margin.data(),
                         margins.data());
  return margins;
}

// Which operand's NaN survives an addition is the compiler's choice; that it is one is not.
size_t differences(const Floats& expected, const Floats& actual) {
  size_t count = expected.size() == actual.size() ? 0 : 1;
  for (size_t i = 0; i < expected.size() && i < actual.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(actual[i])) continue;
    count += bits_of(expected[i]) != bits_of(actual[i]);
  }
  return count;
}

TEST(Engine, EqualsTheWalkOnEveryPath) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    for (const NamedModel& named : engine_models(seed)) {
      const PlainForest plain(parsed(named.model));
      const Forest forest(parsed(named.model));
      Random random(seed + 77);
      for (const size_t row_count : {1u, 31u, 33u, 65u, 200u, 257u, 300u, 400u}) {
        const Floats rows = engine_rows(named.model, row_count, &random);
        Floats base_margin(seed % 2 == 0 ? 0 : row_count * named.model.group_count);
        for (float& x : base_margin) x = random.number();
        const RoundRange range = all_rounds(plain.model());
        EXPECT_EQ(0u, differences(margins_of(plain, range, rows, base_margin),
                                  margins_of(forest, range, rows, base_margin)))
            << named.name << ", seed " << seed << ", rows " << row_count;
      }
    }
  }
}

// Thresholds are so many that hardly two are equal.
BuiltModel complete_trees(uint32_t count, uint32_t depth, uint32_t feature_count, Random* random) {
  BuiltModel model;
  model.feature_count = feature_count;
  for (uint32_t t = 0; t < count; ++t) {
    BuiltTree tree = complete_tree(depth);
    for (BuiltNode& node : tree.nodes) {
      node.feature = node.is_leaf ? 0 : random->below(feature_count);
      node.value = random->number() + static_cast<float>(random->below(1u << 16)) * 0x1p-10f;
    }
    model.rounds.push_back({tree});
  }
  return model;
}

std::string blocks_of(const Forest& forest, const Floats& rows) {
  encoded_blocks.clear();
  margins_of(forest, {0, 1}, rows, {});
  std::string found;
  for (const EncodedBlock& block : encoded_blocks) {
    found += std::to_string(block.row_count) + (block.has_conditions ? " by conditions;" : " by columns;");
  }
  return found;
}

// What is faster changes no bit, so nothing else would notice if it were left out (docs/engine.md 3).
TEST(Engine, AsksConditionsOfMoreThan64RowsOfCompleteTrees) {
  Random random(8);
  const BuiltModel model = complete_trees(20, 4, 10, &random);
  const Forest forest(parsed(model));
  const std::vector<std::pair<size_t, std::string>> expected = {
      {4, ""},
      {5, "5 by columns;"},
      {64, "64 by columns;"},
      {65, "65 by conditions;"},
      {256, "256 by conditions;"},
      {260, "256 by conditions;"},
      {320, "256 by conditions;64 by columns;"},
      {321, "256 by conditions;65 by conditions;"},
      {600, "256 by conditions;256 by conditions;88 by conditions;"}};
  for (const auto& [row_count, blocks] : expected) {
    EXPECT_EQ(blocks, blocks_of(forest, engine_rows(model, row_count, &random))) << row_count << " rows";
  }
}

// Blocks shrink when columns are many, and end anywhere.
TEST(Engine, EqualsTheWalkOnManyFeatures) {
  Random random(5);
  BuiltModel model;
  model.feature_count = 3000;
  for (uint32_t t = 0; t < 200; ++t) {
    BuiltTree tree = chain(20);
    for (BuiltNode& node : tree.nodes) {
      node.feature = node.is_leaf ? 0 : random.below(model.feature_count);
      node.value = random.number();
    }
    model.rounds.push_back({tree});
  }
  const PlainForest plain(parsed(model));
  const Forest forest(parsed(model));
  const Floats rows = engine_rows(model, 77, &random);
  EXPECT_EQ(0u, differences(margins_of(plain, {0, 200}, rows, {}), margins_of(forest, {0, 200}, rows, {})));
}

// More conditions than there may be: complete parts look at columns then, however many rows there are.
TEST(Engine, EqualsTheWalkWithTooManyConditions) {
  Random random(6);
  BuiltModel model = complete_trees(600, 8, 40, &random);
  EXPECT_EQ(0u, make_plan(parsed(model)).condition_count);
  const PlainForest plain(parsed(model));
  const Forest forest(parsed(model));
  const Floats rows = engine_rows(model, 300, &random);
  EXPECT_EQ("192 by columns;108 by columns;", blocks_of(forest, rows));
  EXPECT_EQ(0u, differences(margins_of(plain, {0, 600}, rows, {}), margins_of(forest, {0, 600}, rows, {})));
  model.rounds.resize(100);
  EXPECT_NE(0u, make_plan(parsed(model)).condition_count);
}

TEST(Engine, AnswersForAnyRangeOfRounds) {
  const BuiltModel model = engine_models(1)[8].model;
  const PlainForest plain(parsed(model));
  const Forest forest(parsed(model));
  Random random(9);
  const Floats rows = engine_rows(model, 40, &random);
  const uint32_t end = plain.model().round_count;
  for (uint32_t begin = 0; begin <= end; ++begin) {
    const RoundRange range{begin, begin + random.below(end - begin + 1)};
    EXPECT_EQ(0u, differences(margins_of(plain, range, rows, {}), margins_of(forest, range, rows, {})));
  }
}

// The bound that docs/engine.md states: complete trees take less than twice the flat model and its padding,
// and no node of any tree more than 256 bytes.
TEST(Plan, IsBounded) {
  for (const NamedModel& named : engine_models(3)) {
    const Forest forest(parsed(named.model));
    const size_t flat = flat_bytes(named.model).size();
    if (named.name == "EveryDepth") {
      EXPECT_LT(forest.plan_size(), 2 * flat);
    }
    EXPECT_LT(forest.plan_size(), 256 * size_t{forest.model().node_count} + 2 * flat + 16384) << named.name;
  }
}

using Limits = std::vector<uint8_t>;

// By column, those that nodes of complete parts ask for; each finds its own.
std::map<uint32_t, std::set<uint8_t>> limits_asked_for(const Plan& plan) {
  std::map<uint32_t, std::set<uint8_t>> asked;
  for (const Part& part : plan.parts) {
    for (size_t n = part.first_node; part.depth != 0 && n < part.first_node + part.node_count; ++n) {
      const auto limit = static_cast<uint8_t>(plan.node_limits[n] ^ INT8_MIN);
      if (limit == 0 || plan.node_columns[n] >= plan.split_columns) continue;
      asked[plan.node_columns[n]].insert(limit);
      EXPECT_EQ(limit, plan.condition_limits[plan.node_conditions[n] / kConditionBytes]);
    }
  }
  return asked;
}

// By column, in the order of the conditions.
std::map<uint32_t, Limits> limits_in_order(const Plan& plan) {
  std::map<uint32_t, Limits> limits;
  for (const ColumnConditions& own : plan.column_conditions) {
    const uint8_t* begin = plan.condition_limits.data() + own.first_condition;
    limits[own.column].assign(begin, begin + own.count);
  }
  return limits;
}

// Each column's conditions are those that nodes ask for and no more, each once.
TEST(Plan, HasTheConditionsThatNodesAskFor) {
  size_t columns = 0;
  for (const NamedModel& named : engine_models(3)) {
    const Plan plan = make_plan(parsed(named.model));
    if (plan.condition_count == 0) continue;
    const auto asked = limits_asked_for(plan);
    const auto limits = limits_in_order(plan);
    EXPECT_EQ(asked.size(), limits.size()) << named.name;
    for (const auto& [column, own] : limits) {
      ASSERT_EQ(1u, asked.count(column)) << named.name;
      EXPECT_EQ(asked.at(column), std::set<uint8_t>(own.begin(), own.end())) << named.name;
      EXPECT_EQ(asked.at(column).size(), own.size()) << named.name;
    }
    columns += limits.size();
  }
  EXPECT_LT(100u, columns);
}

// In every load they have another order, in which each has any place as often. No result depends on it.
TEST(Plan, DrawsTheOrderOfConditionsByLot) {
  constexpr size_t kLoads = 400;
  Random random(4);
  const BuiltModel model = engine_models(1)[8].model;
  const Floats rows = engine_rows(model, 200, &random);
  const PlainForest plain(parsed(model));
  const Floats expected = margins_of(plain, all_rounds(plain.model()), rows, {});
  std::map<std::pair<uint32_t, uint8_t>, size_t> places;  // by column and limit, their sum
  std::map<uint32_t, size_t> at_rank;                     // how many were where sorting would put them
  std::map<uint32_t, Limits> limits;
  for (size_t load = 0; load < kLoads; ++load) {
    limits = limits_in_order(make_plan(parsed(model)));
    for (const auto& [column, own] : limits) {
      Limits sorted = own;
      std::sort(sorted.begin(), sorted.end());
      for (size_t i = 0; i < own.size(); ++i) {
        places[{column, own[i]}] += i;
        at_rank[column] += own[i] == sorted[i];
      }
    }
    if (load % 50 != 0) continue;
    const Forest forest(parsed(model));
    EXPECT_EQ(0u, differences(expected, margins_of(forest, all_rounds(plain.model()), rows, {})));
  }
  ASSERT_LT(1u, limits.size());
  for (const auto& [column, own] : limits) {
    const auto count = static_cast<double>(own.size());
    ASSERT_LT(1.0, count);
    EXPECT_NEAR(kLoads, static_cast<double>(at_rank[column]), 6 * std::sqrt(kLoads));  // one in each load
    const double deviation = std::sqrt((count * count - 1) / 12 / kLoads);
    for (const uint8_t limit : own) {
      const double mean = static_cast<double>(places[{column, limit}]) / kLoads;
      EXPECT_NEAR((count - 1) / 2, mean, 6 * deviation) << +limit << " of column " << column;
    }
  }
}

TEST(Plan, WithoutRandomNumbersIsRefused) {
  const BuiltModel model = engine_models(1)[8].model;
  const auto load = [&] {
    return guarded([&] {
      make_plan(parsed(model));
      return Status::kOk;
    });
  };
  EXPECT_EQ(Status::kOk, load());
  random_fails = true;
  EXPECT_EQ(Status::kRandomFailed, load());
  random_fails = false;
}

}  // namespace
}  // namespace confidential_ml::test
