// The boundary as a host sees it: the signed image, the generated glue, every ecall in every state, and
// host::Enclave on top of them.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/limits.h"
#include "confidential_ml_u.h"
#include "enclave/crypto.h"
#include "enclave/objective.h"
#include "host/enclave.h"
#include "host/status_table.h"
#include "simulation/loader.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/protocol_client.h"
#include "tests/cpp/raw_enclave.h"
#include "tests/cpp/status_printer.h"

// Some tests ask for more memory than there is and want to be told so.
#define CML_SANITIZER_OPTIONS(name)                                      \
  extern "C" __attribute__((visibility("default"))) const char* name() { \
    return "allocator_may_return_null=1";                                \
  }
CML_SANITIZER_OPTIONS(__asan_default_options)
CML_SANITIZER_OPTIONS(__tsan_default_options)

namespace confidential_ml {
namespace {

using test::BuiltModel;
using test::Bytes;
using test::kFuseKey;
using test::Kind;
using test::kMrenclave;
using test::kMrsigner;
using test::kTcs;
using test::RawEnclave;
using Floats = std::vector<float>;

Bytes scalar_model() { return test::flat_bytes(test::random_model(Kind::kScalar, 4)); }

// ---- the stages of an enclave's life ----

TEST(Start, ComesBeforeEverythingElse) {
  const RawEnclave enclave(false);
  Bytes buffer(1000, 1);
  uint8_t eight[8] = {};
  float number = 0;
  const auto all_refused = [&] {
    const uint8_t* in = buffer.data();
    uint8_t* out = buffer.data();
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_identity, out, size_t{72}));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_identity, nullptr, size_t{1}));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_seal_model, in, size_t{9}, in, size_t{1}, 1u,
                                                uint64_t{0}, nullptr, size_t{0}, out, size_t{900}, eight));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_load_model, in, size_t{9}, eight));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_unload_model, uint64_t{1}));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_describe_model, uint64_t{1}, out, size_t{192}));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_predict, uint64_t{1}, 0u, 0u, 0u, uint64_t{1},
                                                &number, size_t{4}, nullptr, size_t{0}, &number, size_t{4}));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_evidence, in, size_t{9}, out, size_t{900}, eight));
    EXPECT_EQ(Status::kNotStarted,
              enclave.call(enclave_evidence, nullptr, size_t{9}, nullptr, size_t{0}, nullptr));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_new_epoch));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_end_former_epoch));
    EXPECT_EQ(Status::kNotStarted,
              enclave.call(enclave_answer_request, in, size_t{360}, out, size_t{320}, eight));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_import_model, in, size_t{360}, out, size_t{320},
                                                eight, out, size_t{320}, eight));
    EXPECT_EQ(Status::kNotStarted, enclave.call(enclave_check_request, in, size_t{56}, uint64_t{360}));
  };
  all_refused();
  EXPECT_EQ(Status::kPlatformInputInvalid, enclave.call(enclave_start, kFuseKey.data(), size_t{31}));
  all_refused();
}

TEST(Start, TakesAFuseKeyAndMayBeTriedAgain) {
  const RawEnclave enclave(false);
  const Bytes long_key(1000, 1);
  const auto start_with = [&](const uint8_t* input, size_t size) {
    return enclave.call(enclave_start, input, size);
  };
  EXPECT_EQ(Status::kInvalidArgument, start_with(nullptr, 32));
  EXPECT_EQ(Status::kInvalidArgument, start_with(nullptr, SIZE_MAX));
  EXPECT_EQ(Status::kPlatformInputInvalid, start_with(nullptr, 0));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{31}, size_t{33}, size_t{1000}}) {
    EXPECT_EQ(Status::kPlatformInputInvalid, start_with(long_key.data(), size)) << size;
  }
  EXPECT_EQ(Status::kOk, enclave.start());
  EXPECT_EQ(Status::kAlreadyStarted, enclave.start());
  EXPECT_EQ(Status::kAlreadyStarted, start_with(long_key.data(), 5));
  EXPECT_EQ(Status::kInvalidArgument, start_with(nullptr, 32));
}

TEST(Start, SucceedsOnceWhenManyThreadsTry) {
  for (int round = 0; round < 5; ++round) {
    const RawEnclave enclave(false);
    std::atomic<int> succeeded{0}, late{0}, other{0};
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kTcs; ++t) {
      threads.emplace_back([&] {
        const Status status = enclave.start();
        ++(status == Status::kOk ? succeeded : status == Status::kAlreadyStarted ? late : other);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(1, succeeded);
    EXPECT_EQ(static_cast<int>(kTcs) - 1, late);
    EXPECT_EQ(0, other);
    EXPECT_EQ(Status::kUnknownModel, enclave.call(enclave_unload_model, uint64_t{1}));
  }
}

TEST(Identity, IsTheMeasuredOne) {
  const RawEnclave enclave;
  Bytes identity(72);
  ASSERT_EQ(Status::kOk, enclave.call(enclave_identity, identity.data(), identity.size()));
  confidential_ml_simulated_identity measured{};
  ASSERT_EQ(OE_OK, confidential_ml_simulation_identity(enclave.get(), &measured));
  const Bytes numbers = {
      1, 0, static_cast<uint8_t>(measured.isv_prod_id), 0, static_cast<uint8_t>(measured.isv_svn), 0, 0, 0};
  EXPECT_EQ(numbers, Bytes(identity.begin(), identity.begin() + 8));
  EXPECT_EQ(0, std::memcmp(identity.data() + 8, measured.mrenclave, 32));
  EXPECT_EQ(0, std::memcmp(identity.data() + 40, measured.mrsigner, 32));
}

TEST(Identity, HasOneSize) {
  const RawEnclave enclave;
  Bytes identity(100);
  for (const size_t size : {size_t{0}, size_t{71}, size_t{73}, size_t{100}}) {
    EXPECT_EQ(Status::kInvalidArgument, enclave.call(enclave_identity, identity.data(), size)) << size;
  }
  EXPECT_EQ(Status::kInvalidArgument, enclave.call(enclave_identity, nullptr, size_t{72}));
  EXPECT_EQ(Status::kInvalidArgument, enclave.call(enclave_identity, nullptr, SIZE_MAX));
}

// ---- sealing and loading ----

class Started : public ::testing::Test {
 protected:
  const RawEnclave enclave_;
};

TEST_F(Started, SealRefusesMissingBuffers) {
  const Bytes model = scalar_model();
  Bytes sealed(model.size() + 5000);
  const uint8_t id[] = {'m'};
  uint8_t size[8] = {};
  const auto seal = [&](const uint8_t* m, const uint8_t* i, uint8_t* s, uint8_t* n) {
    return enclave_.call(enclave_seal_model, m, model.size(), i, sizeof id, kMrenclave, uint64_t{0}, nullptr,
                         size_t{0}, s, sealed.size(), n);
  };
  EXPECT_EQ(Status::kOk, seal(model.data(), id, sealed.data(), size));
  EXPECT_EQ(Status::kInvalidArgument, seal(nullptr, id, sealed.data(), size));
  EXPECT_EQ(Status::kInvalidArgument, seal(model.data(), nullptr, sealed.data(), size));
  EXPECT_EQ(Status::kInvalidArgument, seal(model.data(), id, nullptr, size));
  EXPECT_EQ(Status::kInvalidArgument, seal(model.data(), id, sealed.data(), nullptr));
}

TEST_F(Started, SealChecksSizesModelIdAndPolicy) {
  const Bytes model = scalar_model();
  Bytes sealed(model.size() + 5000);
  const Bytes id(100, 'm');
  uint8_t size[8] = {};
  const auto seal = [&](size_t model_size, size_t id_size, uint32_t policy, size_t capacity) {
    return enclave_.call(enclave_seal_model, model.data(), model_size, id.data(), id_size, policy,
                         uint64_t{0}, nullptr, size_t{0}, sealed.data(), capacity, size);
  };
  EXPECT_EQ(Status::kOk, seal(model.size(), 64, kMrsigner, model.size() + 332 + 64 + 1024 + 16));
  EXPECT_EQ(Status::kModelNotFlat, seal(0, 1, kMrenclave, sealed.size()));
  EXPECT_EQ(Status::kModelSizeWrong, seal(model.size() - 1, 1, kMrenclave, sealed.size()));
  EXPECT_EQ(Status::kModelIdInvalid, seal(model.size(), 0, kMrenclave, sealed.size()));
  EXPECT_EQ(Status::kModelIdInvalid, seal(model.size(), 65, kMrenclave, sealed.size()));
  for (const uint32_t policy : {0u, 3u, UINT32_MAX}) {
    EXPECT_EQ(Status::kSealingPolicyUnknown, seal(model.size(), 1, policy, sealed.size()));
  }
  for (const size_t capacity : {size_t{0}, size_t{100}, model.size()}) {
    EXPECT_EQ(Status::kBufferTooSmall, seal(model.size(), 1, kMrenclave, capacity));
  }
}

TEST_F(Started, LoadChecksItsBuffers) {
  const Bytes sealed = enclave_.sealed(scalar_model());
  uint8_t handle[8] = {};
  const auto load = [&](const uint8_t* data, size_t size, uint8_t* out) {
    return enclave_.call(enclave_load_model, data, size, out);
  };
  EXPECT_EQ(Status::kInvalidArgument, load(nullptr, sealed.size(), handle));
  EXPECT_EQ(Status::kInvalidArgument, load(sealed.data(), sealed.size(), nullptr));
  EXPECT_EQ(Status::kNotASealedModel, load(nullptr, 0, handle));
  EXPECT_EQ(Status::kNotASealedModel, load(sealed.data(), 0, handle));
  EXPECT_EQ(Status::kSealedModelDamaged, load(sealed.data(), sealed.size() - 1, handle));
  EXPECT_EQ(Status::kOk, load(sealed.data(), sealed.size(), handle));
}

TEST_F(Started, ARefusedLoadGivesNoHandle) {
  Bytes sealed = enclave_.sealed(scalar_model());
  sealed.back() ^= 1;
  uint8_t handle[8] = {};
  std::memset(handle, 0xee, sizeof handle);
  EXPECT_EQ(Status::kSealedModelDamaged,
            enclave_.call(enclave_load_model, sealed.data(), sealed.size(), handle));
  EXPECT_EQ(Bytes(8, 0), Bytes(handle, handle + 8));
}

TEST_F(Started, ModelsOverTheSizeLimitAreRefused) {
  Bytes huge(kMaxSealedModelSize + 1);
  uint8_t out[8] = {};
  EXPECT_EQ(Status::kModelLimitExceeded, enclave_.call(enclave_load_model, huge.data(), huge.size(), out));
  EXPECT_EQ(Status::kNotASealedModel, enclave_.call(enclave_load_model, huge.data(), huge.size() - 1, out));
  const uint8_t id[] = {'m'};
  uint8_t sealed[16] = {};
  EXPECT_EQ(Status::kModelLimitExceeded,
            enclave_.call(enclave_seal_model, huge.data(), kMaxFlatModelSize + 1, id, size_t{1}, kMrenclave,
                          uint64_t{0}, nullptr, size_t{0}, sealed, sizeof sealed, out));
  EXPECT_EQ(Status::kInvalidArgument,
            enclave_.call(enclave_seal_model, id, size_t{1}, id, size_t{1}, kMrenclave, uint64_t{0}, nullptr,
                          size_t{0}, huge.data(), huge.size(), out));
}

// Sizes no buffer can have. With NULL they reach the trusted function; otherwise they end in the glue.
TEST_F(Started, AbsurdSizesEndInAnError) {
  uint8_t byte = 1, out[8] = {};
  float number = 0;
  const uint64_t handle = enclave_.loaded(scalar_model());
  for (const size_t size : {SIZE_MAX, SIZE_MAX - 15, SIZE_MAX / 2, size_t{1} << 60}) {
    const auto refused = [&](Status status) {
      EXPECT_EQ(RawEnclave::kCallFailed, status) << size;
      EXPECT_TRUE(RawEnclave::last_result == OE_INTEGER_OVERFLOW ||
                  RawEnclave::last_result == OE_OUT_OF_MEMORY);
    };
    refused(enclave_.call(enclave_start, &byte, size));
    refused(enclave_.call(enclave_identity, &byte, size));
    refused(enclave_.call(enclave_seal_model, &byte, size, &byte, size_t{1}, 1u, uint64_t{0}, nullptr,
                          size_t{0}, out, size_t{1}, out));
    refused(enclave_.call(enclave_seal_model, &byte, size_t{1}, &byte, size, 1u, uint64_t{0}, nullptr,
                          size_t{0}, out, size_t{1}, out));
    refused(enclave_.call(enclave_seal_model, &byte, size_t{1}, &byte, size_t{1}, 1u, uint64_t{0}, nullptr,
                          size_t{0}, out, size, out));
    refused(enclave_.call(enclave_load_model, &byte, size, out));
    refused(enclave_.call(enclave_describe_model, handle, &byte, size));
    const auto predict = [&](const float* rows, const float* base_margin, float* predictions) {
      return enclave_.call(enclave_predict, handle, 0u, 0u, 0u, uint64_t{1}, rows, rows ? size : 0,
                           base_margin, base_margin ? size : 0, predictions, predictions ? size : 0);
    };
    refused(enclave_.call(enclave_seal_model, &byte, size_t{1}, &byte, size_t{1}, 1u, uint64_t{0}, &byte,
                          size, out, size_t{1}, out));
    refused(enclave_.call(enclave_evidence, &byte, size, out, size_t{8}, out));
    refused(enclave_.call(enclave_evidence, nullptr, size_t{0}, out, size, out));
    refused(enclave_.call(enclave_answer_request, &byte, size, out, size_t{8}, out));
    refused(enclave_.call(enclave_answer_request, &byte, size_t{1}, out, size, out));
    const auto import = [&](size_t request_size, size_t sealed_capacity, size_t answer_capacity) {
      return enclave_.call(enclave_import_model, &byte, request_size, out, sealed_capacity, out, out,
                           answer_capacity, out);
    };
    refused(enclave_.call(enclave_check_request, &byte, size, uint64_t{360}));
    EXPECT_EQ(Status::kInvalidArgument, enclave_.call(enclave_check_request, nullptr, size, uint64_t{360}));
    refused(import(size, 1, 1));
    refused(import(1, size, 1));
    refused(import(1, 1, size));
    refused(predict(&number, nullptr, nullptr));
    refused(predict(nullptr, &number, nullptr));
    refused(predict(nullptr, nullptr, &number));
    EXPECT_EQ(Status::kInvalidArgument, enclave_.call(enclave_load_model, nullptr, size, out));
    EXPECT_EQ(Status::kInvalidArgument, enclave_.call(enclave_evidence, nullptr, size, out, size_t{8}, out));
    EXPECT_EQ(Status::kInvalidArgument,
              enclave_.call(enclave_answer_request, nullptr, size, nullptr, size, out));
    EXPECT_EQ(Status::kInvalidArgument,
              enclave_.call(enclave_import_model, nullptr, size, nullptr, size, out, nullptr, size, out));
    EXPECT_EQ(Status::kInvalidArgument, enclave_.call(enclave_predict, handle, 0u, 0u, 0u, uint64_t{1},
                                                      nullptr, size, nullptr, size, nullptr, size));
  }
}

// ---- handles ----

TEST_F(Started, UnknownHandlesAreUnknownToEveryEcall) {
  Bytes description(192);
  float number = 0;
  const uint64_t unloaded = enclave_.loaded(scalar_model());
  const uint64_t live = enclave_.loaded(scalar_model());
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_unload_model, unloaded));
  for (const uint64_t handle : {uint64_t{0}, unloaded, live + 1, UINT64_MAX, live + (uint64_t{1} << 32)}) {
    EXPECT_EQ(Status::kUnknownModel, enclave_.call(enclave_unload_model, handle));
    EXPECT_EQ(Status::kUnknownModel,
              enclave_.call(enclave_describe_model, handle, description.data(), description.size()));
    EXPECT_EQ(Status::kUnknownModel, enclave_.call(enclave_predict, handle, 0u, 0u, 0u, uint64_t{1}, &number,
                                                   size_t{4}, nullptr, size_t{0}, &number, size_t{4}));
  }
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_describe_model, live, description.data(), description.size()));
}

TEST_F(Started, HoldsTwoHundredFiftySixModels) {
  const Bytes sealed = enclave_.sealed(test::flat_bytes(test::random_model(Kind::kStumps, 1)));
  std::set<uint64_t> handles;
  uint64_t handle = 0;
  for (size_t i = 0; i < kMaxLoadedModels; ++i) {
    ASSERT_EQ(Status::kOk, enclave_.load(sealed, &handle));
    EXPECT_TRUE(handles.insert(handle).second);
  }
  EXPECT_EQ(0u, handles.count(0));
  EXPECT_EQ(Status::kTooManyModels, enclave_.load(sealed, &handle));
  EXPECT_EQ(0u, handle);
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_unload_model, *handles.begin()));
  EXPECT_EQ(Status::kOk, enclave_.load(sealed, &handle));
  EXPECT_EQ(0u, handles.count(handle));
  EXPECT_EQ(Status::kTooManyModels, enclave_.load(sealed, &handle));
}

// ---- description ----

struct Description {
  uint32_t booster, objective, features, groups, columns, rounds, trees, nodes, depth, leaf_size, policy,
      id_size;
  uint64_t plan_size;
  uint8_t digest[32], owner[32];
  uint64_t model_version;
  char id[64];
};
static_assert(sizeof(Description) == 192, "as in the EDL");

std::optional<Description> describe(const RawEnclave& enclave, uint64_t handle) {
  Description d{};
  uint8_t bytes[sizeof d] = {};
  if (enclave.call(enclave_describe_model, handle, bytes, sizeof bytes) != Status::kOk) return std::nullopt;
  std::memcpy(&d, bytes, sizeof d);
  return d;
}

TEST_F(Started, DescribesEveryKindOfModel) {
  for (const Kind kind : test::kAllKinds) {
    const BuiltModel built = test::random_model(kind, 11);
    const test::FlatSections flat = test::flatten(built);
    Bytes sealed;
    ASSERT_EQ(Status::kOk, enclave_.seal(flat.bytes(), "the.id-1", kMrsigner, &sealed));
    uint64_t handle = 0;
    ASSERT_EQ(Status::kOk, enclave_.load(sealed, &handle));
    const auto d = describe(enclave_, handle);
    ASSERT_TRUE(d.has_value());
    EXPECT_EQ(built.booster, d->booster);
    EXPECT_EQ(built.objective, d->objective);
    EXPECT_EQ(built.feature_count, d->features);
    EXPECT_EQ(built.group_count, d->groups);
    EXPECT_EQ(built.group_count, d->columns);
    EXPECT_EQ(flat.round_count, d->rounds);
    EXPECT_EQ(flat.tree_count, d->trees);
    EXPECT_EQ(flat.node_count, d->nodes);
    EXPECT_EQ(built.leaf_size, d->leaf_size);
    EXPECT_EQ(kMrsigner, d->policy);
    EXPECT_EQ(8u, d->id_size);
    EXPECT_GT(d->plan_size, 0u);
    EXPECT_EQ(std::string("the.id-1") + std::string(56, '\0'), std::string(d->id, 64));
    EXPECT_EQ(0, std::memcmp(sealed.data() + 120, d->digest, 32));
  }
}

// 13 MB as a flat model; but a leaf table takes places by the 16.
TEST_F(Started, DoesNotSealWhatItCouldNotLoad) {
  BuiltModel model;
  model.group_count = model.leaf_size = 1u << 16;
  model.base_score.assign(model.group_count, 0.0f);
  test::BuiltTree leaf;
  leaf.nodes.resize(1);
  leaf.nodes[0].leaf_vector.assign(model.leaf_size, 1.0f);
  const auto status_of = [&](size_t trees) {
    model.rounds.assign(trees, {leaf});
    Bytes sealed;
    return enclave_.seal(test::flat_bytes(model), "large", kMrenclave, &sealed);
  };
  EXPECT_EQ(Status::kOk, status_of(5));
  EXPECT_EQ(Status::kModelPlanTooLarge, status_of(50));
}

TEST_F(Started, SortsAThousandQuantilesAndNoMore) {
  BuiltModel model;
  model.objective = 16;  // reg:quantileerror
  for (const uint32_t groups : {1024u, 1025u}) {
    model.group_count = groups;
    model.base_score.assign(groups, 0.0f);
    Bytes sealed;
    EXPECT_EQ(groups == 1024 ? Status::kOk : Status::kModelLimitExceeded,
              enclave_.seal(test::flat_bytes(model), "many", kMrenclave, &sealed));
  }
}

TEST_F(Started, DescriptionHasOneSize) {
  const uint64_t handle = enclave_.loaded(scalar_model());
  Bytes buffer(200);
  for (const size_t size : {size_t{0}, size_t{191}, size_t{193}, size_t{200}}) {
    EXPECT_EQ(Status::kInvalidArgument, enclave_.call(enclave_describe_model, handle, buffer.data(), size));
  }
  EXPECT_EQ(Status::kInvalidArgument, enclave_.call(enclave_describe_model, handle, nullptr, size_t{192}));
}

// ---- prediction ----

struct Request {
  uint64_t handle = 0;
  uint32_t output_margin = 0, round_begin = 0, round_end = 0;
  uint64_t row_count = 1;
  const float* rows = nullptr;
  size_t rows_size = 0;
  const float* base_margin = nullptr;
  size_t base_margin_size = 0;
  float* predictions = nullptr;
  size_t predictions_size = 0;
};

Status predict(const RawEnclave& enclave, const Request& r) {
  return enclave.call(enclave_predict, r.handle, r.output_margin, r.round_begin, r.round_end, r.row_count,
                      r.rows, r.rows_size, r.base_margin, r.base_margin_size, r.predictions,
                      r.predictions_size);
}

// A model of 3 features, 2 groups and 3 rounds, and a request of 4 rows for it that is answered.
class Predicting : public Started {
 protected:
  Predicting() {
    BuiltModel model;
    model.feature_count = 3;
    model.group_count = 2;
    model.base_score = {0, 0};
    for (uint32_t r = 0; r < 3; ++r) {
      test::BuiltTree tree = test::chain(2);
      tree.group = r % 2;
      model.rounds.push_back({tree});
    }
    good_.handle = enclave_.loaded(test::flat_bytes(model));
    good_.row_count = 4;
    good_.rows = rows_.data();
    good_.rows_size = 4 * 3 * sizeof(float);
    good_.predictions = predictions_.data();
    good_.predictions_size = 4 * 2 * sizeof(float);
  }

  template <typename Change>
  Status with(Change change) {
    Request request = good_;
    change(request);
    return predict(enclave_, request);
  }

  Floats rows_ = Floats(100, 0.5f), base_margin_ = Floats(100, 1.0f), predictions_ = Floats(100, -77.0f);
  Request good_;
};

TEST_F(Predicting, TheGoodRequestIsGood) {
  EXPECT_EQ(Status::kOk, predict(enclave_, good_));
  EXPECT_EQ(-77.0f, predictions_[8]);
}

TEST_F(Predicting, RowsHaveTheSizeTheirNumberSays) {
  for (const size_t size : {size_t{0}, size_t{44}, size_t{47}, size_t{49}, size_t{52}}) {
    EXPECT_EQ(Status::kRowsSizeWrong, with([&](Request& r) { r.rows_size = size; })) << size;
  }
  for (const uint64_t count : {uint64_t{0}, uint64_t{3}, uint64_t{5}, UINT64_MAX, (uint64_t{1} << 62) + 4,
                               (uint64_t{1} << 32) + 4}) {
    EXPECT_EQ(Status::kRowsSizeWrong, with([&](Request& r) { r.row_count = count; })) << count;
  }
}

TEST_F(Predicting, PredictionsHaveTheSizeTheirNumberSays) {
  for (const size_t size : {size_t{0}, size_t{28}, size_t{31}, size_t{33}, size_t{36}, size_t{64}}) {
    EXPECT_EQ(Status::kInvalidArgument, with([&](Request& r) { r.predictions_size = size; })) << size;
  }
}

TEST_F(Predicting, BaseMarginHasTheSizeOfTheMarginsOrIsEmpty) {
  const auto with_size = [&](size_t size) {
    return with([&](Request& r) {
      r.base_margin = base_margin_.data();
      r.base_margin_size = size;
    });
  };
  EXPECT_EQ(Status::kOk, with_size(32));
  EXPECT_EQ(Status::kOk, with_size(0));
  for (const size_t size : {size_t{4}, size_t{16}, size_t{31}, size_t{33}, size_t{36}}) {
    EXPECT_EQ(Status::kBaseMarginSizeWrong, with_size(size)) << size;
  }
}

TEST_F(Predicting, BuffersThatAreMissingAreRefused) {
  EXPECT_EQ(Status::kInvalidArgument, with([](Request& r) { r.rows = nullptr; }));
  EXPECT_EQ(Status::kInvalidArgument, with([](Request& r) { r.predictions = nullptr; }));
  EXPECT_EQ(Status::kInvalidArgument, with([](Request& r) { r.base_margin_size = 32; }));
  EXPECT_EQ(Status::kOk, with([](Request& r) { r.output_margin = 1; }));
  EXPECT_EQ(Status::kInvalidArgument, with([](Request& r) { r.output_margin = 2; }));
}

TEST_F(Predicting, NoRowsAreFineWithAndWithoutBuffers) {
  const auto none = [](Request& r) { r.row_count = r.rows_size = r.predictions_size = 0; };
  EXPECT_EQ(Status::kOk, with(none));
  EXPECT_EQ(Status::kOk, with([&](Request& r) {
              none(r);
              r.rows = r.predictions = nullptr;
            }));
  EXPECT_EQ(Status::kRoundsOutOfRange, with([&](Request& r) {
              none(r);
              r.round_end = 4;
            }));
}

TEST_F(Predicting, RoundsLieWithinTheModel) {
  const auto range = [&](uint32_t begin, uint32_t end) {
    return with([&](Request& r) {
      r.round_begin = begin;
      r.round_end = end;
    });
  };
  for (uint32_t begin = 0; begin <= 5; ++begin) {
    for (uint32_t end = 0; end <= 5; ++end) {
      const uint32_t real_end = end == 0 ? 3 : end;
      const bool good = begin <= real_end && real_end <= 3;
      EXPECT_EQ(good ? Status::kOk : Status::kRoundsOutOfRange, range(begin, end)) << begin << " " << end;
    }
  }
  EXPECT_EQ(Status::kRoundsOutOfRange, range(UINT32_MAX, 0));
  EXPECT_EQ(Status::kRoundsOutOfRange, range(0, UINT32_MAX));
}

TEST_F(Predicting, RangesOfRoundsOfLinearModelsBeginAtZeroAndEndAnywhere) {
  const uint64_t handle = enclave_.loaded(test::flat_bytes(test::random_model(Kind::kLinear, 2)));
  const auto d = describe(enclave_, handle);
  for (const uint32_t begin : {0u, 1u}) {
    EXPECT_EQ(begin == 0 ? Status::kOk : Status::kRoundsOutOfRange, with([&](Request& r) {
                r.handle = handle;
                r.row_count = 1;
                r.rows_size = d->features * sizeof(float);
                r.predictions_size = d->groups * sizeof(float);
                r.round_begin = begin;
                r.round_end = 7;
              }));
  }
}

// 64 MiB and one byte is how the enclave says "too much" to itself: a buffer of just that size must not pass
// for one that holds more rows than memory does.
TEST_F(Predicting, MoreThanTheLargestBatchIsRefused) {
  const size_t largest = kMaxPredictBytes;
  Floats rows(largest / sizeof(float) + 4), predictions(largest / sizeof(float) + 4);
  const auto refused = [&](size_t rows_size, uint64_t count) {
    EXPECT_EQ(Status::kRowsSizeWrong, with([&](Request& r) {
                r.row_count = count;
                r.rows = rows.data();
                r.rows_size = rows_size;
                r.predictions = predictions.data();
                r.predictions_size = std::min<size_t>(largest, count * 2 * sizeof(float));
              }))
        << count << " rows in " << rows_size << " bytes";
  };
  refused(largest + 1, 5592406);  // the fewest that are too many
  refused(largest + 1, 8388608);
  refused(largest + 1, uint64_t{1} << 40);
  refused(largest + 4, 8388608);
}

TEST_F(Predicting, TheLargestBatchIsPredicted) {
  const size_t count = kMaxPredictBytes / sizeof(float) / 3;
  Floats rows(count * 3, 0.5f), predictions(count * 2);
  EXPECT_EQ(Status::kOk, with([&](Request& r) {
              r.row_count = count;
              r.rows = rows.data();
              r.rows_size = rows.size() * sizeof(float);
              r.predictions = predictions.data();
              r.predictions_size = predictions.size() * sizeof(float);
            }));
  EXPECT_EQ(predictions.front(), predictions[predictions.size() - 2]);
}

TEST_F(Predicting, WideOutputsCountToo) {
  BuiltModel wide;
  wide.group_count = kMaxGroups;
  wide.base_score.assign(kMaxGroups, 0.5f);
  const uint64_t handle = enclave_.loaded(test::flat_bytes(wide));
  const Floats rows(257, 1.0f);
  Floats predictions(size_t{256} * kMaxGroups);
  const auto rows_of = [&](uint64_t count) {
    return with([&](Request& r) {
      r.handle = handle;
      r.row_count = count;
      r.rows = rows.data();
      r.rows_size = count * sizeof(float);
      r.predictions = predictions.data();
      r.predictions_size = std::min(predictions.size(), count * kMaxGroups) * sizeof(float);
    });
  };
  EXPECT_EQ(Status::kOk, rows_of(256));
  EXPECT_EQ(0.5f, predictions.back());
  EXPECT_EQ(Status::kRowsSizeWrong, rows_of(257));
}

TEST_F(Predicting, ARefusedPredictionWritesNoResult) {
  EXPECT_EQ(Status::kRoundsOutOfRange, with([](Request& r) { r.round_end = 9; }));
  EXPECT_EQ(Floats(8, 0.0f), Floats(predictions_.begin(), predictions_.begin() + 8));
  EXPECT_EQ(-77.0f, predictions_[8]);
}

// Each objective's values are the transform of the margins that the same call gives.
TEST_F(Predicting, ValuesAreTheTransformOfTheMargins) {
  for (uint32_t code = 1; code <= 20; ++code) {
    BuiltModel built = test::random_model(Kind::kMultiGroup, 21);
    built.objective = code;
    built.base_score.assign(built.group_count, 0.5f);
    const auto objective = static_cast<Objective>(code);
    const uint32_t groups = built.group_count, columns = value_columns(objective, groups);
    Floats rows(10 * built.feature_count);
    test::Random random(code);
    for (float& x : rows) x = random.feature(false);
    Floats margins(10 * groups), values(10 * columns), expected(10 * columns);
    Request request;
    request.handle = enclave_.loaded(test::flat_bytes(built));
    request.row_count = 10;
    request.rows = rows.data();
    request.rows_size = rows.size() * sizeof(float);
    request.predictions = values.data();
    request.predictions_size = values.size() * sizeof(float);
    EXPECT_EQ(Status::kOk, predict(enclave_, request)) << code;
    request.output_margin = 1;
    request.predictions = margins.data();
    request.predictions_size = margins.size() * sizeof(float);
    EXPECT_EQ(Status::kOk, predict(enclave_, request)) << code;
    transform(objective, groups, 10, margins.data(), expected.data());
    EXPECT_EQ(0, std::memcmp(expected.data(), values.data(), values.size() * sizeof(float))) << code;
  }
}

// ---- hostile bytes, at random but the same each time ----

void corrupt(Bytes* bytes, test::Random* random) {
  const auto position = [&] { return random->below(static_cast<uint32_t>(bytes->size())); };
  constexpr uint32_t kTelling[] = {0,          1,          2,          0x7f800000, 0x7fc00000,
                                   0x80000000, 0xffffffff, 0x7fffffff, 0x40000000};
  const uint32_t times = 1 + random->below(3);
  for (uint32_t i = 0; i < times; ++i) {
    switch (random->below(5)) {
      case 0:
        (*bytes)[position()] ^= static_cast<uint8_t>(1u << random->below(8));
        break;
      case 1:
        (*bytes)[position()] = static_cast<uint8_t>(random->below(256));
        break;
      case 2: {
        const size_t word = position() / 4 * 4;
        if (word + 4 <= bytes->size()) std::memcpy(bytes->data() + word, &kTelling[random->below(9)], 4);
        break;
      }
      case 3:
        bytes->resize(1 + position());
        break;
      default:
        bytes->insert(bytes->begin() + position(), 1 + random->below(8),
                      static_cast<uint8_t>(random->below(256)));
    }
  }
}

// A changed model that is still one must also be predicted with.
void use(const RawEnclave& enclave, const Bytes& sealed) {
  uint64_t handle = 0;
  ASSERT_EQ(Status::kOk, enclave.load(sealed, &handle));
  const auto d = describe(enclave, handle);
  ASSERT_TRUE(d.has_value());
  const uint64_t row_count = d->features > 1000 ? 1 : 33;
  Floats rows(row_count * d->features, 0.5f), predictions(row_count * d->columns);
  Request request;
  request.handle = handle;
  request.row_count = row_count;
  request.rows = rows.data();
  request.rows_size = rows.size() * sizeof(float);
  request.predictions = predictions.data();
  request.predictions_size = predictions.size() * sizeof(float);
  EXPECT_EQ(Status::kOk, predict(enclave, request));
  EXPECT_EQ(Status::kOk, enclave.call(enclave_unload_model, handle));
}

TEST_F(Started, ACorruptedFlatModelIsRefusedOrStillAModel) {
  test::Random random(1);
  size_t refused = 0;
  for (int i = 0; i < 1000; ++i) {
    const Kind kind = test::kAllKinds[random.below(8)];
    Bytes flat = test::flat_bytes(test::random_model(kind, random.below(20)));
    corrupt(&flat, &random);
    const uint64_t size = flat.size();  // so that more than the length is looked at
    if (random.chance(70) && size >= 64) std::memcpy(flat.data() + 56, &size, sizeof size);
    Bytes sealed;
    const Status status = enclave_.seal(flat, "m", kMrenclave, &sealed);
    if (status == Status::kOk) {
      use(enclave_, sealed);
    } else {
      ++refused;
      ASSERT_TRUE(status >= Status::kModelNotFlat && status <= Status::kModelPlanTooLarge)
          << status << ", " << i;
    }
  }
  EXPECT_GT(refused, 300u);
}

// As in formats.md 2.1, with libcrypto's SHA-256: the digest that makes an altered header look unharmed.
void refresh_header_digest(Bytes* sealed);

TEST_F(Started, ACorruptedSealedModelIsRefusedInItsOwnTerms) {
  test::Random random(2);
  std::set<uint32_t> seen;
  const Bytes genuine = enclave_.sealed(scalar_model(), kMrsigner);
  for (int i = 0; i < 1000; ++i) {
    Bytes sealed = genuine;
    corrupt(&sealed, &random);
    if (random.chance(70)) refresh_header_digest(&sealed);
    if (sealed == genuine) continue;
    uint64_t handle = 0;
    const Status status = enclave_.load(sealed, &handle);
    seen.insert(static_cast<uint32_t>(status));
    ASSERT_TRUE(status >= Status::kNotASealedModel && status <= Status::kSealedKeyDiffers)
        << status << ", " << i;
  }
  EXPECT_GE(seen.size(), 4u) << "the corruptions reach but few checks";
}

void refresh_header_digest(Bytes* sealed) {
  uint32_t header_size = 0;
  if (sealed->size() < 48) return;
  std::memcpy(&header_size, sealed->data() + 12, sizeof header_size);
  if (header_size < 48 || header_size > sealed->size()) return;
  EXPECT_EQ(Status::kOk,
            sha256({{sealed->data(), 16}, {sealed->data() + 48, header_size - 48}}, sealed->data() + 16));
}

// ---- many threads, several enclaves ----

// Each ecall, in a form that may be repeated at will beside all others.
std::vector<std::function<bool(const RawEnclave&)>> repeatable_ecalls(const Bytes& sealed,
                                                                      uint64_t shared_handle) {
  const auto one_of = [](Status status, std::initializer_list<Status> allowed) {
    return std::find(allowed.begin(), allowed.end(), status) != allowed.end();
  };
  const auto model = std::make_shared<const Bytes>(scalar_model());
  const Bytes digest = test::part(sealed, 120, 32);
  return {
      [=](const RawEnclave& e) { return e.start() == Status::kAlreadyStarted; },
      [=](const RawEnclave& e) {
        uint8_t identity[72] = {};
        return e.call(enclave_identity, identity, sizeof identity) == Status::kOk;
      },
      [=](const RawEnclave& e) {
        Bytes out;
        return e.seal(*model, "m", kMrenclave, &out) == Status::kOk;
      },
      [=](const RawEnclave& e) {
        uint64_t handle = 0;
        const Status loaded = e.load(sealed, &handle);
        return loaded == Status::kOk && e.call(enclave_unload_model, handle) == Status::kOk;
      },
      [=](const RawEnclave& e) {
        return one_of(e.call(enclave_unload_model, shared_handle), {Status::kOk, Status::kUnknownModel});
      },
      [=](const RawEnclave& e) {
        uint8_t description[192] = {};
        return one_of(e.call(enclave_describe_model, shared_handle, description, sizeof description),
                      {Status::kOk, Status::kUnknownModel});
      },
      [=](const RawEnclave& e) {
        const Floats rows(6 * 40, 0.5f);
        Floats predictions(40);
        Request r;
        r.handle = shared_handle;
        r.row_count = 40;
        r.rows = rows.data();
        r.rows_size = rows.size() * sizeof(float);
        r.predictions = predictions.data();
        r.predictions_size = predictions.size() * sizeof(float);
        return one_of(predict(e, r), {Status::kOk, Status::kUnknownModel});
      },
      [](const RawEnclave& e) { return e.claims(Bytes(9, 1)).nonce == Bytes(9, 1); },
      [](const RawEnclave& e) { return e.call(enclave_new_epoch) == Status::kOk; },
      [](const RawEnclave& e) { return e.call(enclave_end_former_epoch) == Status::kOk; },
      [=](const RawEnclave& e) {
        const test::EpochKey key = test::epoch_key(e.claims());
        const auto plaintext = test::predict_plaintext(Floats(60, 0.5f), 6);
        const auto request = test::seal_request(key, test::request_header(key, 1, digest, 256),
                                                test::padded(plaintext.bytes()));
        Bytes bytes;
        const Status status = e.answer(request.bytes, &bytes);
        if (status != Status::kOk) return status == Status::kRequestUnreadable;  // the epoch has changed
        const auto answer = test::open_answer(request, bytes);
        return answer.has_value() &&
               one_of(static_cast<Status>(answer->status), {Status::kOk, Status::kUnknownModel});
      },
      [=](const RawEnclave& e) {
        const test::EpochKey key = test::epoch_key(e.claims());
        const auto request = test::seal_request(key, test::request_header(key, 2, Bytes(32), 512),
                                                test::padded(test::provision_plaintext(*model, "m").bytes()));
        Bytes bytes, sealed_model;
        const Status status = e.import(request.bytes, &sealed_model, &bytes);
        if (status != Status::kOk) return status == Status::kRequestUnreadable;
        const auto answer = test::open_answer(request, bytes);
        return answer.has_value() && answer->status == 0 && !sealed_model.empty();
      },
  };
}

BuiltModel six_feature_model() {
  BuiltModel model;
  model.feature_count = 6;
  for (uint32_t r = 0; r < 20; ++r) {
    test::BuiltTree tree = test::chain(3);
    tree.nodes[0].feature = r % 6;
    model.rounds.push_back({tree});
  }
  return model;
}

TEST_F(Started, EveryPairOfEcallsRunsSideBySide) {
  const Bytes sealed = enclave_.sealed(test::flat_bytes(six_feature_model()));
  std::atomic<int> failures{0};
  const size_t count = repeatable_ecalls(sealed, 0).size();
  for (size_t a = 0; a < count; ++a) {
    for (size_t b = a; b < count; ++b) {
      uint64_t handle = 0;
      ASSERT_EQ(Status::kOk, enclave_.load(sealed, &handle));
      const auto ecalls = repeatable_ecalls(sealed, handle);
      std::vector<std::thread> threads;
      for (const size_t which : {a, b, a, b}) {
        threads.emplace_back([&, which] {
          for (int i = 0; i < 15; ++i) failures += !ecalls[which](enclave_);
        });
      }
      for (std::thread& thread : threads) thread.join();
      static_cast<void>(enclave_.call(enclave_unload_model, handle));
      ASSERT_EQ(0, failures) << "ecalls " << a << " and " << b;
    }
  }
}

TEST_F(Started, APredictionUnderWayOutlivesTheUnloadingOfItsModel) {
  const Bytes sealed = enclave_.sealed(test::flat_bytes(six_feature_model()));
  const Floats rows(6 * 20000, 0.5f);
  for (int round = 0; round < 10; ++round) {
    uint64_t handle = 0;
    ASSERT_EQ(Status::kOk, enclave_.load(sealed, &handle));
    Floats predictions(20000);
    Request r;
    r.handle = handle;
    r.row_count = 20000;
    r.rows = rows.data();
    r.rows_size = rows.size() * sizeof(float);
    r.predictions = predictions.data();
    r.predictions_size = predictions.size() * sizeof(float);
    Status status = Status::kInternal;
    std::thread predicting([&] { status = predict(enclave_, r); });
    std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
    EXPECT_EQ(Status::kOk, enclave_.call(enclave_unload_model, handle));
    predicting.join();
    EXPECT_TRUE(status == Status::kOk || status == Status::kUnknownModel) << status;
    if (status == Status::kOk) {
      EXPECT_EQ(predictions.front(), predictions.back());
    }
  }
}

TEST(TwoEnclaves, OfOneImageShareFilesButNoModelsAndNoState) {
  const RawEnclave one, other(false);
  const Bytes sealed = one.sealed(scalar_model());
  const uint64_t handle = one.loaded(scalar_model());
  EXPECT_EQ(Status::kNotStarted, other.call(enclave_unload_model, handle));
  EXPECT_EQ(Status::kOk, other.start());
  EXPECT_EQ(Status::kUnknownModel, other.call(enclave_unload_model, handle));
  uint64_t other_handle = 0;
  EXPECT_EQ(Status::kOk, other.load(sealed, &other_handle));
  EXPECT_EQ(Status::kOk, one.call(enclave_unload_model, handle));
  EXPECT_TRUE(describe(other, other_handle).has_value());
}

TEST(TwoEnclaves, OfDifferentImagesOpenWhatPolicyAllows) {
  const RawEnclave base(true, TEST_IMAGES "/base.signed"), higher_svn(true, TEST_IMAGES "/higher_svn.signed"),
      rebuilt(true, TEST_IMAGES "/rebuilt.signed"), stranger(true, TEST_IMAGES "/other_signer.signed");
  const auto opens = [](const RawEnclave& from, const RawEnclave& to, uint32_t policy) {
    uint64_t handle = 0;
    return to.load(from.sealed(scalar_model(), policy), &handle);
  };
  EXPECT_EQ(Status::kOk, opens(base, base, kMrenclave));
  EXPECT_EQ(Status::kSealedKeyDiffers, opens(base, rebuilt, kMrenclave));
  EXPECT_EQ(Status::kOk, opens(base, rebuilt, kMrsigner));
  EXPECT_EQ(Status::kOk, opens(base, higher_svn, kMrsigner));
  EXPECT_EQ(Status::kSealedSvnTooHigh, opens(higher_svn, base, kMrsigner));
  EXPECT_EQ(Status::kSealedKeyDiffers, opens(base, stranger, kMrsigner));
}

// ---- host::Enclave ----

std::unique_ptr<host::Enclave> open_enclave() {
  return std::make_unique<host::Enclave>(CONFIDENTIAL_ML_IMAGE,
                                         host::ByteView{kFuseKey.data(), kFuseKey.size()});
}

host::ByteView view(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }
host::ByteView view(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

template <typename Body>
host::EnclaveException thrown_by(Body body) {
  try {
    body();
  } catch (const host::EnclaveException& exception) {
    return exception;
  }
  ADD_FAILURE() << "nothing was thrown";
  return host::EnclaveException("");
}

bool contains(const host::EnclaveException& exception, const char* text) {
  return std::string(exception.what()).find(text) != std::string::npos;
}

class HostEnclave : public ::testing::Test {
 protected:
  HostEnclave() {
    const Bytes flat = test::flat_bytes(six_feature_model());
    handle_ = enclave_->load_model(view(enclave_->seal_model(view(flat), {"six", kMrenclave, 0, {}})));
  }

  host::PredictRequest request(const Floats& rows, Floats* predictions) const {
    predictions->assign(rows.size() / 6, -77.0f);
    host::PredictRequest r{};
    r.handle = handle_;
    r.row_count = rows.size() / 6;
    r.feature_count = 6;
    r.group_count = r.columns = 1;
    r.node_count = 1000000;  // worth threads
    r.rows = rows.data();
    r.predictions = predictions->data();
    return r;
  }

  std::unique_ptr<host::Enclave> enclave_ = open_enclave();
  uint64_t handle_ = 0;
};

TEST_F(HostEnclave, SealsLoadsDescribesPredictsUnloads) {
  const host::ModelDescription d = enclave_->describe_model(handle_);
  EXPECT_EQ(6u, d.feature_count);
  EXPECT_EQ(20u, d.round_count);
  EXPECT_EQ(3u, d.depth);
  EXPECT_EQ("six", d.model_id);
  EXPECT_EQ(32u, d.digest.size());
  EXPECT_EQ(1, enclave_->identity().platform);
  EXPECT_FALSE(enclave_->identity().debug);
  Floats predictions;
  enclave_->predict(request(Floats(60, 0.5f), &predictions));
  EXPECT_NE(-77.0f, predictions.back());
  enclave_->unload_model(handle_);
  const auto gone = thrown_by([&] { enclave_->describe_model(handle_); });
  EXPECT_EQ(Status::kUnknownModel, gone.status());
  EXPECT_STREQ("EnclaveError", gone.exception());
}

// More rows than one ecall takes: cut into blocks, and every block at its place.
TEST_F(HostEnclave, LargeBatchesGiveTheSameAsRowsOneByOne) {
  constexpr size_t kRows = 400000;  // of many blocks
  Floats rows(kRows * 6);
  for (size_t i = 0; i < rows.size(); ++i)
    rows[i] = static_cast<float>(i * 2654435761u % 1000) / 250.0f - 1.0f;
  Floats predictions, single;
  enclave_->predict(request(rows, &predictions));
  for (size_t i = 0; i < kRows; i += 9973) {
    const Floats row(rows.begin() + static_cast<std::ptrdiff_t>(i * 6),
                     rows.begin() + static_cast<std::ptrdiff_t>(i * 6 + 6));
    enclave_->predict(request(row, &single));
    ASSERT_EQ(single[0], predictions[i]) << i;
  }
}

TEST_F(HostEnclave, NoRowsStillCheckHandleAndRounds) {
  Floats predictions;
  host::PredictRequest empty = request({}, &predictions);
  enclave_->predict(empty);
  empty.round_end = 21;
  EXPECT_EQ(Status::kRoundsOutOfRange, thrown_by([&] { enclave_->predict(empty); }).status());
  empty.handle = 99;
  EXPECT_EQ(Status::kUnknownModel, thrown_by([&] { enclave_->predict(empty); }).status());
}

TEST_F(HostEnclave, RefusesWhatIsTooLargeBeforeItCopiesIt) {
  static const uint8_t byte = 0;
  EXPECT_EQ(Status::kModelLimitExceeded,
            thrown_by([&] {
              enclave_->seal_model({&byte, kMaxFlatModelSize + 1}, {"m", 1, 0, {}});
            }).status());
  EXPECT_EQ(Status::kModelLimitExceeded, thrown_by([&] {
                                           enclave_->load_model({&byte, kMaxSealedModelSize + 1});
                                         }).status());
}

TEST_F(HostEnclave, MoreThreadsThanTheEnclaveHasWaitTheirTurn) {
  const Floats rows(6 * 5000, 0.5f);
  std::atomic<int> failures{0}, answered{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 3 * kTcs; ++t) {
    threads.emplace_back([&] {
      Floats predictions;
      for (int i = 0; i < 10; ++i) {
        try {
          enclave_->predict(request(rows, &predictions));
          answered += predictions.front() == predictions.back();
        } catch (const host::EnclaveException&) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(0, failures);
  EXPECT_EQ(static_cast<int>(3 * kTcs * 10), answered);
}

TEST_F(HostEnclave, CloseWaitsForCallsUnderWayAndEndsAllLater) {
  const Floats rows(6 * 5000, 0.5f);
  std::atomic<size_t> running{0}, ended_as_closed{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 2 * kTcs; ++t) {
    threads.emplace_back([&] {
      Floats predictions;
      try {
        for (bool first = true;; first = false) {
          enclave_->predict(request(rows, &predictions));
          running += first;
        }
      } catch (const host::EnclaveException& exception) {
        ended_as_closed += contains(exception, "the enclave is closed") && exception.status() == Status::kOk;
      }
    });
  }
  while (running + ended_as_closed < 2 * kTcs) std::this_thread::yield();
  std::thread other_closer([&] { enclave_->close(); });
  enclave_->close();
  EXPECT_FALSE(enclave_->is_open());
  for (std::thread& thread : threads) thread.join();
  other_closer.join();
  EXPECT_EQ(2 * kTcs, ended_as_closed);
}

// A batch is many ecalls; the model goes before the first of them or after the last.
TEST_F(HostEnclave, UnloadingNeverCutsABatchInTwo) {
  const Floats rows(6 * 400000, 0.5f);
  const auto holds_no_result = [](const Floats& values) {  // a refused ecall leaves zeros
    return std::all_of(values.begin(), values.end(),
                       [](float value) { return value == -77.0f || value == 0; });
  };
  std::atomic<size_t> running{0}, ended_as_unloaded{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      Floats predictions;
      try {
        for (bool first = true;; first = false) {
          const host::PredictRequest batch = request(rows, &predictions);
          running += first;
          enclave_->predict(batch);
        }
      } catch (const host::EnclaveException& exception) {
        ended_as_unloaded += exception.status() == Status::kUnknownModel && holds_no_result(predictions);
      }
    });
  }
  while (running + ended_as_unloaded < 3) std::this_thread::yield();
  enclave_->unload_model(handle_);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(3u, ended_as_unloaded);
  EXPECT_EQ(Status::kUnknownModel, thrown_by([&] { enclave_->unload_model(handle_); }).status());
}

TEST_F(HostEnclave, EveryCallThrowsOnceItIsClosed) {
  EXPECT_TRUE(enclave_->is_open());
  enclave_->close();
  enclave_->close();
  EXPECT_FALSE(enclave_->is_open());
  Floats predictions;
  const Bytes bytes(10);
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->identity(); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->seal_model(view(bytes), {"m", 1, 0, {}}); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->load_model(view(bytes)); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->unload_model(handle_); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->describe_model(handle_); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->predict(request(Floats(6), &predictions)); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->evidence({}); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->new_epoch(); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->end_former_epoch(); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->answer_request(view(Bytes(360))); }), "closed"));
  EXPECT_TRUE(contains(thrown_by([&] { enclave_->import_model(view(Bytes(360))); }), "closed"));
}

// In the child: 0 if everything about the parent's enclave is as it should be.
int look_from_child(std::unique_ptr<host::Enclave> enclave) {
  if (enclave->is_open()) return 1;
  try {
    enclave->identity();
    return 2;
  } catch (const host::EnclaveException& exception) {
    if (!contains(exception, "forked")) return 3;
  }
  enclave->close();
  enclave.reset();
  const auto own = open_enclave();
  return own->identity().platform == 1 ? 0 : 4;
}

TEST_F(HostEnclave, BelongsToTheProcessThatMadeIt) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0)
    std::exit(look_from_child(std::move(enclave_)));  // with what runs at exit, a leak check too
  int status = 0;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(0, WEXITSTATUS(status));
  EXPECT_TRUE(enclave_->is_open());
  EXPECT_EQ(1, enclave_->identity().platform);
}

TEST(HostEnclaveStart, FailuresAreReportedAndLeaveNothingBehind) {
  const auto no_file = thrown_by([] {
    host::Enclave("/nonexistent", host::ByteView{kFuseKey.data(), kFuseKey.size()});
  });
  EXPECT_TRUE(contains(no_file, "/nonexistent"));
  EXPECT_STREQ("EnclaveError", no_file.exception());
  const auto no_key = thrown_by([] { host::Enclave(CONFIDENTIAL_ML_IMAGE, host::ByteView{nullptr, 0}); });
  EXPECT_EQ(Status::kPlatformInputInvalid, no_key.status());
}

TEST(StatusTable, EveryStatusHasAnExceptionAndASentence) {
  const std::set<std::string> classes = {
      "ConfidentialMLError", "DamagedSealedModelError", "EnclaveError",
      "InvalidInputError",   "ModelFormatError",        "RequestUnreadableError",
      "SealError",           "UnsupportedVersionError", "WrongEnclaveError"};
  const std::string unknown = host::meaning_of(static_cast<Status>(9999)).message;
  size_t known = 0;
  for (uint32_t number = 0; number < 1000; ++number) {
    const host::StatusMeaning meaning = host::meaning_of(static_cast<Status>(number));
    EXPECT_EQ(1u, classes.count(meaning.exception)) << number;
    EXPECT_GT(std::string(meaning.message).size(), 5u) << number;
    known += meaning.message != unknown;
  }
  EXPECT_EQ(44u, known) << "a status was added or removed: does formats.md know, do the tests?";
}

}  // namespace
}  // namespace confidential_ml
