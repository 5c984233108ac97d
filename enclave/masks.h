// Choosing without a branch. A mask is all ones or all zeros.
#pragma once

#include <cstdint>
#include <cstring>

namespace confidential_ml {

inline std::uint32_t bits_of(float x) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(std::uint32_t bits) noexcept {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline std::uint64_t bits_of(double x) noexcept {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline double double_of(std::uint64_t bits) noexcept {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Hides from the compiler that a mask has only two values: it might make a branch of it. It also keeps loops
// from being vectorised.
template <typename Word>
Word value_barrier(Word mask) noexcept {
  __asm__("" : "+r"(mask));
  return mask;
}

template <typename Word>
Word select(Word mask, Word if_set, Word if_clear) noexcept {
  return if_clear ^ (mask & (if_set ^ if_clear));
}

inline float select(std::uint32_t mask, float if_set, float if_clear) noexcept {
  return float_of(select(mask, bits_of(if_set), bits_of(if_clear)));
}

// a < b, unsigned, from the borrow of a wider subtraction.
inline std::uint32_t below(std::uint32_t a, std::uint32_t b) noexcept {
  return value_barrier(static_cast<std::uint32_t>((std::uint64_t{a} - b) >> 32));
}

inline std::uint32_t equal(std::uint32_t a, std::uint32_t b) noexcept { return below(a ^ b, 1); }

inline std::uint32_t negative(std::uint32_t bits) noexcept { return value_barrier(0 - (bits >> 31)); }

inline std::uint32_t is_nan(float x) noexcept { return below(0x7f800000, bits_of(x) & 0x7fffffff); }

// Integers in the order of the floats they stand for; -0.0 and 0.0 have the same, NaNs lie outside all
// others.
inline std::int32_t order_key(float x) noexcept {
  const std::uint32_t sign = negative(bits_of(x));
  return static_cast<std::int32_t>(((bits_of(x) & 0x7fffffff) ^ sign) - sign);
}

// a < b as float32 has it: false if one is NaN.
inline std::uint32_t less(float a, float b) noexcept {
  const std::uint32_t in_order = below(static_cast<std::uint32_t>(order_key(a)) ^ 0x80000000,
                                       static_cast<std::uint32_t>(order_key(b)) ^ 0x80000000);
  return in_order & ~is_nan(a) & ~is_nan(b);
}

}  // namespace confidential_ml
