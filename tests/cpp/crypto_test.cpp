// Known answers beyond those of the enclave's own self-test, and that no altered ciphertext opens.

#include "enclave/crypto.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes hex(const std::string& digits) {
  Bytes bytes;
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

ByteView view(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

Bytes range(uint8_t first, size_t count) {
  Bytes bytes;
  for (size_t i = 0; i < count; ++i) bytes.push_back(static_cast<uint8_t>(first + i));
  return bytes;
}

TEST(SelfTest, Passes) { EXPECT_EQ(Status::kOk, crypto_start()); }

Bytes digest_of(const Bytes& message) {
  Bytes digest(kSha256Size);
  EXPECT_EQ(Status::kOk, sha256({view(message)}, digest.data()));
  return digest;
}

// FIPS 180-4 examples (NIST, "Cryptographic Standards and Guidelines: example values").
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), digest_of({}));
  const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  EXPECT_EQ(hex("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"),
            digest_of(Bytes(two_blocks.begin(), two_blocks.end())));
  EXPECT_EQ(hex("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
            digest_of(Bytes(1000000, 'a')));
}

TEST(Sha256, OfPartsIsThatOfTheirConcatenation) {
  const Bytes whole = range(0, 200);
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    Bytes digest(kSha256Size);
    ASSERT_EQ(
        Status::kOk,
        sha256({{whole.data(), cut}, {nullptr, 0}, {whole.data() + cut, whole.size() - cut}}, digest.data()));
    ASSERT_EQ(digest_of(whole), digest) << cut;
  }
}

Bytes derive(const Bytes& key, const Bytes& salt, const Bytes& info, size_t size) {
  Bytes output(size);
  EXPECT_EQ(Status::kOk, hkdf_sha256(view(key), view(salt), view(info), output.data(), size));
  return output;
}

// RFC 5869, appendices A.1 to A.3.
TEST(Hkdf, KnownAnswers) {
  EXPECT_EQ(hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
            derive(Bytes(22, 0x0b), range(0, 13), range(0xf0, 10), 42));
  EXPECT_EQ(
      hex("b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
          "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"),
      derive(range(0, 80), range(0x60, 80), range(0xb0, 80), 82));
  EXPECT_EQ(hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
            derive(Bytes(22, 0x0b), {}, {}, 42));
}

TEST(Hkdf, GivesUpBeyondItsLongestOutput) {
  Bytes output(255 * 32 + 1);
  const Bytes key(32, 1);
  EXPECT_EQ(Status::kOk, hkdf_sha256(view(key), {nullptr, 0}, {nullptr, 0}, output.data(), 255 * 32));
  EXPECT_EQ(Status::kCryptoFailed,
            hkdf_sha256(view(key), {nullptr, 0}, {nullptr, 0}, output.data(), output.size()));
}

struct GcmCase {
  Bytes key, nonce, aad, plaintext, ciphertext, tag;
};

// Test cases 13 to 16 of the GCM specification (McGrew, Viega): AES-256.
std::vector<GcmCase> gcm_cases() {
  const Bytes key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
  const Bytes nonce = hex("cafebabefacedbaddecaf888");
  const Bytes text =
      hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
          "b16aedf5aa0de657ba637b391aafd255");
  const Bytes cipher =
      hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
          "c5f61e6393ba7a0abcc9f662898015ad");
  const auto first60 = [](const Bytes& bytes) { return Bytes(bytes.begin(), bytes.begin() + 60); };
  return {{Bytes(32, 0), Bytes(12, 0), {}, {}, {}, hex("530f8afbc74536b9a963b4f1c4cb738b")},
          {Bytes(32, 0),
           Bytes(12, 0),
           {},
           Bytes(16, 0),
           hex("cea7403d4d606b6e074ec5d3baf39d18"),
           hex("d0d1c8a799996bf0265b98b5d48ab919")},
          {key, nonce, {}, text, cipher, hex("b094dac5d93471bdec1a502270e3cc6c")},
          {key, nonce, hex("feedfacedeadbeeffeedfacedeadbeefabaddad2"), first60(text), first60(cipher),
           hex("76fc6ece0f4e1768cddf8853bb2d551b")}};
}

bool opens(const GcmCase& c, Bytes* plaintext) {
  bool authentic = true;
  plaintext->assign(c.ciphertext.size(), 0xee);
  EXPECT_EQ(Status::kOk, aes256_gcm_decrypt({c.key.data(), c.nonce.data()}, view(c.aad), view(c.ciphertext),
                                            c.tag.data(), plaintext->data(), &authentic));
  return authentic;
}

TEST(AesGcm, KnownAnswers) {
  for (const GcmCase& c : gcm_cases()) {
    Bytes ciphertext(c.plaintext.size()), tag(kGcmTagSize), plaintext;
    ASSERT_EQ(Status::kOk, aes256_gcm_encrypt({c.key.data(), c.nonce.data()}, view(c.aad), view(c.plaintext),
                                              ciphertext.data(), tag.data()));
    EXPECT_EQ(c.ciphertext, ciphertext);
    EXPECT_EQ(c.tag, tag);
    EXPECT_TRUE(opens(c, &plaintext));
    EXPECT_EQ(c.plaintext, plaintext);
  }
}

TEST(AesGcm, NoFlippedBitOpensAndNothingOfThePlaintextIsLeft) {
  const GcmCase genuine = gcm_cases()[3];
  for (Bytes GcmCase::*part :
       {&GcmCase::key, &GcmCase::nonce, &GcmCase::aad, &GcmCase::ciphertext, &GcmCase::tag}) {
    for (size_t bit = 0; bit < (genuine.*part).size() * 8; ++bit) {
      GcmCase forged = genuine;
      (forged.*part)[bit / 8] = static_cast<uint8_t>((forged.*part)[bit / 8] ^ 1u << bit % 8);
      Bytes plaintext;
      ASSERT_FALSE(opens(forged, &plaintext)) << "bit " << bit;
      ASSERT_EQ(Bytes(plaintext.size(), 0), plaintext) << "bit " << bit;
    }
  }
}

TEST(AesGcm, NoOtherLengthOpens) {
  const GcmCase genuine = gcm_cases()[3];
  Bytes plaintext;
  for (size_t size = 0; size < genuine.ciphertext.size(); ++size) {
    GcmCase forged = genuine;
    forged.ciphertext.resize(size);
    EXPECT_FALSE(opens(forged, &plaintext)) << size;
  }
  GcmCase moved = genuine;  // the boundary between AAD and ciphertext is authenticated too
  moved.aad.push_back(moved.ciphertext.front());
  moved.ciphertext.erase(moved.ciphertext.begin());
  EXPECT_FALSE(opens(moved, &plaintext));
}

TEST(Compare, FindsEveryDifference) {
  const Bytes a = range(1, 33);
  EXPECT_TRUE(equal_in_constant_time(a.data(), a.data(), a.size()));
  EXPECT_TRUE(equal_in_constant_time(a.data(), a.data() + 1, 0));
  for (size_t bit = 0; bit < a.size() * 8; ++bit) {
    Bytes b = a;
    b[bit / 8] = static_cast<uint8_t>(b[bit / 8] ^ 1u << bit % 8);
    EXPECT_FALSE(equal_in_constant_time(a.data(), b.data(), a.size()));
    EXPECT_EQ(bit / 8 > 0, equal_in_constant_time(a.data(), b.data(), bit / 8 == 0 ? 1 : bit / 8));
  }
}

}  // namespace
}  // namespace confidential_ml
