// Known answers beyond those of the enclave's own self-test, and that no altered ciphertext opens.

#include "enclave/crypto.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/cpp/byte_strings.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using test::hex;
using test::view;
using test::with_bit_flipped;

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

Bytes extract(const Bytes& salt, const Bytes& key) {
  Bytes prk(kSha256Size);
  EXPECT_EQ(Status::kOk, hkdf_sha256_extract(view(salt), view(key), prk.data()));
  return prk;
}

// RFC 5869, appendices A.1 to A.3: PRK.
TEST(HkdfExtract, KnownAnswers) {
  EXPECT_EQ(hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"),
            extract(range(0, 13), Bytes(22, 0x0b)));
  EXPECT_EQ(hex("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244"),
            extract(range(0x60, 80), range(0, 80)));
  EXPECT_EQ(hex("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"),
            extract({}, Bytes(22, 0x0b)));
}

// RFC 4231, test case 6, and RFC 2104: a salt longer than a block is hashed first, and an empty one is zeros.
TEST(HkdfExtract, TakesAnySalt) {
  const std::string message = "Test Using Larger Than Block-Size Key - Hash Key First";
  EXPECT_EQ(hex("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
            extract(Bytes(131, 0xaa), Bytes(message.begin(), message.end())));
  EXPECT_EQ(extract(Bytes(32, 0), {}), extract({}, {}));
}

TEST(HkdfExpand, KnownAnswerAndLongestOutput) {
  const Bytes prk = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
  Bytes output(42);
  ASSERT_EQ(Status::kOk, hkdf_sha256_expand(prk.data(), view(range(0xf0, 10)), output.data(), output.size()));
  EXPECT_EQ(hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
            output);
  output.resize(255 * 32 + 1);
  EXPECT_EQ(Status::kOk, hkdf_sha256_expand(prk.data(), {nullptr, 0}, output.data(), 255 * 32));
  EXPECT_EQ(Status::kCryptoFailed,
            hkdf_sha256_expand(prk.data(), {nullptr, 0}, output.data(), output.size()));
}

Bytes public_key_of(const Bytes& private_key) {
  Bytes public_key(kX25519KeySize);
  EXPECT_EQ(Status::kOk, x25519_public_key(private_key.data(), public_key.data()));
  return public_key;
}

Bytes shared_secret_of(const Bytes& private_key, const Bytes& peer) {
  Bytes shared_secret(kX25519KeySize);
  bool valid = false;
  EXPECT_EQ(Status::kOk, x25519({private_key.data(), public_key_of(private_key).data()}, peer.data(),
                                shared_secret.data(), &valid));
  EXPECT_TRUE(valid);
  return shared_secret;
}

// RFC 7748, 6.1 and 5.2; the second u-coordinate of 5.2 has its top bit set.
TEST(X25519, KnownAnswers) {
  const Bytes alice = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
  const Bytes bob = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
  const Bytes shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
  EXPECT_EQ(hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"), public_key_of(alice));
  EXPECT_EQ(hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"), public_key_of(bob));
  EXPECT_EQ(shared, shared_secret_of(alice, public_key_of(bob)));
  EXPECT_EQ(shared, shared_secret_of(bob, public_key_of(alice)));
  EXPECT_EQ(hex("95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"),
            shared_secret_of(hex("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d"),
                             hex("e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493")));
}

// RFC 7748, 5.2.
TEST(X25519, AThousandTimes) {
  Bytes k(kX25519KeySize);
  k[0] = 9;
  Bytes u = k;
  for (int i = 0; i < 1000; ++i) {
    const Bytes next = shared_secret_of(k, u);
    u = k;
    k = next;
  }
  EXPECT_EQ(hex("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"), k);
}

TEST(X25519, AnAllZeroSharedSecretIsInvalidAndNothingOfItIsLeft) {
  const Bytes own = range(1, 32), low_order(kX25519KeySize);
  Bytes shared_secret(kX25519KeySize, 0xee);
  bool valid = true;
  EXPECT_EQ(Status::kOk,
            x25519({own.data(), public_key_of(own).data()}, low_order.data(), shared_secret.data(), &valid));
  EXPECT_FALSE(valid);
  EXPECT_EQ(Bytes(kX25519KeySize), shared_secret);
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
      forged.*part = with_bit_flipped(genuine.*part, bit);
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
    const Bytes b = with_bit_flipped(a, bit);
    EXPECT_FALSE(equal_in_constant_time(a.data(), b.data(), a.size()));
    EXPECT_EQ(bit / 8 > 0, equal_in_constant_time(a.data(), b.data(), bit / 8 == 0 ? 1 : bit / 8));
  }
}

}  // namespace
}  // namespace confidential_ml
