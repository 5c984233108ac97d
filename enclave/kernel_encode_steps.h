// What kernel.h makes of rows: columns, and from these conditions. Included by the file that defines the
// vectors:
//
//   Bytes, load, store, broadcast, greater, equal_bytes, add, subtract, &, |, ^, ~, and_not
//   position_in_chunk, look_up    selection from 16 bytes
//   select_bytes                  the same within each half of a vector; 0 where the top bit is set
//   load_halves                   32 bytes from 16 and 16, anywhere
//   interleave_low, interleave_high    of each half of two vectors, the first and the last 8 bytes in turn
//   shift_left, shift_right       of each byte, with bits of its neighbour coming in
//   make_keys                     a feature of 32 rows, as four byte planes
//   short_categories              the same as categories
//   lane_of                       where a row stands in a vector
//
// No #pragma once: it is part of one source file, not an interface.
// NOLINTBEGIN(cert-dcl59-cpp,misc-definitions-in-headers): for the same reason.

#include <algorithm>
#include <utility>

#include "enclave/category.h"
#include "enclave/masks.h"

namespace confidential_ml {
namespace {

#define CML_INLINE [[gnu::always_inline]] inline

// ---- from rows to columns ----

// Keys as planes of bytes, from the lowest to the highest, that are in order as signed bytes.
struct Keys {
  Bytes plane[4];
};

CML_INLINE Bytes at_least(const Keys& a, const Keys& b) {
  Bytes found = greater(a.plane[0], b.plane[0]) | equal_bytes(a.plane[0], b.plane[0]);
  for (size_t p = 1; p < 4; ++p) {
    found = greater(a.plane[p], b.plane[p]) | (equal_bytes(a.plane[p], b.plane[p]) & found);
  }
  return found;
}

// One level of a binary search doubles the count so far and adds 0 or 1.
template <int kLevel>
CML_INLINE void search_level(const uint8_t* table, const Keys& values, Bytes* count) {
  constexpr uint32_t kChunks = kLevel <= 4 ? 1 : 1u << (kLevel - 4);
  Keys keys{};
  for (uint32_t c = 0; c < kChunks; ++c, table += kChunkBytes) {
    const Bytes position = kChunks == 1 ? *count : position_in_chunk(*count, c);
    for (size_t p = 0; p < 4; ++p) keys.plane[p] = keys.plane[p] | look_up(table + 16 * p, position);
  }
  *count = subtract(add(*count, *count), at_least(values, keys));  // minus a mask is plus one
}

// How many thresholds are <= the values.
template <int... kLevel>
CML_INLINE Bytes rank(const uint8_t* tables, const Keys& values, std::integer_sequence<int, kLevel...>) {
  Bytes count = broadcast(0);
  (search_level<kLevel>(tables + kChunkBytes * chunks_before(kLevel), values, &count), ...);
  return count;
}

template <int kLevels = 1>
Bytes rank_in(const Window& window, const uint8_t* tables, const Keys& values) {
  if constexpr (kLevels < 8) {
    if (window.levels > kLevels) return rank_in<kLevels + 1>(window, tables, values);
  }
  return rank(tables, values, std::make_integer_sequence<int, kLevels>{});
}

// The windows of a feature follow each other, so its keys are made once.
void encode_windows(const Plan& plan, const float* const* rows, uint8_t* columns) {
  const Bytes to_signed = broadcast(0x80);
  uint32_t feature = UINT32_MAX;
  Keys keys{};
  Bytes missing = broadcast(0);
  for (const Window& window : plan.windows) {
    if (window.feature != feature) {
      feature = window.feature;
      make_keys(rows, feature, keys.plane, &missing);
    }
    const Bytes low = rank_in(window, plan.key_tables.data() + window.first_table, keys);
    if (window.column[0] != kNoColumn) store(columns + window.column[0], (low | missing) ^ to_signed);
    if (window.column[1] != kNoColumn) store(columns + window.column[1], low ^ to_signed);
  }
}

// Planes: the byte of the category, its lowest 5 bits; the bit; bits 5 to 12 of the byte; bits 13 to 20;
// whether the value is missing.
void encode_category(const CategoryFeature& feature, const float* const* rows, uint8_t* planes) {
  for (size_t i = 0; i < kLanes; ++i) {
    const float x = rows[i][feature.feature];
    const Category category = category_of(x);
    uint8_t* lane = planes + lane_of(i);
    lane[0] = static_cast<uint8_t>(category.byte & 31);
    lane[kLanes] = static_cast<uint8_t>(category.bit);
    lane[2 * kLanes] = static_cast<uint8_t>(category.byte >> 5);
    lane[3 * kLanes] = static_cast<uint8_t>(category.byte >> 13);
    lane[4 * kLanes] = static_cast<uint8_t>(is_nan(x));
  }
}

// Smallest for left, largest for right.
CML_INLINE Bytes to_column(Bytes goes_right) {
  return equal_bytes(goes_right, broadcast(0)) ^ broadcast(0x7f);
}

// Where one vector's rows are encoded to. Eight vectors share the bytes of a condition, the first one begins
// them.
struct Target {
  uint8_t* columns;
  bool has_split_columns;
  uint8_t* conditions;  // or nullptr
  size_t vector;

  CML_INLINE void put(const CategorySplit& split, Bytes goes_right) const {
    if (has_split_columns) store(columns + split.column, to_column(goes_right));
    if (conditions == nullptr || split.condition == kNoCondition) return;
    uint8_t* condition = conditions + split.condition * kConditionBytes;
    const Bytes own = equal_bytes(goes_right, broadcast(0)) & broadcast(1u << vector);
    store(condition, vector == 0 ? own : own | load(condition));
  }
};

void encode_split(const Plan& plan, const CategorySplit& split, const uint8_t* planes, const Target& target) {
  const Bytes byte_in_chunk = load(planes), bit = load(planes + kLanes);
  const Bytes number_low = load(planes + 2 * kLanes), number_high = load(planes + 3 * kLanes);
  const Bytes first_half = position_in_chunk(byte_in_chunk, 0),
              second_half = position_in_chunk(byte_in_chunk, 1);
  Bytes found = broadcast(0);
  for (uint32_t c = 0; c < split.chunk_count; ++c) {
    const CategoryChunk& chunk = plan.category_chunks[split.first_chunk + c];
    const Bytes members = look_up(chunk.bits, first_half) | look_up(chunk.bits + 16, second_half);
    const Bytes here = equal_bytes(number_low, broadcast(chunk.number & 0xff)) &
                       equal_bytes(number_high, broadcast(chunk.number >> 8));
    found = found | (members & bit & here);
  }
  const Bytes missing = load(planes + 4 * kLanes) & broadcast(split.missing_goes_right ? 0xff : 0);
  target.put(split, found | missing);
}

void encode_splits(const Plan& plan, const CategoryFeature& feature, const float* const* rows,
                   const Target& target) {
  uint8_t* planes = target.columns + feature.planes;
  const CategorySplit* splits = plan.category_splits.data() + feature.first_split;
  if (feature.is_short == 0) {
    encode_category(feature, rows, planes);
    for (uint32_t s = 0; s < feature.split_count; ++s) encode_split(plan, splits[s], planes, target);
    return;
  }
  // Planes: the byte; the bit, or 0 if no set has it.
  Bytes byte, bit;
  short_categories(rows, feature.feature, &byte, &bit);
  store(planes, byte);
  store(planes + kLanes, bit);
  if (!target.has_split_columns) return;
  const Bytes position = position_in_chunk(byte, 0);
  for (uint32_t s = 0; s < feature.split_count; ++s) {
    const Bytes members = look_up(plan.category_chunks[splits[s].first_chunk].bits, position);
    store(target.columns + splits[s].column, to_column(members & bit));
  }
}

// ---- from columns to conditions ----

template <int kShift>
CML_INLINE void exchange_bits(uint32_t mask, Bytes* upper_of, Bytes* lower_of) {
  const Bytes different = (shift_right<kShift>(*upper_of) ^ *lower_of) & broadcast(mask);
  *lower_of = *lower_of ^ different;
  *upper_of = *upper_of ^ shift_left<kShift>(different);
}

// Of 8 vectors, each byte's 8 x 8 bits: bit v of vector p becomes bit p of vector v.
CML_INLINE void transpose_bits(Bytes* vectors) {
  for (size_t v = 0; v < 4; ++v) exchange_bits<4>(0x0f, vectors + v, vectors + v + 4);
  for (const size_t v : {0u, 1u, 4u, 5u}) exchange_bits<2>(0x33, vectors + v, vectors + v + 2);
  for (const size_t v : {0u, 2u, 4u, 6u}) exchange_bits<1>(0x55, vectors + v, vectors + v + 1);
}

// Of the splits of a feature whose sets are short. Each set is looked up in for all vectors, since fetching
// it takes longer than that.
void make_split_conditions(const Plan& plan, const CategoryFeature& feature, const EncodedRows& rows) {
  Bytes positions[kBitVectors], bits[kBitVectors];
  for (size_t v = 0; v < kBitVectors; ++v) {
    const uint8_t* planes =
        rows.columns + std::min(v, rows.vector_count - 1) * rows.column_bytes + feature.planes;
    positions[v] = position_in_chunk(load(planes), 0);
    bits[v] = load(planes + kLanes);
  }
  for (uint32_t s = 0; s < feature.split_count; ++s) {
    const CategorySplit& split = plan.category_splits[feature.first_split + s];
    if (split.condition == kNoCondition) continue;
    const uint8_t* set = plan.category_chunks[split.first_chunk].bits;
    Bytes goes_left = broadcast(0);
    for (size_t v = 0; v < kBitVectors; ++v) {
      goes_left =
          goes_left | (equal_bytes(look_up(set, positions[v]) & bits[v], broadcast(0)) & broadcast(1u << v));
    }
    store(rows.conditions + split.condition * kConditionBytes, goes_left);
  }
}

// Of numbers of four bits: whether they are below 0, 1, ... 15.
CML_INLINE void fill_comparisons(const Bytes* bits, Bytes* below) {
  below[0] = broadcast(0);
  for (size_t bit = 0, size = 1; bit < kHalfBits; ++bit, size *= 2) {
    for (size_t n = 0; n < size; ++n) {
      below[size + n] = below[n] | ~bits[bit];
      below[n] = and_not(bits[bit], below[n]);
    }
  }
}

// Half of transpose_bytes().
template <typename Of>
CML_INLINE void interleave_fours(const Of& vector, Bytes* interleaved) {
  for (size_t i = 0; i < 4; ++i, interleaved += 4) {
    const Bytes a = vector(i), b = vector(i + 4), c = vector(i + 8), d = vector(i + 12);
    const Bytes low_ac = interleave_low(a, c), high_ac = interleave_high(a, c);
    const Bytes low_bd = interleave_low(b, d), high_bd = interleave_high(b, d);
    interleaved[0] = interleave_low(low_ac, low_bd);
    interleaved[1] = interleave_high(low_ac, low_bd);
    interleaved[2] = interleave_low(high_ac, high_bd);
    interleaved[3] = interleave_high(high_ac, high_bd);
  }
}

// Of 16 vectors, within each half of 16 bytes: byte b of vector v becomes byte v of vector b.
template <typename Of>
CML_INLINE void transpose_bytes(const Of& vector, Bytes* transposed) {
  Bytes half_way[16];
  interleave_fours(vector, half_way);
  interleave_fours([&](size_t i) { return half_way[i]; }, transposed);
}

// What the conditions of a column are put together from. Vector i is about the rows of bytes i and 16 + i of
// a condition, and in each half byte n compares theirs with n.
struct Comparisons {
  Bytes low_below[16], high_below[16], high_at_least[16];
};

CML_INLINE void compare_halves(const Bytes* columns, Comparisons* comparisons) {
  Bytes bits[kBitVectors], below[kHalfCodes];
  for (size_t v = 0; v < kBitVectors; ++v) bits[v] = columns[v] ^ broadcast(0x80);
  transpose_bits(bits);
  const auto compared = [&](size_t n) { return below[n]; };
  fill_comparisons(bits, below);
  transpose_bytes(compared, comparisons->low_below);
  fill_comparisons(bits + kHalfBits, below);
  transpose_bytes(compared, comparisons->high_below);
  for (size_t i = 0; i < 16; ++i) comparisons->high_at_least[i] = ~comparisons->high_below[i];
}

// A number is below 16 h + l if its upper half is below h, or is not above h and its lower half is below l.
// Of 16 secret limits at a time both halves are looked up, so that the addresses are the same for any.
CML_INLINE void make_batch(const Comparisons& comparisons, const uint8_t* limits, uint8_t* conditions) {
  const Bytes limit = load_halves(limits, limits);
  const Bytes low = limit & broadcast(0x0f), high = shift_right<4>(limit) & broadcast(0x0f);
  const Bytes above_high = add(high, broadcast(0x71));  // nothing is above 15: then the top bit is set
  Bytes made[kConditionBatch];
  transpose_bytes(
      [&](size_t i) {
        const Bytes is_above = select_bytes(comparisons.high_at_least[i], above_high);
        return select_bytes(comparisons.high_below[i], high) |
               and_not(is_above, select_bytes(comparisons.low_below[i], low));
      },
      made);
  for (size_t i = 0; i < kConditionBatch; ++i) store(conditions + i * kConditionBytes, made[i]);
}

CML_INLINE Bytes one_condition(const Bytes* columns, uint8_t limit) {
  const Bytes compared_with = broadcast(limit) ^ broadcast(0x80);
  Bytes condition = broadcast(0);
  for (size_t v = 0; v < kBitVectors; ++v) {
    condition = condition | (greater(compared_with, columns[v]) & broadcast(1u << v));
  }
  return condition;
}

void make_conditions(const Plan& plan, const ColumnConditions& of_column, const EncodedRows& rows) {
  Bytes columns[kBitVectors];
  for (size_t v = 0; v < kBitVectors; ++v) {
    columns[v] =
        load(rows.columns + std::min(v, rows.vector_count - 1) * rows.column_bytes + of_column.column);
  }
  const uint8_t* limits = plan.condition_limits.data() + of_column.first_condition;
  uint8_t* conditions = rows.conditions + of_column.first_condition * kConditionBytes;
  uint32_t left = of_column.count;
  if (left > kFewConditions) {
    Comparisons comparisons;
    compare_halves(columns, &comparisons);
    for (; left > kFewConditions; left -= std::min(left, kConditionBatch), limits += kConditionBatch) {
      make_batch(comparisons, limits, conditions);
      conditions += kConditionBatch * kConditionBytes;
    }
  }
  for (uint32_t i = 0; i < left; ++i)
    store(conditions + i * kConditionBytes, one_condition(columns, limits[i]));
}

}  // namespace

void encode_rows(const Plan& plan, const float* rows, size_t row_count, const EncodedRows& encoded) {
  const float* row[kLanes];
  const bool has_split_columns = encoded.column_bytes > plan.split_columns;
  for (size_t v = 0; v < encoded.vector_count; ++v) {
    // Lanes without a row repeat the last one, for nobody to read.
    for (size_t i = 0; i < kLanes; ++i) {
      row[i] = rows + std::min(v * kLanes + i, row_count - 1) * plan.feature_count;
    }
    const Target target{encoded.columns + v * encoded.column_bytes, has_split_columns, encoded.conditions, v};
    encode_windows(plan, row, target.columns);
    for (const CategoryFeature& feature : plan.category_features) encode_splits(plan, feature, row, target);
  }
  if (encoded.conditions == nullptr) return;
  for (const CategoryFeature& feature : plan.category_features) {
    if (feature.is_short != 0) make_split_conditions(plan, feature, encoded);
  }
  for (const ColumnConditions& of_column : plan.column_conditions) make_conditions(plan, of_column, encoded);
}

}  // namespace confidential_ml
// NOLINTEND(cert-dcl59-cpp,misc-definitions-in-headers)
