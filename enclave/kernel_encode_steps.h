// What kernel.h makes of rows: columns, and from these conditions. Included by the file that defines the
// vectors:
//
//   Bytes, load, store, broadcast, greater, equal_bytes, add, subtract, &, |, ^, ~, and_not
//   position_in_chunk, look_up    selection from 16 bytes
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

// Of numbers of some bits: whether they are below 0, 1, 2 ..., or at most 0, 1, 2 ... if `of_none` is all
// ones. Each bit makes two comparisons of one, and a switch says which of the two comes first.
inline void fill_comparisons(const Bytes* bits, uint32_t bit_count, const uint8_t* switches, Bytes of_none,
                             Bytes* table) {
  table[0] = of_none;
  for (size_t bit = 0, size = 1; bit < bit_count; ++bit, size *= 2) {
    for (size_t n = 0; n < size; ++n) {
      const Bytes if_less = and_not(bits[bit], table[n]), if_not_less = table[n] | ~bits[bit];
      const Bytes exchanged = (if_less ^ if_not_less) & broadcast(*switches++);
      table[n] = if_less ^ exchanged;
      table[size + n] = if_not_less ^ exchanged;
    }
  }
}

// A number is below 16 h + l if its upper half is below h, or is h and its lower half is below l.
void make_conditions(const Plan& plan, const Thermometer& thermometer, const EncodedRows& rows) {
  Bytes bits[kBitVectors], low[kHalfCodes], high[kHalfCodes], high_or_equal[kHalfCodes];
  for (size_t v = 0; v < kBitVectors; ++v) {
    bits[v] =
        load(rows.columns + std::min(v, rows.vector_count - 1) * rows.column_bytes + thermometer.column) ^
        broadcast(0x80);
  }
  transpose_bits(bits);
  const uint8_t* switches = plan.switches.data() + thermometer.first_switch;
  // Codes have no more bits than limits, but for that of missing values, which is below none of them either
  // way.
  fill_comparisons(bits, thermometer.low_bits(), switches, broadcast(0), low);
  fill_comparisons(bits + kHalfBits, thermometer.high_bits(), switches + kHalfCodes, broadcast(0), high);
  fill_comparisons(bits + kHalfBits, thermometer.high_bits(), switches + kHalfCodes, broadcast(0xff),
                   high_or_equal);
  uint8_t* condition = rows.conditions + thermometer.first_condition * kConditionBytes;
  for (size_t h = 0; h < size_t{1} << thermometer.high_bits(); ++h) {
    for (size_t l = 0; l < size_t{1} << thermometer.low_bits(); ++l, condition += kConditionBytes) {
      store(condition, high[h] | (high_or_equal[h] & low[l]));
    }
  }
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
  for (const Thermometer& thermometer : plan.thermometers) make_conditions(plan, thermometer, encoded);
}

}  // namespace confidential_ml
// NOLINTEND(cert-dcl59-cpp,misc-definitions-in-headers)
