// exp, log, log1p and expm1 of the enclave: against answers recorded from glibc 2.36, on every host, and
// against the host's own C library where that is known to have the same algorithms.

#include "enclave/float_math.h"

#include <gtest/gtest.h>
#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ostream>
#include <string>

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#include "enclave/masks.h"

namespace {

using confidential_ml::bits_of;
using confidential_ml::float_of;

struct Function {
  const char* name;
  float (*ours)(float) noexcept;
  float (*reference)(float);
  int newest_glibc;                 // the last 2.x with the algorithm of 2.36
  std::size_t column;               // in kKnownAnswers
  std::uint64_t digest_of_results;  // recorded from glibc 2.36, see digest()
};

// glibc 2.41 took correctly rounded functions from CORE-MATH, log1pf and expm1f among them.
constexpr int kNoEnd = 1 << 20;
const Function kFunctions[] = {
    {"exp", confidential_ml::exp_float, [](float x) { return expf(x); }, kNoEnd, 0, 0xb60f36827a4cc457},
    {"log", confidential_ml::log_float, [](float x) { return logf(x); }, kNoEnd, 1, 0x7cbbc3abc3c0602e},
    {"log1p", confidential_ml::log1p_float, [](float x) { return log1pf(x); }, 40, 2, 0x8b39e65ed8030d89},
    {"expm1", confidential_ml::expm1_float, [](float x) { return expm1f(x); }, 40, 3, 0x4acbe5964840b54f},
};

std::ostream& operator<<(std::ostream& out, const Function& function) { return out << function.name; }

// Results of exp, log, log1p, expm1 of glibc 2.36 on x86-64 with FMA; 7fc00000 stands for every NaN.
struct KnownAnswers {
  std::uint32_t argument;
  std::uint32_t results[4];
};

// clang-format off
const KnownAnswers kKnownAnswers[] = {
    // The two arguments at which expf without FMA gives another result.
    {0x4202422f, {0x56fc9f1c, 0x405eed30, 0x4060dcbd, 0x56fc9f1c}},
    {0xc27c65d9, {0x11fa2993, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    // Special values.
    {0x00000000, {0x3f800000, 0xff800000, 0x00000000, 0x00000000}},
    {0x80000000, {0x3f800000, 0xff800000, 0x80000000, 0x80000000}},
    {0x00000001, {0x3f800000, 0xc2ce8ed0, 0x00000001, 0x00000001}},
    {0x80000001, {0x3f800000, 0x7fc00000, 0x80000001, 0x80000001}},
    {0x007fffff, {0x3f800000, 0xc2aeac50, 0x007fffff, 0x007fffff}},
    {0x807fffff, {0x3f800000, 0x7fc00000, 0x807fffff, 0x807fffff}},
    {0x00800000, {0x3f800000, 0xc2aeac50, 0x00800000, 0x00800000}},
    {0x80800000, {0x3f800000, 0x7fc00000, 0x80800000, 0x80800000}},
    {0x7f800000, {0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000}},
    {0xff800000, {0x00000000, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x7f7fffff, {0x7f800000, 0x42b17218, 0x42b17218, 0x7f800000}},
    {0xff7fffff, {0x00000000, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x7fc00000, {0x7fc00000, 0x7fc00000, 0x7fc00000, 0x7fc00000}},
    {0xffc00000, {0x7fc00000, 0x7fc00000, 0x7fc00000, 0x7fc00000}},
    {0x7f800001, {0x7fc00000, 0x7fc00000, 0x7fc00000, 0x7fc00000}},
    {0x3f800000, {0x402df854, 0x00000000, 0x3f317218, 0x3fdbf0a8}},
    {0xbf800000, {0x3ebc5ab2, 0x7fc00000, 0xff800000, 0xbf21d2a7}},
    // Both neighbours of every boundary in the algorithms.
    {0x42b17216, {0x7f7fff04, 0x408f895b, 0x408fe52c, 0x7f7fff04}},
    {0x42b17217, {0x7f7fff84, 0x408f895b, 0x408fe52c, 0x7f7fff84}},
    {0x42b17218, {0x7f800000, 0x408f895c, 0x408fe52d, 0x7f800000}},
    {0xc2cff1b3, {0x00000001, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2cff1b4, {0x00000001, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2cff1b5, {0x00000000, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2ce8ece, {0x00000001, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2ce8ecf, {0x00000001, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2ce8ed0, {0x00000001, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2aeac4f, {0x00800026, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2aeac50, {0x007fffe6, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc2aeac51, {0x007fffa6, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x3f32ffff, {0x4000c78e, 0xbeb7307a, 0x3f07b920, 0x3f818f1d}},
    {0x3f330000, {0x4000c78f, 0xbeb73077, 0x3f07b921, 0x3f818f1e}},
    {0x3f330001, {0x4000c78f, 0xbeb73074, 0x3f07b922, 0x3f818f1f}},
    {0x3f7fffff, {0x402df854, 0xb3800000, 0x3f317218, 0x3fdbf0a8}},
    {0x3f800001, {0x402df856, 0x33ffffff, 0x3f317219, 0x3fdbf0ac}},
    {0xbf7fffff, {0x3ebc5ab2, 0x7fc00000, 0xc1851592, 0xbf21d2a7}},
    {0xbf800001, {0x3ebc5ab0, 0x7fc00000, 0x7fc00000, 0xbf21d2a8}},
    {0x30ffffff, {0x3f800000, 0xc1a0cf66, 0x30ffffff, 0x30ffffff}},
    {0x31000000, {0x3f800000, 0xc1a0cf66, 0x31000000, 0x31000000}},
    {0x31000001, {0x3f800000, 0xc1a0cf66, 0x31000001, 0x31000001}},
    {0x3ed413d6, {0x3fc1afe7, 0xbf61a1a8, 0x3eb1721e, 0x3f035fcf}},
    {0x3ed413d7, {0x3fc1afe8, 0xbf61a1a7, 0x3eb17220, 0x3f035fd0}},
    {0x3ed413d8, {0x3fc1afe8, 0xbf61a1a6, 0x3eb17220, 0x3f035fd0}},
    {0xbe95f61e, {0x3f3f0086, 0x7fc00000, 0xbeb1721e, 0xbe81fef5}},
    {0xbe95f61f, {0x3f3f0085, 0x7fc00000, 0xbeb17220, 0xbe81fef6}},
    {0xbe95f620, {0x3f3f0085, 0x7fc00000, 0xbeb17221, 0xbe81fef6}},
    {0xbe95f621, {0x3f3f0084, 0x7fc00000, 0xbeb17222, 0xbe81fef7}},
    {0x59ffffff, {0x7f800000, 0x4212f27c, 0x4212f27c, 0x7f800000}},
    {0x5a000000, {0x7f800000, 0x4212f27c, 0x4212f27c, 0x7f800000}},
    {0x5a000001, {0x7f800000, 0x4212f27c, 0x4212f27c, 0x7f800000}},
    {0x3f3504f2, {0x4001cca2, 0xbeb1721b, 0x3f08e8a6, 0x3f839944}},
    {0x3f3504f3, {0x4001cca3, 0xbeb17219, 0x3f08e8a7, 0x3f839945}},
    {0x3f3504f4, {0x4001cca3, 0xbeb17216, 0x3f08e8a8, 0x3f839946}},
    {0x3fb504f2, {0x40839fbe, 0x3eb17215, 0x3f61a1b2, 0x40473f7c}},
    {0x3fb504f3, {0x40839fbf, 0x3eb17217, 0x3f61a1b3, 0x40473f7e}},
    {0x3fb504f4, {0x40839fc0, 0x3eb1721a, 0x3f61a1b4, 0x40473f80}},
    {0x4b7fffff, {0x7f800000, 0x41851592, 0x41851592, 0x7f800000}},
    {0x4b800000, {0x7f800000, 0x41851592, 0x41851592, 0x7f800000}},
    {0x4b800001, {0x7f800000, 0x41851592, 0x41851592, 0x7f800000}},
    {0x42b1717f, {0x7f7fb390, 0x408f8940, 0x408fe511, 0x7f7fb390}},
    {0x42b17180, {0x7f7fb40f, 0x408f8940, 0x408fe512, 0x7f7fb40f}},
    {0x42b17181, {0x7f7fb48f, 0x408f8940, 0x408fe512, 0x7f7fb48f}},
    {0xc195b843, {0x32000014, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc195b844, {0x32000004, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0xc195b845, {0x31ffffe7, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x32ffffff, {0x3f800000, 0xc18aa123, 0x32ffffff, 0x32ffffff}},
    {0x33000000, {0x3f800000, 0xc18aa123, 0x33000000, 0x33000000}},
    {0x33000001, {0x3f800000, 0xc18aa123, 0x33000001, 0x33000001}},
    {0x3eb17217, {0x3fb504f3, 0xbf87a2f2, 0x3e985a36, 0x3ed413cc}},
    {0x3eb17218, {0x3fb504f3, 0xbf87a2f1, 0x3e985a37, 0x3ed413cd}},
    {0x3eb17219, {0x3fb504f4, 0xbf87a2f0, 0x3e985a38, 0x3ed413ce}},
    {0xbeb17217, {0x3f3504f4, 0x7fc00000, 0xbed9de74, 0xbe95f619}},
    {0xbeb17218, {0x3f3504f3, 0x7fc00000, 0xbed9de76, 0xbe95f61a}},
    {0xbeb17219, {0x3f3504f3, 0x7fc00000, 0xbed9de77, 0xbe95f61a}},
    {0x3f851591, {0x403504f2, 0x3d1f8c36, 0x3f367ae7, 0x3fea09e4}},
    {0x3f851592, {0x403504f3, 0x3d1f8c55, 0x3f367ae8, 0x3fea09e6}},
    {0x3f851593, {0x403504f5, 0x3d1f8c74, 0x3f367ae9, 0x3fea09e9}},
    {0xbf851591, {0x3eb504f5, 0x7fc00000, 0x7fc00000, 0xbf257d86}},
    {0xbf851592, {0x3eb504f3, 0x7fc00000, 0x7fc00000, 0xbf257d86}},
    {0xbf851593, {0x3eb504f2, 0x7fc00000, 0x7fc00000, 0xbf257d87}},
    {0x41784a6e, {0x4aa77f27, 0x402f7d1f, 0x40337c4a, 0x4aa77f25}},
    {0x41784a6f, {0x4aa77f32, 0x402f7d1f, 0x40337c4b, 0x4aa77f30}},
    {0x41784a70, {0x4aa77f3c, 0x402f7d1f, 0x40337c4b, 0x4aa77f3a}},
    {0x421b43d4, {0x5b7fffc2, 0x406a2a6a, 0x406bcb29, 0x5b7fffc2}},
    {0x421b43d5, {0x5b800001, 0x406a2a6a, 0x406bcb29, 0x5b800001}},
    {0x421b43d6, {0x5b800021, 0x406a2a6b, 0x406bcb29, 0x5b800021}},
    // Random: up to 20, up to 88, positive up to 1, in turn; then any bits.
    {0x41849978, {0x4b70f2ae, 0x4033b47f, 0x4037744e, 0x4b70f2ad}},
    {0x4291dc04, {0x74149afa, 0x4089438e, 0x4089b31e, 0x74149afa}},
    {0x3f5428c0, {0x401296ad, 0xbe40594a, 0x3f1a878e, 0x3fa52d5a}},
    {0xc1493b80, {0x36678d11, 0x7fc00000, 0x7fc00000, 0xbf7fffc6}},
    {0xc25d5b0c, {0x178f4b04, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x3f20fc66, {0x3ff00ee9, 0xbeed7f1e, 0x3ef9cac2, 0x3f601dd2}},
    {0xc078c8f1, {0x3ca7f273, 0x7fc00000, 0x7fc00000, 0xbf7ac06c}},
    {0xc188d4eb, {0x33204072, 0x7fc00000, 0x7fc00000, 0xbf7fffff}},
    {0x3e470727, {0x3f9b75f6, 0xbfd1aadb, 0x3e35e03a, 0x3e5bafae}},
    {0x410fd094, {0x45fa4e7c, 0x400c8a3d, 0x40134a93, 0x45fa467c}},
    {0x421e323d, {0x5c052e16, 0x406b5cd9, 0x406cf5f8, 0x5c052e16}},
    {0x3ee61a87, {0x3fc8a0b7, 0xbf4cbf5c, 0x3ebe093e, 0x3f11416e}},
    {0xbf31b6ae, {0x3effbb73, 0x7fc00000, 0xbf97a7a4, 0xbf002246}},
    {0xc0437c25, {0x3d411ed5, 0x7fc00000, 0x7fc00000, 0xbf73ee13}},
    {0x3d0e2bbe, {0x3f848556, 0xc057164f, 0x3d0bc258, 0x3d10aac2}},
    {0x40dc1163, {0x44727538, 0x3ff6cf45, 0x400417f7, 0x44723538}},
    {0x41f21320, {0x55498cec, 0x405a3a3e, 0x405c4ef1, 0x55498cec}},
    {0x3eb00de9, {0x3fb48731, 0xbf88a4e3, 0x3e975170, 0x3ed21cc4}},
    {0x41074c1a, {0x4592fca7, 0x4008a1f7, 0x400fc93e, 0x4592f4a6}},
    {0x4214d3b6, {0x5a4cc9e7, 0x40677493, 0x4069271d, 0x5a4cc9e8}},
    {0x3ed879c3, {0x3fc35bac, 0xbf5c6072, 0x3eb48bdc, 0x3f06b758}},
    {0xc0c17726, {0x3b1b2d13, 0x7fc00000, 0x7fc00000, 0xbf7f64d3}},
    {0xc1d4cfdd, {0x2c450393, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x3e9ac5b8, {0x3fad2d92, 0xbf9922a2, 0x3e873b44, 0x3eb4b646}},
    {0x412fe58d, {0x476860c3, 0x40196d7f, 0x401effe4, 0x47685fc3}},
    {0x42417c82, {0x625ca001, 0x4078401b, 0x40798f5d, 0x625ca000}},
    {0x3f0cb7a4, {0x3fddc8e7, 0xbf193254, 0x3ee047a5, 0x3f3b91cd}},
    {0xc137d3ab, {0x372bcde1, 0x7fc00000, 0x7fc00000, 0xbf7fff54}},
    {0xc24a35a2, {0x1b063584, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x3f130fbc, {0x3fe35982, 0xbf0de85d, 0x3ee8671a, 0x3f46b304}},
    {0x40beb1c6, {0x43c1a677, 0x3fe478cc, 0x3ff8540a, 0x43c12676}},
    {0x41d1c38d, {0x52634107, 0x40510f02, 0x4053743e, 0x52634107}},
    {0x3e988e38, {0x3fac6e09, 0xbf9afb5c, 0x3e8586c5, 0x3eb1b822}},
    {0x409d869e, {0x43095ee3, 0x3fcc0366, 0x3fe3af60, 0x43085ee3}},
    {0x41ad4747, {0x4f180f33, 0x4044d44e, 0x4047b7ca, 0x4f180f33}},
    {0x3e7c0a96, {0x3fa3b89a, 0xbfb370c2, 0x3e6153c1, 0x3e8ee269}},
    {0x416a3f27, {0x4a0b4317, 0x402bc327, 0x402ffdae, 0x4a0b4313}},
    {0x4280d5ef, {0x6df4c5ba, 0x40854ae1, 0x4085c913, 0x6df4c5ba}},
    {0x3f3b65b9, {0x400512e6, 0xbe9fb769, 0x3f0c9e32, 0x3f8a25cc}},
    {0x40c286b7, {0x43da48bc, 0x3fe704b5, 0x3ffa8311, 0x43d9c8bc}},
    {0x41d5fa96, {0x52c0711a, 0x405254f6, 0x4054ae56, 0x52c0711a}},
    {0x3e9b9ef9, {0x3fad771d, 0xbf986f73, 0x3e87e1fc, 0x3eb5dc74}},
    {0xc0a2b492, {0x3bcae3eb, 0x7fc00000, 0x7fc00000, 0xbf7e6a38}},
    {0xc1b2f9d3, {0x2f536e8e, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x3e822a0e, {0x3fa50d2d, 0xbfaf4cac, 0x3e67f4bc, 0x3e9434b5}},
    {0x413ca9d8, {0x480105ff, 0x401de97d, 0x40231f2f, 0x480105bf}},
    {0x424f87a0, {0x64e6ceca, 0x407cbc19, 0x407df4e2, 0x64e6ceca}},
    {0x3f16ee46, {0x3fe6cfdf, 0xbf07425c, 0x3eed4b5d, 0x3f4d9fbe}},
    {0xc1899e20, {0x331141a2, 0x7fc00000, 0x7fc00000, 0xbf7fffff}},
    {0xc2976123, {0x08df4be0, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x3f5c3033, {0x4017424d, 0xbe1a4fa6, 0x3f1ee1fe, 0x3fae849a}},
    {0x3f8c019e, {0x403f1401, 0x3db79e3c, 0x3f3d2dd0, 0x3ffe2802}},
    {0x409a01c7, {0x42f6218d, 0x3fc91f1b, 0x3fe14942, 0x42f4218d}},
    {0x3d600296, {0x3f8731fe, 0xc039fd22, 0x3d5a195f, 0x3d663fb6}},
    {0x4197274c, {0x4d191f99, 0x403c1631, 0x403f632b, 0x4d191f99}},
    {0x42a644d4, {0x7b752b22, 0x408d7466, 0x408dd65a, 0x7b752b22}},
    {0x3f71d87a, {0x40249cba, 0xbd68f8ca, 0x3f2a44d1, 0x3fc93974}},
    {0xbf8c7804, {0x3eaadf1d, 0x7fc00000, 0x7fc00000, 0xbf2a9072}},
    {0xc09a8405, {0x3c03084d, 0x7fc00000, 0x7fc00000, 0xbf7df3df}},
    {0x3d60c007, {0x3f87383f, 0xc039c719, 0x3d5accfa, 0x3d6707d1}},
    {0xacbc7515, {0x3f800000, 0x7fc00000, 0xacbc7515, 0xacbc7515}},
    {0x9197062c, {0x3f800000, 0x7fc00000, 0x9197062c, 0x9197062c}},
    {0x7cfce324, {0x7f800000, 0x42aa7d60, 0x42aa7d60, 0x7f800000}},
    {0x927a78d6, {0x3f800000, 0x7fc00000, 0x927a78d6, 0x927a78d6}},
    {0xb5fe4e85, {0x3f7fffe0, 0x7fc00000, 0xb5fe4e95, 0xb5fe4e75}},
    {0x833c446d, {0x3f800000, 0x7fc00000, 0x833c446d, 0x833c446d}},
    {0x7a0bfd0d, {0x7f800000, 0x42a26021, 0x42a26021, 0x7f800000}},
    {0x629c1521, {0x7f800000, 0x4242dfe8, 0x4242dfe8, 0x7f800000}},
    {0x3abb80b5, {0x3f802ee9, 0xc0d19736, 0x3abb5e68, 0x3abba30f}},
    {0x90fd0e4f, {0x3f800000, 0x7fc00000, 0x90fd0e4f, 0x90fd0e4f}},
    {0x85979713, {0x3f800000, 0x7fc00000, 0x85979713, 0x85979713}},
    {0xfcf83579, {0x00000000, 0x7fc00000, 0x7fc00000, 0xbf800000}},
    {0x39fe54c3, {0x3f800fe6, 0xc0f43275, 0x39fe44fa, 0x39fe648e}},
    {0x18e5598d, {0x3f800000, 0xc255edd6, 0x18e5598d, 0x18e5598d}},
    {0xbcf3a29e, {0x3f787f9e, 0x7fc00000, 0xbcf754e6, 0xbcf00c46}},
};
// clang-format on

// The bits of a result, every NaN as one: which NaN an operation gives is not part of the promise.
std::uint32_t result_bits(float x) { return x != x ? 0x7fc00000 : bits_of(x); }

std::string hex(std::uint32_t bits) {
  char text[48];
  std::snprintf(text, sizeof text, "%08x (%a)", bits, static_cast<double>(float_of(bits)));
  return text;
}

// FNV-1a, a word at a time, over the results for every 16411th argument.
template <typename Call>
std::uint64_t digest(Call call) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::uint64_t argument = 0; argument < (std::uint64_t{1} << 32); argument += 16411) {
    hash = (hash ^ result_bits(call(float_of(static_cast<std::uint32_t>(argument))))) * 0x100000001b3;
  }
  return hash;
}

// Empty if the host's C library computes this function as glibc 2.36 does with FMA.
std::string why_not_comparable(const Function& function) {
#ifndef __GLIBC__
  return std::string("the C library is not glibc: ") + function.name + " checked by recorded answers only";
#else
  const std::string version = gnu_get_libc_version();
  char* rest;
  const long major = std::strtol(version.c_str(), &rest, 10);
  const long minor = *rest == '.' ? std::strtol(rest + 1, nullptr, 10) : 0;
  if (major != 2 || minor < 28 || minor > function.newest_glibc) {
    return "glibc " + version + " has another " + function.name +
           "f than 2.36: checked by recorded answers only";
  }
  // glibc asks for both before it takes the variants with FMA.
  if (!__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2")) {
    return "this CPU has no FMA, so glibc uses other variants: checked by recorded answers only";
  }
  return "";
#endif
}

// Unoptimised, the functions take more than ten times as long.
#ifdef __OPTIMIZE__
constexpr std::uint64_t kSampleStride = 1009;
#else
constexpr std::uint64_t kSampleStride = 20011;
#endif

class FloatMathTest : public testing::TestWithParam<Function> {
 protected:
  // Reports the first few differences, not millions.
  void compare(std::uint32_t argument) {
    const std::uint32_t ours = result_bits(GetParam().ours(float_of(argument)));
    const std::uint32_t reference = result_bits(GetParam().reference(float_of(argument)));
    if (ours == reference) return;
    if (differences_++ < 5)
      ADD_FAILURE() << hex(argument) << ": " << hex(ours) << ", libm " << hex(reference);
  }

  void TearDown() override {
    if (differences_ > 5) ADD_FAILURE() << differences_ << " results differ from libm";
  }

 private:
  std::uint64_t differences_ = 0;
};

TEST_P(FloatMathTest, GivesKnownAnswers) {
  for (const KnownAnswers& known : kKnownAnswers) {
    const std::uint32_t result = result_bits(GetParam().ours(float_of(known.argument)));
    EXPECT_EQ(hex(result), hex(known.results[GetParam().column])) << "at " << hex(known.argument);
  }
}

TEST_P(FloatMathTest, GivesKnownDigestOverAllExponents) {
  EXPECT_EQ(digest(GetParam().ours), GetParam().digest_of_results);
}

TEST_P(FloatMathTest, KnownDigestIsThatOfLibm) {
  if (const std::string why = why_not_comparable(GetParam()); !why.empty()) GTEST_SKIP() << why;
  EXPECT_EQ(digest(GetParam().reference), GetParam().digest_of_results);
}

TEST_P(FloatMathTest, EqualsLibmOnSample) {
  if (const std::string why = why_not_comparable(GetParam()); !why.empty()) GTEST_SKIP() << why;
  for (std::uint64_t argument = 17; argument < (std::uint64_t{1} << 32); argument += kSampleStride) {
    compare(static_cast<std::uint32_t>(argument));
  }
}

TEST_P(FloatMathTest, EqualsLibmAroundBoundaries) {
  if (const std::string why = why_not_comparable(GetParam()); !why.empty()) GTEST_SKIP() << why;
  for (const KnownAnswers& known : kKnownAnswers) {
    for (std::uint32_t distance = 0; distance < 200; ++distance) compare(known.argument + distance - 100);
  }
}

TEST_P(FloatMathTest, KeepsNanPayloadAndMakesItQuiet) {
  for (const std::uint32_t nan : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xff812345u, 0x7fffffffu}) {
    const std::uint32_t bits = bits_of(GetParam().ours(float_of(nan)));
    EXPECT_EQ(hex(bits), hex(nan | 0x00400000u));
  }
}

INSTANTIATE_TEST_SUITE_P(All, FloatMathTest, testing::ValuesIn(kFunctions),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
