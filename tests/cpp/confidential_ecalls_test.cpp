// docs/protocol.md through the boundary: evidence, confidential requests and provisioning as a host sees
// them, between the signed image and the client of tests/cpp/protocol_client.h. The states of an enclave and
// the pairs of ecalls are in ecalls_test.cpp.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/limits.h"
#include "host/enclave.h"
#include "host/status_table.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/protocol_client.h"
#include "tests/cpp/raw_enclave.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::Answer;
using test::Bytes;
using test::Claims;
using test::EpochKey;
using test::join;
using test::Kind;
using test::kMrenclave;
using test::kMrsigner;
using test::part;
using test::PredictPlaintext;
using test::ProvisionPlaintext;
using test::RawEnclave;
using test::RequestHeader;
using test::SealedRequest;
using Floats = std::vector<float>;

Bytes bytes_of(const Floats& values) {
  Bytes bytes(values.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

struct Shape {
  uint32_t features, groups, columns, rounds;
};

Shape shape_of(const RawEnclave& enclave, uint64_t handle) {
  uint8_t description[192] = {};
  uint32_t fields[6];
  EXPECT_EQ(Status::kOk, enclave.call(enclave_describe_model, handle, description, sizeof description));
  std::memcpy(fields, description, sizeof fields);
  return {fields[2], fields[3], fields[4], fields[5]};
}

Bytes random_flat(Kind kind, uint64_t seed) { return test::flat_bytes(test::random_model(kind, seed)); }

class Boundary : public ::testing::Test {
 protected:
  EpochKey key() const { return test::epoch_key(enclave_.claims()); }

  SealedRequest sealed(const PredictPlaintext& plaintext, const Bytes& digest, uint32_t answer_size) const {
    const EpochKey epoch = key();
    return test::seal_request(epoch, test::request_header(epoch, test::kPredictKind, digest, answer_size),
                              test::padded(plaintext.bytes()));
  }
  SealedRequest sealed(const ProvisionPlaintext& plaintext) const {
    const EpochKey epoch = key();
    return test::seal_request(epoch, test::request_header(epoch, test::kProvisionKind, Bytes(32), 512),
                              test::padded(plaintext.bytes()));
  }

  Answer ask(const SealedRequest& request) const {
    Bytes bytes;
    EXPECT_EQ(Status::kOk, enclave_.answer(request.bytes, &bytes));
    const auto answer = test::open_answer(request, bytes);
    EXPECT_TRUE(answer.has_value());
    return answer.value_or(Answer{});
  }

  const RawEnclave enclave_;
};

// ---- evidence ----

class Evidence : public Boundary {
 protected:
  Status get(const Bytes& nonce, size_t capacity, Bytes* evidence) const {
    evidence->assign(capacity, 0xee);
    uint8_t size[8] = {};
    const Status status =
        enclave_.call(enclave_evidence, nonce.data(), nonce.size(), evidence->data(), capacity, size);
    const uint64_t used = RawEnclave::used(size);
    EXPECT_LE(used, capacity);
    evidence->resize(used);
    return status;
  }
};

// Intel SDM, volume 3D, table 38-21 (REPORT), without what the quote does not hold.
TEST_F(Evidence, HoldsTheReportBodyOfThisEnclave) {
  confidential_ml_simulated_identity measured{};
  ASSERT_EQ(OE_OK, confidential_ml_simulation_identity(enclave_.get(), &measured));
  Bytes evidence;
  ASSERT_EQ(Status::kOk, get({}, 100000, &evidence));
  ASSERT_EQ(384u + 152, evidence.size());
  const auto two = [](uint16_t v) { return Bytes{static_cast<uint8_t>(v), static_cast<uint8_t>(v >> 8)}; };
  EXPECT_EQ(join({{1}, Bytes(15)}), part(evidence, 0, 16)) << "CPUSVN";
  EXPECT_EQ(Bytes(32), part(evidence, 16, 32)) << "MISCSELECT, reserved";
  EXPECT_EQ((Bytes{7, 0, 0, 0, 0, 0, 0, 0}), part(evidence, 48, 8)) << "INIT, DEBUG, MODE64";
  EXPECT_EQ((Bytes{3, 0, 0, 0, 0, 0, 0, 0}), part(evidence, 56, 8)) << "XFRM";
  EXPECT_EQ(Bytes(measured.mrenclave, measured.mrenclave + 32), part(evidence, 64, 32));
  EXPECT_EQ(Bytes(32), part(evidence, 96, 32));
  EXPECT_EQ(Bytes(measured.mrsigner, measured.mrsigner + 32), part(evidence, 128, 32));
  EXPECT_EQ(Bytes(96), part(evidence, 160, 96)) << "reserved, CONFIGID";
  EXPECT_EQ(two(measured.isv_prod_id), part(evidence, 256, 2));
  EXPECT_EQ(two(measured.isv_svn), part(evidence, 258, 2));
  EXPECT_EQ(Bytes(60), part(evidence, 260, 60)) << "CONFIGSVN, reserved, ISV FAMILY ID";
  EXPECT_EQ(test::sha256_of(part(evidence, 384, 152)), part(evidence, 320, 32)) << "report data";
  EXPECT_EQ(Bytes(32), part(evidence, 352, 32));
}

TEST_F(Evidence, HoldsTheNonceAsItIs) {
  for (size_t size = 0; size <= 64; ++size) {
    const Bytes nonce = test::random_bytes(size);
    EXPECT_EQ(nonce, enclave_.claims(nonce).nonce) << size;
  }
  Bytes evidence;
  for (const size_t size : {size_t{65}, size_t{66}, size_t{1000}}) {
    EXPECT_EQ(Status::kInvalidArgument, get(Bytes(size), 100000, &evidence)) << size;
  }
}

TEST_F(Evidence, FitsItsBufferExactlyOrNotAtAll) {
  const uint64_t handle = enclave_.loaded(random_flat(Kind::kScalar, 1));
  Bytes evidence;
  const size_t needed = 384 + 152 + 10 + 86 + 1;
  EXPECT_EQ(Status::kOk, get(Bytes(10), needed, &evidence));
  EXPECT_EQ(needed, evidence.size());
  for (const size_t capacity :
       {size_t{0}, size_t{1}, size_t{16}, size_t{383}, size_t{384}, size_t{385}, size_t{536}, needed - 1}) {
    EXPECT_EQ(Status::kBufferTooSmall, get(Bytes(10), capacity, &evidence)) << capacity;
    EXPECT_EQ(0u, evidence.size());
  }
  EXPECT_EQ(Status::kOk, get({}, kMaxEvidenceSize, &evidence));
  EXPECT_EQ(Status::kInvalidArgument, get({}, kMaxEvidenceSize + 1, &evidence));
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_unload_model, handle));
}

TEST_F(Evidence, RefusesMissingBuffers) {
  Bytes buffer(1000);
  uint8_t size[8] = {};
  const auto get_raw = [&](const uint8_t* nonce, uint8_t* out, uint8_t* out_size) {
    return enclave_.call(enclave_evidence, nonce, size_t{5}, out, buffer.size(), out_size);
  };
  EXPECT_EQ(Status::kOk, get_raw(buffer.data(), buffer.data(), size));
  EXPECT_EQ(Status::kInvalidArgument, get_raw(nullptr, buffer.data(), size));
  EXPECT_EQ(Status::kInvalidArgument, get_raw(buffer.data(), nullptr, size));
  EXPECT_EQ(Status::kInvalidArgument, get_raw(buffer.data(), buffer.data(), nullptr));
  EXPECT_EQ(Status::kOk,
            enclave_.call(enclave_evidence, nullptr, size_t{0}, buffer.data(), buffer.size(), size));
}

TEST_F(Evidence, ClaimsSayWhatThePlatformIs) {
  const Claims claims = enclave_.claims();
  EXPECT_EQ(1, claims.platform);
  EXPECT_EQ(1, claims.suites);
  EXPECT_EQ(1, claims.obliviousness);
  EXPECT_EQ(0, claims.rollback);
  EXPECT_EQ(1u, claims.epoch);
  EXPECT_TRUE(claims.models.empty());
  const RawEnclave other;
  const Claims others = other.claims();
  EXPECT_EQ(claims.config_digest, others.config_digest);
  EXPECT_NE(claims.instance, others.instance);
  EXPECT_NE(claims.epoch_public_key, others.epoch_public_key);
  EXPECT_NE(claims.receipt_public_key, others.receipt_public_key);
}

TEST_F(Evidence, ClaimsFollowTheEpoch) {
  const Claims first = enclave_.claims();
  ASSERT_EQ(Status::kOk, enclave_.call(enclave_new_epoch));
  const Claims second = enclave_.claims();
  EXPECT_EQ(2u, second.epoch);
  EXPECT_NE(first.epoch_public_key, second.epoch_public_key);
  EXPECT_EQ(first.receipt_public_key, second.receipt_public_key);
  EXPECT_EQ(first.instance, second.instance);
  ASSERT_EQ(Status::kOk, enclave_.call(enclave_end_former_epoch));
  EXPECT_EQ(second.epoch_digest, enclave_.claims().epoch_digest);
}

TEST_F(Evidence, ClaimsNameTheLoadedModelsInTheirOrder) {
  std::vector<uint64_t> handles;
  std::vector<Bytes> digests;
  for (const Kind kind : test::kAllKinds) {
    const Bytes flat = random_flat(kind, 9);
    Bytes sealed_model;
    ASSERT_EQ(Status::kOk, enclave_.seal(flat, test::name_of(kind), kMrenclave, &sealed_model));
    handles.push_back(0);
    ASSERT_EQ(Status::kOk, enclave_.load(sealed_model, &handles.back()));
    digests.push_back(test::sha256_of(flat));
  }
  ASSERT_EQ(Status::kOk, enclave_.call(enclave_unload_model, handles[2]));
  handles.erase(handles.begin() + 2);
  digests.erase(digests.begin() + 2);
  const Claims claims = enclave_.claims();
  ASSERT_EQ(handles.size(), claims.models.size());
  for (size_t i = 0; i < handles.size(); ++i) {
    const Shape shape = shape_of(enclave_, handles[i]);
    EXPECT_EQ(digests[i], claims.models[i].digest);
    EXPECT_EQ(Bytes(32), claims.models[i].owner);
    EXPECT_EQ(0u, claims.models[i].version);
    EXPECT_EQ(shape.features, claims.models[i].features);
    EXPECT_EQ(shape.groups, claims.models[i].groups);
    EXPECT_EQ(shape.columns, claims.models[i].value_columns);
    EXPECT_EQ(test::name_of(test::kAllKinds[i < 2 ? i : i + 1]), claims.models[i].id);
  }
}

TEST_F(Evidence, NamesAsManyModelsAsMayBeLoaded) {
  Bytes sealed_model;
  ASSERT_EQ(Status::kOk,
            enclave_.seal(random_flat(Kind::kStumps, 1), std::string(64, 'x'), kMrenclave, &sealed_model));
  uint64_t handle = 0;
  for (size_t i = 0; i < kMaxLoadedModels; ++i) ASSERT_EQ(Status::kOk, enclave_.load(sealed_model, &handle));
  EXPECT_EQ(256u, enclave_.claims(Bytes(64, 1)).models.size());
}

// ---- predictions ----

class Asking : public Boundary {
 protected:
  // What enclave_predict gives for the same rows.
  Floats direct(uint64_t handle, const PredictPlaintext& p, uint32_t columns) const {
    Floats predictions(p.row_count * columns);
    EXPECT_EQ(Status::kOk,
              enclave_.call(enclave_predict, handle, p.flags & test::kWantMargin, p.round_begin, p.round_end,
                            p.row_count, p.rows.data(), p.rows.size() * sizeof(float), p.base_margin.data(),
                            p.base_margin.size() * sizeof(float), predictions.data(),
                            predictions.size() * sizeof(float)));
    return predictions;
  }

  void expect_the_same(uint64_t handle, const Bytes& flat, const PredictPlaintext& p) const {
    const Shape shape = shape_of(enclave_, handle);
    const Bytes expected =
        bytes_of(direct(handle, p, (p.flags & test::kWantMargin) != 0 ? shape.groups : shape.columns));
    const auto answer_size = static_cast<uint32_t>(test::smallest_bucket(48 + expected.size()));
    const Answer answer = ask(sealed(p, test::sha256_of(flat), answer_size));
    EXPECT_EQ(0u, answer.status);
    EXPECT_EQ(expected, answer.content);
  }
};

// Margins or values, with or without a base margin, all rounds or some.
constexpr uint32_t kVariants = 8;

PredictPlaintext variant(uint32_t number, const Floats& rows, const Shape& shape) {
  PredictPlaintext p = test::predict_plaintext(rows, shape.features);
  p.flags = (number & 1) != 0 ? test::kWantMargin : 0;
  if ((number & 2) != 0) p.base_margin.assign(p.row_count * shape.groups, 1.5f);
  p.base_margin_size = p.base_margin.size() * sizeof(float);
  if ((number & 4) != 0) p.round_end = (shape.rounds + 1) / 2;
  return p;
}

TEST_F(Asking, EveryKindOfModelAnswersTheBitsOfAPlainPrediction) {
  test::Random random(5);
  for (const Kind kind : test::kAllKinds) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      test::BuiltModel built = test::random_model(kind, 40 + seed);
      if (seed == 1) {
        built.objective = 14;  // multi:softprob: values are not margins
        built.base_score.assign(built.group_count, 0.5f);
      }
      const Bytes flat = test::flat_bytes(built);
      const uint64_t handle = enclave_.loaded(flat);
      for (const size_t row_count : {0u, 1u, 33u}) {
        Floats rows(row_count * built.feature_count);
        for (float& x : rows) x = random.feature(seed == 0);
        for (uint32_t number = 0; number < kVariants; ++number) {
          SCOPED_TRACE(std::string(test::name_of(kind)) + " " + std::to_string(number));
          expect_the_same(handle, flat, variant(number, rows, shape_of(enclave_, handle)));
        }
      }
      EXPECT_EQ(Status::kOk, enclave_.call(enclave_unload_model, handle));
    }
  }
}

TEST_F(Asking, TheLargestRequestIsAnswered) {
  test::BuiltModel built;
  built.rounds = {{test::chain(3)}};
  const Bytes flat = test::flat_bytes(built);
  const uint64_t handle = enclave_.loaded(flat);
  Floats rows(((16u << 20) - 40) / 4);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 7) - 3;
  const PredictPlaintext p = test::predict_plaintext(rows, 1);
  ASSERT_EQ(size_t{16} << 20, test::padded(p.bytes()).size());
  EXPECT_EQ(static_cast<uint32_t>(Status::kAnswerTooSmall),
            ask(sealed(p, test::sha256_of(flat), 16u << 20)).status)
      << "8 bytes too many";
  rows.resize(rows.size() - 2);
  const PredictPlaintext fewer = test::predict_plaintext(rows, 1);
  const Answer answer = ask(sealed(fewer, test::sha256_of(flat), 16u << 20));
  EXPECT_EQ(0u, answer.status);
  EXPECT_EQ(bytes_of(direct(handle, fewer, 1)), answer.content);
}

TEST_F(Asking, ReceiptsFitTheEvidence) {
  confidential_ml_simulated_identity measured{};
  ASSERT_EQ(OE_OK, confidential_ml_simulation_identity(enclave_.get(), &measured));
  const Bytes flat = random_flat(Kind::kScalar, 4);
  const uint64_t handle = enclave_.loaded(flat);
  const Shape shape = shape_of(enclave_, handle);
  PredictPlaintext p = test::predict_plaintext(Floats(shape.features, 0.5f), shape.features);
  p.flags = test::kWantReceipt;
  const Claims claims = enclave_.claims();
  for (uint64_t counter = 1; counter <= 3; ++counter) {
    if (counter == 3) {
      ASSERT_EQ(Status::kOk, enclave_.call(enclave_new_epoch));
    }
    const SealedRequest request = sealed(p, test::sha256_of(flat), 512);
    const Answer answer = ask(request);
    const auto receipt = test::verify_receipt(answer.receipt, claims.receipt_public_key);
    ASSERT_TRUE(receipt.has_value());
    EXPECT_EQ(counter, receipt->counter) << "across epochs";
    EXPECT_EQ(claims.instance, receipt->instance);
    EXPECT_EQ(enclave_.claims().epoch_digest, receipt->epoch_digest);
    EXPECT_EQ(Bytes(measured.mrenclave, measured.mrenclave + 32), receipt->mrenclave);
    EXPECT_EQ(test::sha256_of(flat), receipt->model_digest);
    EXPECT_EQ(test::sha256_of(request.bytes), receipt->request_digest);
    EXPECT_EQ(test::blinded_content_digest(answer.blind, answer.content), receipt->content_digest);
  }
}

TEST_F(Asking, ManyClientsAtOnceAreEachAnsweredTheirOwn) {
  const Bytes flat = random_flat(Kind::kScalar, 4);
  const uint64_t handle = enclave_.loaded(flat);
  const Shape shape = shape_of(enclave_, handle);
  std::atomic<int> wrong{0}, counters_seen{0};
  std::vector<std::atomic<bool>> counters(test::kTcs * 20 + 1);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < test::kTcs; ++t) {
    threads.emplace_back([&, t] {
      PredictPlaintext p = test::predict_plaintext(
          Floats(10 * shape.features, static_cast<float>(t) * 0.3f - 1), shape.features);
      p.flags = test::kWantReceipt;
      const Bytes expected = bytes_of(direct(handle, p, 1));
      for (int i = 0; i < 20; ++i) {
        const Answer answer = ask(sealed(p, test::sha256_of(flat), 512));
        const auto receipt = test::verify_receipt(answer.receipt, enclave_.claims().receipt_public_key);
        wrong += answer.content != expected || !receipt.has_value();
        if (!receipt.has_value() || receipt->counter >= counters.size()) continue;
        counters_seen += !counters[receipt->counter].exchange(true);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(0, wrong);
  EXPECT_EQ(static_cast<int>(test::kTcs * 20), counters_seen) << "every number from 1 once";
}

// ---- what cannot be opened ----

// A model of 6 features, and everything that is wrong with a request for it.
class Unreadable : public Asking {
 protected:
  Unreadable() : flat_(random_flat(Kind::kScalar, 4)), digest_(test::sha256_of(flat_)) {
    const uint64_t handle = enclave_.loaded(flat_);
    const uint32_t features = shape_of(enclave_, handle).features;
    plaintext_ = test::padded(test::predict_plaintext(Floats(features, 0.5f), features).bytes());
  }

  Bytes with(const EpochKey& epoch, const std::function<void(RequestHeader*)>& change) const {
    RequestHeader header = test::request_header(epoch, test::kPredictKind, digest_, 256);
    change(&header);
    return test::seal_request(epoch, header, plaintext_).bytes;
  }
  Bytes genuine() const {
    return with(key(), [](RequestHeader*) {});
  }

  // Each with one thing wrong.
  std::vector<Bytes> unreadable_requests() const {
    const EpochKey epoch = key();
    std::vector<Bytes> requests = {
        with(epoch, [](RequestHeader* h) { h->version = 2; }),
        with(epoch, [](RequestHeader* h) { h->suite = 2; }),
        with(epoch, [](RequestHeader* h) { h->kind = test::kProvisionKind; }),
        with(epoch, [](RequestHeader* h) { h->kind = 3; }),
        with(epoch, [](RequestHeader* h) { h->zero = 1; }),
        with(epoch, [](RequestHeader* h) { h->key_id[0] ^= 1; }),
        with(epoch, [](RequestHeader* h) { h->answer_size = 257; }),
        with(epoch, [](RequestHeader* h) { h->answer_size = 0; }),
        with(epoch, [](RequestHeader* h) { h->answer_size = 18u << 20; }),
        with(epoch, [](RequestHeader* h) { h->answer_size = UINT32_MAX; }),
        with(epoch, [](RequestHeader* h) { h->zero_too = 1; }),
        test::seal_request(epoch, test::request_header(epoch, 1, digest_, 256), Bytes(255)).bytes,
        test::seal_request(epoch, test::request_header(epoch, 1, digest_, 256), {}).bytes,
    };
    const Bytes good = genuine();
    for (const size_t byte : {size_t{0}, size_t{20}, size_t{56}, size_t{87}, size_t{88}, good.size() - 17,
                              good.size() - 16, good.size() - 1}) {
      requests.push_back(test::flipped(good, 8 * byte + 7));
    }
    for (const size_t size : {size_t{0}, size_t{1}, size_t{51}, size_t{52}, size_t{56}, size_t{88},
                              size_t{103}, size_t{104}, size_t{120}, good.size() - 1}) {
      requests.push_back(part(good, 0, size));
    }
    requests.push_back(join({good, {0}}));
    requests.push_back(Bytes(360));
    requests.push_back(test::random_bytes(360));
    return requests;
  }

  struct Seen {
    Status status;
    Bytes answer, size;
    bool operator==(const Seen& other) const {
      return status == other.status && answer == other.answer && size == other.size;
    }
  };
  Seen look(const Bytes& request) const {
    Seen seen{Status::kOk, Bytes(320, 0xee), Bytes(8, 0xee)};
    seen.status = enclave_.call(enclave_answer_request, request.data(), request.size(), seen.answer.data(),
                                seen.answer.size(), seen.size.data());
    return seen;
  }

  const Bytes flat_, digest_;
  Bytes plaintext_;
};

TEST_F(Unreadable, LooksTheSameForEveryCause) {
  const Seen expected{Status::kRequestUnreadable, Bytes(320), Bytes(8)};
  const auto requests = unreadable_requests();
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_TRUE(look(requests[i]) == expected) << "request " << i;
  const Bytes of_first_epoch = genuine(), late = genuine();
  EXPECT_EQ(Status::kOk, look(late).status);
  EXPECT_TRUE(look(late) == expected) << "replay";
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_new_epoch));
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_end_former_epoch));
  EXPECT_TRUE(look(of_first_epoch) == expected) << "ended epoch";
  const RawEnclave restarted;
  const Bytes of_the_other =
      test::seal_request(test::epoch_key(restarted.claims()),
                         test::request_header(test::epoch_key(restarted.claims()), 1, digest_, 256),
                         plaintext_)
          .bytes;
  EXPECT_TRUE(look(of_the_other) == expected) << "another instance";
  EXPECT_EQ(Status::kOk, look(genuine()).status);
}

TEST_F(Unreadable, ProvisioningLooksTheSameForEveryCause) {
  for (const Bytes& request : unreadable_requests()) {
    Bytes sealed_model(1000, 0xee), answer(320, 0xee), sealed_size(8, 0xee), size(8, 0xee);
    EXPECT_EQ(
        Status::kRequestUnreadable,
        enclave_.call(enclave_import_model, request.data(), request.size(), sealed_model.data(),
                      sealed_model.size(), sealed_size.data(), answer.data(), answer.size(), size.data()));
    EXPECT_EQ(Bytes(1000), sealed_model);
    EXPECT_EQ(Bytes(320), answer);
    EXPECT_EQ(Bytes(16), join({sealed_size, size}));
  }
}

TEST_F(Unreadable, FormerEpochIsReadableUntilItEnds) {
  std::vector<Bytes> requests;
  for (int i = 0; i < 4; ++i) requests.push_back(genuine());
  EXPECT_EQ(Status::kOk, look(requests[0]).status);
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_new_epoch));
  EXPECT_EQ(Status::kOk, look(requests[1]).status);
  EXPECT_EQ(Status::kRequestUnreadable, look(requests[0]).status) << "replay";
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_new_epoch));
  EXPECT_EQ(Status::kRequestUnreadable, look(requests[2]).status);
  requests.push_back(genuine());
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_new_epoch));
  EXPECT_EQ(Status::kOk, enclave_.call(enclave_end_former_epoch));
  EXPECT_EQ(Status::kRequestUnreadable, look(requests[4]).status);
}

TEST_F(Unreadable, AfterARestartAllOldRequestsAre) {
  auto enclave = std::make_unique<RawEnclave>();
  const EpochKey epoch = test::epoch_key(enclave->claims());
  const Bytes request = with(epoch, [](RequestHeader*) {});
  enclave = std::make_unique<RawEnclave>();
  Bytes answer;
  EXPECT_EQ(Status::kRequestUnreadable, enclave->answer(request, &answer));
}

TEST_F(Unreadable, OfCopiesAtTheSameTimeExactlyOneIsAnswered) {
  for (int round = 0; round < 50; ++round) {
    const Bytes request = genuine();
    std::atomic<int> waiting{2}, answered{0}, unreadable{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t) {
      threads.emplace_back([&] {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        const Status status = look(request).status;
        answered += status == Status::kOk;
        unreadable += status == Status::kRequestUnreadable;
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(1, answered);
    ASSERT_EQ(1, unreadable);
  }
}

TEST_F(Unreadable, BuffersAreCheckedBeforeTheRequest) {
  const Bytes request = genuine();
  Bytes answer(kMaxAnswerContent + 65);
  uint8_t size[8] = {};
  const auto ask_raw = [&](const uint8_t* in, uint8_t* out, size_t capacity, uint8_t* out_size) {
    return enclave_.call(enclave_answer_request, in, request.size(), out, capacity, out_size);
  };
  const size_t largest = 64 + kMaxAnswerContent;
  EXPECT_EQ(Status::kInvalidArgument, ask_raw(nullptr, answer.data(), 320, size));
  EXPECT_EQ(Status::kInvalidArgument, ask_raw(request.data(), nullptr, 320, size));
  EXPECT_EQ(Status::kInvalidArgument, ask_raw(request.data(), answer.data(), 320, nullptr));
  EXPECT_EQ(Status::kInvalidArgument, ask_raw(request.data(), answer.data(), largest + 1, size));
  for (const size_t capacity : {size_t{0}, size_t{64}, size_t{319}}) {
    EXPECT_EQ(Status::kBufferTooSmall, ask_raw(request.data(), answer.data(), capacity, size)) << capacity;
  }
  EXPECT_EQ(0u, RawEnclave::used(size));
  EXPECT_EQ(Status::kOk, ask_raw(request.data(), answer.data(), largest, size)) << "nothing was used up";
  EXPECT_EQ(320u, RawEnclave::used(size));
}

TEST_F(Unreadable, BuffersOfProvisioningAreCheckedBeforeTheRequest) {
  const Bytes request = sealed(test::provision_plaintext(flat_, "m")).bytes;
  Bytes answer(576), sealed_model(kMaxSealedModelSize + 1);
  uint8_t sealed_size[8] = {}, size[8] = {};
  const auto import = [&](const uint8_t* in, uint8_t* out, size_t capacity, uint8_t* out_size, uint8_t* to,
                          size_t to_capacity, uint8_t* to_size) {
    return enclave_.call(enclave_import_model, in, request.size(), out, capacity, out_size, to, to_capacity,
                         to_size);
  };
  const uint8_t* in = request.data();
  uint8_t *out = sealed_model.data(), *to = answer.data();
  constexpr size_t kRoom = 20000;
  for (const Status status : {
           import(nullptr, out, kRoom, sealed_size, to, 576, size),
           import(in, nullptr, kRoom, sealed_size, to, 576, size),
           import(in, out, kRoom, nullptr, to, 576, size),
           import(in, out, kRoom, sealed_size, nullptr, 576, size),
           import(in, out, kRoom, sealed_size, to, 576, nullptr),
           import(in, out, kMaxSealedModelSize + 1, sealed_size, to, 576, size),
       }) {
    EXPECT_EQ(Status::kInvalidArgument, status);
  }
  EXPECT_EQ(Status::kBufferTooSmall, import(in, out, kRoom, sealed_size, to, 575, size));
  EXPECT_EQ(Status::kOk, import(in, out, kRoom, sealed_size, to, 576, size)) << "nothing was used up";
  EXPECT_EQ(576u, RawEnclave::used(size));
  EXPECT_GT(RawEnclave::used(sealed_size), flat_.size());
}

// ---- provisioning ----

class Provisioning : public Boundary {
 protected:
  ProvisionPlaintext owned(uint64_t version, uint32_t policy) const {
    ProvisionPlaintext p = test::provision_plaintext(flat_, "credit");
    p.policy = policy;
    p.model_version = version;
    p.owner = owner_.public_key;
    p.signature = test::owner_signature(owner_, test::sha256_of(flat_), version, "credit");
    return p;
  }

  const Bytes flat_ = random_flat(Kind::kCategorical, 6);
  const test::OwnerKey owner_ = test::new_owner();
};

TEST_F(Provisioning, WhatWasSentIsSealedLoadedClaimedAndPredictedWith) {
  const SealedRequest request = sealed(owned(41, kMrsigner));
  Bytes sealed_model, bytes;
  ASSERT_EQ(Status::kOk, enclave_.import(request.bytes, &sealed_model, &bytes));
  const auto answer = test::open_answer(request, bytes);
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(0u, answer->status);
  const auto receipt = test::verify_receipt(answer->receipt, enclave_.claims().receipt_public_key);
  ASSERT_TRUE(receipt.has_value());
  EXPECT_EQ(2, receipt->kind);
  EXPECT_EQ(test::sha256_of(sealed_model), receipt->content_digest);
  uint64_t handle = 0;
  ASSERT_EQ(Status::kOk, enclave_.load(sealed_model, &handle));
  const Claims claims = enclave_.claims();
  ASSERT_EQ(1u, claims.models.size());
  EXPECT_EQ(test::sha256_of(flat_), claims.models[0].digest);
  EXPECT_EQ(owner_.public_key, claims.models[0].owner);
  EXPECT_EQ(41u, claims.models[0].version);
  EXPECT_EQ("credit", claims.models[0].id);
  uint8_t description[192] = {};
  ASSERT_EQ(Status::kOk, enclave_.call(enclave_describe_model, handle, description, sizeof description));
  EXPECT_EQ(
      join({test::sha256_of(flat_), owner_.public_key, {41, 0, 0, 0, 0, 0, 0, 0}, test::text("credit")}),
      Bytes(description + 56, description + 56 + 32 + 32 + 8 + 6));
  const Shape shape = shape_of(enclave_, handle);
  PredictPlaintext p = test::predict_plaintext(Floats(shape.features, 1), shape.features);
  p.flags = test::kWantReceipt;
  const Answer predicted = ask(sealed(p, test::sha256_of(flat_), 512));
  EXPECT_EQ(0u, predicted.status);
  const auto of_prediction = test::verify_receipt(predicted.receipt, claims.receipt_public_key);
  ASSERT_TRUE(of_prediction.has_value());
  EXPECT_EQ(owner_.public_key, of_prediction->owner);
  EXPECT_EQ(41u, of_prediction->model_version);
  EXPECT_EQ(receipt->counter + 1, of_prediction->counter);
}

TEST_F(Provisioning, IsForTheEnclavesThatThePolicySays) {
  const RawEnclave base(true, TEST_IMAGES "/base.signed"), rebuilt(true, TEST_IMAGES "/rebuilt.signed");
  const EpochKey epoch = test::epoch_key(base.claims());
  for (const uint32_t policy : {kMrenclave, kMrsigner}) {
    const auto request =
        test::seal_request(epoch, test::request_header(epoch, test::kProvisionKind, Bytes(32), 512),
                           test::padded(owned(1, policy).bytes()));
    Bytes sealed_model, bytes;
    uint64_t handle = 0;
    ASSERT_EQ(Status::kOk, base.import(request.bytes, &sealed_model, &bytes));
    EXPECT_EQ(Status::kOk, base.load(sealed_model, &handle));
    EXPECT_EQ(policy == kMrenclave ? Status::kSealedKeyDiffers : Status::kOk,
              rebuilt.load(sealed_model, &handle));
  }
}

TEST_F(Provisioning, FailuresLeaveNothingForTheHost) {
  const auto fails_with = [&](Status expected, const ProvisionPlaintext& p) {
    const SealedRequest request = sealed(p);
    Bytes sealed_model(request.bytes.size() + 5000, 0xee), bytes(576, 0xee), sealed_size(8, 0xee);
    uint8_t size[8] = {};
    ASSERT_EQ(Status::kOk, enclave_.call(enclave_import_model, request.bytes.data(), request.bytes.size(),
                                         sealed_model.data(), sealed_model.size(), sealed_size.data(),
                                         bytes.data(), bytes.size(), size));
    EXPECT_EQ(576u, RawEnclave::used(size));
    EXPECT_EQ(Bytes(sealed_model.size()), sealed_model);
    EXPECT_EQ(Bytes(8), sealed_size);
    const auto answer = test::open_answer(request, bytes);
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(expected, static_cast<Status>(answer->status));
    EXPECT_TRUE(answer->receipt.empty());
  };
  ProvisionPlaintext p = owned(41, kMrenclave);
  p.model_version = 42;
  fails_with(Status::kOwnerSignatureWrong, p);
  p = owned(41, 3);
  fails_with(Status::kSealingPolicyUnknown, p);
  p = owned(41, kMrenclave);
  p.flat[56] ^= 1;
  fails_with(Status::kModelSizeWrong, p);
  p = test::provision_plaintext(flat_, "not an id");
  fails_with(Status::kModelIdInvalid, p);
  p = owned(41, kMrenclave);
  p.zero = 1;
  fails_with(Status::kRequestInvalid, p);
  EXPECT_TRUE(enclave_.claims().models.empty());
}

// ---- owners at enclave_seal_model ----

TEST_F(Provisioning, OwnersOfModelsSealedHereAreCheckedToo) {
  const Bytes good = join({owner_.public_key, owned(7, kMrenclave).signature});
  const auto seal = [&](const uint8_t* owner, size_t owner_size, uint64_t version, Bytes* out) {
    const uint8_t id[] = {'c', 'r', 'e', 'd', 'i', 't'};
    uint8_t size[8] = {};
    out->assign(flat_.size() + 5000, 0);
    const Status status =
        enclave_.call(enclave_seal_model, flat_.data(), flat_.size(), id, sizeof id, kMrenclave, version,
                      owner, owner_size, out->data(), out->size(), size);
    out->resize(RawEnclave::used(size));
    return status;
  };
  Bytes sealed_model;
  EXPECT_EQ(Status::kInvalidArgument, seal(nullptr, 96, 7, &sealed_model));
  for (const size_t size : {size_t{1}, size_t{32}, size_t{64}, size_t{95}}) {
    EXPECT_EQ(Status::kInvalidArgument, seal(good.data(), size, 7, &sealed_model)) << size;
  }
  EXPECT_EQ(Status::kInvalidArgument, seal(join({good, {0}}).data(), 97, 7, &sealed_model));
  EXPECT_EQ(Status::kOwnerSignatureWrong, seal(good.data(), 96, 8, &sealed_model));
  EXPECT_TRUE(sealed_model.empty());
  EXPECT_EQ(Status::kOk, seal(good.data(), 96, 7, &sealed_model));
  uint64_t handle = 0;
  ASSERT_EQ(Status::kOk, enclave_.load(sealed_model, &handle));
  EXPECT_EQ(owner_.public_key, enclave_.claims().models.at(0).owner);
  EXPECT_EQ(7u, enclave_.claims().models.at(0).version);
}

// ---- host::Enclave ----

host::ByteView view(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }
host::ByteView view(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

template <typename Body>
Status thrown_by(Body body) {
  try {
    body();
  } catch (const host::EnclaveException& exception) {
    return exception.status();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Status::kOk;
}

class HostEnclaveRequests : public ::testing::Test {
 protected:
  EpochKey key() {
    const std::string evidence = enclave_.evidence({});
    const auto claims = test::parse_claims(test::text(evidence.substr(RawEnclave::kReportBodySize)));
    EXPECT_TRUE(claims.has_value());
    return test::epoch_key(*claims);
  }

  SealedRequest sealed(uint16_t kind, const Bytes& digest, const Bytes& content) {
    const EpochKey epoch = key();
    return test::seal_request(epoch, test::request_header(epoch, kind, digest, 512), test::padded(content));
  }

  host::Enclave enclave_{CONFIDENTIAL_ML_IMAGE, view(test::kFuseKey)};
  const Bytes flat_ = random_flat(Kind::kScalar, 4);
};

TEST_F(HostEnclaveRequests, ProvisionLoadAskAndChangeTheEpoch) {
  const SealedRequest provision =
      sealed(test::kProvisionKind, Bytes(32), test::provision_plaintext(flat_, "m").bytes());
  const host::ImportedModel imported = enclave_.import_model(view(provision.bytes));
  const auto provisioned = test::open_answer(provision, test::text(imported.answer));
  ASSERT_TRUE(provisioned.has_value());
  EXPECT_EQ(0u, provisioned->status);
  const uint64_t handle = enclave_.load_model(view(imported.sealed));
  const host::ModelDescription model = enclave_.describe_model(handle);
  EXPECT_EQ(std::string(32, '\0'), model.owner);
  const auto plaintext = test::predict_plaintext(Floats(model.feature_count, 0.5f), model.feature_count);
  const auto request = [&] {
    return sealed(test::kPredictKind, test::text(model.digest), plaintext.bytes());
  };
  const SealedRequest first = request(), late = request(), too_late = request();
  const auto answer = test::open_answer(first, test::text(enclave_.answer_request(view(first.bytes))));
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(4u, answer->content.size());
  EXPECT_EQ(Status::kRequestUnreadable, thrown_by([&] { enclave_.answer_request(view(first.bytes)); }));
  enclave_.new_epoch();
  EXPECT_EQ(576u, enclave_.answer_request(view(late.bytes)).size());
  enclave_.end_former_epoch();
  EXPECT_EQ(Status::kRequestUnreadable, thrown_by([&] { enclave_.answer_request(view(too_late.bytes)); }));
}

TEST_F(HostEnclaveRequests, OwnersAndVersionsGoThrough) {
  const test::OwnerKey owner = test::new_owner();
  const Bytes signature = test::owner_signature(owner, test::sha256_of(flat_), 3, "m");
  const std::string sealed_model =
      enclave_.seal_model(view(flat_), {"m", kMrenclave, 3, view(join({owner.public_key, signature}))});
  const host::ModelDescription model = enclave_.describe_model(enclave_.load_model(view(sealed_model)));
  EXPECT_EQ(owner.public_key, test::text(model.owner));
  EXPECT_EQ(3u, model.model_version);
  EXPECT_EQ(
      Status::kOwnerSignatureWrong, thrown_by([&] {
        enclave_.seal_model(view(flat_), {"m", kMrenclave, 4, view(join({owner.public_key, signature}))});
      }));
}

TEST_F(HostEnclaveRequests, AFailedProvisioningHasAnAnswerAndNoModel) {
  const SealedRequest request =
      sealed(test::kProvisionKind, Bytes(32), test::provision_plaintext(flat_, "-").bytes());
  const host::ImportedModel imported = enclave_.import_model(view(request.bytes));
  EXPECT_TRUE(imported.sealed.empty());
  const auto answer = test::open_answer(request, test::text(imported.answer));
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(static_cast<uint32_t>(Status::kModelIdInvalid), answer->status);
}

TEST_F(HostEnclaveRequests, NonceAndEvidenceHaveTheirSizes) {
  EXPECT_EQ(384u + 152, enclave_.evidence({}).size());
  EXPECT_EQ(384u + 152 + 64, enclave_.evidence(view(Bytes(64))).size());
  EXPECT_EQ(Status::kInvalidArgument, thrown_by([&] { enclave_.evidence(view(Bytes(65))); }));
}

TEST_F(HostEnclaveRequests, WhatIsNoRequestIsUnreadable) {
  const SealedRequest good = sealed(test::kPredictKind, Bytes(32), test::predict_plaintext({1}, 1).bytes());
  Bytes large_answer = good.bytes;
  large_answer[51] = 0xff;
  for (const Bytes& bytes :
       {Bytes(), Bytes(51), Bytes(52), part(good.bytes, 0, 104), part(good.bytes, 0, 120), large_answer}) {
    EXPECT_EQ(Status::kRequestUnreadable, thrown_by([&] { enclave_.answer_request(view(bytes)); }));
    EXPECT_EQ(Status::kRequestUnreadable, thrown_by([&] { enclave_.import_model(view(bytes)); }));
  }
}

// Anybody can write a header; the answer it asks for is not set aside before the enclave has seen it.
TEST_F(HostEnclaveRequests, LongAnswersAreForRequestsThatCanNeedThem) {
  const uint64_t handle =
      enclave_.load_model(view(enclave_.seal_model(view(flat_), {"m", kMrenclave, 0, {}})));
  const host::ModelDescription model = enclave_.describe_model(handle);
  const size_t columns = std::max(model.group_count, model.value_columns);
  const size_t rows = (200u << 10) / (4 * columns);
  const auto plaintext = test::padded(
      test::predict_plaintext(Floats(rows * model.feature_count, 0.5f), model.feature_count).bytes());
  const size_t most_rows = (plaintext.size() - 40) / (4 * model.feature_count);
  const auto longest = static_cast<uint32_t>(test::smallest_bucket(48 + 344 + most_rows * columns * 4));
  const auto status = [&](uint32_t answer_size, const EpochKey& epoch) {
    const auto header =
        test::request_header(epoch, test::kPredictKind, test::text(model.digest), answer_size);
    const SealedRequest request = test::seal_request(epoch, header, plaintext);
    const auto outcome = [](auto call) {
      try {
        call();
      } catch (const host::EnclaveException& error) {
        return error.status();
      }
      return Status::kOk;
    };
    const Status checked =
        outcome([&] { enclave_.check_request(view(part(request.bytes, 0, 56)), request.bytes.size()); });
    const Status asked = outcome([&] { enclave_.answer_request(view(request.bytes)); });
    EXPECT_EQ(asked, checked);
    return asked;
  };
  EXPECT_EQ(Status::kOk, status(256, key()));
  EXPECT_EQ(Status::kOk, status(longest, key()));
  EXPECT_EQ(Status::kRequestUnreadable,
            status(static_cast<uint32_t>(test::smallest_bucket(longest + 1)), key()));
  EpochKey other = key();
  other.digest[0] ^= 1;
  EXPECT_EQ(Status::kRequestUnreadable, status(longest, other));
}

TEST_F(HostEnclaveRequests, RefusesWhatIsTooLargeBeforeItCopiesIt) {
  const Bytes header = part(sealed(test::kPredictKind, Bytes(32), Bytes(1)).bytes, 0, 56);
  EXPECT_EQ(Status::kRequestUnreadable, thrown_by([&] {
              enclave_.answer_request({header.data(), 120 + (size_t{16} << 20) + 1});
            }));
  EXPECT_EQ(Status::kRequestUnreadable, thrown_by([&] {
              enclave_.import_model({header.data(), 120 + (size_t{144} << 20) + 1});
            }));
}

}  // namespace
}  // namespace confidential_ml
