// The same operations in the same order as float_math.cpp and transform_portable.cpp, on 8 values at a time.
#include "enclave/transform.h"

#include <immintrin.h>

#include "enclave/powers_of_two.h"

#ifdef __FAST_MATH__
#error "transform_avx2.cpp relies on IEEE 754 arithmetic: compile it without -ffast-math"
#endif

namespace confidential_ml {
namespace {

using Floats = __m256;
using Words = __m256i;
using Doubles = __m256d;

constexpr size_t kWidth = 8;

inline Words words(uint32_t word) { return _mm256_set1_epi32(static_cast<int32_t>(word)); }
inline Words bits_of(Floats x) { return _mm256_castps_si256(x); }
inline Floats floats_of(Words bits) { return _mm256_castsi256_ps(bits); }
inline Words magnitude_of(Words bits) { return bits & words(0x7fffffff); }
inline Words is_nan(Words bits) { return _mm256_cmpgt_epi32(magnitude_of(bits), words(0x7f800000)); }
inline Words select(Words mask, Words if_set, Words if_clear) {
  return _mm256_blendv_epi8(if_clear, if_set, mask);
}

// ---- exp ----

struct Halves {
  Doubles low, high;  // values 0 to 3, 4 to 7
};

// The lower 32 bits of each double, and back: values 0 1 4 5 2 3 6 7.
inline Words lower_words(Doubles low, Doubles high) {
  return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high), 0x88));
}
inline Words in_order(Words lower) { return _mm256_permute4x64_epi64(lower, 0xd8); }

// Bits of a table of 32 doubles, one half of each.
struct TableHalf {
  alignas(32) uint32_t words[32];
};

inline Words look_up(const TableHalf& table, Words index) {
  const auto part = [&](int i) {
    const Words entries = _mm256_load_si256(reinterpret_cast<const __m256i*>(table.words) + i);
    return _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(entries, index));
  };
  const Floats bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
  const Floats bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(index, 27));
  const Floats low = _mm256_blendv_ps(part(0), part(1), bit3),
               high = _mm256_blendv_ps(part(2), part(3), bit3);
  return _mm256_castps_si256(_mm256_blendv_ps(low, high, bit4));
}

struct Table {
  TableHalf low, high;
};

constexpr Table split_powers() {
  Table table{};
  for (size_t i = 0; i < 32; ++i) {
    const auto bits = __builtin_bit_cast(uint64_t, kPowersOfTwo[i]);
    table.low.words[i] = static_cast<uint32_t>(bits);
    table.high.words[i] = static_cast<uint32_t>(bits >> 32);
  }
  return table;
}
constexpr Table kPowers = split_powers();

// exp_in_range() of float_math.cpp, up to its multiplication by the scale.
struct Reduced {
  Doubles value;
  Words k;
};

inline Reduced reduce(Doubles x) {
  const Doubles inv_ln2 = _mm256_set1_pd(0x1.71547652b82fep+5);
  const Doubles to_integer = _mm256_set1_pd(0x1.8p+52);
  const Doubles shifted = _mm256_fmadd_pd(inv_ln2, x, to_integer);
  const Doubles r = _mm256_fmsub_pd(inv_ln2, x, _mm256_sub_pd(shifted, to_integer));
  const Doubles cubic =
      _mm256_fmadd_pd(_mm256_set1_pd(0x1.c6af84b912394p-20), r, _mm256_set1_pd(0x1.ebfce50fac4f3p-13));
  const Doubles linear = _mm256_fmadd_pd(_mm256_set1_pd(0x1.62e42ff0c52d6p-6), r, _mm256_set1_pd(1.0));
  return {_mm256_fmadd_pd(cubic, _mm256_mul_pd(r, r), linear), _mm256_castpd_si256(shifted)};
}

inline Doubles scaled(const Reduced& reduced, Words power) {
  const Words exponent = _mm256_slli_epi64(_mm256_srli_epi64(reduced.k, 5), 52);
  return _mm256_mul_pd(reduced.value, _mm256_castsi256_pd(_mm256_add_epi64(power, exponent)));
}

inline Halves exp_in_range(Floats x) {
  const Reduced low = reduce(_mm256_cvtps_pd(_mm256_castps256_ps128(x)));
  const Reduced high = reduce(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
  const Words index = lower_words(_mm256_castsi256_pd(low.k), _mm256_castsi256_pd(high.k));
  const Words powers_low = look_up(kPowers.low, index), powers_high = look_up(kPowers.high, index);
  return {scaled(low, _mm256_unpacklo_epi32(powers_low, powers_high)),
          scaled(high, _mm256_unpackhi_epi32(powers_low, powers_high))};
}

inline Floats to_floats(const Halves& y) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(y.low)), _mm256_cvtpd_ps(y.high), 1);
}

// narrow() of float_math.cpp.
inline Words narrow(const Halves& y) {
  const Doubles limit = _mm256_set1_pd(0x1p-126), one = _mm256_set1_pd(1.0);
  const Doubles to_units = _mm256_set1_pd(0x1.8p-97);
  const Doubles low_mask = _mm256_cmp_pd(y.low, limit, _CMP_LT_OQ);
  const Doubles high_mask = _mm256_cmp_pd(y.high, limit, _CMP_LT_OQ);
  const Words units = in_order(lower_words(_mm256_add_pd(y.low, to_units), _mm256_add_pd(y.high, to_units)));
  const Floats normal =
      to_floats({_mm256_blendv_pd(y.low, one, low_mask), _mm256_blendv_pd(y.high, one, high_mask)});
  return select(in_order(lower_words(low_mask, high_mask)), units, bits_of(normal));
}

// exp_float() of float_math.cpp.
inline Floats exp_of(Floats x) {
  const Words bits = bits_of(x), nan = is_nan(bits);
  const Words overflows = _mm256_cmpgt_epi32(bits, words(0x42b17217));  // positive, and x > log(2^128)
  const Words underflows =
      _mm256_cmpgt_epi32(bits, words(0xc2cff1b4)) & _mm256_srai_epi32(bits, 31);  // x < log(2^-150)
  const Words subnormal = _mm256_cmpgt_epi32(words(0x00800000), magnitude_of(bits));
  const Words calm = _mm256_andnot_si256(nan | overflows | underflows | subnormal, bits);
  Words y = narrow(exp_in_range(floats_of(calm)));
  y = _mm256_andnot_si256(underflows, select(overflows, words(0x7f800000), y));
  return floats_of(select(nan, bits | words(0x00400000), y));
}

inline Floats sigmoid_of(Floats x) {
  const Words negated = bits_of(x) ^ words(0x80000000), limit = bits_of(_mm256_set1_ps(88.7f));
  const Words larger = _mm256_andnot_si256(is_nan(negated), _mm256_cmpgt_epi32(negated, limit));
  const Floats power = exp_of(floats_of(select(larger, limit, negated)));
  const Floats one = _mm256_set1_ps(1.0f);
  return _mm256_div_ps(one, _mm256_add_ps(_mm256_add_ps(power, one), _mm256_set1_ps(1e-16f)));
}

// ---- arrays ----

template <typename Function>
inline void each(float* values, size_t count, Function function) {
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth)
    _mm256_storeu_ps(values + i, function(_mm256_loadu_ps(values + i)));
  if (i == count) return;
  alignas(32) float rest[kWidth] = {};
  for (size_t k = 0; i + k < count; ++k) rest[k] = values[i + k];
  _mm256_store_ps(rest, function(_mm256_load_ps(rest)));
  for (size_t k = 0; i + k < count; ++k) values[i + k] = rest[k];
}

// ---- softmax ----

// One value of each of 8 rows; where there are fewer, the last one's again.
struct Rows {
  float* row[kWidth];

  Floats get(uint32_t g) const {
    return _mm256_setr_ps(row[0][g], row[1][g], row[2][g], row[3][g], row[4][g], row[5][g], row[6][g],
                          row[7][g]);
  }
  void set(uint32_t g, Floats values) const {
    alignas(32) float lanes[kWidth];
    _mm256_store_ps(lanes, values);
    for (size_t i = 0; i < kWidth; ++i) row[i][g] = lanes[i];
  }
};

// Integers in the order of the floats, as order_key() of masks.h.
inline Words order_key(Words bits) { return _mm256_sign_epi32(magnitude_of(bits), bits | words(1)); }

// fmaxf: the other operand if one is NaN.
inline Floats larger_of(Floats a, Floats b) {
  const Words a_bits = bits_of(a), b_bits = bits_of(b);
  const Words less =
      _mm256_andnot_si256(is_nan(b_bits), _mm256_cmpgt_epi32(order_key(b_bits), order_key(a_bits)));
  return floats_of(select(less | is_nan(a_bits), b_bits, a_bits));
}

void softmax(const Rows& rows, uint32_t group_count) {
  Floats largest = rows.get(0);
  for (uint32_t g = 1; g < group_count; ++g) largest = larger_of(largest, rows.get(g));
  Doubles low = _mm256_setzero_pd(), high = low;
  for (uint32_t g = 0; g < group_count; ++g) {
    const Floats power = exp_of(_mm256_sub_ps(rows.get(g), largest));
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(power)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(power, 1)));
    rows.set(g, power);
  }
  const Floats sum = to_floats({low, high});
  for (uint32_t g = 0; g < group_count; ++g) rows.set(g, _mm256_div_ps(rows.get(g), sum));
}

}  // namespace

void exp_all(float* values, size_t count) { each(values, count, exp_of); }

void sigmoid_all(float* values, size_t count) { each(values, count, sigmoid_of); }

void softmax_all(float* rows, size_t row_count, uint32_t group_count) {
  for (size_t i = 0; i < row_count; i += kWidth) {
    Rows eight;
    for (size_t k = 0; k < kWidth; ++k) {
      eight.row[k] = rows + (i + k < row_count ? i + k : row_count - 1) * group_count;
    }
    softmax(eight, group_count);
  }
}

}  // namespace confidential_ml
