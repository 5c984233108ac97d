#include "enclave/signature.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>

#include "enclave/platform.h"

namespace confidential_ml {
namespace {

struct Free {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// libcrypto computes the public key again: signing with a public key that is not the private key's would
// betray the private key.
Owned<EVP_PKEY> private_key(const uint8_t bytes[kEd25519KeySize]) {
  return Owned<EVP_PKEY>(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, bytes, kEd25519KeySize));
}

Status derive_public_key(SigningKey* key) {
  const Owned<EVP_PKEY> pair = private_key(key->private_key.bytes);
  size_t size = kEd25519KeySize;
  const bool done =
      pair && EVP_PKEY_get_raw_public_key(pair.get(), key->public_key, &size) == 1 && size == kEd25519KeySize;
  return done ? Status::kOk : Status::kCryptoFailed;
}

// y of the points of small order; each stands for both signs of x.
constexpr uint8_t kSmallOrder[][kEd25519KeySize] = {
    {},
    {1},
    {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
     0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
    {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
     0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}};

}  // namespace

bool signature_key_is_sound(const uint8_t public_key[kEd25519KeySize]) {
  uint8_t y[kEd25519KeySize];
  std::memcpy(y, public_key, sizeof y);
  y[kEd25519KeySize - 1] &= 0x7f;  // without the sign of x
  // 2^255 - 19 and the 18 numbers above it differ in the lowest byte alone.
  const bool is_reduced =
      y[0] < 0xed || y[kEd25519KeySize - 1] != 0x7f ||
      !std::all_of(y + 1, y + kEd25519KeySize - 1, [](uint8_t byte) { return byte == 0xff; });
  const auto is_y = [&](const auto& small) { return std::memcmp(y, small, sizeof y) == 0; };
  return is_reduced && std::none_of(std::begin(kSmallOrder), std::end(kSmallOrder), is_y);
}

Status signature_generate(SigningKey* key) {
  const Status status = platform_random(key->private_key.bytes, kEd25519KeySize);
  return status == Status::kOk ? derive_public_key(key) : status;
}

Status signature_make(const SigningKey& key, ByteView message, uint8_t signature[kEd25519SignatureSize]) {
  const Owned<EVP_PKEY> pair = private_key(key.private_key.bytes);
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  size_t size = kEd25519SignatureSize;
  const bool done = pair && context &&
                    EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, pair.get()) == 1 &&
                    EVP_DigestSign(context.get(), signature, &size, message.data, message.size) == 1 &&
                    size == kEd25519SignatureSize;
  return done ? Status::kOk : Status::kCryptoFailed;
}

Status signature_verify(const uint8_t public_key[kEd25519KeySize], ByteView message,
                        const uint8_t signature[kEd25519SignatureSize], bool* valid) {
  *valid = false;
  if (!signature_key_is_sound(public_key)) return Status::kOk;
  const Owned<EVP_PKEY> key(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, public_key, kEd25519KeySize));
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  const bool ready =
      key && context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1;
  if (!ready) return Status::kCryptoFailed;
  *valid = EVP_DigestVerify(context.get(), signature, kEd25519SignatureSize, message.data, message.size) == 1;
  return Status::kOk;
}

Status signature_known_answer() {
  // RFC 8032, 7.1, TEST 2.
  static const uint8_t kPrivateKey[kEd25519KeySize] = {
      0x4c, 0xcd, 0x08, 0x9b, 0x28, 0xff, 0x96, 0xda, 0x9d, 0xb6, 0xc3, 0x46, 0xec, 0x11, 0x4e, 0x0f,
      0x5b, 0x8a, 0x31, 0x9f, 0x35, 0xab, 0xa6, 0x24, 0xda, 0x8c, 0xf6, 0xed, 0x4f, 0xb8, 0xa6, 0xfb};
  static const uint8_t kPublicKey[kEd25519KeySize] = {
      0x3d, 0x40, 0x17, 0xc3, 0xe8, 0x43, 0x89, 0x5a, 0x92, 0xb7, 0x0a, 0xa7, 0x4d, 0x1b, 0x7e, 0xbc,
      0x9c, 0x98, 0x2c, 0xcf, 0x2e, 0xc4, 0x96, 0x8c, 0xc0, 0xcd, 0x55, 0xf1, 0x2a, 0xf4, 0x66, 0x0c};
  static const uint8_t kMessage[1] = {0x72};
  static const uint8_t kSignature[kEd25519SignatureSize] = {
      0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8, 0x72, 0x0e, 0x82, 0x0b, 0x5f, 0x64, 0x25, 0x40,
      0xa2, 0xb2, 0x7b, 0x54, 0x16, 0x50, 0x3f, 0x8f, 0xb3, 0x76, 0x22, 0x23, 0xeb, 0xdb, 0x69, 0xda,
      0x08, 0x5a, 0xc1, 0xe4, 0x3e, 0x15, 0x99, 0x6e, 0x45, 0x8f, 0x36, 0x13, 0xd0, 0xf1, 0x1d, 0x8c,
      0x38, 0x7b, 0x2e, 0xae, 0xb4, 0x30, 0x2a, 0xee, 0xb0, 0x0d, 0x29, 0x16, 0x12, 0xbb, 0x0c, 0x00};
  SigningKey key;
  uint8_t signature[kEd25519SignatureSize];
  bool valid = false;
  std::memcpy(key.private_key.bytes, kPrivateKey, kEd25519KeySize);
  Status status = derive_public_key(&key);
  if (status == Status::kOk) status = signature_make(key, {kMessage, sizeof kMessage}, signature);
  if (status != Status::kOk) return status;
  if (std::memcmp(key.public_key, kPublicKey, sizeof kPublicKey) != 0) return Status::kCryptoFailed;
  if (std::memcmp(signature, kSignature, sizeof kSignature) != 0) return Status::kCryptoFailed;
  status = signature_verify(kPublicKey, {kMessage, sizeof kMessage}, signature, &valid);
  if (status != Status::kOk || !valid) return Status::kCryptoFailed;
  signature[0] ^= 1;
  status = signature_verify(kPublicKey, {kMessage, sizeof kMessage}, signature, &valid);
  return status == Status::kOk && valid ? Status::kCryptoFailed : status;
}

}  // namespace confidential_ml
