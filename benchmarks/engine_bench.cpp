// Rows per second of the engine beside the walking reference, on random models of a given shape: by hand.
//
//   engine_bench TREES LEAVES FEATURES [ROWS [lossguide]]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "enclave/forest.h"
#include "enclave/model.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/plain_forest.h"

namespace {

using namespace confidential_ml;

// Thresholds are drawn from 255 per feature, as XGBoost's `hist` makes them. The oldest leaf is split first,
// which gives complete trees, or any, which gives those of lossguide.
test::BuiltTree grown(unsigned leaf_count, bool lossguide, unsigned features, std::mt19937* random) {
  test::BuiltTree tree;
  std::vector<size_t> open{0};
  size_t next = 0;
  while (open.size() - next < leaf_count) {
    if (lossguide) std::swap(open[next], open[next + (*random)() % (open.size() - next)]);
    const size_t parent = open[next++], left = tree.nodes.size();
    open.insert(open.end(), {left, left + 1});
    tree.nodes.resize(left + 2);
    test::BuiltNode& node = tree.nodes[parent];
    node.is_leaf = false;
    node.feature = static_cast<uint32_t>((*random)() % features);
    node.missing_left = (*random)() % 2;
    node.value = static_cast<float>((*random)() % 255) / 255.0f;
    node.left = left;
    node.right = left + 1;
  }
  for (; next < open.size(); ++next)
    tree.nodes[open[next]].value = static_cast<float>((*random)() % 1000) / 997.0f;
  return tree;
}

Model parsed(const test::Bytes& flat) {
  Model model{};
  if (parse_model(flat.data(), flat.size(), &model) != Status::kOk) std::abort();
  return model;
}

template <typename Engine>
double rows_per_second(const Engine& engine, RoundRange all, const std::vector<float>& rows, size_t row_count,
                       std::vector<float>* margins) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  const auto end = Clock::now() + std::chrono::seconds(1);
  do {
    const auto start = Clock::now();
    engine.predict_margins(all, rows.data(), row_count, nullptr, margins->data());
    const std::chrono::duration<double> taken = Clock::now() - start;
    const double rate = static_cast<double>(row_count) / taken.count();
    if (rate > best) best = rate;
  } while (Clock::now() < end);
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const auto trees = static_cast<unsigned>(std::atoi(argv[1]));
  const auto leaves = static_cast<unsigned>(std::atoi(argv[2]));
  const auto features = static_cast<unsigned>(std::atoi(argv[3]));
  const auto row_count = static_cast<size_t>(argc > 4 ? std::atoi(argv[4]) : 1000);
  std::mt19937 random(1);
  test::BuiltModel built;
  built.feature_count = features;
  for (unsigned t = 0; t < trees; ++t) built.rounds.push_back({grown(leaves, argc > 5, features, &random)});
  const test::Bytes flat = test::flat_bytes(built);
  const auto start = std::chrono::steady_clock::now();
  const Forest forest(parsed(flat));
  const std::chrono::duration<double> load = std::chrono::steady_clock::now() - start;
  const test::PlainForest plain(parsed(flat));
  std::vector<float> rows(row_count * features), fast(row_count), slow(row_count);
  for (float& x : rows) x = static_cast<float>(random() % 100000) / 100000.0f;
  const RoundRange all{0, trees};
  const double engine = rows_per_second(forest, all, rows, row_count, &fast);
  const double walk = rows_per_second(plain, all, rows, row_count, &slow);
  std::printf(
      "%u x %u leaves, %u features, %zu rows: engine %.0f rows/s, walk %.0f rows/s, ratio %.1f, %s; "
      "load %.1f ms, flat %zu bytes, plan %zu bytes\n",
      trees, leaves, features, row_count, engine, walk, engine / walk,
      std::memcmp(fast.data(), slow.data(), row_count * sizeof(float)) == 0 ? "equal" : "DIFFERENT",
      load.count() * 1e3, flat.size(), forest.plan_size());
}
