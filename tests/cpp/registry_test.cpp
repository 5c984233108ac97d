// Handles are found, forgotten, never used twice, and keep a model alive for whoever holds it.

#include "enclave/registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "common/limits.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

std::shared_ptr<const LoadedModel> small_model() {
  const test::Bytes flat = test::flat_bytes(test::random_model(test::Kind::kStumps, 1));
  Model model{};
  EXPECT_EQ(Status::kOk, parse_model(flat.data(), flat.size(), &model));
  return std::make_shared<const LoadedModel>(std::move(model), SealedDescription{});
}

TEST(Registry, FindsWhatWasAddedUntilItIsRemoved) {
  Registry registry;
  uint64_t first = 0, second = 0;
  const auto model = small_model();
  ASSERT_EQ(Status::kOk, registry.add(model, &first));
  ASSERT_EQ(Status::kOk, registry.add(small_model(), &second));
  EXPECT_NE(0u, first);
  EXPECT_NE(first, second);
  EXPECT_EQ(model, registry.find(first));
  EXPECT_EQ(Status::kOk, registry.remove(first));
  EXPECT_EQ(nullptr, registry.find(first));
  EXPECT_NE(nullptr, registry.find(second));
  EXPECT_EQ(Status::kUnknownModel, registry.remove(first));
}

TEST(Registry, KnowsNoHandleItDidNotGive) {
  Registry registry;
  uint64_t handle = 0;
  ASSERT_EQ(Status::kOk, registry.add(small_model(), &handle));
  for (const uint64_t other : {uint64_t{0}, handle + 1, UINT64_MAX}) {
    EXPECT_EQ(nullptr, registry.find(other));
    EXPECT_EQ(Status::kUnknownModel, registry.remove(other));
  }
}

TEST(Registry, NeverGivesAHandleTwice) {
  Registry registry;
  std::set<uint64_t> seen;
  const auto model = small_model();
  for (int i = 0; i < 1000; ++i) {
    uint64_t handle = 0;
    ASSERT_EQ(Status::kOk, registry.add(model, &handle));
    EXPECT_TRUE(seen.insert(handle).second) << handle;
    ASSERT_EQ(Status::kOk, registry.remove(handle));
  }
}

TEST(Registry, RefusesModelsBeyondItsLimitAndTakesThemAgainLater) {
  Registry registry;
  const auto model = small_model();
  uint64_t handle = 0;
  for (size_t i = 0; i < kMaxLoadedModels; ++i) ASSERT_EQ(Status::kOk, registry.add(model, &handle));
  uint64_t untouched = 77;
  EXPECT_EQ(Status::kTooManyModels, registry.add(model, &untouched));
  EXPECT_EQ(77u, untouched);
  EXPECT_EQ(Status::kOk, registry.remove(handle));
  EXPECT_EQ(Status::kOk, registry.add(model, &untouched));
}

TEST(Registry, ModelOutlivesItsRemovalWhileSomebodyHoldsIt) {
  Registry registry;
  uint64_t handle = 0;
  ASSERT_EQ(Status::kOk, registry.add(small_model(), &handle));
  const auto held = registry.find(handle);
  const std::weak_ptr<const LoadedModel> watched = held;
  ASSERT_EQ(Status::kOk, registry.remove(handle));
  EXPECT_EQ(1, watched.use_count());
  EXPECT_GE(held->forest.model().trees.size(), 1u);
}

TEST(Registry, ServesManyThreadsAtOnce) {
  Registry registry;
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&registry, &failures] {
      const auto model = small_model();
      for (int i = 0; i < 300; ++i) {
        uint64_t handle = 0;
        if (registry.add(model, &handle) != Status::kOk || registry.find(handle) != model ||
            registry.remove(handle) != Status::kOk || registry.find(handle) != nullptr) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(0, failures);
}

}  // namespace
}  // namespace confidential_ml
