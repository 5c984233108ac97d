#include <immintrin.h>

#include "enclave/kernel.h"

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

// table[at - 16 chunk] where at is in [16 chunk, 16 chunk + 16), else 0.
inline Bytes position_in_chunk(Bytes at, uint32_t chunk) {
  return _mm256_adds_epu8(at ^ broadcast(16 * chunk), broadcast(0x70));
}
inline Bytes look_up(const uint8_t* table, Bytes position) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), position);
}

inline void add_floats(float* sums, Bytes bits) {
  _mm256_store_ps(sums, _mm256_load_ps(sums) + _mm256_castsi256_ps(bits));
}

// Interleaves the planes; it undoes the order in which pack() leaves the rows.
inline void add_planes(const Bytes* planes, float* sums) {
  const Bytes low01 = _mm256_unpacklo_epi8(planes[0], planes[1]);
  const Bytes high01 = _mm256_unpackhi_epi8(planes[0], planes[1]);
  const Bytes low23 = _mm256_unpacklo_epi8(planes[2], planes[3]);
  const Bytes high23 = _mm256_unpackhi_epi8(planes[2], planes[3]);
  add_floats(sums, _mm256_unpacklo_epi16(low01, low23));
  add_floats(sums + 8, _mm256_unpackhi_epi16(low01, low23));
  add_floats(sums + 16, _mm256_unpacklo_epi16(high01, high23));
  add_floats(sums + 24, _mm256_unpackhi_epi16(high01, high23));
}

// Bytes [0, 8) of 4 x 8 words below 256. Within each half of 16 bytes stand 4 words of each in turn, which
// makes byte plane order: row 8 i + j is at 16 (j / 4) + 4 i + j % 4.
inline Bytes pack(const Words* words) {
  return _mm256_packus_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
}

inline Words gather(const float* const* rows, uint32_t feature) {
  return _mm256_castps_si256(_mm256_setr_ps(rows[0][feature], rows[1][feature], rows[2][feature],
                                            rows[3][feature], rows[4][feature], rows[5][feature],
                                            rows[6][feature], rows[7][feature]));
}

// table[index % (8 kChunks)]: a permutation within each chunk, then blends by the upper bits of the index.
template <int kChunks, int kUpperBit>
inline Words select_key(const int32_t* table, Words index) {
  if constexpr (kChunks == 1) {
    const Words chunk = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table));
    return _mm256_permutevar8x32_epi32(chunk, index);
  } else {
    const Words low = select_key<kChunks / 2, kUpperBit - 1>(table, index);
    const Words high = select_key<kChunks / 2, kUpperBit - 1>(table + 4 * kChunks, index);
    const __m256 to_sign = _mm256_castsi256_ps(_mm256_slli_epi32(index, 31 - kUpperBit));
    return _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), to_sign));
  }
}

// The count of thresholds <= value, by binary search; one level doubles the count so far and adds 0 or 1.
template <int kLevel, int kLevels>
inline Words search(const int32_t* keys, Words value, Words count) {
  if constexpr (kLevel == kLevels) {
    return count;
  } else {
    constexpr int kChunks = kLevel <= 3 ? 1 : 1 << (kLevel - 3);
    const Words is_less = _mm256_cmpgt_epi32(select_key<kChunks, kLevel - 1>(keys, count), value);
    const Words next = _mm256_slli_epi32(count, 1) | _mm256_andnot_si256(is_less, _mm256_set1_epi32(1));
    return search<kLevel + 1, kLevels>(keys + 8 * kChunks, value, next);
  }
}

// Ranks of the feature among the thresholds; a missing value has rank 0 and is marked in `missing`.
template <int kLevels>
inline Bytes rank(const float* const* rows, uint32_t feature, const int32_t* keys, Bytes* missing) {
  Words ranks[4], missing_words[4];
  for (int i = 0; i < 4; ++i) {
    const Words bits = gather(rows + 8 * i, feature);
    const Words magnitude = bits & _mm256_set1_epi32(0x7fffffff);
    const Words key = _mm256_sign_epi32(magnitude, bits | _mm256_set1_epi32(1));  // order_key()
    const Words is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const Words lowest = _mm256_set1_epi32(INT32_MIN);
    ranks[i] = search<0, kLevels>(keys, _mm256_blendv_epi8(key, lowest, is_nan), _mm256_setzero_si256());
    missing_words[i] = _mm256_srli_epi32(is_nan, 24);
  }
  *missing = pack(missing_words);
  return pack(ranks);
}

Bytes rank(const float* const* rows, const Window& window, const int32_t* keys, Bytes* missing) {
  switch (window.levels) {
    case 1:
      return rank<1>(rows, window.feature, keys, missing);
    case 2:
      return rank<2>(rows, window.feature, keys, missing);
    case 3:
      return rank<3>(rows, window.feature, keys, missing);
    case 4:
      return rank<4>(rows, window.feature, keys, missing);
    case 5:
      return rank<5>(rows, window.feature, keys, missing);
    case 6:
      return rank<6>(rows, window.feature, keys, missing);
    case 7:
      return rank<7>(rows, window.feature, keys, missing);
    default:
      return rank<8>(rows, window.feature, keys, missing);
  }
}

// Where row i stands among the 32 bytes of a vector.
constexpr size_t lane_of(size_t i) { return 16 * (i % 8 / 4) + 4 * (i / 8) + i % 4; }

}  // namespace
}  // namespace confidential_ml

#include "enclave/kernel_steps.h"
