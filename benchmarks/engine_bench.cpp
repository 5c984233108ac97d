// The price of the boundary: the engine called as a plain function, through the host in an enclave, and there
// by confidential requests, in turn.
//
//   engine_bench --model FLAT --rows FLOATS --features N --count 1 --count 1000 [--threads T]
//
// Prints quartiles of one call's time as a JSON object per line (benchmarks/engine.py reads them).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "benchmarks/compiled_client.h"
#include "enclave/forest.h"
#include "enclave/objective.h"
#include "host/enclave.h"

namespace {

using namespace confidential_ml;
using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;
using Clock = std::chrono::steady_clock;

constexpr size_t kSamples = 41;
constexpr double kSampleNanoseconds = 10e6;
constexpr size_t kRequests = 1000;  // in a sample; an epoch ends after 262,144

struct Options {
  std::string model, rows;
  size_t features = 0, threads = 1;
  std::vector<size_t> counts;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--model") options.model = argv[i + 1];
    if (name == "--rows") options.rows = argv[i + 1];
    if (name == "--features") options.features = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--threads") options.threads = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--count") options.counts.push_back(std::strtoull(argv[i + 1], nullptr, 10));
  }
  return options;
}

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

template <typename Call>
double nanoseconds_per_call(size_t calls, const Call& call) {
  const auto start = Clock::now();
  for (size_t i = 0; i < calls; ++i) call();
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count() / static_cast<double>(calls);
}

void print(const char* path, size_t rows, size_t threads, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  std::printf(
      "{\"path\": \"%s\", \"rows\": %zu, \"threads\": %zu, \"p25_ns\": %.1f, \"median_ns\": %.1f, "
      "\"p75_ns\": "
      "%.1f}\n",
      path, rows, threads, times[kSamples / 4], times[kSamples / 2], times[3 * kSamples / 4]);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  const Bytes flat = read_file(options.model), row_bytes = read_file(options.rows);
  Model model{};
  if (options.features == 0 || parse_model(flat.data(), flat.size(), &model) != Status::kOk) {
    std::fprintf(stderr,
                 "usage: engine_bench --model FLAT --rows FLOATS --features N --count ROWS [--threads T]\n");
    return 2;
  }
  Floats rows(row_bytes.size() / sizeof(float));
  std::memcpy(rows.data(), row_bytes.data(), rows.size() * sizeof(float));
  const Forest forest(std::move(model));
  const Model& shape = forest.model();
  const uint32_t columns = value_columns(shape.objective, shape.group_count);

  const uint8_t fuse_key[32] = {1};
  host::Enclave enclave(CONFIDENTIAL_ML_IMAGE, {fuse_key, sizeof fuse_key});
  const std::string sealed = enclave.seal_model({flat.data(), flat.size()}, {"bench", 1, 0, {}});
  const uint64_t handle =
      enclave.load_model({reinterpret_cast<const uint8_t*>(sealed.data()), sealed.size()});

  bench::CompiledClient client(&enclave, options.features, columns);

  for (const size_t count : options.counts) {
    if (count == 0 || count > rows.size() / options.features) return 2;
    Floats margins(count * shape.group_count), plain(count * columns), enclosed(count * columns);
    const auto as_function = [&] {
      forest.predict_margins({0, shape.round_count}, rows.data(), count, nullptr, margins.data());
      transform(shape.objective, shape.group_count, count, margins.data(), plain.data());
    };
    host::PredictRequest request{};
    request.handle = handle;
    request.row_count = count;
    request.feature_count = options.features;
    request.group_count = shape.group_count;
    request.columns = columns;
    request.node_count = shape.node_count;
    request.rows = rows.data();
    request.predictions = enclosed.data();
    request.thread_count = options.threads;
    const auto in_enclave = [&] { enclave.predict(request); };
    const auto in_confidence = [&] { client.predict(rows.data(), count); };

    as_function();
    in_enclave();
    const size_t size = plain.size() * sizeof(float);
    if (std::memcmp(plain.data(), enclosed.data(), size) != 0 ||
        std::memcmp(plain.data(), client.predict(rows.data(), count).data(), size) != 0) {
      return 1;
    }
    const double once = nanoseconds_per_call(3, as_function);
    const auto calls = std::max<size_t>(1, static_cast<size_t>(kSampleNanoseconds / once));
    std::vector<double> function_times, enclave_times, confidential_times;
    for (size_t i = 0; i < kSamples; ++i) {
      function_times.push_back(nanoseconds_per_call(calls, as_function));
      enclave_times.push_back(nanoseconds_per_call(calls, in_enclave));
      if (options.threads == 1) {
        confidential_times.push_back(nanoseconds_per_call(std::min(calls, kRequests), in_confidence));
      }
    }
    if (options.threads == 1) print("function", count, 1, function_times);
    print("enclave", count, options.threads, enclave_times);
    if (options.threads == 1) print("confidential", count, 1, confidential_times);
  }
  return 0;
}
