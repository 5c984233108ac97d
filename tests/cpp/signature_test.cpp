// Known answers, and that nothing altered is taken for signed.

#include "enclave/signature.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <cstring>

#include "tests/cpp/byte_strings.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using test::hex;
using test::view;
using test::with_bit_flipped;

struct Signed {
  Bytes private_key, public_key, message, signature;
};

// RFC 8032, 7.1: TEST 1, 2, 3, 1024 and SHA(abc).
std::vector<Signed> known_answers() {
  return {
      {hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
       hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
       {},
       hex("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
           "d25bf5f0595bbe24655141438e7a100b")},
      {hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"),
       hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"), hex("72"),
       hex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
           "387b2eaeb4302aeeb00d291612bb0c00")},
      {hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"),
       hex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"), hex("af82"),
       hex("6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
           "4a7c15e9716ed28dc027beceea1ec40a")},
      {hex("f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5"),
       hex("278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e"),
       hex("08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50f8f54e9f77b1"
           "e355f6c50544e23fb1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37c93a1b270b20329d"
           "658675fc6ea534e0810a4432826bf58c941efb65d57a338bbd2e26640f89ffbc1a858efcb8550ee3a5e1998bd177e93a"
           "7363c344fe6b199ee5d02e82d522c4feba15452f80288a821a579116ec6dad2b3b310da903401aa62100ab5d1a36553e"
           "06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573cb116dbefefd75499da96bd68a8a97b928a8bbc10"
           "3b6621fcde2beca1231d206be6cd9ec7aff6f6c94fcd7204ed3455c68c83f4a41da4af2b74ef5c53f1d8ac70bdcb7ed1"
           "85ce81bd84359d44254d95629e9855a94a7c1958d1f8ada5d0532ed8a5aa3fb2d17ba70eb6248e594e1a2297acbbb39d"
           "502f1a8c6eb6f1ce22b3de1a1f40cc24554119a831a9aad6079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f270"
           "88d78b7e883c8759d2c4f5c65adb7553878ad575f9fad878e80a0c9ba63bcbcc2732e69485bbc9c90bfbd62481d9089b"
           "eccf80cfe2df16a2cf65bd92dd597b0707e0917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128ba"
           "b27af87a71314f318c782b23ebfe808b82b0ce26401d2e22f04d83d1255dc51addd3b75a2b1ae0784504df543af8969b"
           "e3ea7082ff7fc9888c144da2af58429ec96031dbcad3dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9b47acdb7"
           "51fb73e666c6c655ade8297297d07ad1ba5e43f1bca32301651339e22904cc8c42f58c30c04aafdb038dda0847dd988d"
           "cda6f3bfd15c4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f6724517b65e614ad6808d6f6ee34df"
           "f7310fdc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08d78ff4ef5d63653a65040cf9bfd4aca7"
           "984a74d37145986780fc0b16ac451649de6188a7dbdf191f64b5fc5e2ab47b57f7f7276cd419c17a3ca8e1b939ae49e4"
           "88acba6b965610b5480109c8b17b80e1b7b750dfc7598d5d5011fd2dcc5600a32ef5b52a1ecc820e308aa342721aac09"
           "43bf6686b64b2579376504ccc493d97e6aed3fb0f9cd71a43dd497f01f17c0e2cb3797aa2a2f256656168e6c496afc5f"
           "b93246f6b1116398a346f1a641f3b041e989f7914f90cc2c7fff357876e506b50d334ba77c225bc307ba537152f3f161"
           "0e4eafe595f6d9d90d11faa933a15ef1369546868a7f3a45a96768d40fd9d03412c091c6315cf4fde7cb68606937380d"
           "b2eaaa707b4c4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86aba41c0618983f8741c5ef68d3a101e8a3b8ca"
           "c60c905c15fc910840b94c00a0b9d0"),
       hex("0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c436d94b"
           "5e8fcd4f681e30a6ac00a9704a188a03")},
      {hex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42"),
       hex("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf"),
       hex("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
           "454d4423643ce80e2a9ac94fa54ca49f"),
       hex("dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
           "3dca179c138ac17ad9bef1177331a704")}};
}

Bytes sign(const Bytes& private_key, const Bytes& message) {
  SigningKey key;
  std::memcpy(key.private_key.bytes, private_key.data(), kEd25519KeySize);
  Bytes signature(kEd25519SignatureSize);
  EXPECT_EQ(Status::kOk, signature_make(key, view(message), signature.data()));
  return signature;
}

bool is_valid(const Signed& s) {
  bool valid = true;
  EXPECT_EQ(Status::kOk, signature_verify(s.public_key.data(), view(s.message), s.signature.data(), &valid));
  return valid;
}

bool libcrypto_takes(const Signed& s) {
  EVP_PKEY* key =
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, s.public_key.data(), kEd25519KeySize);
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  const bool taken = key != nullptr && EVP_DigestVerifyInit(context, nullptr, nullptr, nullptr, key) == 1 &&
                     EVP_DigestVerify(context, s.signature.data(), s.signature.size(), s.message.data(),
                                      s.message.size()) == 1;
  EVP_MD_CTX_free(context);
  EVP_PKEY_free(key);
  return taken;
}

TEST(SelfTest, Passes) { EXPECT_EQ(Status::kOk, signature_known_answer()); }

TEST(Signature, KnownAnswers) {
  for (const Signed& s : known_answers()) {
    EXPECT_EQ(s.signature, sign(s.private_key, s.message)) << s.message.size();
    EXPECT_TRUE(is_valid(s)) << s.message.size();
  }
}

// The public key is not what signing goes by: with another one the private key could be computed from
// signatures.
TEST(Signature, IsMadeWithThePublicKeyOfThePrivateKeyWhateverItIsGiven) {
  const Signed s = known_answers()[2];
  SigningKey key;
  std::memcpy(key.private_key.bytes, s.private_key.data(), kEd25519KeySize);
  std::memset(key.public_key, 0xee, kEd25519KeySize);
  Bytes signature(kEd25519SignatureSize);
  ASSERT_EQ(Status::kOk, signature_make(key, view(s.message), signature.data()));
  EXPECT_EQ(s.signature, signature);
}

TEST(Signature, NoFlippedBitIsValid) {
  const Signed genuine = known_answers().back();
  for (Bytes Signed::*part : {&Signed::public_key, &Signed::message, &Signed::signature}) {
    for (size_t bit = 0; bit < (genuine.*part).size() * 8; ++bit) {
      Signed forged = genuine;
      forged.*part = with_bit_flipped(genuine.*part, bit);
      ASSERT_FALSE(is_valid(forged)) << "bit " << bit;
    }
  }
}

TEST(Signature, NoOtherMessageIsValid) {
  Signed cut = known_answers().back();
  cut.message.pop_back();
  EXPECT_FALSE(is_valid(cut));
  Signed longer = known_answers().back();
  longer.message.push_back(0);
  EXPECT_FALSE(is_valid(longer));
}

// RFC 8032, 5.1.7: S must be below the order L, or everybody could make a second signature of the first.
TEST(Signature, RefusesEverySThatIsNotReduced) {
  const Bytes order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
  Signed s = known_answers()[2];
  int tried = 0;
  for (bool overflow = false; !overflow;) {
    unsigned carry = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      uint8_t& byte = s.signature[32 + i];
      carry += static_cast<unsigned>(byte) + order[i];
      byte = static_cast<uint8_t>(carry);
      carry >>= 8;
    }
    overflow = carry != 0;
    if (overflow) break;
    ++tried;
    EXPECT_FALSE(is_valid(s)) << tried;
  }
  EXPECT_EQ(15, tried);  // S + L to S + 15 L fit 32 bytes
}

// y = 2 is on no point of the curve (RFC 8032, 5.1.3).
TEST(Signature, APublicKeyThatIsNoPointIsInvalid) {
  Signed s = known_answers()[0];
  s.public_key = Bytes(kEd25519KeySize);
  s.public_key[0] = 2;
  EXPECT_FALSE(is_valid(s));
}

// All writings of the points of small order: with the neutral point as R and zero as S, at least one message
// in eight has a right signature under each, which nobody has made.
TEST(Signature, KeysUnderWhichAnybodySignsAreRefused) {
  Bytes neutral_and_zero(kEd25519SignatureSize);
  neutral_and_zero[0] = 1;
  int forged = 0;
  for (const char* y : {"0000000000000000000000000000000000000000000000000000000000000000",
                        "0100000000000000000000000000000000000000000000000000000000000000",
                        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
                        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
                        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"}) {
    for (const uint8_t sign_of_x : {uint8_t{0}, uint8_t{0x80}}) {
      Bytes key = hex(y);
      key[31] = static_cast<uint8_t>(key[31] | sign_of_x);
      EXPECT_FALSE(signature_key_is_sound(key.data())) << y;
      for (uint8_t message = 0; message < 64; ++message) {
        const Signed s{{}, key, {message}, neutral_and_zero};
        EXPECT_FALSE(is_valid(s)) << y;
        forged += libcrypto_takes(s);
      }
    }
  }
  EXPECT_GT(forged, 64) << "libcrypto alone refuses them: then this test shows nothing";
}

TEST(Signature, KeysWrittenInAnotherWayAreRefused) {
  Bytes key = hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
  for (int above = 0; above < 19; ++above, ++key[0]) {
    EXPECT_FALSE(signature_key_is_sound(key.data())) << above;
    key[31] |= 0x80;
    EXPECT_FALSE(signature_key_is_sound(key.data())) << above;
    key[31] &= 0x7f;
  }
  for (const char* sound : {"ebffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                            "edfffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe7f",
                            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7e",
                            "0200000000000000000000000000000000000000000000000000000000000000"}) {
    EXPECT_TRUE(signature_key_is_sound(hex(sound).data())) << sound;
  }
  for (const Signed& s : known_answers()) EXPECT_TRUE(signature_key_is_sound(s.public_key.data()));
}

TEST(SignatureGenerate, MakesAnotherKeyEachTimeAndOneThatSigns) {
  SigningKey a, b;
  ASSERT_EQ(Status::kOk, signature_generate(&a));
  ASSERT_EQ(Status::kOk, signature_generate(&b));
  EXPECT_NE(0, std::memcmp(a.private_key.bytes, b.private_key.bytes, kEd25519KeySize));
  Signed s{{}, {a.public_key, a.public_key + kEd25519KeySize}, {1, 2, 3}, Bytes(kEd25519SignatureSize)};
  ASSERT_EQ(Status::kOk, signature_make(a, view(s.message), s.signature.data()));
  EXPECT_TRUE(is_valid(s));
  s.public_key.assign(b.public_key, b.public_key + kEd25519KeySize);
  EXPECT_FALSE(is_valid(s));
}

}  // namespace
}  // namespace confidential_ml
