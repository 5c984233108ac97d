// Run under valgrind: checks that no branch and no address in the four functions depends on their argument.
// The argument is marked undefined; memcheck then reports every jump and every address computed from it.
//
// Built with -DPLANT_LEAK it also runs a table look-up that leaks, and must fail. Build it without
// speculative-load hardening: that reads below the stack pointer, which memcheck reports whatever the
// argument.
//
// Exit status: 0 all oblivious, 1 not, 2 not running under valgrind.

#include <valgrind/memcheck.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "enclave/float_math.h"

namespace {

#ifdef PLANT_LEAK
float leaky_look_up(float x) noexcept {
  static const volatile float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return table[bits % 4];
}
#endif

struct Function {
  const char* name;
  float (*call)(float) noexcept;
};

const Function kFunctions[] = {
    {"exp_float", confidential_ml::exp_float},
    {"log_float", confidential_ml::log_float},
    {"log1p_float", confidential_ml::log1p_float},
    {"expm1_float", confidential_ml::expm1_float},
#ifdef PLANT_LEAK
    {"leaky_look_up", leaky_look_up},
#endif
};

// Of every class: zeros, subnormals, tiny, ordinary, out of range, infinities, NaNs.
const std::uint32_t kArguments[] = {0x00000000, 0x80000000, 0x00000001, 0x807fffff, 0x30800000, 0x3e000000,
                                    0x3f800000, 0xbf800000, 0xbf000000, 0x40490fdb, 0xc0490fdb, 0x42b10000,
                                    0x42c80000, 0xc2c80000, 0x5a000000, 0x7f7fffff, 0xff7fffff, 0x7f800000,
                                    0xff800000, 0x7fc00000, 0xff800001};

struct Outcome {
  std::uint32_t result;
  bool depends_on_secret;  // memcheck has followed the argument into the result
};

// Kept out of line, so that nothing is computed at compile time.
__attribute__((noinline)) Outcome call_with_secret(const Function& function, std::uint32_t argument) {
  float x;
  std::memcpy(&x, &argument, sizeof x);
  (void)VALGRIND_MAKE_MEM_UNDEFINED(&x, sizeof x);
  const float y = function.call(x);

  Outcome outcome;
  std::memcpy(&outcome.result, &y, sizeof y);
  std::uint32_t undefined_bits = 0;
  (void)VALGRIND_GET_VBITS(&outcome.result, &undefined_bits, sizeof undefined_bits);
  (void)VALGRIND_MAKE_MEM_DEFINED(&outcome.result, sizeof outcome.result);
  outcome.depends_on_secret = undefined_bits != 0;
  return outcome;
}

bool check(const Function& function) {
  const auto errors_before = VALGRIND_COUNT_ERRORS;
  std::uint32_t digest = 0;
  bool followed = true;
  for (const std::uint32_t argument : kArguments) {
    const Outcome outcome = call_with_secret(function, argument);
    digest = (digest ^ outcome.result) * 16777619;
    followed = followed && outcome.depends_on_secret;
  }
  const bool leaks = VALGRIND_COUNT_ERRORS != errors_before;
  std::printf("%-13s  %s  (digest of results %08x)\n", function.name,
              leaks       ? "LEAKS"
              : !followed ? "NOT CHECKED: its results do not depend on the secret"
                          : "oblivious",
              digest);
  return !leaks && followed;
}

}  // namespace

int main() {
  if (RUNNING_ON_VALGRIND == 0) {
    std::fprintf(stderr, "float_math_oblivious checks nothing unless it runs under valgrind\n");
    return 2;
  }
  bool clean = true;
  for (const Function& function : kFunctions) clean = check(function) && clean;
  return clean ? 0 : 1;
}
