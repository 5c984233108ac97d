// Where a value stands in a set of categories, without a branch.
#pragma once

#include <cstdint>

#include "enclave/masks.h"
#include "enclave/plan.h"

namespace confidential_ml {

// Its byte in the set, and the bit in that or 0 if it is no category.
struct Category {
  uint32_t byte, bit;
};

inline Category category_of(float x) {
  const uint32_t bits = bits_of(x), exponent = bits >> 23 & 0xff;
  const uint32_t is_zero = equal(bits << 1, 0);
  const uint32_t valid = below(exponent, 127 + 24) & (~negative(bits) | is_zero);  // 0 <= x < 2^24
  const uint32_t whole = valid & ~below(exponent, 127);                            // 1 <= x < 2^24
  const uint32_t category = whole & (((bits & 0x7fffff) | 0x800000) >> ((150 - exponent) & 31));
  return {category >> 3, valid & 1u << (category & 7)};
}

// Of a feature whose sets are short: categories that are in none have no bit, and missing values all bits of
// a byte of their own.
inline Category short_category_of(float x) {
  const Category category = category_of(x);
  const uint32_t known = below(category.byte, kMissingByte), missing = is_nan(x);
  return {select(missing, kMissingByte, category.byte & 31),
          select(missing, uint32_t{0xff}, known & category.bit)};
}

}  // namespace confidential_ml
