#include <cstdint>

#include "enclave/cpu.h"

namespace confidential_ml {
namespace {

struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

// Written out because an enclave is compiled without the compiler's <cpuid.h>. Inside SGX the instruction
// faults and Open Enclave answers from a table that the host filled: an answer to fail early on, not one to
// trust.
Registers cpuid(uint32_t leaf) {
  Registers r{};
  __asm__ __volatile__("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
  return r;
}

uint32_t enabled_register_states() {
  uint32_t low, high;
  __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

constexpr bool has(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

}  // namespace

bool cpu_is_suitable() {
  constexpr uint32_t kPclmulqdq = 1u << 1, kFma = 1u << 12, kAesNi = 1u << 25, kOsxsave = 1u << 27,
                     kAvx = 1u << 28;
  constexpr uint32_t kAvx2 = 1u << 5;
  constexpr uint32_t kXmmAndYmm = 6;
  if (cpuid(0).eax < 7) return false;
  if (!has(cpuid(1).ecx, kPclmulqdq | kFma | kAesNi | kOsxsave | kAvx)) return false;
  return has(cpuid(7).ebx, kAvx2) && has(enabled_register_states(), kXmmAndYmm);
}

}  // namespace confidential_ml
