// docs/protocol.md sections 3.1 to 4.1: what an opened request is answered. Whatever is wrong with it is said
// inside an answer that is as long as the request asked for, whatever it says.

#include "enclave/confidential_request.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "enclave/prediction.h"
#include "tests/cpp/engine_models.h"
#include "tests/cpp/protocol_client.h"
#include "tests/cpp/status_printer.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {
namespace {

using test::Answer;
using test::Bytes;
using test::PredictPlaintext;
using test::ProvisionPlaintext;
using test::SealedRequest;
using Floats = std::vector<float>;

Bytes bytes_of(const Floats& values) {
  Bytes bytes(values.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

class ConfidentialRequest : public ::testing::Test {
 protected:
  ConfidentialRequest() {
    test::become(test::default_identity());
    const Bytes fuse_key(32, 1);
    EXPECT_EQ(Status::kOk, platform_start({fuse_key.data(), fuse_key.size()}));
    EXPECT_EQ(Status::kOk, channel_.start());
  }

  test::EpochKey key() const {
    uint8_t part[kEpochPartSize];
    channel_.epoch_part(part);
    return test::epoch_key(part);
  }

  SealedRequest sealed(uint16_t kind, const Bytes& digest, uint32_t answer_size,
                       const Bytes& plaintext) const {
    return test::seal_request(key(), test::request_header(key(), kind, digest, answer_size), plaintext);
  }

  Bytes receipt_key() const {
    const uint8_t* key = channel_.receipt_key().public_key;
    return Bytes(key, key + 32);
  }

  Channel channel_;
  Registry registry_;
};

// ---- predictions ----

// A model of 3 features, 2 groups and 4 rounds that is loaded under a digest of its own, and 5 rows for it.
class PredictRequestTest : public ConfidentialRequest {
 protected:
  PredictRequestTest() {
    test::BuiltModel built;
    built.feature_count = 3;
    built.group_count = 2;
    built.base_score = {0.25f, -1.0f};
    for (uint32_t round = 0; round < 4; ++round) {
      test::BuiltTree tree = test::chain(2);
      tree.group = round % 2;
      tree.nodes[0].feature = round % 3;
      built.rounds.push_back({tree});
    }
    SealedDescription description{};
    std::fill_n(description.model_digest, 32, uint8_t{0xd1});
    std::fill_n(description.ownership.owner, 32, uint8_t{0x0e});
    description.ownership.model_version = 12;
    uint64_t handle = 0;
    loaded_ = std::make_shared<const LoadedModel>(test::parsed(built), description);
    EXPECT_EQ(Status::kOk, registry_.add(loaded_, &handle));
    good_ = test::predict_plaintext({0.5f, -2, 3, 1, 0, -1, 9, 8, -7, 0.25f, 0.5f, 1e9f, -0.0f, 0, 2}, 3);
  }

  // What the client reads; the answer is always there and always as long as it asked for.
  Answer ask(const Bytes& plaintext, uint32_t answer_size = test::kLeastAnswer,
             const Bytes& digest = kDigest) {
    const SealedRequest request = sealed(test::kPredictKind, digest, answer_size, plaintext);
    Bytes buffer(kAnswerOverhead + answer_size + 100, 0xee);
    OutputBuffer output{buffer.data(), buffer.size(), 0};
    EXPECT_EQ(Status::kOk,
              answer_request(&channel_, registry_, {request.bytes.data(), request.bytes.size()}, &output));
    EXPECT_EQ(64u + answer_size, output.size);
    EXPECT_EQ(Bytes(100, 0xee), test::part(buffer, buffer.size() - 100, 100));
    buffer.resize(output.size);
    last_request_ = request;
    const auto answer = test::open_answer(request, buffer);
    EXPECT_TRUE(answer.has_value());
    return answer.value_or(Answer{});
  }

  template <typename Change>
  Status status_with(Change change, uint32_t answer_size = test::kLeastAnswer) {
    PredictPlaintext changed = good_;
    change(&changed);
    return static_cast<Status>(ask(test::padded(changed.bytes()), answer_size).status);
  }

  // What the engine says without a channel.
  Floats expected(const PredictPlaintext& p) const {
    const bool margin = (p.flags & test::kWantMargin) != 0;
    Floats predictions(p.row_count * prediction_columns(loaded_->forest.model(), margin));
    EXPECT_EQ(Status::kOk, predict(*loaded_, {margin,
                                              {p.round_begin, p.round_end},
                                              p.row_count,
                                              p.rows.data(),
                                              p.rows.size() * sizeof(float),
                                              p.base_margin.data(),
                                              p.base_margin.size() * sizeof(float),
                                              predictions.data(),
                                              predictions.size() * sizeof(float)}));
    return predictions;
  }

  static inline const Bytes kDigest = Bytes(32, 0xd1);
  std::shared_ptr<const LoadedModel> loaded_;
  PredictPlaintext good_;
  SealedRequest last_request_;
};

TEST_F(PredictRequestTest, AnswersWhatTheEngineSays) {
  for (const uint32_t flags : {0u, test::kWantMargin}) {
    PredictPlaintext p = good_;
    p.flags = flags;
    const Answer answer = ask(test::padded(p.bytes()));
    EXPECT_EQ(0u, answer.status);
    EXPECT_EQ(bytes_of(expected(p)), answer.content);
    EXPECT_TRUE(answer.receipt.empty());
  }
}

TEST_F(PredictRequestTest, AnswersRoundsAndBaseMarginAsTheEngine) {
  const Bytes all = bytes_of(expected(good_));
  PredictPlaintext p = good_;
  p.round_begin = 1;
  p.round_end = 2;
  EXPECT_EQ(bytes_of(expected(p)), ask(test::padded(p.bytes())).content);
  EXPECT_NE(all, bytes_of(expected(p)));
  p = good_;
  p.base_margin = Floats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  p.base_margin_size = 40;
  EXPECT_EQ(bytes_of(expected(p)), ask(test::padded(p.bytes())).content);
  EXPECT_NE(all, bytes_of(expected(p)));
}

TEST_F(PredictRequestTest, NoRowsAreAnsweredWithNothing) {
  PredictPlaintext p = good_;
  p.rows.clear();
  p.row_count = 0;
  const Answer answer = ask(test::padded(p.bytes()));
  EXPECT_EQ(0u, answer.status);
  EXPECT_TRUE(answer.content.empty());
  p.round_end = 5;
  EXPECT_EQ(static_cast<uint32_t>(Status::kRoundsOutOfRange), ask(test::padded(p.bytes())).status);
}

TEST_F(PredictRequestTest, AnswersUpToTheLastByte) {
  PredictPlaintext p = good_;
  const auto with_rows = [&](size_t rows, uint32_t answer_size) -> Status {
    p.rows.assign(rows * 3, 0.5f);
    p.row_count = rows;
    const Answer answer = ask(test::padded(p.bytes()), answer_size);
    EXPECT_EQ(answer.status == 0 ? rows * 8 : 0, answer.content.size());
    return static_cast<Status>(answer.status);
  };
  EXPECT_EQ(Status::kOk, with_rows(26, 256)) << "48 + 26 x 8 bytes";
  EXPECT_EQ(Status::kAnswerTooSmall, with_rows(27, 256));
  p.flags = test::kWantReceipt;
  EXPECT_EQ(Status::kOk, with_rows(3, 416)) << "48 + 3 x 8 + 344 bytes";
  EXPECT_EQ(Status::kAnswerTooSmall, with_rows(4, 416));
  EXPECT_EQ(Status::kAnswerTooSmall, with_rows(0, 256));
}

// ---- what is asked for in clear ----

// The model has 3 features and 2 groups. What is sent here is no request beyond its header.
TEST_F(PredictRequestTest, NobodyAsksForMoreThanARequestOfThatLengthCanNeed) {
  const auto status = [&](uint32_t answer_size, uint64_t plaintext_size, uint16_t kind = test::kPredictKind,
                          const Bytes& digest = kDigest) {
    const Bytes header = test::request_header(key(), kind, digest, answer_size).bytes();
    return check_request(channel_, registry_, {header.data(), header.size()}, 120 + plaintext_size);
  };
  constexpr uint32_t kSmall = 64u << 10;
  const auto size_of = [](uint64_t content) { return static_cast<uint32_t>(test::smallest_bucket(content)); };
  const auto next = [&](uint32_t size) { return size_of(uint64_t{size} + 1); };
  EXPECT_EQ(Status::kOk, status(kSmall, 256));
  EXPECT_EQ(Status::kRequestUnreadable, status(next(kSmall), 256));
  EXPECT_EQ(Status::kRequestUnreadable, status(16u << 20, 256));
  const uint32_t longest = size_of(48 + 344 + ((1u << 20) - 40) / 12 * 8);
  EXPECT_EQ(Status::kOk, status(longest, 1u << 20));
  EXPECT_EQ(Status::kRequestUnreadable, status(next(longest), 1u << 20));
  // Of a model that is not there, as many values as features.
  const uint32_t longest_unknown = size_of(48 + 344 + (1u << 20) - 40);
  EXPECT_EQ(Status::kOk, status(longest_unknown, 1u << 20, test::kPredictKind, Bytes(32, 7)));
  EXPECT_EQ(Status::kRequestUnreadable,
            status(next(longest_unknown), 1u << 20, test::kPredictKind, Bytes(32, 7)));
  EXPECT_EQ(Status::kOk, status(kSmall, 1u << 20, test::kProvisionKind, Bytes(32)));
  EXPECT_EQ(Status::kRequestUnreadable, status(next(kSmall), 1u << 20, test::kProvisionKind, Bytes(32)));
}

TEST_F(PredictRequestTest, AHeaderThatCannotBeOpenedIsToldWithoutTheRest) {
  const auto status = [&](const test::RequestHeader& header, uint64_t size = 376) {
    const Bytes bytes = header.bytes();
    return check_request(channel_, registry_, {bytes.data(), bytes.size()}, size);
  };
  const test::RequestHeader good = test::request_header(key(), test::kPredictKind, kDigest, 256);
  EXPECT_EQ(Status::kOk, status(good));
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{119}, uint64_t{377}, uint64_t{120} + (18u << 20), UINT64_MAX})
    EXPECT_EQ(Status::kRequestUnreadable, status(good, size)) << size;
  test::RequestHeader other = good;
  other.key_id[7] ^= 1;
  EXPECT_EQ(Status::kRequestUnreadable, status(other));
  other = good;
  other.kind = 3;
  EXPECT_EQ(Status::kRequestUnreadable, status(other));
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  EXPECT_EQ(Status::kOk, status(good)) << "the former key still opens requests";
  channel_.end_former_epoch();
  EXPECT_EQ(Status::kRequestUnreadable, status(good));
}

// ---- refused inside the answer ----

TEST_F(PredictRequestTest, FlagsWithoutMeaningAreInvalid) {
  for (uint32_t bit = 2; bit < 32; ++bit) {
    EXPECT_EQ(Status::kRequestInvalid, status_with([&](auto* p) { p->flags = 1u << bit; })) << bit;
  }
}

TEST_F(PredictRequestTest, SizesThatDoNotAddUpAreInvalid) {
  const auto row_count = [&](uint64_t count) { return status_with([&](auto* p) { p->row_count = count; }); };
  for (const uint64_t count : {uint64_t{100}, (uint64_t{1} << 24) + 1, (uint64_t{1} << 32) + 5,
                               (uint64_t{1} << 62) + 5, uint64_t{0x5555555555555556}, UINT64_MAX}) {
    EXPECT_EQ(Status::kRequestInvalid, row_count(count)) << count;
  }
  for (const uint32_t features : {100u, 0x40000003u, 0x80000003u, UINT32_MAX}) {
    EXPECT_EQ(Status::kRequestInvalid, status_with([&](auto* p) { p->features = features; })) << features;
  }
  for (const uint64_t size : {uint64_t{1000}, uint64_t{16u << 20} + 4, (uint64_t{1} << 32), UINT64_MAX - 3,
                              UINT64_MAX - 99, (uint64_t{1} << 63)}) {
    EXPECT_EQ(Status::kRequestInvalid, status_with([&](auto* p) { p->base_margin_size = size; })) << size;
  }
  // The fields alone, as far as 64 bits can tell, and then zeros.
  EXPECT_EQ(Status::kRequestInvalid, status_with([](auto* p) {
              std::fill(p->rows.begin(), p->rows.end(), 0.0f);
              p->base_margin_size = UINT64_MAX - 59;
            }));
  // 2^64 bytes, as far as 64 bits can tell.
  EXPECT_EQ(Status::kRequestInvalid, status_with([](auto* p) {
              p->row_count = uint64_t{1} << 32;
              p->features = 1u << 30;
            }));
}

// Fewer rows than there are: what is left over is no padding.
TEST_F(PredictRequestTest, BytesLeftOverAreInvalid) {
  EXPECT_EQ(Status::kRequestInvalid, status_with([](auto* p) { p->row_count = 4; }));
  EXPECT_EQ(Status::kRequestInvalid, status_with([](auto* p) { p->features = 2; }));
  EXPECT_EQ(Status::kRequestInvalid, status_with([](auto* p) { p->base_margin = Floats(10, 1); }));
}

TEST_F(PredictRequestTest, PaddingIsZeros) {
  const Bytes good = test::padded(good_.bytes());
  const size_t content = good_.bytes().size();
  ASSERT_EQ(100u, content);
  EXPECT_EQ(0u, ask(good).status);
  for (size_t i = content; i < good.size(); ++i) {
    Bytes changed = good;
    changed[i] = static_cast<uint8_t>(1u << i % 8);
    EXPECT_EQ(static_cast<uint32_t>(Status::kRequestInvalid), ask(changed).status) << i;
  }
}

TEST_F(PredictRequestTest, PaddingGoesToTheSmallestBucket) {
  for (const size_t size : {288u, 512u, 1024u, 1u << 20}) {
    Bytes plaintext = good_.bytes();
    plaintext.resize(size);
    EXPECT_EQ(static_cast<uint32_t>(Status::kRequestInvalid), ask(plaintext).status) << size;
  }
}

TEST_F(PredictRequestTest, OtherModelsAreUnknown) {
  const Bytes good = test::padded(good_.bytes());
  Bytes other = kDigest;
  other[31] ^= 1;
  EXPECT_EQ(static_cast<uint32_t>(Status::kUnknownModel), ask(good, 256, other).status);
  EXPECT_EQ(static_cast<uint32_t>(Status::kUnknownModel), ask(good, 256, Bytes(32)).status);
  Bytes invalid = good;
  invalid.back() = 1;
  EXPECT_EQ(static_cast<uint32_t>(Status::kRequestInvalid), ask(invalid, 256, other).status)
      << "the form is looked at first";
  EXPECT_EQ(Status::kOk, registry_.remove(1));
  EXPECT_EQ(static_cast<uint32_t>(Status::kUnknownModel), ask(good).status);
}

TEST_F(PredictRequestTest, RowsOfAnotherWidthAreNamed) {
  EXPECT_EQ(Status::kRowsSizeWrong, status_with([](auto* p) {
              p->features = 5;
              p->row_count = 3;
            }));
  EXPECT_EQ(Status::kRowsSizeWrong, status_with([](auto* p) {
              p->features = 0;
              p->row_count = 0;
              p->rows.clear();
            }));
}

TEST_F(PredictRequestTest, RoundsOutOfRangeAreNamed) {
  const auto rounds = [&](uint32_t begin, uint32_t end) {
    return status_with([&](auto* p) {
      p->round_begin = begin;
      p->round_end = end;
    });
  };
  EXPECT_EQ(Status::kOk, rounds(0, 4));
  EXPECT_EQ(Status::kOk, rounds(4, 4));
  EXPECT_EQ(Status::kRoundsOutOfRange, rounds(0, 5));
  EXPECT_EQ(Status::kRoundsOutOfRange, rounds(5, 0));
  EXPECT_EQ(Status::kRoundsOutOfRange, rounds(3, 2));
  EXPECT_EQ(Status::kRoundsOutOfRange, rounds(UINT32_MAX, UINT32_MAX));
}

TEST_F(PredictRequestTest, BaseMarginsOfAnotherSizeAreNamed) {
  for (const uint64_t size : {1u, 2u, 6u, 38u}) {  // zeros that might be padding
    EXPECT_EQ(Status::kBaseMarginSizeWrong, status_with([&](auto* p) { p->base_margin_size = size; }))
        << size;
  }
  for (const size_t count : {1u, 5u, 9u, 11u, 15u}) {
    EXPECT_EQ(Status::kBaseMarginSizeWrong, status_with([&](auto* p) {
                p->base_margin.assign(count, 1);
                p->base_margin_size = count * 4;
              }))
        << count;
  }
}

// ---- receipts ----

TEST_F(PredictRequestTest, ReceiptsTellWhatWasAnswered) {
  good_.flags = test::kWantReceipt;
  good_.time = 1700000000123;
  for (uint64_t counter = 1; counter <= 3; ++counter) {
    const Answer answer = ask(test::padded(good_.bytes()), 512);
    EXPECT_EQ(0u, answer.status);
    EXPECT_EQ(bytes_of(expected(good_)), answer.content);
    const auto receipt = test::verify_receipt(answer.receipt, receipt_key());
    ASSERT_TRUE(receipt.has_value());
    EXPECT_EQ(1, receipt->kind);
    EXPECT_EQ(0, receipt->policy);
    EXPECT_EQ(counter, receipt->counter);
    EXPECT_EQ(1700000000123u, receipt->time);
    EXPECT_EQ(12u, receipt->model_version);
    EXPECT_EQ(Bytes(channel_.instance(), channel_.instance() + 16), receipt->instance);
    EXPECT_EQ(kDigest, receipt->model_digest);
    EXPECT_EQ(Bytes(32, 0x0e), receipt->owner);
    EXPECT_EQ(key().digest, receipt->epoch_digest);
    EXPECT_EQ(Bytes(32, 0xe1), receipt->mrenclave);
    EXPECT_EQ(test::sha256_of(last_request_.bytes), receipt->request_digest);
    EXPECT_EQ(test::blinded_content_digest(answer.blind, answer.content), receipt->content_digest);
  }
}

TEST_F(PredictRequestTest, EveryReceiptHasABlindOfItsOwn) {
  good_.flags = test::kWantReceipt;
  const Answer one = ask(test::padded(good_.bytes()), 512), other = ask(test::padded(good_.bytes()), 512);
  EXPECT_EQ(one.content, other.content);
  EXPECT_NE(one.blind, other.blind);
  EXPECT_NE(test::part(one.receipt, 216, 32), test::part(other.receipt, 216, 32));
}

TEST_F(PredictRequestTest, WhatWasRefusedHasNoReceiptAndNoNumber) {
  good_.flags = test::kWantReceipt;
  PredictPlaintext wrong = good_;
  wrong.round_end = 9;
  const Answer refused = ask(test::padded(wrong.bytes()), 512);
  EXPECT_EQ(static_cast<uint32_t>(Status::kRoundsOutOfRange), refused.status);
  EXPECT_TRUE(refused.receipt.empty());
  const auto receipt = test::verify_receipt(ask(test::padded(good_.bytes()), 512).receipt, receipt_key());
  ASSERT_TRUE(receipt.has_value());
  EXPECT_EQ(1u, receipt->counter);
}

// ---- what the host sees ----

TEST_F(PredictRequestTest, WhatCannotBeOpenedLeavesNothingInTheAnswer) {
  const SealedRequest request = sealed(test::kPredictKind, kDigest, 256, test::padded(good_.bytes()));
  const Bytes forged = test::flipped(request.bytes, 8 * request.bytes.size() - 1);
  for (const Bytes& bytes : {forged, Bytes(), Bytes(50), Bytes(1000)}) {
    Bytes buffer(320, 0xee);
    OutputBuffer output{buffer.data(), buffer.size(), 0};
    EXPECT_EQ(Status::kRequestUnreadable,
              answer_request(&channel_, registry_, {bytes.data(), bytes.size()}, &output));
    EXPECT_EQ(Bytes(320, 0xee), buffer);
    EXPECT_EQ(0u, output.size);
  }
}

// The host's mistake costs the client nothing: the request can be sent again.
TEST_F(PredictRequestTest, ABufferTooSmallForTheAnswerUsesNothingUp) {
  const SealedRequest request = sealed(test::kPredictKind, kDigest, 256, test::padded(good_.bytes()));
  const auto status_of = [&](size_t capacity) {
    Bytes buffer(320);
    OutputBuffer output{buffer.data(), capacity, 0};
    return answer_request(&channel_, registry_, {request.bytes.data(), request.bytes.size()}, &output);
  };
  for (const size_t capacity : {size_t{0}, size_t{48}, size_t{256}, size_t{319}}) {
    EXPECT_EQ(Status::kBufferTooSmall, status_of(capacity)) << capacity;
  }
  EXPECT_EQ(Status::kOk, status_of(320));
  EXPECT_EQ(Status::kRequestUnreadable, status_of(320));
}

// ---- provisioning ----

class ProvisionRequest : public ConfidentialRequest {
 protected:
  ProvisionRequest() : flat_(test::flat_bytes(test::random_model(test::Kind::kScalar, 4))) {}

  struct Result {
    Answer answer;
    Bytes sealed;
    Status status() const { return static_cast<Status>(answer.status); }
  };

  // A failure must leave nothing behind of what was being sealed.
  Result ask(const Bytes& plaintext, uint32_t answer_size = 512, size_t sealed_capacity = 100000) {
    const SealedRequest request = sealed(test::kProvisionKind, Bytes(32), answer_size, plaintext);
    Bytes buffer(64 + answer_size, 0xee), sealed_model(sealed_capacity, 0xee);
    OutputBuffer output{buffer.data(), buffer.size(), 0};
    OutputBuffer sealed_output{sealed_model.data(), sealed_model.size(), 77};
    EXPECT_EQ(Status::kOk, import_model(&channel_, registry_, {request.bytes.data(), request.bytes.size()},
                                        &sealed_output, &output));
    EXPECT_EQ(64u + answer_size, output.size);
    last_request_ = request;
    const auto answer = test::open_answer(request, buffer);
    EXPECT_TRUE(answer.has_value());
    Result result{answer.value_or(Answer{}), sealed_model};
    if (result.status() != Status::kOk) {
      EXPECT_EQ(0u, sealed_output.size);
      EXPECT_EQ(Bytes(sealed_capacity), sealed_model);
    }
    EXPECT_LE(sealed_output.size, sealed_capacity);
    result.sealed.resize(sealed_output.size);
    return result;
  }

  template <typename Change>
  Status status_with(Change change) {
    ProvisionPlaintext changed = test::provision_plaintext(flat_, "the.id");
    change(&changed);
    return ask(test::padded(changed.bytes())).status();
  }

  const Bytes flat_;
  SealedRequest last_request_;
};

TEST_F(ProvisionRequest, SealsWhatCanBeOpenedAgain) {
  for (const uint32_t policy : {1u, 2u}) {
    ProvisionPlaintext p = test::provision_plaintext(flat_, "the.id");
    p.policy = policy;
    p.model_version = 9;
    const Result result = ask(test::padded(p.bytes()));
    ASSERT_EQ(Status::kOk, result.status());
    EXPECT_TRUE(result.answer.content.empty());
    SecretVector<uint8_t> flat;
    SealedDescription description{};
    ASSERT_EQ(Status::kOk, unseal({result.sealed.data(), result.sealed.size()}, &flat, &description));
    EXPECT_EQ(flat_, Bytes(flat.begin(), flat.end()));
    EXPECT_EQ(policy, static_cast<uint32_t>(description.policy));
    EXPECT_EQ("the.id", std::string(description.model_id, description.model_id + description.model_id_size));
    EXPECT_EQ(9u, description.ownership.model_version);
    EXPECT_EQ(Bytes(32), Bytes(description.ownership.owner, description.ownership.owner + 32));
  }
}

TEST_F(ProvisionRequest, AnswersWithAReceipt) {
  const test::OwnerKey owner = test::new_owner();
  ProvisionPlaintext p = test::provision_plaintext(flat_, "the.id");
  p.policy = 2;
  p.time = 77;
  p.model_version = 5;
  p.owner = owner.public_key;
  p.signature = test::owner_signature(owner, test::sha256_of(flat_), 5, "the.id");
  const Result result = ask(test::padded(p.bytes()), test::kLeastAnswerWithReceipt);
  ASSERT_EQ(Status::kOk, result.status());
  const auto receipt = test::verify_receipt(result.answer.receipt, receipt_key());
  ASSERT_TRUE(receipt.has_value());
  EXPECT_EQ(2, receipt->kind);
  EXPECT_EQ(2, receipt->policy);
  EXPECT_EQ(1u, receipt->counter);
  EXPECT_EQ(77u, receipt->time);
  EXPECT_EQ(5u, receipt->model_version);
  EXPECT_EQ(test::sha256_of(flat_), receipt->model_digest);
  EXPECT_EQ(owner.public_key, receipt->owner);
  EXPECT_EQ(key().digest, receipt->epoch_digest);
  EXPECT_EQ(Bytes(32, 0xe1), receipt->mrenclave);
  EXPECT_EQ(test::sha256_of(last_request_.bytes), receipt->request_digest);
  EXPECT_EQ(test::sha256_of(result.sealed), receipt->content_digest);
}

TEST_F(ProvisionRequest, OwnersSignatureIsOverAllItNames) {
  const test::OwnerKey owner = test::new_owner();
  const Bytes digest = test::sha256_of(flat_);
  const auto with = [&](const Bytes& public_key, const Bytes& signature, uint64_t version) {
    return status_with([&](auto* p) {
      p->owner = public_key;
      p->signature = signature;
      p->model_version = version;
    });
  };
  const auto refused = [&](const Bytes& public_key, const Bytes& signature, uint64_t version) {
    EXPECT_EQ(Status::kOwnerSignatureWrong, with(public_key, signature, version));
  };
  const Bytes genuine = test::owner_signature(owner, digest, 3, "the.id");
  EXPECT_EQ(Status::kOk, with(owner.public_key, genuine, 3));
  refused(owner.public_key, genuine, 4);
  refused(test::new_owner().public_key, genuine, 3);
  refused(Bytes(32), genuine, 3);
  refused(owner.public_key, Bytes(64), 3);
  refused(owner.public_key, test::owner_signature(owner, digest, 3, "the.ie"), 3);
  refused(owner.public_key, test::owner_signature(owner, test::sha256_of(digest), 3, "the.id"), 3);
}

TEST_F(ProvisionRequest, WhatIsWrongWithTheModelIsSaid) {
  EXPECT_EQ(Status::kModelNotFlat, status_with([](auto* p) { p->flat[0] ^= 1; }));
  EXPECT_EQ(Status::kModelVersionUnsupported, status_with([](auto* p) { p->flat[8] = 9; }));
  EXPECT_EQ(Status::kModelSizeWrong, status_with([](auto* p) {
              p->flat.pop_back();
              p->flat_size -= 1;
            }));
  EXPECT_EQ(Status::kModelNotFlat, status_with([](auto* p) {
              p->flat.clear();
              p->flat_size = 0;
            }));
  for (const uint32_t policy : {0u, 3u, 0x10001u, UINT32_MAX}) {
    EXPECT_EQ(Status::kSealingPolicyUnknown, status_with([&](auto* p) { p->policy = policy; })) << policy;
  }
  for (const std::string& id :
       {std::string(), std::string("-a"), std::string(65, 'a'), std::string(3000, 'a')}) {
    EXPECT_EQ(Status::kModelIdInvalid, status_with([&](auto* p) {
                p->id = test::text(id);
                p->id_size = static_cast<uint16_t>(id.size());
              }))
        << id;
  }
  EXPECT_EQ(Status::kOk, status_with([](auto* p) {
              p->id = Bytes(64, 'a');
              p->id_size = 64;
            }));
}

TEST_F(ProvisionRequest, FieldsAndPaddingThatAreWrongAreInvalid) {
  const auto invalid = [&](auto change) { EXPECT_EQ(Status::kRequestInvalid, status_with(change)); };
  for (const uint16_t zero : {uint16_t{1}, uint16_t{0x8000}}) invalid([&](auto* p) { p->zero = zero; });
  for (const uint16_t size : {uint16_t{5}, uint16_t{1000}, uint16_t{0xffff}}) {
    invalid([&](auto* p) { p->id_size = size; });
  }
  for (const uint64_t size : {uint64_t{0}, flat_.size() / 2, 10 * flat_.size(), (uint64_t{128} << 20) + 1,
                              UINT64_MAX, UINT64_MAX - 133, uint64_t{1} << 63}) {
    invalid([&](auto* p) { p->flat_size = size; });
  }
  const Bytes good = test::padded(test::provision_plaintext(flat_, "the.id").bytes());
  Bytes changed = good;
  changed.back() = 1;
  EXPECT_EQ(Status::kRequestInvalid, ask(changed).status());
  changed = good;
  changed.resize(test::smallest_bucket(good.size() + 1));
  EXPECT_EQ(Status::kRequestInvalid, ask(changed).status());
  EXPECT_EQ(Status::kOk, ask(good).status());
}

TEST_F(ProvisionRequest, AnAnswerWithoutRoomForTheReceiptSealsNothing) {
  const Bytes good = test::padded(test::provision_plaintext(flat_, "the.id").bytes());
  for (const uint32_t size : {256u, 288u, 384u}) {
    EXPECT_EQ(Status::kAnswerTooSmall, ask(good, size).status()) << size;
  }
  EXPECT_EQ(Status::kOk, ask(good, 416).status());
}

TEST_F(ProvisionRequest, ASealedModelThatDoesNotFitIsNone) {
  const Bytes good = test::padded(test::provision_plaintext(flat_, "the.id").bytes());
  const size_t needed = 332 + 6 + 512 + flat_.size() + 16;
  for (const size_t capacity : {size_t{1}, size_t{400}, needed - 1}) {
    EXPECT_EQ(Status::kBufferTooSmall, ask(good, 512, capacity).status()) << capacity;
  }
  EXPECT_EQ(needed, ask(good, 512, needed).sealed.size());
}

TEST_F(ProvisionRequest, AModelThatCouldNotBeLoadedIsNotSealed) {
  test::BuiltModel built;
  built.group_count = built.leaf_size = 1u << 16;
  built.base_score.assign(built.group_count, 0.0f);
  test::BuiltTree leaf;
  leaf.nodes.resize(1);
  leaf.nodes[0].leaf_vector.assign(built.leaf_size, 1.0f);
  built.rounds.assign(50, {leaf});
  const Bytes flat = test::flat_bytes(built);
  EXPECT_EQ(
      Status::kModelPlanTooLarge,
      ask(test::padded(test::provision_plaintext(flat, "large").bytes()), 512, flat.size() + 5000).status());
}

TEST_F(ProvisionRequest, WhatCannotBeOpenedLeavesNothing) {
  SealedRequest request = sealed(test::kProvisionKind, Bytes(32), 512,
                                 test::padded(test::provision_plaintext(flat_, "the.id").bytes()));
  request.bytes = test::flipped(request.bytes, 8 * 100);
  Bytes buffer(576, 0xee), sealed_model(100000, 0xee);
  OutputBuffer output{buffer.data(), buffer.size(), 0};
  OutputBuffer sealed_output{sealed_model.data(), sealed_model.size(), 0};
  EXPECT_EQ(Status::kRequestUnreadable,
            import_model(&channel_, registry_, {request.bytes.data(), request.bytes.size()}, &sealed_output,
                         &output));
  EXPECT_EQ(Bytes(576, 0xee), buffer);
  EXPECT_EQ(Bytes(100000), sealed_model);
  EXPECT_EQ(0u, sealed_output.size);
}

}  // namespace
}  // namespace confidential_ml
