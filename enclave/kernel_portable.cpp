// Vectors of GCC's and clang's vector extension, for machines without AVX2 and as a second witness in tests.
#include <algorithm>
#include <cstring>
#include <utility>

#include "enclave/category.h"
#include "enclave/kernel.h"
#include "enclave/masks.h"

namespace confidential_ml {
namespace {

typedef int8_t Bytes __attribute__((vector_size(32)));
typedef int8_t Half __attribute__((vector_size(16)));
typedef uint8_t Unsigned __attribute__((vector_size(32)));  // whose sums wrap

inline Bytes load(const void* source) {
  Bytes bytes;
  std::memcpy(&bytes, source, sizeof bytes);
  return bytes;
}
inline void store(void* target, Bytes bytes) { std::memcpy(target, &bytes, sizeof bytes); }
inline Bytes broadcast(uint32_t byte) { return Bytes{} + static_cast<int8_t>(byte); }

// Compares by halves: of a comparison wider than a register gcc makes one of every byte.
template <typename Compare>
inline Bytes by_halves(Bytes a, Bytes b, Compare compare) {
  Half halves_a[2], halves_b[2];
  std::memcpy(halves_a, &a, sizeof a);
  std::memcpy(halves_b, &b, sizeof b);
  const Half result[2] = {compare(halves_a[0], halves_b[0]), compare(halves_a[1], halves_b[1])};
  return load(result);
}
inline Bytes greater(Bytes a, Bytes b) {
  return by_halves(a, b, [](Half x, Half y) -> Half { return x > y; });
}
inline Bytes equal_bytes(Bytes a, Bytes b) {
  return by_halves(a, b, [](Half x, Half y) -> Half { return x == y; });
}
inline Bytes blend(Bytes mask, Bytes if_set, Bytes if_clear) { return (mask & if_set) | (~mask & if_clear); }
inline Bytes and_not(Bytes mask, Bytes bytes) { return ~mask & bytes; }
inline Bytes add(Bytes a, Bytes b) { return Bytes(Unsigned(a) + Unsigned(b)); }
inline Bytes subtract(Bytes a, Bytes b) { return Bytes(Unsigned(a) - Unsigned(b)); }

template <int kShift>
inline Bytes shift_left(Bytes bytes) {
  return Bytes(Unsigned(bytes) << kShift);
}
template <int kShift>
inline Bytes shift_right(Bytes bytes) {
  return Bytes(Unsigned(bytes) >> kShift);
}

inline Bytes keep_order(Bytes bytes) { return bytes; }

inline Bytes position_in_chunk(Bytes at, uint32_t chunk) { return at ^ broadcast(16 * chunk); }

// table[position] where position is in [0, 16), else 0; every entry is looked at. Not inlined: in all its
// places it would take most of the time that this file takes to compile.
[[gnu::noinline]] Bytes look_up(const uint8_t* table, Bytes position) {
  Bytes found{};
  for (uint32_t i = 0; i < 16; ++i) found |= equal_bytes(position, broadcast(i)) & broadcast(table[i]);
  return found;
}
inline Bytes look_up_low(const uint8_t* table, Bytes at) { return look_up(table, at & broadcast(15)); }

inline Bytes load_halves(const uint8_t* low, const uint8_t* high) {
  Bytes bytes;
  std::memcpy(&bytes, low, 16);
  std::memcpy(reinterpret_cast<uint8_t*>(&bytes) + 16, high, 16);
  return bytes;
}
// Of each half eight bytes of either from `first` on, in turn.
[[gnu::noinline]] Bytes interleave(Bytes a, Bytes b, size_t first) {
  uint8_t from_a[kLanes], from_b[kLanes], both[kLanes];
  store(from_a, a);
  store(from_b, b);
  for (size_t i = 0; i < kLanes / 2; ++i) {
    const size_t from = i / 8 * 16 + first + i % 8;
    both[2 * i] = from_a[from];
    both[2 * i + 1] = from_b[from];
  }
  return load(both);
}
inline Bytes interleave_low(Bytes a, Bytes b) { return interleave(a, b, 0); }
inline Bytes interleave_high(Bytes a, Bytes b) { return interleave(a, b, 8); }
inline Bytes select_bytes(Bytes halves, Bytes position) {
  uint8_t tables[kLanes];
  store(tables, halves);
  const Bytes in_table = position & broadcast(0x8f);
  Bytes found[2];
  for (size_t h = 0; h < 2; ++h) found[h] = look_up(tables + 16 * h, in_table);
  return load_halves(reinterpret_cast<const uint8_t*>(found),
                     reinterpret_cast<const uint8_t*>(found + 1) + 16);
}

inline void add_planes(const Bytes* planes, float* sums) {
  for (size_t i = 0; i < kLanes; ++i) {
    uint32_t bits = 0;
    for (size_t p = 4; p-- > 0;) bits = bits << 8 | static_cast<uint8_t>(planes[p][i]);
    sums[i] += float_of(bits);
  }
}

// By comparing with all; padding is larger than any value.
uint32_t count_not_above(int32_t value, const int32_t* keys, size_t key_count) {
  uint32_t count = 0;
  for (size_t k = 0; k < key_count; ++k) {
    count += 1 - static_cast<uint32_t>(static_cast<uint64_t>(int64_t{value} - keys[k]) >> 63);
  }
  return count;
}

inline void make_keys(const float* const* rows, uint32_t feature, Bytes* planes, Bytes* missing) {
  for (size_t i = 0; i < kLanes; ++i) {
    const float x = rows[i][feature];
    const uint32_t is_missing = is_nan(x);
    const uint32_t key =
        select(is_missing, uint32_t{1} << 31, static_cast<uint32_t>(order_key(x))) ^ 0x808080u;
    (*missing)[i] = static_cast<int8_t>(is_missing);
    for (size_t p = 0; p < 4; ++p) planes[p][i] = static_cast<int8_t>(key >> (8 * p));
  }
}

inline void short_categories(const float* const* rows, uint32_t feature, Bytes* byte, Bytes* bit) {
  for (size_t i = 0; i < kLanes; ++i) {
    const Category category = short_category_of(rows[i][feature]);
    (*byte)[i] = static_cast<int8_t>(category.byte);
    (*bit)[i] = static_cast<int8_t>(category.bit);
  }
}

// ---- for a single row ----

inline Bytes load_unaligned(const void* source) { return load(source); }
inline Bytes shuffle(Bytes bytes, Bytes control) {
  Bytes found;
  for (size_t i = 0; i < kLanes; ++i) {
    found[i] = static_cast<int8_t>(control[i] < 0 ? 0 : bytes[(i & 16) + (control[i] & 15)]);
  }
  return found;
}

inline Bytes lane_numbers() {
  Bytes numbers;
  for (size_t i = 0; i < kLanes; ++i) numbers[i] = static_cast<int8_t>(i);
  return numbers;
}
inline uint32_t any(Bytes bytes) {
  uint32_t all = 0;
  for (size_t i = 0; i < kLanes; ++i) all |= static_cast<uint8_t>(bytes[i]);
  return ~equal(all, 0);
}

// By arithmetic: of a comparison gcc makes a branch where all bytes are the same.
template <int kBit>
inline Bytes mask_of_bit(Bytes bytes) {
  return -((bytes >> kBit) & broadcast(1));
}

inline float take_leaf(const Bytes* chunk, Bytes exit) {
  const uint32_t position = static_cast<uint8_t>(exit[0]) & 15u;
  uint32_t bits = 0;
  for (uint32_t i = 0; i < 16; ++i) {
    const auto entry = [&](int half, uint32_t plane) {
      return uint32_t{static_cast<uint8_t>(chunk[half][16 * plane + i])};
    };
    bits |= equal(position, i) & (entry(0, 0) | entry(0, 1) << 8 | entry(1, 0) << 16 | entry(1, 1) << 24);
  }
  return float_of(bits);
}

inline void rank_row(const float* row, const RowWindows& windows, const int32_t* keys, uint32_t* ranks,
                     uint32_t* missing) {
  for (size_t w = 0; w < kEight; ++w) {
    const float x = row[windows.feature[w]];
    missing[w] = is_nan(x);
    ranks[w] = 0;
    const int32_t* own = keys + (w < kFour ? 0 : windows.steps[0] * 8 * kFour) + w % kFour * 8;
    for (size_t step = 0; step < windows.steps[w / kFour]; ++step, own += 8 * kFour) {
      ranks[w] += count_not_above(order_key(x), own, 8) & ~missing[w];
    }
  }
}

inline void store_floats(const Bytes* planes, float* floats) {
  for (size_t i = 0; i < kLanes; ++i) {
    uint32_t bits = 0;
    for (size_t p = 4; p-- > 0;) bits = bits << 8 | static_cast<uint8_t>(planes[p][i]);
    floats[i] = float_of(bits);
  }
}

constexpr size_t lane_of(size_t i) { return i; }

}  // namespace
}  // namespace confidential_ml

#include "enclave/kernel_encode_steps.h"

#include "enclave/kernel_steps.h"

#include "enclave/kernel_row_steps.h"
