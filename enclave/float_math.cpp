// Compile with -mfma: then every __builtin_fma is one instruction. Without it the compiler calls the C
// library's fma, which gives the same bits but is slow and perhaps not oblivious: acceptable in simulation,
// not in an enclave. Other flags (-O, -ffp-contract) do not change a bit of the results; -ffast-math would,
// so it is refused.

#include "enclave/float_math.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "enclave/masks.h"
#include "enclave/powers_of_two.h"

#ifdef __FAST_MATH__
#error "float_math.cpp relies on IEEE 754 arithmetic: compile it without -ffast-math"
#endif

namespace confidential_ml {
namespace {

// ---- Bits ----

constexpr std::uint32_t kSignBit = 0x80000000;
constexpr std::uint32_t kQuietBit = 0x00400000;
constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr std::uint32_t kMinusInfinity = 0xff800000;
constexpr std::uint32_t kInvalid = 0xffc00000;  // the NaN that x86 makes of 0/0
constexpr std::uint32_t kSmallestNormal = 0x00800000;
constexpr std::uint32_t kOne = 0x3f800000;
constexpr std::uint32_t kMinusOne = 0xbf800000;
constexpr std::uint32_t kFraction = 0x007fffff;

// table[index % 2^Bits] by halving: every entry is used whatever the index.
template <std::size_t Bits>
[[gnu::always_inline]] inline std::uint64_t look_up(const double* table, std::uint64_t index) noexcept {
  if constexpr (Bits == 0) {
    return bits_of(*table);
  } else {
    const std::uint64_t upper_half = value_barrier(0 - ((index >> (Bits - 1)) & 1));
    return select(upper_half, look_up<Bits - 1>(table + (std::size_t{1} << (Bits - 1)), index),
                  look_up<Bits - 1>(table, index));
  }
}

// A product rounded on its own: no -ffp-contract setting may fuse it with an addition.
float times(float a, float b) noexcept {
  float product = a * b;
  __asm__("" : "+x"(product));
  return product;
}

// ---- exp and log ----
//
// Algorithm, tables and coefficients: ARM optimized-routines, expf.c and logf.c (Copyright (c) 2017-2018, Arm
// Limited, MIT licence), as in glibc and musl. Fused multiply-adds: where glibc's FMA variants have them.

// exp of an argument whose result is neither 0 nor infinite as a float: 2^(k/32) * p(r), x * 32/ln2 = k + r.
double exp_in_range(double x) noexcept {
  constexpr double kInvLn2 = 0x1.71547652b82fep+5;  // 32/ln2
  constexpr double kToInteger = 0x1.8p+52;          // added, it leaves the rounded integer in the low bits
  const double shifted = __builtin_fma(kInvLn2, x, kToInteger);
  const std::uint64_t k = bits_of(shifted);
  const double r = __builtin_fma(kInvLn2, x, -(shifted - kToInteger));

  // The table holds 2^(i/32); k/32, rounded down, goes straight into the exponent.
  const double scale = double_of(look_up<5>(kPowersOfTwo, k) + ((k >> 5) << 52));
  const double cubic = __builtin_fma(0x1.c6af84b912394p-20, r, 0x1.ebfce50fac4f3p-13);
  const double linear = __builtin_fma(0x1.62e42ff0c52d6p-6, r, 1.0);
  return __builtin_fma(cubic, r * r, linear) * scale;
}

// The same, within about one unit of the last place of a double: after rounding to float equal for every
// argument.
double exp_in_range_to_double(double x) noexcept {
  constexpr double kInvLn2 = 0x1.71547652b82fep+5;   // 32/ln2
  constexpr double kLn2High = 0x1.62e42fefa39efp-6;  // ln2/32
  constexpr double kLn2Low = 0x1.abc9e3b39803fp-61;
  constexpr double kToInteger = 0x1.8p+52;
  const double shifted = __builtin_fma(kInvLn2, x, kToInteger);
  const std::uint64_t k = bits_of(shifted);
  const double minus_k = kToInteger - shifted;
  const double r = __builtin_fma(minus_k, kLn2Low, __builtin_fma(minus_k, kLn2High, x));  // |r| <= ln2/64

  // Taylor's polynomial of e^r - 1: its error is below 2^-57.
  double p = __builtin_fma(0x1.6c16c16c16c17p-10, r, 0x1.1111111111111p-7);
  p = __builtin_fma(p, r, 0x1.5555555555555p-5);
  p = __builtin_fma(p, r, 0x1.5555555555555p-3);
  p = __builtin_fma(p, r, 0.5);
  p = __builtin_fma(p, r * r, r);
  const double scale = double_of(look_up<5>(kPowersOfTwo, k) + ((k >> 5) << 52));
  return __builtin_fma(scale, p, scale);
}

// The float nearest to y > 0, as bits. A subnormal result is rounded by a double addition, as converting to
// it is microcode on some CPUs and so visible as time.
std::uint32_t narrow(double y) noexcept {
  constexpr double kToSubnormalUnits = 0x1.8p-97;  // unit in the last place: 2^-149
  const std::uint64_t subnormal = value_barrier(0 - ((bits_of(y) - bits_of(0x1p-126)) >> 63));
  const std::uint32_t units = static_cast<std::uint32_t>(bits_of(y + kToSubnormalUnits));
  const double normal = double_of(select(subnormal, bits_of(1.0), bits_of(y)));
  return select(static_cast<std::uint32_t>(subnormal), units, bits_of(static_cast<float>(normal)));
}

// 1/c and log(c), c near the centre of the i-th of 16 intervals that cover [0x1.66p-1, 0x1.66p0).
constexpr double kInverse[16] = {
    0x1.661ec79f8f3bep+0, 0x1.571ed4aaf883dp+0,
    0x1.49539f0f010bp+0,  0x1.3c995b0b80385p+0,
    0x1.30d190c8864a5p+0, 0x1.25e227b0b8eap+0,
    0x1.1bb4a4a1a343fp+0, 0x1.12358f08ae5bap+0,
    0x1.0953f419900a7p+0, 0x1p+0,
    0x1.e608cfd9a47acp-1, 0x1.ca4b31f026aap-1,
    0x1.b2036576afce6p-1, 0x1.9c2d163a1aa2dp-1,
    0x1.886e6037841edp-1, 0x1.767dcf5534862p-1,
};
constexpr double kLogarithm[16] = {
    -0x1.57bf7808caadep-2, -0x1.2bef0a7c06ddbp-2,
    -0x1.01eae7f513a67p-2, -0x1.b31d8a68224e9p-3,
    -0x1.6574f0ac07758p-3, -0x1.1aa2bc79c81p-3,
    -0x1.a4e76ce8c0e5ep-4, -0x1.1973c5a611cccp-4,
    -0x1.252f438e10c1ep-5, 0x0p+0,
    0x1.aa5aa5df25984p-5,  0x1.c5e53aa362eb4p-4,
    0x1.526e57720db08p-3,  0x1.bc2860d22477p-3,
    0x1.1058bc8a07ee1p-2,  0x1.4043057b6ee09p-2,
};

// Takes bits, because the normalised form of a subnormal float has an exponent below zero.
float log_in_range(std::uint32_t bits) noexcept {
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  const std::uint32_t offset = bits - 0x3f330000;
  const double k = static_cast<double>(static_cast<std::int32_t>(offset) >> 23);
  const double z = static_cast<double>(float_of(bits - (offset & 0xff800000)));
  const double inverse = double_of(look_up<4>(kInverse, offset >> 19));
  const double logarithm = double_of(look_up<4>(kLogarithm, offset >> 19));

  // log(x) = log1p(z/c - 1) + log(c) + k ln2
  const double r = __builtin_fma(z, inverse, -1.0);
  const double base = __builtin_fma(k, kLn2, logarithm);
  const double square = r * r;
  double y = __builtin_fma(0x1.5575b0be00b6ap-2, r, -0x1.ffffef20a4123p-2);
  y = __builtin_fma(-0x1.00ea348b88334p-2, square, y);
  return static_cast<float>(__builtin_fma(y, square, base + r));
}

// ---- log1p and expm1 ----
//
// The algorithms of fdlibm's s_log1pf.c and s_expm1f.c, as in glibc up to 2.40, with every branch merged into
// one evaluation where the bits come out the same and selected by masks where they do not.
//
// ====================================================
// Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved.
//
// Developed at SunPro, a Sun Microsystems, Inc. business.
// Permission to use, copy, modify, and distribute this
// software is freely granted, provided that this notice
// is preserved.
// ====================================================

constexpr float kLn2High = 6.9313812256e-01f;
constexpr float kLn2Low = 9.0580006145e-06f;

// 1 + x = 2^k (1 + f + correction): what the rounding of 1 + x lost, relative to it.
struct Reduced {
  float k;
  float f;
  float correction;
};

Reduced reduce_log1p(float x) noexcept {
  const std::uint32_t bits = bits_of(x);
  const float u = 1.0f + x;
  const std::uint32_t u_bits = bits_of(u);
  const std::uint32_t at_least_2 = ~below(u_bits, 0x40000000);
  const std::uint32_t huge = ~below(bits, 0x5a000000) & ~negative(bits);  // 2^53
  const float lost = select(at_least_2, 1.0f - (u - x), x - (u - 1.0f));

  // 1 + f in [sqrt(1/2), sqrt(2)).
  const std::uint32_t fraction = u_bits & kFraction;
  const std::uint32_t upper = ~below(fraction, 0x3504f7);
  const std::uint32_t k = (u_bits >> 23) - 127 + (upper & 1);
  const float f = float_of(fraction | select(upper, std::uint32_t{0x3f000000}, kOne)) - 1.0f;

  // sqrt(1/2)-1 < x < sqrt(2)-1: x serves as f, unrounded. fdlibm has no correction wherever k is 0.
  const std::uint32_t near_zero = below(bits, 0x3ed413d7) | (negative(bits) & below(bits, 0xbe95f620));
  const std::uint32_t no_correction = near_zero | huge | equal(k, 0);
  return {select(near_zero, 0.0f, static_cast<float>(static_cast<std::int32_t>(k))), select(near_zero, x, f),
          select(no_correction, 0.0f, lost) / u};
}

float log1p_in_range(float x) noexcept {
  const Reduced r = reduce_log1p(x);
  const float half_square = times(times(0.5f, r.f), r.f);
  const float s = r.f / (2.0f + r.f);
  const float z = times(s, s);
  float p = 1.4798198640e-01f;
  p = 1.5313838422e-01f + times(z, p);
  p = 1.8183572590e-01f + times(z, p);
  p = 2.2222198546e-01f + times(z, p);
  p = 2.8571429849e-01f + times(z, p);
  p = 4.0000000596e-01f + times(z, p);
  p = 6.6666668653e-01f + times(z, p);
  p = times(z, p);
  const float low = times(r.k, kLn2Low) + r.correction;
  return times(r.k, kLn2High) - ((half_square - (times(s, half_square + p) + low)) - r.f);
}

// 2^k * (1 - (e - x)) - 1, for each k in the order of operations that loses least; here |x| <= ln2/2.
float assemble_expm1(float x, float e, std::uint32_t k) noexcept {
  const std::uint32_t exponent = k << 23;
  const float at_0 = x - e;
  const float at_minus_1 = times(0.5f, at_0) - 0.5f;
  const float at_1 = select(below(0xbe800000, bits_of(x)), times(-2.0f, e - (x + 0.5f)),  // x < -1/4
                            1.0f + times(2.0f, at_0));
  const float outer = float_of(bits_of(1.0f - (e - x)) + exponent) - 1.0f;
  const float one_less = float_of(kOne - (0x1000000u >> (k & 31)));  // 1 - 2^-k
  const float below_23 = float_of(bits_of(one_less - (e - x)) + exponent);
  const float power = float_of((127 - k) << 23);  // 2^-k
  const float from_23 = float_of(bits_of((x - (e + power)) + 1.0f) + exponent);

  float y = select(below(k, 23), below_23, from_23);
  y = select(below(56, k), outer, y);  // k > 56 and, as an unsigned number, k < 0
  y = select(equal(k, 0), at_0, y);
  y = select(equal(k, 1), at_1, y);
  return select(equal(k, ~std::uint32_t{0}), at_minus_1, y);
}

// fdlibm takes |x| <= ln2/2 (k = 0) and |x| < 3/2 ln2 (k = +-1) apart; the general way gives the same bits.
float expm1_in_range(float x) noexcept {
  const float signed_half = float_of((bits_of(x) & kSignBit) | 0x3f000000);
  const std::int32_t k = static_cast<std::int32_t>(times(1.4426950216e+00f, x) + signed_half);
  const float t = static_cast<float>(k);

  // x = k ln2 + reduced + correction
  const float high = x - times(t, kLn2High);
  const float low = times(t, kLn2Low);
  const float reduced = high - low;
  const float correction = (high - reduced) - low;

  const float half = times(0.5f, reduced);
  const float hxs = times(reduced, half);
  float p = -2.0109921195e-07f;
  p = 4.0082177293e-06f + times(hxs, p);
  p = -7.9365076090e-05f + times(hxs, p);
  p = 1.5873016091e-03f + times(hxs, p);
  p = -3.3333335072e-02f + times(hxs, p);
  p = 1.0f + times(hxs, p);
  const float q = 3.0f - times(p, half);
  float e = times(hxs, (p - q) / (6.0f - times(reduced, q)));
  e = (times(reduced, e - correction) - correction) - hxs;
  return assemble_expm1(reduced, e, static_cast<std::uint32_t>(k));
}

}  // namespace

// An argument whose result is selected at the end is first replaced by a harmless one: no operation gets a
// subnormal argument, which takes longer on some CPUs, and no conversion to an integer overflows.

// exp by either evaluation.
template <double (*InRange)(double) noexcept>
[[gnu::always_inline]] inline float exp_by(float x) noexcept {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & ~kSignBit;
  const std::uint32_t is_nan = below(kInfinity, magnitude);
  const std::uint32_t overflows = below(0x42b17217, bits) & ~negative(bits);  // x > log(2^128)
  const std::uint32_t underflows = below(0xc2cff1b4, bits);                   // x < log(2^-150)
  const std::uint32_t subnormal = below(magnitude, kSmallestNormal);
  const std::uint32_t calm = bits & ~(is_nan | overflows | underflows | subnormal);

  std::uint32_t y = narrow(InRange(static_cast<double>(float_of(calm))));
  y = select(overflows, kInfinity, y) & ~underflows;
  return float_of(select(is_nan, bits | kQuietBit, y));
}

float exp_float(float x) noexcept { return exp_by<exp_in_range>(x); }

float exp_float_by_double(float x) noexcept { return exp_by<exp_in_range_to_double>(x); }

float log_float(float x) noexcept {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & ~kSignBit;
  const std::uint32_t is_nan = below(kInfinity, magnitude);
  const std::uint32_t is_zero = equal(magnitude, 0);
  const std::uint32_t is_infinite = equal(bits, kInfinity);
  const std::uint32_t subnormal = below(magnitude, kSmallestNormal);
  const std::uint32_t special = is_nan | is_zero | is_infinite | negative(bits);

  // A subnormal's bits are a number of units of 2^-149: normalised by conversion from an integer.
  const float units = static_cast<float>(static_cast<std::int32_t>(bits & kFraction));
  const std::uint32_t normal = select(subnormal, bits_of(units) - (149u << 23), bits);

  std::uint32_t y = bits_of(log_in_range(select(special, kOne, normal)));
  y = select(is_infinite, kInfinity, y);
  y = select(negative(bits), kInvalid, y);
  y = select(is_zero, kMinusInfinity, y);
  return float_of(select(is_nan, bits | kQuietBit, y));
}

float log1p_float(float x) noexcept {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & ~kSignBit;
  const std::uint32_t is_nan = below(kInfinity, magnitude);
  const std::uint32_t is_infinite = equal(bits, kInfinity);
  const std::uint32_t is_minus_one = equal(bits, kMinusOne);
  const std::uint32_t less = below(kMinusOne, bits);           // x < -1
  const std::uint32_t is_tiny = below(magnitude, 0x31000000);  // |x| < 2^-29: log1p(x) rounds to x
  const std::uint32_t special = is_nan | is_infinite | is_minus_one | less | is_tiny;

  std::uint32_t y = bits_of(log1p_in_range(float_of(select(special, kOne, bits))));
  y = select(is_tiny | is_infinite, bits, y);
  y = select(is_minus_one, kMinusInfinity, y);
  y = select(less, kInvalid, y);
  return float_of(select(is_nan, bits | kQuietBit, y));
}

float expm1_float(float x) noexcept {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t magnitude = bits & ~kSignBit;
  const std::uint32_t is_nan = below(kInfinity, magnitude);
  const std::uint32_t overflows = below(0x42b17217, bits) & ~negative(bits);  // x > log(2^128)
  const std::uint32_t is_minus_one = below(0xc195b843, bits);                 // x <= -27 ln2
  const std::uint32_t is_tiny = below(magnitude, 0x33000000);  // |x| < 2^-25: expm1(x) rounds to x
  const std::uint32_t special = is_nan | overflows | is_minus_one | is_tiny;

  std::uint32_t y = bits_of(expm1_in_range(float_of(select(special, kOne, bits))));
  y = select(is_tiny, bits, y);
  y = select(overflows, kInfinity, y);
  y = select(is_minus_one, kMinusOne, y);
  return float_of(select(is_nan, bits | kQuietBit, y));
}

}  // namespace confidential_ml
