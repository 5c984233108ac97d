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

// A feature with `count` thresholds 0, 1, 2 ..., as plan.cpp lays out its keys.
Plan plan_of_window(uint32_t count) {
  Plan plan{};
  plan.feature_count = 1;
  uint32_t levels = 1;
  while (count >= 1u << levels) ++levels;
  plan.windows.push_back({0, levels, 0, 0, {0, kLanes}});
  plan.key_tables.resize(chunks_before(levels) * kChunkBytes);
  for (uint32_t level = 0; level < levels; ++level) {
    const uint32_t step = 1u << (levels - level);
    for (uint32_t j = 0; j < std::max(8u, 1u << level); ++j) {
      const uint32_t rank = j * step + step / 2 - 1;
      const bool exists = j < 1u << level && rank < count;
      plan.keys.push_back(exists ? order_key(static_cast<float>(rank)) : INT32_MAX);
      uint8_t* entry = plan.key_tables.data() + (chunks_before(level) + j / 16) * kChunkBytes + j % 16;
      for (size_t p = 0; p < 4; ++p) {
        entry[16 * p] =
            static_cast<uint8_t>((static_cast<uint32_t>(plan.keys.back()) ^ 0x808080u) >> (8 * p));
      }
    }
  }
  plan.column_bytes = plan.split_columns = 2 * kLanes;
  plan.for_row.column_count = 2;
  return plan;
}

EncodedRows into(std::vector<Lanes>* columns, const Plan& plan) {
  return {columns->size() * kLanes / plan.column_bytes, columns->data()->bytes, plan.column_bytes, nullptr};
}

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
    const Plan plan = plan_of_window(count);
    const std::vector<float> values = edge_values(count);
    for (size_t first = 0; first < values.size(); first += kLanes) {
      std::vector<Lanes> columns(2);
      encode_rows(plan, values.data() + first, kLanes, into(&columns, plan));
      for (size_t i = 0; i < kLanes; ++i) {
        const float x = values[first + i];
        Lanes codes{};
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

TEST(Binning, RowsThatAreNotThereAreNotRead) {
  const Plan plan = plan_of_window(3);
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

// Where a comparison with a number ends: what the switches do with the numbers, one bit after the other.
std::vector<uint32_t> places_of(uint32_t bit_count, const uint8_t* switches) {
  std::vector<uint32_t> numbers = {0};
  for (uint32_t bit = 0; bit < bit_count; ++bit) {
    const size_t size = numbers.size();
    for (size_t n = 0; n < size; ++n) {
      numbers.push_back(numbers[n] + (1u << bit));
      if (*switches++ != 0) std::swap(numbers[n], numbers[size + n]);
    }
  }
  std::vector<uint32_t> places(numbers.size());
  for (uint32_t place = 0; place < numbers.size(); ++place) places[numbers[place]] = place;
  return places;
}

// Of so many vectors, for 2^bits limits: every condition, of every row that there is.
void expect_conditions(size_t vector_count, uint32_t bits, std::mt19937* random) {
  std::vector<Lanes> columns(2 * vector_count);
  for (Lanes& column : columns) column = random_lanes(random);
  for (size_t v = 0; v < vector_count; ++v) {
    columns[2 * v + 1].bytes[0] = 0x7f;  // missing, and goes right
    columns[2 * v + 1].bytes[1] = 0x80;  // missing, and goes left
  }
  std::vector<Lanes> conditions(3 + (1u << bits), Lanes{});
  const EncodedRows rows{vector_count, columns[0].bytes, 2 * kLanes, conditions[0].bytes};
  Plan plan{};
  plan.switches.resize(7 + 2 * kHalfCodes);
  for (uint8_t& mask : plan.switches) mask = (*random)() % 2 != 0 ? 0xff : 0;
  const Thermometer thermometer{kLanes, 3, bits, 7};
  make_conditions(plan, thermometer, rows);
  const auto low = places_of(thermometer.low_bits(), plan.switches.data() + 7);
  const auto high = places_of(thermometer.high_bits(), plan.switches.data() + 7 + kHalfCodes);
  for (uint32_t limit = 0; limit < 1u << bits; ++limit) {
    const size_t place =
        (size_t{high[limit / kHalfCodes]} << thermometer.low_bits()) + low[limit % kHalfCodes];
    for (size_t v = 0; v < vector_count; ++v) {
      for (size_t i = 0; i < kLanes; ++i) {
        const uint8_t code = columns[2 * v + 1].bytes[i] ^ 0x80;
        // Codes are those of so many thresholds, or the largest.
        if (code >= 1u << bits && code != 0xff) continue;
        EXPECT_EQ(code < limit, bit_of(conditions[3 + place].bytes, v, i))
            << limit << " of " << bits << " bits";
      }
    }
  }
  for (size_t i = 0; i < 3 * kLanes; ++i)
    EXPECT_EQ(0, conditions[i / kLanes].bytes[i % kLanes]) << "before them";
}

TEST(Condition, IsWhetherTheColumnIsBelowTheLimit) {
  std::mt19937 random(12);
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    for (const size_t vector_count : {1u, 3u, 8u}) expect_conditions(vector_count, bits, &random);
  }
}

TEST(Condition, OfASplitIsWhetherTheCategoryGoesLeft) {
  std::mt19937 random(13);
  CategorySplit split{};
  split.condition = 1;
  Lanes conditions[2] = {random_lanes(&random), random_lanes(&random)}, goes_right[kBitVectors];
  for (size_t v = 0; v < kBitVectors; ++v) {
    for (uint8_t& byte : goes_right[v].bytes) byte = random() % 2 != 0 ? 1u << random() % 8 : 0;
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
  for (const size_t i : {3, 17}) values[i] = kNan;
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
  std::vector<int8_t> limits(kNodes);
  for (uint8_t& code : codes) code = static_cast<uint8_t>((*random)());
  for (size_t i = 0; i < kNodes; ++i) {
    wide[i] = (*random)() % (16 * kChunks);
    columns[i] = static_cast<uint8_t>(wide[i]);
    limits[i] = static_cast<int8_t>((*random)());
  }
  decide(16 * kChunks, columns.data(), limits.data(), 3, codes, left);
  decide_wide(wide.data(), limits.data(), 3, codes, wide_left);
  for (size_t i = 0; i < kNodes; ++i) {
    const uint8_t expected = static_cast<int8_t>(codes[wide[i]]) < limits[i] ? 0xff : 0;
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

// 32 parts, of which every node has a column and a limit of its own, for one row.
void expect_exits_of_parts(uint32_t depth, uint32_t column_count, std::mt19937* random) {
  const size_t nodes = (size_t{1} << depth) - 1, other = 5 * kLanes;  // of another block before it
  RowPlan plan{};
  plan.column_count = column_count;
  RowBlock block{};
  block.depth = depth;
  block.first_vector = 5;
  block.first_column = other * (plan.is_wide() ? 2 : 1);
  plan.node_limits.resize(other);
  plan.node_columns.resize(block.first_column);
  std::vector<uint8_t> codes((column_count + 255) / 256 * 256);
  for (uint8_t& code : codes) code = static_cast<uint8_t>((*random)());
  std::vector<std::vector<bool>> left(kLanes);
  for (size_t n = 0; n < nodes; ++n) {
    std::vector<uint32_t> columns(kLanes);
    for (size_t i = 0; i < kLanes; ++i) {
      columns[i] = static_cast<uint32_t>((*random)()) % column_count;
      plan.node_limits.push_back(static_cast<int8_t>((*random)() % 100 - 50));
      left[i].push_back(static_cast<int8_t>(codes[columns[i]]) < plan.node_limits.back());
    }
    for (const uint32_t column : columns) plan.node_columns.push_back(static_cast<uint8_t>(column));
    for (const uint32_t column : columns) {
      if (plan.is_wide()) plan.node_columns.push_back(static_cast<uint8_t>(column >> 8));
    }
  }
  const Lanes exits = lanes_of(complete_exits_of<1>(plan, block, codes.data(), nullptr));
  for (size_t i = 0; i < kLanes; ++i) {
    EXPECT_EQ(walked_exit(depth, left[i]), exits.bytes[i]) << depth << ", " << column_count << " columns";
  }
}

TEST(Exit, OfManyPartsForOneRowAsWell) {
  std::mt19937 random(4);
  for (const uint32_t column_count :
       {1u, 16u, 17u, 32u, 64u, 100u, 129u, 256u, 257u, 300u, 511u, 512u, 1500u}) {
    for (uint32_t depth = 1; depth <= kCompleteDepth; ++depth) {
      expect_exits_of_parts(depth, column_count, &random);
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
