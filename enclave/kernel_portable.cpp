// Vectors of GCC's and clang's vector extension, for machines without AVX2 and as a second witness in tests.
#include <cstring>

#include "enclave/kernel.h"
#include "enclave/masks.h"

namespace confidential_ml {
namespace {

typedef int8_t Bytes __attribute__((vector_size(32)));

inline Bytes load(const void* source) {
  Bytes bytes;
  std::memcpy(&bytes, source, sizeof bytes);
  return bytes;
}
inline void store(void* target, Bytes bytes) { std::memcpy(target, &bytes, sizeof bytes); }
inline Bytes broadcast(uint32_t byte) { return Bytes{} + static_cast<int8_t>(byte); }
inline Bytes greater(Bytes a, Bytes b) { return a > b; }
inline Bytes equal_bytes(Bytes a, Bytes b) { return a == b; }
inline Bytes blend(Bytes mask, Bytes if_set, Bytes if_clear) { return (mask & if_set) | (~mask & if_clear); }

inline Bytes position_in_chunk(Bytes at, uint32_t chunk) { return at ^ broadcast(16 * chunk); }

// table[position] where position is in [0, 16), else 0; every entry is looked at.
inline Bytes look_up(const uint8_t* table, Bytes position) {
  Bytes found{};
  for (uint32_t i = 0; i < 16; ++i) found |= equal_bytes(position, broadcast(i)) & broadcast(table[i]);
  return found;
}

inline void add_planes(const Bytes* planes, float* sums) {
  for (size_t i = 0; i < kLanes; ++i) {
    uint32_t bits = 0;
    for (size_t p = 4; p-- > 0;) bits = bits << 8 | static_cast<uint8_t>(planes[p][i]);
    sums[i] += float_of(bits);
  }
}

// The count of thresholds <= value by comparing with all: padding is larger than any value.
Bytes rank(const float* const* rows, const Window& window, const int32_t* keys, Bytes* missing) {
  Bytes ranks{};
  size_t key_count = 0;
  for (uint32_t level = 0; level < window.levels; ++level) key_count += level <= 3 ? 8 : size_t{1} << level;
  for (size_t i = 0; i < kLanes; ++i) {
    const float x = rows[i][window.feature];
    const uint32_t is_missing = is_nan(x);
    const auto value = static_cast<int64_t>(order_key(x));
    uint32_t count = 0;
    for (size_t k = 0; k < key_count; ++k)
      count += 1 - static_cast<uint32_t>(uint64_t(value - keys[k]) >> 63);
    ranks[i] = static_cast<int8_t>(count & ~is_missing);
    (*missing)[i] = static_cast<int8_t>(is_missing);
  }
  return ranks;
}

constexpr size_t lane_of(size_t i) { return i; }

}  // namespace
}  // namespace confidential_ml

#include "enclave/kernel_steps.h"
