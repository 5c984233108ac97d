// The vector of RFC 9180 for this suite, and that nothing altered opens.

#include "enclave/hpke.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/cpp/byte_strings.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using test::hex;
using test::text;
using test::view;
using test::with_bit_flipped;

// A receiver's key and what a sender sent it.
struct Sent {
  Bytes private_key, public_key, enc, info, aad, ciphertext;
};

// The one vector of base mode (mode 0) with KEM 0x0020, KDF 0x0001 and AEAD 0x0002 in the test-vectors.json
// that appendix A of RFC 9180 refers to (github.com/cfrg/draft-irtf-cfrg-hpke; here from the package
// cryptography_vectors 50.0.2, Apache-2.0 or BSD-3-Clause): its first encryption and all its exports.
Sent vector() {
  return {hex("497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d"),
          hex("430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c"),
          hex("6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256"),
          text("Ode on a Grecian Urn"),
          text("Count-0"),
          hex("e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a")};
}
const Bytes kPlaintext = text("Beauty is truth, truth beauty");
const Bytes kKey = hex("f50b0609186798729ed0564b36ef2ef8044f1f9d05636874d1f46c819c7a669f");
const Bytes kBaseNonce = hex("151d9929e2449747889bc923");
const Bytes kExporterSecret = hex("86017151bbff6a1940e8abae2ac9e0e7032e33df1eaaecc02ca6259b130d62df");

struct Export {
  Bytes exporter_context, value;
};
std::vector<Export> exports() {
  return {{hex(""), hex("ded6cffafaea6b812cbf3e241e88332adbc077aca81512914213810ee291770a")},
          {hex("00"), hex("04d3cb6cc116b28ffd22ad5bc276c60d31fec71ceb87ae24db811c64b7507339")},
          {hex("54657374436f6e74657874"),
           hex("7c5ded445732c14fe09727d29b4251c0fd38455fe8440571e687f0886aac94d2")}};
}

bool set_up(const Sent& sent, HpkeContext* context) {
  HpkeKeyPair pair;
  std::memcpy(pair.private_key.bytes, sent.private_key.data(), kX25519KeySize);
  std::memcpy(pair.public_key, sent.public_key.data(), kX25519KeySize);
  HpkeSharedSecret shared_secret;
  bool valid = true;
  EXPECT_EQ(Status::kOk, hpke_decap(pair, sent.enc.data(), &shared_secret, &valid));
  if (!valid) return false;
  EXPECT_EQ(Status::kOk, hpke_key_schedule(shared_secret, view(sent.info), context));
  return true;
}

bool opens_in(const HpkeContext& context, const Sent& sent, Bytes* plaintext) {
  plaintext->assign(sent.ciphertext.size() < kGcmTagSize ? 0 : sent.ciphertext.size() - kGcmTagSize, 0xee);
  bool authentic = true;
  EXPECT_EQ(Status::kOk,
            hpke_open_first(context, view(sent.aad), view(sent.ciphertext), plaintext->data(), &authentic));
  return authentic;
}

bool opens(const Sent& sent, Bytes* plaintext) {
  HpkeContext context;
  return set_up(sent, &context) && opens_in(context, sent, plaintext);
}

Bytes exported(const HpkeContext& context, const Bytes& exporter_context, size_t size) {
  Bytes value(size);
  EXPECT_EQ(Status::kOk, hpke_export(context, view(exporter_context), value.data(), value.size()));
  return value;
}

template <size_t kSize>
Bytes copy(const SecretBytes<kSize>& secret) {
  return {secret.bytes, secret.bytes + secret.size};
}

TEST(SelfTest, Passes) { EXPECT_EQ(Status::kOk, hpke_known_answer()); }

TEST(Hpke, KnownAnswer) {
  const Sent sent = vector();
  HpkeContext context;
  Bytes plaintext;
  ASSERT_TRUE(set_up(sent, &context));
  EXPECT_EQ(kKey, copy(context.key));
  EXPECT_EQ(kBaseNonce, copy(context.base_nonce));
  EXPECT_EQ(kExporterSecret, copy(context.exporter_secret));
  EXPECT_TRUE(opens_in(context, sent, &plaintext));
  EXPECT_EQ(kPlaintext, plaintext);
  for (const Export& e : exports()) EXPECT_EQ(e.value, exported(context, e.exporter_context, e.value.size()));
}

TEST(Hpke, NoFlippedBitOpensAndNothingOfThePlaintextIsLeft) {
  const Sent genuine = vector();
  for (Bytes Sent::*part : {&Sent::public_key, &Sent::enc, &Sent::info, &Sent::aad, &Sent::ciphertext}) {
    for (size_t bit = 0; bit < (genuine.*part).size() * 8; ++bit) {
      Sent forged = genuine;
      forged.*part = with_bit_flipped(genuine.*part, bit);
      HpkeContext context;
      Bytes plaintext;
      ASSERT_TRUE(set_up(forged, &context)) << "bit " << bit;
      ASSERT_FALSE(opens_in(context, forged, &plaintext)) << "bit " << bit;
      ASSERT_EQ(Bytes(plaintext.size()), plaintext) << "bit " << bit;
    }
  }
}

// X25519 ignores five bits of a private key (RFC 7748, 5): only the others make a key another one.
TEST(Hpke, NoOtherPrivateKeyOpens) {
  const Sent genuine = vector();
  for (size_t bit = 0; bit < kX25519KeySize * 8; ++bit) {
    Sent other = genuine;
    other.private_key = with_bit_flipped(genuine.private_key, bit);
    Bytes plaintext;
    const bool ignored = bit < 3 || bit >= 254;
    ASSERT_EQ(ignored, opens(other, &plaintext)) << "bit " << bit;
  }
}

TEST(Hpke, NoOtherLengthOpens) {
  const Sent genuine = vector();
  Bytes plaintext;
  for (size_t size = 0; size < genuine.ciphertext.size(); ++size) {
    Sent cut = genuine;
    cut.ciphertext.resize(size);
    EXPECT_FALSE(opens(cut, &plaintext)) << size;
  }
  Sent longer = genuine;
  longer.ciphertext.push_back(0);
  EXPECT_FALSE(opens(longer, &plaintext));
  Sent moved = genuine;  // from info to AAD
  moved.aad.insert(moved.aad.begin(), moved.info.back());
  moved.info.pop_back();
  EXPECT_FALSE(opens(moved, &plaintext));
}

// All encodings of points whose order divides 8, on the curve and its twist: with them the sender would know
// the shared secret of every receiver, zero. p - 1, p and p + 1 are -1, 0 and 1; the top bit is ignored.
TEST(Hpke, RefusesPointsOfLowOrder) {
  for (const char* point : {"0000000000000000000000000000000000000000000000000000000000000000",
                            "0100000000000000000000000000000000000000000000000000000000000000",
                            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
                            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
                            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"}) {
    for (const bool top_bit : {false, true}) {
      Sent sent = vector();
      sent.enc = top_bit ? with_bit_flipped(hex(point), 255) : hex(point);
      HpkeContext context;
      EXPECT_FALSE(set_up(sent, &context)) << point;
      EXPECT_EQ(Bytes(kAesKeySize), copy(context.key)) << point;
      EXPECT_EQ(Bytes(kSha256Size), copy(context.exporter_secret)) << point;
    }
  }
}

TEST(Hpke, InfoIsBounded) {
  HpkeSharedSecret shared_secret;
  HpkeContext context;
  Bytes info(kMaxHpkeInfoSize, 1);
  EXPECT_EQ(Status::kOk, hpke_key_schedule(shared_secret, view(info), &context));
  exported(context, info, kSha256Size);
  info.push_back(1);
  EXPECT_EQ(Status::kInvalidArgument, hpke_key_schedule(shared_secret, view(info), &context));
  Bytes output(kSha256Size);
  EXPECT_EQ(Status::kInvalidArgument, hpke_export(context, view(info), output.data(), output.size()));
}

TEST(HpkeExport, IsAnotherValueForEveryContextAndSize) {
  HpkeContext context;
  ASSERT_TRUE(set_up(vector(), &context));
  const Bytes value = exported(context, text("a"), 32);
  EXPECT_NE(value, exported(context, text("b"), 32));
  const Bytes longer = exported(context, text("a"), 33);
  EXPECT_NE(value, Bytes(longer.begin(), longer.begin() + 32));
}

// The vectors export 32 bytes each. Here both bytes of L count (RFC 9180, 4 and 5.3).
TEST(HpkeExport, IsAnExpansionUnderALabelWithItsSize) {
  Bytes labeled_info = hex("012c");
  for (const Bytes& part : {text("HPKE-v1HPKE"), hex("002000010002"), text("sec"), text("a")}) {
    labeled_info.insert(labeled_info.end(), part.begin(), part.end());
  }
  Bytes value(300);
  ASSERT_EQ(Status::kOk,
            hkdf_sha256_expand(kExporterSecret.data(), view(labeled_info), value.data(), value.size()));
  HpkeContext context;
  ASSERT_TRUE(set_up(vector(), &context));
  EXPECT_EQ(value, exported(context, text("a"), value.size()));
}

TEST(HpkeExport, GivesUpBeyondTheLongestOutputOfHkdf) {
  HpkeContext context;
  ASSERT_TRUE(set_up(vector(), &context));
  exported(context, {}, 255 * 32);
  for (const size_t size : {size_t{255 * 32 + 1}, size_t{65536 + 32}}) {
    Bytes output(size);
    EXPECT_EQ(Status::kCryptoFailed, hpke_export(context, {nullptr, 0}, output.data(), output.size()));
  }
}

TEST(HpkeGenerate, MakesAnotherPairEachTime) {
  HpkeKeyPair a, b;
  ASSERT_EQ(Status::kOk, hpke_generate(&a));
  ASSERT_EQ(Status::kOk, hpke_generate(&b));
  EXPECT_NE(copy(a.private_key), copy(b.private_key));
  uint8_t public_key[kX25519KeySize];
  ASSERT_EQ(Status::kOk, x25519_public_key(a.private_key.bytes, public_key));
  EXPECT_EQ(0, std::memcmp(public_key, a.public_key, kX25519KeySize));
}

}  // namespace
}  // namespace confidential_ml
