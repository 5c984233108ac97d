// Compares the enclave's functions with the C library's over all 2^32 arguments and prints how many
// results differ; of those only that are named as arguments, if any are. Takes a few minutes on two cores.
// Meaningful on x86-64 with FMA and glibc 2.28 to 2.40 (see float_math_test.cpp). Exit status: 0 if no result
// differs.

#include <math.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "enclave/float_math.h"
#include "enclave/masks.h"
#include "enclave/transform.h"

namespace {

using confidential_ml::bits_of;
using confidential_ml::float_of;

struct Function {
  const char* name;
  float (*ours)(float) noexcept;
  float (*reference)(float);
};

const Function kFunctions[] = {
    {"exp", confidential_ml::exp_float, [](float x) { return expf(x); }},
    {"exp_all", [](float x) noexcept { return confidential_ml::exp_all(&x, 1), x; },
     [](float x) { return expf(x); }},
    {"exp_by_double", confidential_ml::exp_float_by_double,
     [](float x) { return static_cast<float>(exp(static_cast<double>(x))); }},
    {"log", confidential_ml::log_float, [](float x) { return logf(x); }},
    {"log1p", confidential_ml::log1p_float, [](float x) { return log1pf(x); }},
    {"expm1", confidential_ml::expm1_float, [](float x) { return expm1f(x); }},
};

struct Counts {
  std::uint64_t different = 0;        // other than NaN beside NaN
  std::uint64_t different_nans = 0;   // both NaN, but another sign or payload
  std::uint32_t first_different = 0;  // an argument, if there is one
};

Counts compare(const Function& function, std::uint64_t begin, std::uint64_t end) {
  Counts counts;
  for (std::uint64_t argument = begin; argument < end; ++argument) {
    const auto bits = static_cast<std::uint32_t>(argument);
    const float ours = function.ours(float_of(bits));
    const float reference = function.reference(float_of(bits));
    if (bits_of(ours) == bits_of(reference)) continue;
    if (ours != ours && reference != reference) {
      ++counts.different_nans;
    } else if (counts.different++ == 0) {
      counts.first_different = bits;
    }
  }
  return counts;
}

Counts compare_all(const Function& function) {
  constexpr std::uint64_t kArguments = std::uint64_t{1} << 32;
  const std::size_t workers = std::max(1u, std::thread::hardware_concurrency());
  std::vector<Counts> parts(workers);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < workers; ++i) {
    threads.emplace_back([&parts, &function, i, workers] {
      parts[i] = compare(function, kArguments * i / workers, kArguments * (i + 1) / workers);
    });
  }
  for (std::thread& thread : threads) thread.join();

  Counts sum;
  for (const Counts& part : parts) {
    if (sum.different == 0) sum.first_different = part.first_different;
    sum.different += part.different;
    sum.different_nans += part.different_nans;
  }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  bool equal = true;
  for (const Function& function : kFunctions) {
    const auto is_its_name = [&function](const char* name) { return std::strcmp(name, function.name) == 0; };
    if (argc > 1 && std::none_of(argv + 1, argv + argc, is_its_name)) continue;
    const auto start = std::chrono::steady_clock::now();
    const Counts counts = compare_all(function);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%-13s  %10llu of 4294967296 differ, %10llu NaNs differ in sign or payload, %.1f s",
                function.name, static_cast<unsigned long long>(counts.different),
                static_cast<unsigned long long>(counts.different_nans), seconds.count());
    if (counts.different != 0) std::printf(", first at 0x%08x", counts.first_different);
    std::printf("\n");
    std::fflush(stdout);
    equal = equal && counts.different == 0;
  }
  return equal ? 0 : 1;
}
