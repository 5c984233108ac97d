// Each step of the kernel on its own, against the obvious way to compute it. Includes the kernel whose steps
// it tests: they have no header.
#include KERNEL_SOURCE  // NOLINT(bugprone-suspicious-include)

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace confidential_ml {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct alignas(32) Lanes {
  uint8_t bytes[kLanes];
};

Lanes lanes_of(Bytes bytes) {
  Lanes lanes;
  store(lanes.bytes, bytes);
  return lanes;
}

Lanes random_lanes(std::mt19937* random) {
  Lanes lanes;
  for (uint8_t& byte : lanes.bytes) byte = static_cast<uint8_t>((*random)());
  return lanes;
}

// ---- binning ----

// Features with so many thresholds 0, 1, 2 ..., as plan.cpp lays out their keys.
Plan plan_of_windows(const std::vector<uint32_t>& counts) {
  Plan plan{};
  for (const uint32_t count : counts) {
    uint32_t levels = 1;
    while (count >= 1u << levels) ++levels;
    const uint32_t column = plan.column_bytes;
    const size_t first_table = plan.key_tables.size();
    plan.windows.push_back({plan.feature_count++,
                            levels,
                            static_cast<uint32_t>(plan.keys.size()),
                            count,
                            static_cast<uint32_t>(first_table),
                            {column, column + uint32_t{kLanes}}});
    for (uint32_t k = 0; k < count; ++k) plan.keys.push_back(order_key(static_cast<float>(k)));
    plan.key_tables.resize(first_table + chunks_before(levels) * kChunkBytes);
    for (uint32_t level = 0; level < levels; ++level) {
      const uint32_t step = 1u << (levels - level);
      for (uint32_t j = 0; j < 1u << level; ++j) {
        const uint32_t rank = j * step + step / 2 - 1;
        const int32_t key = rank < count ? order_key(static_cast<float>(rank)) : INT32_MAX;
        uint8_t* entry =
            plan.key_tables.data() + first_table + (chunks_before(level) + j / 16) * kChunkBytes + j % 16;
        for (size_t p = 0; p < 4; ++p) {
          entry[16 * p] = static_cast<uint8_t>((static_cast<uint32_t>(key) ^ 0x808080u) >> (8 * p));
        }
      }
    }
    plan.column_bytes += 2 * kLanes;
  }
  plan.split_columns = plan.column_bytes;
  plan.for_row = make_row_plan(plan);
  return plan;
}

EncodedRows into(std::vector<Lanes>* columns, const Plan& plan) {
  return {columns->size() * kLanes / plan.column_bytes, columns->data()->bytes, plan.column_bytes, nullptr};
}

// What encode_row() writes for few columns and no categories.
struct alignas(kLanes) FewCodes {
  uint8_t bytes[256];
};

std::vector<float> edge_values(uint32_t count) {
  std::vector<float> values = {kNan, -kNan, kInfinity, -kInfinity, 0.0f, -0.0f, -1e-45f, 1e-45f};
  for (uint32_t i = 0; i <= count; ++i) {
    const auto x = static_cast<float>(i);
    values.insert(values.end(), {x, std::nextafter(x, -1.0f), std::nextafter(x, 1e9f)});
  }
  while (values.size() % kLanes != 0) values.push_back(0.5f);
  return values;
}

uint8_t expected_code(float x, uint32_t count, bool missing_left) {
  if (std::isnan(x)) return missing_left ? 0x80 : 0x7f;  // the smallest, the largest signed byte
  uint32_t rank = 0;
  for (uint32_t i = 0; i < count; ++i) rank += static_cast<float>(i) <= x;
  return static_cast<uint8_t>(rank ^ 0x80);
}

TEST(Binning, CountsTheThresholdsNotAboveAValue) {
  for (const uint32_t count : {1u, 2u, 3u, 4u, 7u, 8u, 15u, 16u, 31u, 60u, 64u, 127u, 128u, 254u, 255u}) {
    const Plan plan = plan_of_windows({count});
    const std::vector<float> values = edge_values(count);
    for (size_t first = 0; first < values.size(); first += kLanes) {
      std::vector<Lanes> columns(2);
      encode_rows(plan, values.data() + first, kLanes, into(&columns, plan));
      for (size_t i = 0; i < kLanes; ++i) {
        const float x = values[first + i];
        FewCodes codes{};
        encode_row(plan, &x, codes.bytes);
        for (const bool left : {false, true}) {
          const uint8_t expected = expected_code(x, count, left);
          EXPECT_EQ(expected, columns[left].bytes[lane_of(i)]) << x << " of " << count;
          EXPECT_EQ(expected, codes.bytes[left]) << x << " of " << count;
        }
      }
    }
  }
}

// More than are looked at together, with unlike numbers of thresholds, and not all with both columns.
TEST(Binning, OfOneRowForManyWindows) {
  const std::vector<uint32_t> counts = {255, 1, 16, 17, 100, 8, 9, 3, 254, 64, 33};
  Plan plan = plan_of_windows(counts);
  plan.windows[2].column[0] = kNoColumn;
  plan.windows[7].column[1] = kNoColumn;
  plan.for_row = make_row_plan(plan);
  for (const float x : edge_values(255)) {
    std::vector<float> row(counts.size(), x);
    row[4] = 1.5f;
    FewCodes codes{};
    encode_row(plan, row.data(), codes.bytes);
    for (size_t w = 0; w < counts.size(); ++w) {
      for (const bool left : {false, true}) {
        const bool is_there = plan.windows[w].column[left] != kNoColumn;
        EXPECT_EQ(is_there ? expected_code(row[w], counts[w], left) : 0, codes.bytes[2 * w + left])
            << row[w] << ", window " << w;
      }
    }
  }
}

TEST(Binning, RowsThatAreNotThereAreNotRead) {
  const Plan plan = plan_of_windows({3});
  const std::vector<float> one = {2.5f};
  std::vector<Lanes> columns(2);
  encode_rows(plan, one.data(), 1, into(&columns, plan));
  EXPECT_EQ(expected_code(2.5f, 3, false), columns[0].bytes[lane_of(0)]);
}

// ---- categories ----

TEST(Category, IsAByteAndABit) {
  for (const float x :
       {0.0f, 0.9f, 1.0f, 7.0f, 8.0f, 119.0f, 120.0f, 255.0f, 256.0f, 70000.5f, 16777215.0f}) {
    const auto category = static_cast<uint32_t>(x);
    EXPECT_EQ(category >> 3, category_of(x).byte) << x;
    EXPECT_EQ(1u << (category & 7), category_of(x).bit) << x;
    const Category known = short_category_of(x);
    EXPECT_EQ(category < 120 ? 1u << (category & 7) : 0u, known.bit) << x;
    if (category < 120) {
      EXPECT_EQ(category >> 3, known.byte) << x;
    }
  }
}

TEST(Category, WhatIsNoneHasNoBit) {
  for (const float x : {-1.0f, -1e-45f, 16777216.0f, 1e30f, kInfinity, -kInfinity, kNan}) {
    EXPECT_EQ(0u, category_of(x).bit) << x;
  }
  EXPECT_EQ(kMissingByte, short_category_of(kNan).byte);
  EXPECT_NE(0u, short_category_of(kNan).bit);
}

// Of one row: every feature has one bit in its sets, whatever its value.
TEST(Category, OfOneRowIsABitOfASet) {
  RowPlan plan{};
  std::vector<float> row;
  std::vector<uint32_t> expected;
  const auto add = [&](uint32_t known, float x, uint32_t bit) {
    plan.category_features.push_back({static_cast<uint32_t>(row.size()), known});
    plan.set_bytes = std::max(plan.set_bytes, plan.category_features.back().set_bytes());
    row.push_back(x);
    expected.push_back(bit);
  };
  for (const uint32_t known : {0u, 1u, 6u, 7u, 8u, 60u, 119u, 120u}) {
    for (uint32_t category = 0; category < 130; category += 1 + category % 7) {
      add(known, static_cast<float>(category) + 0.5f, std::min(category, known + 1));
      if (category == known) expected.back() = known + 1;
    }
    add(known, kNan, known);
    for (const float x : {-1.0f, 16777216.0f, kInfinity, -kInfinity}) add(known, x, known + 1);
  }
  const size_t stride = feature_lanes(plan);
  std::vector<Lanes> members((plan.set_bytes + 2) * stride / kLanes);
  encode_categories_of_row(plan, row.data(), members[0].bytes);
  for (size_t f = 0; f < stride; ++f) {
    for (uint32_t byte = 0; byte < plan.set_bytes; ++byte) {
      const bool is_here = f < row.size() && expected[f] / 8 == byte;
      const size_t at = byte * stride + f;
      EXPECT_EQ(is_here ? 1u << (expected[f] % 8) : 0u, members[at / kLanes].bytes[at % kLanes])
          << "feature " << f << ", byte " << byte;
    }
  }
}

// ---- node masks ----

TEST(NodeMask, IsSetWhereTheColumnIsBelowTheLimit) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const Lanes columns[2] = {random_lanes(&random), random_lanes(&random)};
    const auto limit = static_cast<int8_t>(random());
    const std::vector<int8_t> limits(1 + kLimitSlack, limit);
    const uint32_t node_column = 0;
    const Nodes<2> nodes{&node_column, limits.data(), {columns[0].bytes, columns[1].bytes}};
    const auto way = way_down<1>(nodes, std::make_integer_sequence<int, 1>{});
    for (size_t i = 0; i < 2 * kLanes; ++i) {
      const bool below = static_cast<int8_t>(columns[i / kLanes].bytes[i % kLanes]) < limit;
      EXPECT_EQ(below ? 0xff : 0, lanes_of(way.left[0].of[i / kLanes]).bytes[i % kLanes]);
    }
  }
}

// ---- a bit for each row ----

bool bit_of(const uint8_t* condition, size_t vector, size_t lane) {
  return (condition[lane] >> vector & 1) != 0;
}

TEST(Bits, AreTransposedWithinEachByte) {
  std::mt19937 random(11);
  Lanes before[kBitVectors];
  Bytes vectors[kBitVectors];
  for (size_t v = 0; v < kBitVectors; ++v) {
    before[v] = random_lanes(&random);
    vectors[v] = load(before[v].bytes);
  }
  transpose_bits(vectors);
  for (size_t p = 0; p < kBitVectors; ++p) {
    const Lanes after = lanes_of(vectors[p]);
    for (size_t v = 0; v < kBitVectors; ++v) {
      for (size_t i = 0; i < kLanes; ++i) {
        EXPECT_EQ(before[v].bytes[i] >> p & 1, after.bytes[i] >> v & 1) << "bit " << p << " of vector " << v;
      }
    }
  }
}

TEST(Bytes, AreTransposedWithinEachHalf) {
  std::mt19937 random(14);
  Lanes before[16];
  for (Lanes& vector : before) vector = random_lanes(&random);
  Bytes transposed[16];
  transpose_bytes([&](size_t v) { return load(before[v].bytes); }, transposed);
  for (size_t b = 0; b < 16; ++b) {
    const Lanes after = lanes_of(transposed[b]);
    for (size_t i = 0; i < kLanes; ++i) {
      EXPECT_EQ(before[i % 16].bytes[i / 16 * 16 + b], after.bytes[i]) << "byte " << b << " of vectors";
    }
  }
}

TEST(Bytes, AreSelectedFromTheirOwnHalfUnlessTheTopBitIsSet) {
  std::mt19937 random(15);
  const Lanes halves = random_lanes(&random);
  for (uint32_t round = 0; round < 50; ++round) {
    Lanes position = random_lanes(&random);
    for (uint8_t& byte : position.bytes) byte &= 0x8f;
    const Lanes found = lanes_of(select_bytes(load(halves.bytes), load(position.bytes)));
    for (size_t i = 0; i < kLanes; ++i) {
      const uint8_t at = position.bytes[i];
      EXPECT_EQ(at < 16 ? halves.bytes[i / 16 * 16 + at] : 0, found.bytes[i]);
    }
  }
}

// Of so many vectors: every condition, of every row that there is, in the order of the limits.
void expect_conditions(size_t vector_count, uint32_t asked_for, std::mt19937* random) {
  constexpr uint32_t kBefore = 3;
  std::vector<Lanes> columns(2 * vector_count);
  for (Lanes& column : columns) column = random_lanes(random);
  for (size_t v = 0; v < vector_count; ++v) {
    columns[2 * v + 1].bytes[0] = 0x7f;  // missing, and goes right
    columns[2 * v + 1].bytes[1] = 0x80;  // missing, and goes left
  }
  const uint32_t rest = asked_for % kConditionBatch;
  const size_t count = kBefore + asked_for + (rest > kFewConditions ? kConditionBatch - rest : 0);
  std::vector<Lanes> conditions(count + 1, Lanes{});
  const EncodedRows rows{vector_count, columns[0].bytes, 2 * kLanes, conditions[0].bytes};
  Plan plan{};
  for (size_t i = 0; i < count; ++i) plan.condition_limits.push_back(static_cast<uint8_t>((*random)()));
  make_conditions(plan, {kLanes, kBefore, asked_for}, rows);
  for (size_t c = kBefore; c < count; ++c) {
    const uint8_t limit = plan.condition_limits[c];
    for (size_t i = 0; i < vector_count * kLanes; ++i) {
      const uint8_t code = columns[i / kLanes * 2 + 1].bytes[i % kLanes] ^ 0x80;
      EXPECT_EQ(code < limit, bit_of(conditions[c].bytes, i / kLanes, i % kLanes)) << +code << " " << +limit;
    }
  }
  for (const size_t outside : {size_t{0}, size_t{kBefore - 1}, count}) {
    for (const uint8_t byte : conditions[outside].bytes) EXPECT_EQ(0, byte) << "written outside";
  }
}

TEST(Condition, IsWhetherTheColumnIsBelowTheLimit) {
  std::mt19937 random(12);
  for (const size_t vector_count : {1u, 3u, 8u}) {
    for (const uint32_t count : {1u, 6u, 7u, 16u, 22u, 23u, 64u, 255u}) {
      expect_conditions(vector_count, count, &random);
    }
  }
}

TEST(Condition, OfASplitIsWhetherTheCategoryGoesLeft) {
  std::mt19937 random(13);
  CategorySplit split{};
  split.condition = 1;
  Lanes conditions[2] = {random_lanes(&random), random_lanes(&random)}, goes_right[kBitVectors];
  for (size_t v = 0; v < kBitVectors; ++v) {
    for (uint8_t& byte : goes_right[v].bytes)
      byte = static_cast<uint8_t>(random() % 2 != 0 ? 1u << random() % 8 : 0u);
    Target{nullptr, false, conditions[0].bytes, v}.put(split, load(goes_right[v].bytes));
  }
  for (size_t v = 0; v < kBitVectors; ++v) {
    for (size_t i = 0; i < kLanes; ++i) {
      EXPECT_EQ(goes_right[v].bytes[i] == 0, bit_of(conditions[1].bytes, v, i));
    }
  }
}

// Of so many vectors: a feature with some sets of categories below 8 byte_count, and values that are none.
void expect_split_conditions(size_t vector_count, uint32_t byte_count, bool missing_right,
                             std::mt19937* random) {
  constexpr uint32_t kSets = 20;
  Plan plan{};
  plan.feature_count = 1;
  plan.column_bytes = plan.split_columns = 2 * kLanes;
  plan.category_features.push_back({0, 0, 1, 0, kSets});
  plan.condition_count = kSets;
  for (uint32_t s = 0; s < kSets; ++s) {
    plan.category_splits.push_back({0, s % 7 == 3 ? kNoCondition : kSets - 1 - s, s, 1, missing_right});
    plan.category_chunks.push_back({});
    for (uint32_t b = 0; b < byte_count; ++b)
      plan.category_chunks[s].bits[b] = static_cast<uint8_t>((*random)());
    plan.category_chunks[s].bits[kMissingByte] = missing_right ? 0xff : 0;
  }
  std::vector<float> values(vector_count * kLanes - 5);
  for (float& x : values) x = static_cast<float>((*random)() % (8 * byte_count + 2)) + 0.25f;
  for (const size_t i : {3u, 17u}) values[i] = kNan;
  values[4] = -1.0f;
  std::vector<Lanes> columns(2 * vector_count), conditions(kSets);
  encode_rows(plan, values.data(), values.size(),
              {vector_count, columns[0].bytes, plan.column_bytes, conditions[0].bytes});
  for (uint32_t s = 0; s < kSets; ++s) {
    if (plan.category_splits[s].condition == kNoCondition) continue;
    for (size_t i = 0; i < values.size(); ++i) {
      const auto category = static_cast<uint32_t>(std::max(0.0f, std::isnan(values[i]) ? 0.0f : values[i]));
      const bool in_set = values[i] >= 0 && category < 8 * byte_count &&
                          (plan.category_chunks[s].bits[category / 8] >> category % 8 & 1) != 0;
      const bool goes_right = std::isnan(values[i]) ? missing_right : in_set;
      EXPECT_EQ(!goes_right, bit_of(conditions[kSets - 1 - s].bytes, i / kLanes, lane_of(i % kLanes)))
          << values[i] << " in set " << s << " of " << byte_count << " bytes";
    }
  }
}

TEST(Condition, OfManySplitsIsWhetherTheCategoryGoesLeft) {
  std::mt19937 random(16);
  for (const uint32_t byte_count : {1u, 2u, 8u, 15u}) {
    for (const size_t vector_count : {1u, 3u, 8u}) {
      expect_split_conditions(vector_count, byte_count, true, &random);
      expect_split_conditions(vector_count, byte_count, false, &random);
    }
  }
}

// The same for 32 nodes and one row, for every way to fetch the codes.
template <int kChunks>
void expect_decisions(std::mt19937* random) {
  constexpr size_t kNodes = 3 * kLanes;
  alignas(32) uint8_t codes[256], left[kNodes], wide_left[kNodes];
  std::vector<uint8_t> columns(kNodes);
  std::vector<uint32_t> wide(kNodes);
  std::vector<uint8_t> limits(kNodes);
  for (uint8_t& code : codes) code = static_cast<uint8_t>((*random)());
  for (size_t i = 0; i < kNodes; ++i) {
    wide[i] = (*random)() % (16 * kChunks);
    columns[i] = static_cast<uint8_t>(wide[i]);
    limits[i] = static_cast<uint8_t>((*random)());
  }
  decide(16 * kChunks, columns.data(), limits.data(), 3, codes, left);
  decide_wide(wide.data(), limits.data(), 3, codes, wide_left);
  for (size_t i = 0; i < kNodes; ++i) {
    const uint8_t expected = static_cast<int8_t>(codes[wide[i]]) < static_cast<int8_t>(limits[i]) ? 0xff : 0;
    EXPECT_EQ(expected, left[i]) << kChunks << " chunks, node " << i;
    EXPECT_EQ(expected, wide_left[i]) << "wide, node " << i;
  }
}

TEST(NodeMask, OfOneRowForManyNodes) {
  std::mt19937 random(2);
  for (int round = 0; round < 20; ++round) {
    expect_decisions<1>(&random);
    expect_decisions<2>(&random);
    expect_decisions<4>(&random);
    expect_decisions<8>(&random);
    expect_decisions<16>(&random);
  }
}

// ---- exits ----

// Counts the exits to the right of the one that a walk ends in.
uint32_t walked_exit(uint32_t depth, const std::vector<bool>& node_goes_left) {
  size_t node = 0;
  uint32_t exit = 0;
  for (uint32_t level = 0; level < depth; ++level) {
    const bool left = node_goes_left[node];
    exit = 2 * exit + (left ? 1 : 0);
    node = 2 * node + (left ? 2 : 1);
  }
  return exit;
}

// A part of which every node has a column and a limit of its own, for the rows of kVectors vectors.
template <int kDepth, size_t kVectors>
struct RandomPart {
  static constexpr size_t kNodes = (1u << kDepth) - 1;
  std::vector<Lanes> columns[kVectors];
  std::vector<uint32_t> node_columns = std::vector<uint32_t>(kNodes);
  std::vector<int8_t> limits = std::vector<int8_t>(kNodes + kLimitSlack);

  explicit RandomPart(std::mt19937* random) {
    for (size_t n = 0; n < kNodes; ++n) {
      node_columns[n] = static_cast<uint32_t>((kNodes - 1 - n) * kLanes);
      limits[n] = static_cast<int8_t>((*random)() % 100 - 50);
    }
    for (std::vector<Lanes>& of_vector : columns) {
      for (size_t n = 0; n < kNodes; ++n) of_vector.push_back(random_lanes(random));
    }
  }

  Nodes<kVectors> nodes() const {
    Nodes<kVectors> nodes{node_columns.data(), limits.data(), {}};
    for (size_t v = 0; v < kVectors; ++v) nodes.columns[v] = columns[v][0].bytes;
    return nodes;
  }

  bool goes_left(size_t vector, size_t lane, size_t node) const {
    return static_cast<int8_t>(columns[vector][node_columns[node] / kLanes].bytes[lane]) < limits[node];
  }
};

template <int kDepth, size_t kVectors>
void expect_exits(std::mt19937* random) {
  const RandomPart<kDepth, kVectors> part(random);
  const auto way = way_down<kDepth>(part.nodes(), std::make_integer_sequence<int, kDepth>{});
  for (size_t v = 0; v < kVectors; ++v) {
    const Lanes exits = lanes_of(way.place.of[v]);
    for (size_t i = 0; i < kLanes; ++i) {
      std::vector<bool> left(part.kNodes);
      for (size_t n = 0; n < part.kNodes; ++n) left[n] = part.goes_left(v, i, n);
      EXPECT_EQ(walked_exit(kDepth, left), exits.bytes[i]) << "depth " << kDepth << ", vector " << v;
    }
  }
}

TEST(Exit, IsTheOneAWalkEndsIn) {
  std::mt19937 random(3);
  for (int round = 0; round < 10; ++round) {
    expect_exits<1, 2>(&random);
    expect_exits<2, 1>(&random);
    expect_exits<5, 2>(&random);
    expect_exits<6, 1>(&random);
    expect_exits<8, 2>(&random);
  }
}

// Every node has a condition of its own, in another order.
template <int kDepth>
void expect_exits_by_conditions(std::mt19937* random) {
  constexpr size_t kNodes = (1u << kDepth) - 1;
  std::vector<Lanes> conditions(kNodes);
  std::vector<uint32_t> node_conditions(kNodes);
  for (size_t n = 0; n < kNodes; ++n) {
    conditions[n] = random_lanes(random);
    node_conditions[n] = static_cast<uint32_t>((kNodes - 1 - n) * kConditionBytes);
  }
  Bytes exits[kBitVectors];
  exits_by_conditions<kDepth>(node_conditions.data(), conditions[0].bytes, exits,
                              std::make_integer_sequence<int, kDepth>{});
  for (size_t v = 0; v < kBitVectors; ++v) {
    const Lanes of_vector = lanes_of(exits[v]);
    for (size_t i = 0; i < kLanes; ++i) {
      std::vector<bool> left(kNodes);
      for (size_t n = 0; n < kNodes; ++n) left[n] = bit_of(conditions[kNodes - 1 - n].bytes, v, i);
      EXPECT_EQ(walked_exit(kDepth, left), of_vector.bytes[i]) << "depth " << kDepth << ", vector " << v;
    }
  }
}

TEST(Exit, ByConditionsAsWell) {
  std::mt19937 random(14);
  for (int round = 0; round < 5; ++round) {
    expect_exits_by_conditions<1>(&random);
    expect_exits_by_conditions<2>(&random);
    expect_exits_by_conditions<5>(&random);
    expect_exits_by_conditions<6>(&random);
    expect_exits_by_conditions<8>(&random);
  }
}

// One row, and nodes that ask about its columns or its categories.
struct RandomRow {
  std::vector<uint8_t> codes;
  std::vector<Lanes> members;
  size_t stride;

  RandomRow(const RowPlan& plan, std::mt19937* random)
      : codes((plan.column_count + 255) / 256 * 256), stride(feature_lanes(plan)) {
    for (uint8_t& code : codes) code = static_cast<uint8_t>((*random)());
    for (size_t i = 0; i < plan.set_bytes * stride / kLanes; ++i) members.push_back(random_lanes(random));
  }

  RowCodes of(const RowPlan& plan) const {
    RowCodes row(plan, codes.data());
    row.members = members.empty() ? nullptr : members[0].bytes;
    return row;
  }
};

struct RandomNode {
  uint32_t column;
  uint8_t limit, feature;
  uint8_t set[kRowSetBytes];

  RandomNode(const RowPlan& plan, uint32_t set_bytes, std::mt19937* random)
      : column(static_cast<uint32_t>((*random)()) % plan.column_count),
        limit(static_cast<uint8_t>((*random)() % 100 - 50)),
        feature(RowPlan::kNoFeature),
        set{} {
    if (set_bytes == 0 || (*random)() % 3 == 0) return;
    limit = 0x80;
    feature = static_cast<uint8_t>((*random)() % plan.category_features.size());
    set[(*random)() % set_bytes] = static_cast<uint8_t>(1u << ((*random)() % 8));
  }

  bool goes_left(const RandomRow& row) const {
    bool left = static_cast<int8_t>(row.codes[column]) < static_cast<int8_t>(limit);
    for (size_t byte = 0; byte < kRowSetBytes && feature != RowPlan::kNoFeature; ++byte) {
      const size_t at = byte * row.stride + feature;
      if (set[byte] != 0) left = left || (row.members[at / kLanes].bytes[at % kLanes] & set[byte]) != 0;
    }
    return left;
  }
  // As in RowPlan::node_sets.
  uint8_t plane(size_t number) const { return number == 0 ? feature : set[number - 1]; }
};

RowPlan plan_of_columns(uint32_t column_count, uint32_t category_features, uint32_t set_bytes) {
  RowPlan plan{};
  plan.column_count = column_count;
  plan.set_bytes = set_bytes;
  for (uint32_t f = 0; f < category_features; ++f) plan.category_features.push_back({f, 8 * set_bytes - 2});
  return plan;
}

TEST(NodeMask, OfOneRowForSetsOfCategories) {
  std::mt19937 random(8);
  for (const uint32_t features : {1u, 16u, 17u, 40u, 255u}) {
    for (const uint32_t set_bytes : {1u, 2u, 8u, 16u}) {
      RowPlan plan = plan_of_columns(10, features, set_bytes);
      const RandomRow row(plan, &random);
      RowBlock block{};
      block.vector_count = 3;
      block.set_bytes = set_bytes;
      std::vector<bool> expected;
      std::vector<Lanes> left(block.vector_count);
      for (Lanes& vector : left) {
        std::vector<RandomNode> nodes;
        for (size_t i = 0; i < kLanes; ++i) nodes.emplace_back(plan, set_bytes, &random);
        for (size_t plane = 0; plane <= set_bytes; ++plane) {
          for (const RandomNode& node : nodes) plan.node_sets.push_back(node.plane(plane));
        }
        for (size_t i = 0; i < kLanes; ++i) {
          expected.push_back(nodes[i].goes_left(row));
          const bool by_column =
              static_cast<int8_t>(row.codes[nodes[i].column]) < static_cast<int8_t>(nodes[i].limit);
          vector.bytes[i] = by_column ? 0xff : 0;
        }
      }
      decide_by_sets(plan, block, row.of(plan), left[0].bytes);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(expected[i] ? 0xff : 0, left[i / kLanes].bytes[i % kLanes]) << features << ", node " << i;
      }
    }
  }
}

// Appends planes of bytes to a table, 32 for each of `count` choices, as make_row_plan() does.
template <typename ByteOf>
void add_planes_to(SecretVector<uint8_t>* table, size_t planes, size_t count, const ByteOf& byte_of) {
  for (size_t plane = 0; plane < planes; ++plane) {
    for (size_t i = 0; i < count; ++i) {
      for (size_t lane = 0; lane < kLanes; ++lane) table->push_back(byte_of(plane, i, lane));
    }
    differ(table->data() + table->size() - count * kLanes, count);
  }
}

// 32 parts, of which every node has a column and a limit or a set of its own, and two values for each exit.
void expect_values_of_parts(uint32_t depth, RowPlan plan, std::mt19937* random) {
  const size_t exits = size_t{1} << depth, other = 5 * kLanes;  // of another block before it
  RowBlock block{};
  block.depth = depth;
  block.first_part = 64;
  block.first_limit = block.first_column = block.first_set = block.first_leaf = other;
  block.set_bytes = plan.set_bytes;
  for (auto* table : {&plan.node_limits, &plan.node_columns, &plan.node_sets, &plan.leaves})
    table->resize(other);
  const RandomRow row(plan, random);
  std::vector<std::vector<bool>> left(kLanes);
  for (size_t width = 1; width < exits; width *= 2) {
    std::vector<RandomNode> nodes;
    for (size_t i = 0; i < width * kLanes; ++i) {
      nodes.emplace_back(plan, plan.set_bytes, random);
      left[i % kLanes].push_back(nodes.back().goes_left(row));
    }
    const auto add = [&](SecretVector<uint8_t>* table, size_t planes, const auto& byte_of) {
      add_planes_to(table, planes, width, [&](size_t plane, size_t i, size_t lane) {
        return static_cast<uint8_t>(byte_of(nodes[i * kLanes + lane], plane));
      });
    };
    add(&plan.node_limits, 1, [](const RandomNode& node, size_t) { return node.limit; });
    add(&plan.node_columns, plan.is_wide() ? 2 : 1,
        [](const RandomNode& node, size_t plane) { return node.column >> (8 * plane); });
    if (plan.set_bytes == 0) continue;
    add(&plan.node_sets, 1 + plan.set_bytes,
        [](const RandomNode& node, size_t plane) { return node.plane(plane); });
  }
  std::vector<uint32_t> leaves(2 * exits * kLanes);  // below infinity
  for (uint32_t& bits : leaves) bits = static_cast<uint32_t>((*random)()) & 0x7f7fffff;
  add_planes_to(&plan.leaves, 8, exits, [&](size_t plane, size_t exit, size_t lane) {
    return static_cast<uint8_t>(leaves[(plane / 4 * exits + exit) * kLanes + lane] >> (8 * (plane % 4)));
  });
  constexpr size_t kStride = 3 * kLanes;
  alignas(kLanes) float values[2 * kStride] = {};
  complete_values_of<1>(plan, block, row.of(plan), nullptr, {2, kStride, true, nullptr, values});
  for (size_t i = 0; i < kLanes; ++i) {
    const size_t exit = walked_exit(depth, left[i]);
    for (size_t g = 0; g < 2; ++g) {
      EXPECT_EQ(leaves[(g * exits + exit) * kLanes + i], bits_of(values[g * kStride + block.first_part + i]))
          << depth << ", " << plan.column_count << " columns, sets of " << plan.set_bytes;
    }
  }
}

TEST(Exit, OfManyPartsForOneRowHasItsValue) {
  std::mt19937 random(4);
  for (const uint32_t column_count :
       {1u, 16u, 17u, 32u, 64u, 100u, 129u, 256u, 257u, 300u, 511u, 512u, 1500u}) {
    for (uint32_t depth = 1; depth <= kCompleteDepth; ++depth) {
      expect_values_of_parts(depth, plan_of_columns(column_count, 0, 0), &random);
    }
  }
}

TEST(Exit, OfManyPartsWithSetsForOneRowHasItsValue) {
  std::mt19937 random(5);
  for (const uint32_t column_count : {1u, 20u, 300u}) {
    for (uint32_t depth = 1; depth <= kCompleteDepth; ++depth) {
      expect_values_of_parts(depth, plan_of_columns(column_count, 3, 1), &random);
      expect_values_of_parts(depth, plan_of_columns(column_count, 33, 16), &random);
    }
  }
}

// ---- leaf selection ----

std::vector<uint8_t> leaf_table(const std::vector<float>& leaves, uint32_t chunk_count) {
  std::vector<uint8_t> table(chunk_count * kChunkBytes + kTableSlack);
  for (size_t i = 0; i < leaves.size(); ++i) {
    const uint32_t bits = bits_of(leaves[i]);
    for (size_t p = 0; p < 4; ++p) {
      table[i / 16 * kChunkBytes + 16 * p + i % 16] = static_cast<uint8_t>(bits >> (8 * p));
    }
  }
  return table;
}

// The exit's byte of a table, of one chunk and of as many as there can be.
template <int kDepth>
void expect_entries(std::mt19937* random) {
  const RandomPart<kDepth, 2> part(random);
  auto way = way_down<kDepth>(part.nodes(), std::make_integer_sequence<int, kDepth>{});
  const Abreast<2> exits = way.place;
  for (Bytes& place : way.place.of) place = place & broadcast(15);
  std::vector<uint8_t> table(std::max(16, 1 << kDepth));
  for (uint8_t& entry : table) entry = static_cast<uint8_t>((*random)());
  const Abreast<2> entries = entry_at<chunk_bits(kDepth), 16>(table.data(), way);
  for (size_t i = 0; i < 2 * kLanes; ++i) {
    const size_t exit = lanes_of(exits.of[i / kLanes]).bytes[i % kLanes];
    EXPECT_EQ(table[exit], lanes_of(entries.of[i / kLanes]).bytes[i % kLanes]) << "depth " << kDepth;
  }
}

TEST(Leaf, OfACompletePartIsThatOfItsExit) {
  std::mt19937 random(6);
  for (int round = 0; round < 10; ++round) {
    expect_entries<3>(&random);
    expect_entries<4>(&random);
    expect_entries<5>(&random);
    expect_entries<8>(&random);
  }
}

TEST(Leaf, IsTheEntryOfTheExit) {
  std::mt19937 random(4);
  for (uint32_t chunk_count = 1; chunk_count <= 16; ++chunk_count) {
    std::vector<float> leaves(chunk_count * 16);
    for (float& leaf : leaves) leaf = float_of(static_cast<uint32_t>(random() & 0x7f7fffff));
    const std::vector<uint8_t> table = leaf_table(leaves, chunk_count);
    Lanes exits;
    for (uint8_t& exit : exits.bytes) exit = static_cast<uint8_t>(random() % leaves.size());
    Abreast<1> planes[4];
    select_leaves(table.data(), chunk_count, Abreast<1>{{load(exits.bytes)}}, planes);
    for (size_t p = 0; p < 4; ++p) {
      const Lanes plane = lanes_of(planes[p].of[0]);
      for (size_t i = 0; i < kLanes; ++i) {
        EXPECT_EQ(bits_of(leaves[exits.bytes[i]]) >> (8 * p) & 0xff, plane.bytes[i]);
      }
    }
    for (size_t exit = 0; exit < leaves.size(); ++exit) {
      EXPECT_EQ(leaves[exit], leaf_at(table.data(), chunk_count, static_cast<uint32_t>(exit)));
    }
  }
}

TEST(Leaf, OfManyPartsIsStoredInTheirOrder) {
  std::mt19937 random(7);
  const Lanes planes[4] = {random_lanes(&random), random_lanes(&random), random_lanes(&random),
                           random_lanes(&random)};
  const Bytes loaded[4] = {load(planes[0].bytes), load(planes[1].bytes), load(planes[2].bytes),
                           load(planes[3].bytes)};
  uint32_t stored[kLanes];
  float floats[kLanes];
  store_floats(loaded, floats);
  std::memcpy(stored, floats, sizeof floats);
  for (size_t i = 0; i < kLanes; ++i) {
    for (size_t p = 0; p < 4; ++p) EXPECT_EQ(planes[p].bytes[i], stored[i] >> (8 * p) & 0xff);
  }
}

// ---- accumulation ----

TEST(Accumulation, AddsTheFourPlanesAsFloatsInTheOrderOfRows) {
  std::mt19937 random(5);
  alignas(32) float sums[kLanes];
  float expected[kLanes];
  Lanes planes[4];
  for (size_t i = 0; i < kLanes; ++i) {
    sums[i] = static_cast<float>(i) * 0.75f;
    const float leaf = static_cast<float>(random() % 1000) / 7.0f - 60.0f;
    for (size_t p = 0; p < 4; ++p)
      planes[p].bytes[lane_of(i)] = static_cast<uint8_t>(bits_of(leaf) >> (8 * p));
    expected[i] = sums[i] + leaf;
  }
  Bytes loaded[4];
  for (size_t p = 0; p < 4; ++p) loaded[p] = load(planes[p].bytes);
  add_planes(loaded, sums);
  for (size_t i = 0; i < kLanes; ++i) EXPECT_EQ(bits_of(expected[i]), bits_of(sums[i]));
}

}  // namespace
}  // namespace confidential_ml
