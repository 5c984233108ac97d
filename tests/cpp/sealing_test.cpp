// docs/formats.md section 2: who opens a sealed model, and with which status everything else is refused.

#include "enclave/sealing.h"
#include "enclave/signature.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/status_printer.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using SimulatedIdentity = confidential_ml_simulated_identity;

constexpr uint32_t kMrenclave = 1, kMrsigner = 2;

// Offsets of docs/formats.md 2.1, written out again on purpose.
constexpr size_t kVersion = 8, kHeaderSize = 12, kDigest = 16, kPolicy = 48, kPlatform = 50, kProdId = 52,
                 kSvn = 54;
constexpr size_t kMrenclaveField = 56, kMrsignerField = 88, kModelDigest = 120, kSalt = 152, kKeyCheck = 184;
constexpr size_t kOwner = 216, kOwnerSignature = 248, kModelVersion = 312;
constexpr size_t kCiphertextSize = 320, kModelIdSize = 328, kKeyInfoSize = 330, kModelId = 332;
constexpr size_t kTagSize = 16;

// Within the key info (SGX KEYREQUEST).
constexpr size_t kKeyName = 0, kKeyPolicy = 2, kKeySvn = 4, kCpuSvn = 8, kKeyId = 40;

ByteView view(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

template <typename T>
T field(const Bytes& bytes, size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <typename T>
void set_field(Bytes* bytes, size_t offset, T value) {
  ASSERT_LE(offset + sizeof value, bytes->size());
  std::memcpy(bytes->data() + offset, &value, sizeof value);
}

void flip(Bytes* bytes, size_t bit) {
  uint8_t& byte = bytes->at(bit / 8);
  byte = static_cast<uint8_t>(byte ^ 1u << bit % 8);
}

// What somebody who knows the format does after changing the header.
void recompute_digest(Bytes* sealed) {
  const auto header_size = field<uint32_t>(*sealed, kHeaderSize);
  ASSERT_EQ(Status::kOk, sha256({{sealed->data(), 16}, {sealed->data() + 48, header_size - 48}},
                                sealed->data() + kDigest));
}

class Sealing : public ::testing::Test {
 protected:
  Sealing() {
    test::become(test::default_identity());
    start_on_machine(1);
    flat_ = test::flat_bytes(test::random_model(test::Kind::kScalar, 4));
  }

  void start_on_machine(uint8_t fuse) {
    const Bytes fuse_key(32, fuse);
    ASSERT_EQ(Status::kOk, platform_start(view(fuse_key)));
  }

  Status try_seal(const std::string& id, uint32_t policy, Bytes* sealed) {
    sealed->resize(flat_.size() + 5000);
    uint64_t size = 0;
    SealedDescription description{};
    const SealingRequest request{
        {reinterpret_cast<const uint8_t*>(id.data()), id.size()}, policy, ownership_};
    const Status status = seal(view(flat_), request, sealed->data(), sealed->size(), &size, &description);
    sealed->resize(size);
    return status;
  }

  Bytes sealed(uint32_t policy) {
    Bytes result;
    EXPECT_EQ(Status::kOk, try_seal("model-1", policy, &result));
    return result;
  }

  static Status open(const Bytes& sealed) {
    SecretVector<uint8_t> flat;
    SealedDescription description{};
    return unseal(view(sealed), &flat, &description);
  }

  // Changes the header with `change`, makes the digest fit again, and opens.
  template <typename Change>
  static Status open_changed(Bytes sealed, Change change) {
    change(&sealed);
    recompute_digest(&sealed);
    return open(sealed);
  }

  template <typename Change>
  static SimulatedIdentity another(Change change) {
    SimulatedIdentity identity = test::default_identity();
    change(&identity);
    return identity;
  }

  Bytes flat_;
  Ownership ownership_{};
};

TEST_F(Sealing, OpensWhatItSealed) {
  for (const uint32_t policy : {kMrenclave, kMrsigner}) {
    const Bytes file = sealed(policy);
    SecretVector<uint8_t> flat;
    SealedDescription description{};
    ASSERT_EQ(Status::kOk, unseal(view(file), &flat, &description));
    EXPECT_EQ(flat_, Bytes(flat.begin(), flat.end()));
    EXPECT_EQ(policy, static_cast<uint32_t>(description.policy));
    EXPECT_EQ("model-1", std::string(description.model_id, description.model_id + description.model_id_size));
    Bytes digest(32);
    ASSERT_EQ(Status::kOk, sha256({view(flat_)}, digest.data()));
    EXPECT_TRUE(std::equal(digest.begin(), digest.end(), description.model_digest));
  }
}

TEST_F(Sealing, WritesTheHeaderOfTheSpecification) {
  const Bytes file = sealed(kMrsigner);
  const SimulatedIdentity self = test::default_identity();
  EXPECT_EQ(0, std::memcmp(file.data(), "CMLSEAL", 8));
  EXPECT_EQ(2u, field<uint32_t>(file, kVersion));
  EXPECT_EQ(332u + 7 + 512, field<uint32_t>(file, kHeaderSize));
  EXPECT_EQ(kMrsigner, field<uint16_t>(file, kPolicy));
  EXPECT_EQ(1, field<uint16_t>(file, kPlatform));
  EXPECT_EQ(self.isv_prod_id, field<uint16_t>(file, kProdId));
  EXPECT_EQ(self.isv_svn, field<uint16_t>(file, kSvn));
  EXPECT_EQ(0, std::memcmp(file.data() + kMrenclaveField, self.mrenclave, 32));
  EXPECT_EQ(0, std::memcmp(file.data() + kMrsignerField, self.mrsigner, 32));
  EXPECT_EQ(flat_.size(), field<uint64_t>(file, kCiphertextSize));
  EXPECT_EQ(7, field<uint16_t>(file, kModelIdSize));
  EXPECT_EQ(512, field<uint16_t>(file, kKeyInfoSize));
  EXPECT_EQ(0, std::memcmp(file.data() + kModelId, "model-1", 7));
  EXPECT_EQ(332u + 7 + 512 + flat_.size() + kTagSize, file.size());
  Bytes again = file;
  recompute_digest(&again);
  EXPECT_EQ(file, again);
}

TEST_F(Sealing, NeverGivesTheSameBytesTwice) {
  const Bytes one = sealed(kMrenclave), other = sealed(kMrenclave);
  const auto differ = [&](size_t offset, size_t size) {
    return std::memcmp(one.data() + offset, other.data() + offset, size) != 0;
  };
  EXPECT_TRUE(differ(kSalt, 32));
  EXPECT_TRUE(differ(kKeyCheck, 32));
  EXPECT_TRUE(differ(kModelId + 7 + kKeyId, 32));
  EXPECT_TRUE(differ(field<uint32_t>(one, kHeaderSize), 16));
  EXPECT_TRUE(differ(one.size() - kTagSize, kTagSize));
  EXPECT_FALSE(differ(kModelDigest, 32));
}

TEST_F(Sealing, HidesTheModel) {
  const Bytes file = sealed(kMrenclave);
  for (size_t i = 0; i + 16 <= flat_.size(); i += 16) {
    // The header has zeros enough to hold a block that is little else.
    const bool zeros = std::count(flat_.begin() + static_cast<std::ptrdiff_t>(i),
                                  flat_.begin() + static_cast<std::ptrdiff_t>(i) + 16, 0) > 10;
    const auto found = std::search(file.begin(), file.end(), flat_.begin() + static_cast<std::ptrdiff_t>(i),
                                   flat_.begin() + static_cast<std::ptrdiff_t>(i) + 16);
    EXPECT_TRUE(zeros || found == file.end()) << i;
  }
}

TEST_F(Sealing, TakesModelIdsOfTheSpecification) {
  Bytes file;
  for (const std::string id : {"a", "Z", "0", "a.b_c-d", "0-._", "..."}) {
    EXPECT_EQ(id[0] == '.' ? Status::kModelIdInvalid : Status::kOk, try_seal(id, kMrenclave, &file)) << id;
  }
  EXPECT_EQ(Status::kOk, try_seal(std::string(64, 'x'), kMrenclave, &file));
  EXPECT_EQ(Status::kOk, open(file));
  const std::string with_nul("a\0b", 3);
  for (const std::string& id :
       {std::string(), std::string(65, 'x'), std::string(100000, 'x'), with_nul, std::string("_a"),
        std::string("-a"), std::string("a b"), std::string("a/b"), std::string("\xc3\xa4"),
        std::string("a\n"), std::string("a@"), std::string("a[")}) {
    EXPECT_EQ(Status::kModelIdInvalid, try_seal(id, kMrenclave, &file)) << id;
  }
}

TEST_F(Sealing, TakesTheTwoPoliciesOnly) {
  Bytes file;
  for (const uint32_t policy : {0u, 3u, 4u, 0x10001u, UINT32_MAX}) {
    EXPECT_EQ(Status::kSealingPolicyUnknown, try_seal("a", policy, &file)) << policy;
  }
}

TEST_F(Sealing, FitsItsBufferExactlyOrNotAtAll) {
  const std::string id = "id";
  const size_t needed = 332 + 2 + 512 + flat_.size() + kTagSize;
  for (const size_t capacity : {needed, needed - 1, needed - kTagSize, size_t{332}, size_t{0}}) {
    Bytes buffer(capacity);
    uint64_t size = 77;
    SealedDescription description{};
    const SealingRequest request{
        {reinterpret_cast<const uint8_t*>(id.data()), id.size()}, kMrenclave, ownership_};
    EXPECT_EQ(capacity == needed ? Status::kOk : Status::kBufferTooSmall,
              seal(view(flat_), request, buffer.data(), buffer.size(), &size, &description));
    EXPECT_EQ(capacity == needed ? needed : 77u, size);
  }
}

// ---- the owner ----

// docs/protocol.md section 5, written out again on purpose.
Ownership signed_by(const SigningKey& key, const Bytes& flat, uint64_t version, const std::string& id) {
  Ownership ownership{};
  Bytes message(sizeof "confidential_ml owner v1" - 1 + 32 + 8 + 2 + id.size());
  uint8_t* next = message.data();
  next = std::copy_n("confidential_ml owner v1", 24, next);
  EXPECT_EQ(Status::kOk, sha256({view(flat)}, next));
  next += 32;
  std::memcpy(next, &version, 8);
  next[8] = static_cast<uint8_t>(id.size());
  std::copy(id.begin(), id.end(), next + 10);
  EXPECT_EQ(Status::kOk, signature_make(key, view(message), ownership.signature));
  std::copy_n(key.public_key, sizeof ownership.owner, ownership.owner);
  ownership.model_version = version;
  return ownership;
}

TEST_F(Sealing, OwnersSignatureIsCheckedAndKept) {
  SigningKey key;
  ASSERT_EQ(Status::kOk, signature_generate(&key));
  ownership_ = signed_by(key, flat_, 0x0102030405060708u, "model-1");
  const Bytes file = sealed(kMrenclave);
  EXPECT_TRUE(std::equal(key.public_key, key.public_key + 32, file.begin() + kOwner));
  EXPECT_TRUE(std::equal(ownership_.signature, ownership_.signature + 64, file.begin() + kOwnerSignature));
  EXPECT_EQ(0x0102030405060708u, field<uint64_t>(file, kModelVersion));
  SecretVector<uint8_t> flat;
  SealedDescription description{};
  ASSERT_EQ(Status::kOk, unseal(view(file), &flat, &description));
  EXPECT_EQ(0, std::memcmp(&ownership_, &description.ownership, sizeof ownership_));
}

TEST_F(Sealing, NothingIsSealedUnderAnOwnerWhoSignedSomethingElse) {
  SigningKey key, other;
  ASSERT_EQ(Status::kOk, signature_generate(&key));
  ASSERT_EQ(Status::kOk, signature_generate(&other));
  const Ownership genuine = signed_by(key, flat_, 3, "model-1");
  const auto refused = [&](const Ownership& ownership, const std::string& id = "model-1") {
    Bytes file;
    ownership_ = ownership;
    EXPECT_EQ(Status::kOwnerSignatureWrong, try_seal(id, kMrenclave, &file));
    EXPECT_TRUE(file.empty());
  };
  Ownership changed = genuine;
  changed.model_version = 4;
  refused(changed);
  refused(genuine, "model-2");
  changed = genuine;
  std::copy_n(other.public_key, 32, changed.owner);
  refused(changed);
  for (size_t i = 0; i < sizeof changed.signature; ++i) {
    changed = genuine;
    changed.signature[i] = static_cast<uint8_t>(changed.signature[i] ^ 1u << i % 8);
    refused(changed);
  }
  changed = genuine;
  std::fill_n(changed.owner, 32, uint8_t{0});  // a signature of nobody's
  refused(changed);
  changed = genuine;
  std::fill_n(changed.signature, 64, uint8_t{0});
  refused(changed);
  refused(signed_by(key, Bytes(flat_.begin(), flat_.end() - 1), 3, "model-1"));
  changed = Ownership{};  // the neutral point as key and as R: right by arithmetic, whatever is signed
  changed.owner[0] = changed.signature[0] = 1;
  refused(changed);
}

// ---- accidents: flipped bits, other lengths ----

TEST_F(Sealing, NoFlippedBitIsTakenForAnythingButDamage) {
  const Bytes genuine = sealed(kMrenclave);
  const size_t header_bits = size_t{field<uint32_t>(genuine, kHeaderSize)} * 8;
  for (size_t bit = 0; bit < genuine.size() * 8; bit += bit < header_bits ? 1 : 13) {
    Bytes file = genuine;
    flip(&file, bit);
    ASSERT_EQ(bit < 64 ? Status::kNotASealedModel : Status::kSealedModelDamaged, open(file)) << "bit " << bit;
  }
  for (size_t bit = genuine.size() * 8 - kTagSize * 8; bit < genuine.size() * 8; ++bit) {
    Bytes file = genuine;
    flip(&file, bit);
    ASSERT_EQ(Status::kSealedModelDamaged, open(file)) << "bit " << bit;
  }
}

TEST_F(Sealing, NoOtherLengthOpens) {
  const Bytes genuine = sealed(kMrsigner);
  for (size_t size = 0; size < genuine.size(); ++size) {
    const Bytes cut(genuine.begin(), genuine.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_EQ(size < 8 ? Status::kNotASealedModel : Status::kSealedModelDamaged, open(cut)) << size;
  }
  Bytes longer = genuine;
  for (const size_t more : {size_t{1}, size_t{15}, size_t{1000}}) {
    longer.insert(longer.end(), more, 0);
    EXPECT_EQ(Status::kSealedModelDamaged, open(longer));
  }
}

TEST_F(Sealing, WhatIsNoSealedModelIsNone) {
  EXPECT_EQ(Status::kNotASealedModel, open({}));
  EXPECT_EQ(Status::kNotASealedModel, open(flat_));
  EXPECT_EQ(Status::kNotASealedModel, open(Bytes(5000, 0)));
}

// ---- other headers under a digest that fits ----

TEST_F(Sealing, HeaderSizeOutOfBoundsIsDamage) {
  const Bytes genuine = sealed(kMrenclave);
  for (const uint32_t size :
       {0u, 15u, 16u, 47u, 4097u, UINT32_MAX, static_cast<uint32_t>(genuine.size() + 1)}) {
    Bytes file = genuine;
    set_field(&file, kHeaderSize, size);
    EXPECT_EQ(Status::kSealedModelDamaged, open(file)) << size;
  }
  for (const uint32_t size : {48u, 100u, 331u, 332u, 850u, 852u, static_cast<uint32_t>(genuine.size())}) {
    EXPECT_EQ(Status::kSealedModelDamaged,
              open_changed(genuine, [&](Bytes* f) { set_field(f, kHeaderSize, size); }))
        << size;
  }
}

TEST_F(Sealing, OtherVersionsAreUnsupportedWhateverElseTheyHold) {
  const Bytes genuine = sealed(kMrenclave);
  for (const uint32_t version : {0u, 1u, 3u, UINT32_MAX}) {
    EXPECT_EQ(Status::kSealedVersionUnsupported, open_changed(genuine, [&](Bytes* f) {
                set_field(f, kVersion, version);
                set_field(f, kPolicy, uint16_t{9});
                set_field(f, kPlatform, uint16_t{9});
              }));
  }
  Bytes shortest(48);
  std::memcpy(shortest.data(), genuine.data(), 8);
  set_field(&shortest, kVersion, 7u);
  set_field(&shortest, kHeaderSize, 48u);
  recompute_digest(&shortest);
  EXPECT_EQ(Status::kSealedVersionUnsupported, open(shortest))
      << "the first 48 bytes are all that versions share";
}

TEST_F(Sealing, FieldsOutOfRangeAreDamage) {
  const Bytes genuine = sealed(kMrenclave);
  const auto with16 = [&](size_t offset, uint16_t value) {
    return open_changed(genuine, [&](Bytes* f) { set_field(f, offset, value); });
  };
  for (const uint16_t policy : {uint16_t{0}, uint16_t{3}, uint16_t{0x101}}) {
    EXPECT_EQ(Status::kSealedModelDamaged, with16(kPolicy, policy));
  }
  for (const uint16_t size : {uint16_t{0}, uint16_t{6}, uint16_t{8}, uint16_t{65}, uint16_t{0xffff}}) {
    EXPECT_EQ(Status::kSealedModelDamaged, with16(kModelIdSize, size));
  }
  for (const uint16_t size : {uint16_t{0}, uint16_t{511}, uint16_t{513}, uint16_t{1025}, uint16_t{0xffff}}) {
    EXPECT_EQ(Status::kSealedModelDamaged, with16(kKeyInfoSize, size));
  }
  const auto with64 = [&](uint64_t size) {
    return open_changed(genuine, [&](Bytes* f) { set_field(f, kCiphertextSize, size); });
  };
  for (const uint64_t size : {uint64_t{0}, flat_.size() - 1, flat_.size() + 1, uint64_t{128} << 20,
                              (uint64_t{128} << 20) + 1, UINT64_MAX, UINT64_MAX - 762}) {
    EXPECT_EQ(Status::kSealedModelDamaged, with64(size)) << size;
  }
  EXPECT_EQ(Status::kSealedModelDamaged, open_changed(genuine, [](Bytes* f) { (*f)[kModelId] = '-'; }));
  EXPECT_EQ(Status::kSealedModelDamaged, open_changed(genuine, [](Bytes* f) { (*f)[kModelId + 3] = '/'; }));
}

TEST_F(Sealing, SizesThatTradeBytesWithEachOtherAreDamage) {
  const Bytes genuine = sealed(kMrenclave);
  EXPECT_EQ(Status::kSealedModelDamaged, open_changed(genuine, [](Bytes* f) {
              set_field(f, kModelIdSize, uint16_t{6});
              set_field(f, kKeyInfoSize, uint16_t{513});
            }));
  EXPECT_EQ(Status::kSealedModelDamaged, open_changed(genuine, [&](Bytes* f) {
              set_field(f, kHeaderSize, field<uint32_t>(genuine, kHeaderSize) - 1);
              set_field(f, kKeyInfoSize, uint16_t{511});
              set_field(f, kCiphertextSize, uint64_t{flat_.size() + 1});
            }));
}

TEST_F(Sealing, OtherPlatformsAreNamed) {
  const Bytes genuine = sealed(kMrenclave);
  for (const uint16_t platform : {uint16_t{2}, uint16_t{3}}) {
    EXPECT_EQ(Status::kSealedPlatformDiffers,
              open_changed(genuine, [&](Bytes* f) { set_field(f, kPlatform, platform); }));
  }
  test::become(another([](SimulatedIdentity* i) { i->platform = 2; }));
  EXPECT_EQ(Status::kSealedPlatformDiffers, open(genuine));
}

TEST_F(Sealing, PlatformIsLookedAtBeforeTheSvn) {
  EXPECT_EQ(Status::kSealedPlatformDiffers, open_changed(sealed(kMrenclave), [](Bytes* f) {
              set_field(f, kPlatform, uint16_t{3});
              set_field(f, kSvn, uint16_t{600});
            }));
}

TEST_F(Sealing, SvnAboveThisEnclavesIsNamed) {
  for (const uint16_t svn : {uint16_t{6}, uint16_t{0xffff}}) {
    EXPECT_EQ(Status::kSealedSvnTooHigh,
              open_changed(sealed(kMrsigner), [&](Bytes* f) { set_field(f, kSvn, svn); }));
    EXPECT_EQ(Status::kSealedSvnTooHigh, open_changed(sealed(kMrsigner), [&](Bytes* f) {
                set_field(f, kSvn, svn);
                set_field(f, kModelId + 7 + kKeySvn, svn);
              }));
  }
}

TEST_F(Sealing, HeaderAndKeyInfoThatDisagreeAreDamage) {
  const Bytes file = sealed(kMrsigner);
  const auto changed = [&](size_t offset, uint16_t value) {
    return open_changed(file, [&](Bytes* f) { set_field(f, offset, value); });
  };
  EXPECT_EQ(Status::kSealedModelDamaged, changed(kPolicy, kMrenclave));
  EXPECT_EQ(Status::kSealedModelDamaged, changed(kSvn, 4));
  EXPECT_EQ(Status::kSealedModelDamaged, changed(kModelId + 7 + kKeyPolicy, kMrenclave));
  EXPECT_EQ(Status::kSealedModelDamaged, changed(kModelId + 7 + kKeySvn, 4));
  EXPECT_EQ(Status::kSealedModelDamaged, changed(kModelId + 7 + kKeyName, 3));
}

TEST_F(Sealing, PolicyAndSvnCannotBeRewrittenInBothPlaces) {
  EXPECT_EQ(Status::kSealedKeyDiffers, open_changed(sealed(kMrenclave), [](Bytes* f) {
              set_field(f, kPolicy, uint16_t{kMrsigner});
              set_field(f, kModelId + 7 + kKeyPolicy, uint16_t{kMrsigner});
            }));
  EXPECT_EQ(Status::kSealedKeyDiffers, open_changed(sealed(kMrsigner), [](Bytes* f) {
              set_field(f, kSvn, uint16_t{4});
              set_field(f, kModelId + 7 + kKeySvn, uint16_t{4});
            }));
}

TEST_F(Sealing, AnotherKeyIsNamed) {
  const Bytes file = sealed(kMrenclave);
  const size_t key_info = kModelId + 7;
  for (const size_t offset : {kSalt, kSalt + 31, kKeyCheck, kKeyCheck + 31, key_info + 6, key_info + kCpuSvn,
                              key_info + kCpuSvn + 15, key_info + kKeyId, key_info + 511}) {
    EXPECT_EQ(Status::kSealedKeyDiffers, open_changed(file, [&](Bytes* f) { flip(f, offset * 8 + 7); }))
        << offset;
  }
}

// What the key does not depend on is still authenticated.
TEST_F(Sealing, WhatTheKeyDoesNotCoverIsAuthenticated) {
  const Bytes file = sealed(kMrenclave);
  for (const size_t offset : {kProdId, kMrenclaveField, kMrsignerField + 31, kModelDigest}) {
    EXPECT_EQ(Status::kSealedModelDamaged, open_changed(file, [&](Bytes* f) { flip(f, offset * 8); }))
        << offset;
  }
  EXPECT_EQ(Status::kSealedModelDamaged, open_changed(file, [](Bytes* f) { (*f)[kModelId] = 'M'; }));
}

TEST_F(Sealing, PartsOfTwoFilesDoNotFitTogether) {
  const Bytes one = sealed(kMrenclave), other = sealed(kMrenclave);
  const size_t header_size = field<uint32_t>(one, kHeaderSize);
  Bytes mixed = one;
  std::copy(other.begin() + static_cast<std::ptrdiff_t>(header_size), other.end(),
            mixed.begin() + static_cast<std::ptrdiff_t>(header_size));
  EXPECT_EQ(Status::kSealedModelDamaged, open(mixed));
  EXPECT_EQ(Status::kSealedKeyDiffers,
            open_changed(one, [&](Bytes* f) { std::copy_n(other.begin() + kSalt, 32, f->begin() + kSalt); }));
}

// ---- other enclaves, other machines ----

TEST_F(Sealing, MrenclavePolicyIsForThisCodeOnly) {
  const Bytes file = sealed(kMrenclave);
  test::become(another([](SimulatedIdentity* i) { i->mrenclave[31] ^= 1; }));
  EXPECT_EQ(Status::kSealedKeyDiffers, open(file));
  test::become(another([](SimulatedIdentity* i) { i->mrsigner[0] ^= 1; }));
  EXPECT_EQ(Status::kOk, open(file)) << "as with EGETKEY, MRSIGNER is not part of it";
}

TEST_F(Sealing, MrsignerPolicyIsForAllCodeOfTheSignersProduct) {
  const Bytes file = sealed(kMrsigner);
  test::become(another([](SimulatedIdentity* i) { i->mrenclave[0] ^= 1; }));
  EXPECT_EQ(Status::kOk, open(file));
  test::become(another([](SimulatedIdentity* i) { i->mrsigner[31] ^= 1; }));
  EXPECT_EQ(Status::kSealedKeyDiffers, open(file));
}

TEST_F(Sealing, BothPoliciesAreForOneProductAndDebugSetting) {
  for (const uint32_t policy : {kMrenclave, kMrsigner}) {
    test::become(test::default_identity());
    const Bytes file = sealed(policy);
    test::become(another([](SimulatedIdentity* i) { i->isv_prod_id = 2; }));
    EXPECT_EQ(Status::kSealedKeyDiffers, open(file));
    test::become(another([](SimulatedIdentity* i) { i->debug = 1; }));
    EXPECT_EQ(Status::kSealedKeyDiffers, open(file));
  }
}

TEST_F(Sealing, NewerVersionsOpenOlderFilesAndNotTheOtherWayRound) {
  for (const uint32_t policy : {kMrenclave, kMrsigner}) {
    test::become(test::default_identity());
    const Bytes file = sealed(policy);
    test::become(another([](SimulatedIdentity* i) { i->isv_svn = 6; }));
    EXPECT_EQ(Status::kOk, open(file));
    test::become(another([](SimulatedIdentity* i) { i->isv_svn = 4; }));
    EXPECT_EQ(Status::kSealedSvnTooHigh, open(file));
  }
}

TEST_F(Sealing, AnotherMachineIsNamed) {
  for (const uint32_t policy : {kMrenclave, kMrsigner}) {
    start_on_machine(1);
    const Bytes file = sealed(policy);
    start_on_machine(2);
    EXPECT_EQ(Status::kSealedKeyDiffers, open(file));
    start_on_machine(1);
    EXPECT_EQ(Status::kOk, open(file));
  }
}

TEST(PlatformStart, TakesAFuseKeyOf32BytesOnly) {
  const Bytes bytes(33, 1);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{31}, size_t{33}}) {
    EXPECT_EQ(Status::kPlatformInputInvalid, platform_start({bytes.data(), size})) << size;
  }
  EXPECT_EQ(Status::kPlatformInputInvalid, platform_start({nullptr, 0}));
}

}  // namespace
}  // namespace confidential_ml
