// Rows per second of the engine beside the walking reference, on random models of a given shape: by hand.
//
//   engine_bench TREES DEPTH FEATURES [ROWS]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "enclave/forest.h"
#include "enclave/model.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/plain_forest.h"

namespace {

using namespace confidential_ml;

// Complete trees whose thresholds are drawn from 255 per feature, as XGBoost's `hist` makes them.
test::BuiltTree complete_tree(unsigned depth, unsigned features, std::mt19937* random) {
  test::BuiltTree tree;
  tree.nodes.resize((size_t{2} << depth) - 1);
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    test::BuiltNode& node = tree.nodes[i];
    node.is_leaf = i >= tree.nodes.size() / 2;
    node.feature = static_cast<uint32_t>((*random)() % features);
    node.missing_left = (*random)() % 2;
    node.value = static_cast<float>((*random)() % 255) / 255.0f;
    node.left = 2 * i + 1;
    node.right = 2 * i + 2;
  }
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
  const auto depth = static_cast<unsigned>(std::atoi(argv[2]));
  const auto features = static_cast<unsigned>(std::atoi(argv[3]));
  const auto row_count = static_cast<size_t>(argc > 4 ? std::atoi(argv[4]) : 1000);
  std::mt19937 random(1);
  test::BuiltModel built;
  built.feature_count = features;
  for (unsigned t = 0; t < trees; ++t) built.rounds.push_back({complete_tree(depth, features, &random)});
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
      "%u x depth %u, %u features, %zu rows: engine %.0f rows/s, walk %.0f rows/s, ratio %.1f, %s; "
      "load %.1f ms, flat %zu bytes, plan %zu bytes\n",
      trees, depth, features, row_count, engine, walk, engine / walk,
      std::memcmp(fast.data(), slow.data(), row_count * sizeof(float)) == 0 ? "equal" : "DIFFERENT",
      load.count() * 1e3, flat.size(), forest.plan_size());
}
