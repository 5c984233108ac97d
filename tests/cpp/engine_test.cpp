// The engine against the walking reference, bit for bit, on every path through the kernel.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "enclave/forest.h"
#include "enclave/guarded.h"
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
  BuiltModel model;
  model.feature_count = 40;
  for (uint32_t t = 0; t < 600; ++t) {
    BuiltTree tree = complete_tree(8);
    for (BuiltNode& node : tree.nodes) {
      node.feature = node.is_leaf ? 0 : random.below(model.feature_count);
      node.value = random.number() + static_cast<float>(random.below(1u << 16)) * 0x1p-10f;
    }
    model.rounds.push_back({tree});
  }
  EXPECT_EQ(0u, make_plan(parsed(model)).condition_count);
  const PlainForest plain(parsed(model));
  const Forest forest(parsed(model));
  const Floats rows = engine_rows(model, 300, &random);
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

// Every switch is set in some loads and not in others, and no result depends on it.
TEST(Plan, DrawsTheOrderOfConditionsByLot) {
  Random random(4);
  const BuiltModel model = engine_models(1)[8].model;
  const Floats rows = engine_rows(model, 200, &random);
  const PlainForest plain(parsed(model));
  const Floats expected = margins_of(plain, all_rounds(plain.model()), rows, {});
  std::vector<size_t> set_count(make_plan(parsed(model)).switches.size());
  ASSERT_LT(0u, set_count.size());
  for (int load = 0; load < 50; ++load) {
    const Plan plan = make_plan(parsed(model));
    for (size_t i = 0; i < set_count.size(); ++i) set_count[i] += plan.switches[i] != 0;
    const Forest forest(parsed(model));
    EXPECT_EQ(0u, differences(expected, margins_of(forest, all_rounds(plain.model()), rows, {})));
  }
  for (const size_t count : set_count) {
    EXPECT_LT(0u, count);
    EXPECT_GT(50u, count);
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
