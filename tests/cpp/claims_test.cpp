// docs/protocol.md section 2: every byte of the claims.

#include "enclave/claims.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/limits.h"
#include "tests/cpp/engine_models.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/protocol_client.h"
#include "tests/cpp/status_printer.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using test::part;

EpochClaims some_epoch() {
  EpochClaims epoch{};
  epoch.epoch = 0x0102030405060708;
  std::memset(epoch.instance, 0x11, sizeof epoch.instance);
  std::memset(epoch.epoch_public_key, 0x22, sizeof epoch.epoch_public_key);
  std::memset(epoch.receipt_public_key, 0x33, sizeof epoch.receipt_public_key);
  return epoch;
}

Bytes epoch_part_of(const EpochClaims& epoch) {
  Bytes bytes(144);
  EXPECT_EQ(Status::kOk, write_epoch_part(epoch, bytes.data()));
  return bytes;
}

std::shared_ptr<const LoadedModel> model(test::Kind kind, uint8_t mark, const std::string& id) {
  SealedDescription description{};
  std::memset(description.model_digest, mark, sizeof description.model_digest);
  std::memset(description.ownership.owner, mark + 1, sizeof description.ownership.owner);
  std::memset(description.ownership.signature, 0xee, sizeof description.ownership.signature);
  description.ownership.model_version = 1000u + mark;
  std::memcpy(description.model_id, id.data(), id.size());
  description.model_id_size = id.size();
  return std::make_shared<const LoadedModel>(test::parsed(test::random_model(kind, mark)), description);
}

class ClaimsTest : public ::testing::Test {
 protected:
  ClaimsTest() { test::become(test::default_identity()); }

  Bytes claims(const Bytes& nonce, const LoadedModels& models) const {
    Bytes written;
    write_claims(epoch_part_.data(), {nonce.data(), nonce.size()}, models, &written);
    return written;
  }

  const Bytes epoch_part_ = epoch_part_of(some_epoch());
};

TEST_F(ClaimsTest, EpochPartIsThatOfTheSpecification) {
  const Bytes& bytes = epoch_part_;
  EXPECT_EQ(test::text("CMLCLAIM"), part(bytes, 0, 8));
  EXPECT_EQ((Bytes{1, 0, 0, 0}), part(bytes, 8, 4)) << "version";
  EXPECT_EQ((Bytes{1, 0}), part(bytes, 12, 2)) << "platform";
  EXPECT_EQ((Bytes{1, 0}), part(bytes, 14, 2)) << "suites";
  EXPECT_EQ((Bytes{1, 0}), part(bytes, 16, 2)) << "obliviousness";
  EXPECT_EQ((Bytes{0, 0}), part(bytes, 18, 2)) << "rollback";
  EXPECT_EQ(Bytes(4), part(bytes, 20, 4));
  EXPECT_EQ((Bytes{8, 7, 6, 5, 4, 3, 2, 1}), part(bytes, 24, 8)) << "epoch";
  EXPECT_EQ(Bytes(16, 0x11), part(bytes, 32, 16)) << "instance";
  EXPECT_EQ(Bytes(32, 0x22), part(bytes, 80, 32)) << "epoch public key";
  EXPECT_EQ(Bytes(32, 0x33), part(bytes, 112, 32)) << "receipt public key";
}

TEST_F(ClaimsTest, PlatformIsTheIdentitys) {
  auto other = test::default_identity();
  other.platform = 2;
  test::become(other);
  EXPECT_EQ((Bytes{2, 0}), part(epoch_part_of(some_epoch()), 12, 2));
}

// The numbers of docs/protocol.md 2.1 and docs/formats.md, not those of common/limits.h.
TEST_F(ClaimsTest, ConfigDigestIsOverTheLimits) {
  const uint64_t limits[] = {128u << 20, 1u << 22,  1u << 16,  1u << 20,   1u << 20,  1u << 24,
                             4096,       1u << 19,  1u << 10,  192u << 20, 64u << 20, 64,
                             256,        64u << 20, 16u << 20, 16u << 20,  262144};
  Bytes bytes = test::text("confidential_ml config v1");
  for (const uint64_t limit : limits) {
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<uint8_t>(limit >> 8 * i));
  }
  EXPECT_EQ(test::sha256_of(bytes), part(epoch_part_, 48, 32));
}

TEST_F(ClaimsTest, WithoutNonceAndModelsAreTheirFixedPart) {
  EXPECT_EQ(test::join({epoch_part_, Bytes(8)}), claims({}, {}));
}

TEST_F(ClaimsTest, HoldEveryNonceAsItIs) {
  for (size_t size = 0; size <= 64; ++size) {
    const Bytes nonce(size, 0xa5);
    const Bytes expected = test::join({epoch_part_, {static_cast<uint8_t>(size), 0}, Bytes(6), nonce});
    EXPECT_EQ(expected, claims(nonce, {})) << size;
  }
}

TEST_F(ClaimsTest, EntriesAreThoseOfTheSpecification) {
  const auto loaded = model(test::Kind::kMultiGroup, 7, "the.id");
  const Bytes bytes = claims(Bytes(3, 9), {loaded});
  EXPECT_EQ((Bytes{3, 0, 1, 0, 0, 0, 0, 0, 9, 9, 9}), part(bytes, 144, 11));
  const Bytes entry = part(bytes, 155, bytes.size() - 155);
  ASSERT_EQ(86u + 6, entry.size());
  const Model& shape = loaded->forest.model();
  EXPECT_EQ(Bytes(32, 7), part(entry, 0, 32)) << "digest";
  EXPECT_EQ(Bytes(32, 8), part(entry, 32, 32)) << "owner";
  EXPECT_EQ((Bytes{0xef, 3, 0, 0, 0, 0, 0, 0}), part(entry, 64, 8)) << "version 1007";
  const auto small = [](uint32_t value) { return Bytes{static_cast<uint8_t>(value), 0, 0, 0}; };
  EXPECT_EQ(small(shape.feature_count), part(entry, 72, 4));
  EXPECT_EQ(small(shape.group_count), part(entry, 76, 4));
  EXPECT_EQ(small(shape.group_count), part(entry, 80, 4)) << "value columns of reg:squarederror";
  EXPECT_EQ((Bytes{6, 0}), part(entry, 84, 2));
  EXPECT_EQ(test::text("the.id"), part(entry, 86, 6));
}

TEST_F(ClaimsTest, ValueColumnsAreThoseOfTheObjective) {
  test::BuiltModel built = test::random_model(test::Kind::kMultiGroup, 3);
  built.objective = 15;  // multi:softmax
  built.group_count = 3;
  built.base_score.assign(3, 0.5f);
  SealedDescription description{};
  description.model_id[0] = 'm';
  description.model_id_size = 1;
  const auto loaded = std::make_shared<const LoadedModel>(test::parsed(built), description);
  const auto parsed = test::parse_claims(claims({}, {loaded}));
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(3u, parsed->models[0].groups);
  EXPECT_EQ(1u, parsed->models[0].value_columns);
}

TEST_F(ClaimsTest, ModelsStandInTheirOrder) {
  const auto parsed =
      test::parse_claims(claims(Bytes(64, 1), {model(test::Kind::kScalar, 50, "b"),
                                               model(test::Kind::kStumps, 10, std::string(64, 'x')),
                                               model(test::Kind::kLinear, 30, "a")}));
  ASSERT_TRUE(parsed.has_value());
  ASSERT_EQ(3u, parsed->models.size());
  EXPECT_EQ("b", parsed->models[0].id);
  EXPECT_EQ(std::string(64, 'x'), parsed->models[1].id);
  EXPECT_EQ("a", parsed->models[2].id);
  EXPECT_EQ(1050u, parsed->models[0].version);
  EXPECT_EQ(Bytes(32, 31), parsed->models[2].owner);
}

TEST_F(ClaimsTest, AsManyModelsAsMayBeLoadedFitTheEvidence) {
  const LoadedModels models(kMaxLoadedModels, model(test::Kind::kStumps, 1, std::string(64, 'x')));
  const Bytes bytes = claims(Bytes(64), models);
  EXPECT_EQ(144u + 8 + 64 + 256 * 150, bytes.size());
  EXPECT_LT(bytes.size() + 32768, kMaxEvidenceSize) << "with room for a quote";
  const auto parsed = test::parse_claims(bytes);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(256u, parsed->models.size());
}

}  // namespace
}  // namespace confidential_ml
