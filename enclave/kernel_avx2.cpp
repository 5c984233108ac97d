#include <immintrin.h>

#include <algorithm>
#include <utility>

#include "enclave/kernel.h"
#include "enclave/masks.h"

namespace confidential_ml {
namespace {

using Bytes = __m256i;  // 32 bytes
using Words = __m256i;  // 8 x 32 bits

inline Bytes load(const void* source) { return _mm256_load_si256(static_cast<const __m256i*>(source)); }
inline void store(void* target, Bytes bytes) { _mm256_store_si256(static_cast<__m256i*>(target), bytes); }
inline Bytes broadcast(uint32_t byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
inline Bytes greater(Bytes a, Bytes b) { return _mm256_cmpgt_epi8(a, b); }  // signed
inline Bytes equal_bytes(Bytes a, Bytes b) { return _mm256_cmpeq_epi8(a, b); }
inline Bytes blend(Bytes mask, Bytes if_set, Bytes if_clear) {
  return _mm256_blendv_epi8(if_clear, if_set, mask);
}
// Of `~mask & bytes` beside `mask & other` gcc makes two "exclusive or"s, which take an instruction more.
inline Bytes and_not(Bytes mask, Bytes bytes) { return _mm256_andnot_si256(mask, bytes); }
inline Bytes add(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
inline Bytes subtract(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }

// Bits also come in from the neighbouring byte.
template <int kShift>
inline Bytes shift_left(Bytes bytes) {
  return _mm256_slli_epi16(bytes, kShift);
}
template <int kShift>
inline Bytes shift_right(Bytes bytes) {
  return _mm256_srli_epi16(bytes, kShift);
}

// Of a chain of "or"s gcc makes a tree, which takes more registers than there are.
inline Bytes keep_order(Bytes bytes) {
  __asm__("" : "+x"(bytes));
  return bytes;
}

// table[at - 16 chunk] where at is in [16 chunk, 16 chunk + 16), else 0.
inline Bytes position_in_chunk(Bytes at, uint32_t chunk) {
  return _mm256_adds_epu8(at ^ broadcast(16 * chunk), broadcast(0x70));
}
inline Bytes look_up(const uint8_t* table, Bytes position) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), position);
}
inline Bytes look_up_low(const uint8_t* table, Bytes at) { return look_up(table, at); }
inline Bytes select_bytes(Bytes halves, Bytes position) { return _mm256_shuffle_epi8(halves, position); }

inline __m128i load_half(const uint8_t* source) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
}
inline Bytes load_halves(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load_half(low)), load_half(high), 1);
}
inline Bytes interleave_low(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
inline Bytes interleave_high(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }

// Four planes of bytes as floats, within each half.
inline void interleave_planes(const Bytes* planes, Bytes* floats) {
  const Bytes low01 = interleave_low(planes[0], planes[1]), high01 = interleave_high(planes[0], planes[1]);
  const Bytes low23 = interleave_low(planes[2], planes[3]), high23 = interleave_high(planes[2], planes[3]);
  floats[0] = _mm256_unpacklo_epi16(low01, low23);
  floats[1] = _mm256_unpackhi_epi16(low01, low23);
  floats[2] = _mm256_unpacklo_epi16(high01, high23);
  floats[3] = _mm256_unpackhi_epi16(high01, high23);
}

// It undoes the order in which make_keys() leaves the rows.
inline void add_planes(const Bytes* planes, float* sums) {
  Bytes floats[4];
  interleave_planes(planes, floats);
  for (size_t i = 0; i < 4; ++i, sums += 8) {
    _mm256_store_ps(sums, _mm256_load_ps(sums) + _mm256_castsi256_ps(floats[i]));
  }
}

// Masks of 4 x 8 words, as bytes. Within each half of 16 bytes stand 4 words of each in turn, which makes
// byte plane order: row 8 i + j is at 16 (j / 4) + 4 i + j % 4.
inline Bytes pack_masks(const Words* words) {
  return _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
}

// 4 x 8 words below 256, in the same order.
inline Bytes pack(const Words* words) {
  return _mm256_packus_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
}

inline Words gather(const float* const* rows, uint32_t feature) {
  return _mm256_castps_si256(_mm256_setr_ps(rows[0][feature], rows[1][feature], rows[2][feature],
                                            rows[3][feature], rows[4][feature], rows[5][feature],
                                            rows[6][feature], rows[7][feature]));
}

// order_key() of 32 rows; a missing value has the smallest and is marked in `missing`.
inline void make_keys(const float* const* rows, uint32_t feature, Bytes* planes, Bytes* missing) {
  Words missing_words[4], bytes[4];
  // In each half the lowest bytes of the four words, then the next ones; lower bytes in the order of signed
  // ones.
  const Words by_bytes =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  for (int i = 0; i < 4; ++i) {
    const Words bits = gather(rows + 8 * i, feature);
    const Words magnitude = bits & _mm256_set1_epi32(0x7fffffff);
    const Words key = _mm256_sign_epi32(magnitude, bits | _mm256_set1_epi32(1));
    missing_words[i] = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const Words known = _mm256_blendv_epi8(key, _mm256_set1_epi32(INT32_MIN), missing_words[i]);
    bytes[i] = _mm256_shuffle_epi8(known ^ _mm256_set1_epi32(0x808080), by_bytes);
  }
  *missing = pack_masks(missing_words);
  const Words low01 = _mm256_unpacklo_epi32(bytes[0], bytes[1]);
  const Words high01 = _mm256_unpackhi_epi32(bytes[0], bytes[1]);
  const Words low23 = _mm256_unpacklo_epi32(bytes[2], bytes[3]);
  const Words high23 = _mm256_unpackhi_epi32(bytes[2], bytes[3]);
  planes[0] = _mm256_unpacklo_epi64(low01, low23);
  planes[1] = _mm256_unpackhi_epi64(low01, low23);
  planes[2] = _mm256_unpacklo_epi64(high01, high23);
  planes[3] = _mm256_unpackhi_epi64(high01, high23);
}

// short_category_of() of 32 rows.
inline void short_categories(const float* const* rows, uint32_t feature, Bytes* byte, Bytes* bit) {
  constexpr int kTooLarge = 0x42f00000;  // 120
  static_assert(kMissingByte == 120 / 8);
  Words bytes[4], bits[4];
  for (int i = 0; i < 4; ++i) {
    const Words x = gather(rows + 8 * i, feature);
    const Words magnitude = x & _mm256_set1_epi32(0x7fffffff);
    const Words missing = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const Words not_negative =
        _mm256_cmpgt_epi32(x, _mm256_set1_epi32(-1)) | _mm256_cmpeq_epi32(magnitude, _mm256_setzero_si256());
    const Words known = not_negative & _mm256_cmpgt_epi32(_mm256_set1_epi32(kTooLarge), magnitude);
    const Words category = _mm256_cvttps_epi32(_mm256_castsi256_ps(magnitude & known));
    const Words own = _mm256_sllv_epi32(_mm256_set1_epi32(1), category & _mm256_set1_epi32(7)) & known;
    bytes[i] = _mm256_srli_epi32(category, 3) | (missing & _mm256_set1_epi32(kMissingByte));
    bits[i] = own | (missing & _mm256_set1_epi32(0xff));
  }
  *byte = pack(bytes);
  *bit = pack(bits);
}

// ---- for a single row ----

inline Bytes load_unaligned(const void* source) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(source));
}
inline Bytes shuffle(Bytes bytes, Bytes control) { return _mm256_shuffle_epi8(bytes, control); }

inline Bytes lane_numbers() {
  return _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
                          23, 24, 25, 26, 27, 28, 29, 30, 31);
}
inline uint32_t any(Bytes bytes) {
  const Bytes is_zero = _mm256_cmpeq_epi8(bytes, _mm256_setzero_si256());
  return ~equal(static_cast<uint32_t>(_mm256_movemask_epi8(is_zero)), UINT32_MAX);
}

// A blend looks at the top bit of each byte only.
template <int kBit>
inline Bytes mask_of_bit(Bytes bytes) {
  return _mm256_slli_epi16(bytes, 7 - kBit);
}

inline float take_leaf(const Bytes* chunk, Bytes exit) {
  const Bytes position = exit & broadcast(15);
  const Bytes planes01 = _mm256_shuffle_epi8(chunk[0], position);
  const Bytes planes23 = _mm256_shuffle_epi8(chunk[1], position);
  const __m128i low =
      _mm_unpacklo_epi8(_mm256_castsi256_si128(planes01), _mm256_extracti128_si256(planes01, 1));
  const __m128i high =
      _mm_unpacklo_epi8(_mm256_castsi256_si128(planes23), _mm256_extracti128_si256(planes23, 1));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_unpacklo_epi16(low, high)));
}

inline void store_floats(const Bytes* planes, float* target) {
  Bytes floats[4];
  interleave_planes(planes, floats);
  for (size_t i = 0; i < 4; ++i, target += 4) {
    _mm_storeu_ps(target, _mm_castsi128_ps(_mm256_castsi256_si128(floats[i])));
    _mm_storeu_ps(target + 16, _mm_castsi128_ps(_mm256_extracti128_si256(floats[i], 1)));
  }
}

// Of four windows, in each lane minus the number of keys there that are less than `above`. Together, so that
// none need wait for its count, and a loop ends once.
inline void minus_keys_below(const int32_t* above, const int32_t* keys, size_t steps, Words* counts) {
  const auto of_window = [&](size_t w) { return _mm256_set1_epi32(above[w]); };
  const Words above0 = of_window(0), above1 = of_window(1), above2 = of_window(2), above3 = of_window(3);
  const auto below = [&](Words of, size_t w) {
    return _mm256_cmpgt_epi32(of, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + 8 * w)));
  };
  Words count0 = _mm256_setzero_si256(), count1 = count0, count2 = count0, count3 = count0;
  for (size_t step = 0; step < steps; ++step, keys += 8 * kFour) {
    count0 = _mm256_add_epi32(count0, below(above0, 0));
    count1 = _mm256_add_epi32(count1, below(above1, 1));
    count2 = _mm256_add_epi32(count2, below(above2, 2));
    count3 = _mm256_add_epi32(count3, below(above3, 3));
  }
  counts[0] = count0;
  counts[1] = count1;
  counts[2] = count2;
  counts[3] = count3;
}

// Of each of eight vectors the sum of its lanes.
inline Words sums_of_lanes(const Words* words) {
  const auto pair_sums = [&](size_t i) { return _mm256_hadd_epi32(words[i], words[i + 1]); };
  const Words low = _mm256_hadd_epi32(pair_sums(0), pair_sums(2));
  const Words high = _mm256_hadd_epi32(pair_sums(4), pair_sums(6));
  return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                          _mm256_permute2x128_si256(low, high, 0x31));
}

// Padding is larger than any value. INT32_MAX, which no value is, keeps value + 1 from overflowing.
inline void rank_row(const float* row, const RowWindows& windows, const int32_t* keys, uint32_t* ranks,
                     uint32_t* missing) {
  const auto value = [&](size_t w) { return row[windows.feature[w]]; };
  const Words bits = _mm256_castps_si256(
      _mm256_setr_ps(value(0), value(1), value(2), value(3), value(4), value(5), value(6), value(7)));
  const Words magnitude = bits & _mm256_set1_epi32(0x7fffffff);
  const Words key = _mm256_sign_epi32(magnitude, bits | _mm256_set1_epi32(1));  // order_key()
  const Words is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  const Words present = _mm256_blendv_epi8(key, _mm256_set1_epi32(INT32_MIN), is_nan);
  alignas(32) int32_t above[kEight];
  store(above, _mm256_add_epi32(present, _mm256_set1_epi32(1)));
  Words counts[kEight];
  minus_keys_below(above, keys, windows.steps[0], counts);
  minus_keys_below(above + kFour, keys + windows.steps[0] * 8 * kFour, windows.steps[1], counts + kFour);
  store(ranks, _mm256_sub_epi32(_mm256_setzero_si256(), sums_of_lanes(counts)));
  store(missing, is_nan);
}

// Where row i stands among the 32 bytes of a vector.
constexpr size_t lane_of(size_t i) { return 16 * (i % 8 / 4) + 4 * (i / 8) + i % 4; }

}  // namespace
}  // namespace confidential_ml

#include "enclave/kernel_encode_steps.h"

#include "enclave/kernel_steps.h"

#include "enclave/kernel_row_steps.h"
