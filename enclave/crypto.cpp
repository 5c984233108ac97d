#include "enclave/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <memory>

#include "enclave/secret_memory.h"

namespace confidential_ml {
namespace {

struct Free {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  void operator()(EVP_MD* digest) const { EVP_MD_free(digest); }
  void operator()(EVP_CIPHER* cipher) const { EVP_CIPHER_free(cipher); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// An empty value still needs an address.
const uint8_t* address_of(ByteView value) {
  static const uint8_t kNothing = 0;
  return value.size == 0 ? &kNothing : value.data;
}

OSSL_PARAM octets(const char* name, ByteView value) {
  // OSSL_PARAM is shared with getters and so not const; here it is only read.
  return OSSL_PARAM_construct_octet_string(name, const_cast<uint8_t*>(address_of(value)), value.size);
}

// EVP takes lengths as int.
bool fits_int(ByteView view) { return view.size <= static_cast<size_t>(INT_MAX); }
int as_int(ByteView view) { return static_cast<int>(view.size); }

// Found once: to look an algorithm up by its name takes longer than to hash a few blocks.
struct Algorithms {
  const Owned<EVP_MD> sha256{EVP_MD_fetch(nullptr, "SHA256", nullptr)};
  const Owned<EVP_CIPHER> aes256_gcm{EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr)};
};

const Algorithms& algorithms() {
  static const Algorithms instance;
  return instance;
}

Status sha256_of(ByteView first, std::initializer_list<ByteView> rest, uint8_t digest[kSha256Size]) {
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new());
  const bool ready = context && EVP_DigestInit_ex2(context.get(), algorithms().sha256.get(), nullptr) == 1 &&
                     EVP_DigestUpdate(context.get(), first.data, first.size) == 1;
  if (!ready) return Status::kCryptoFailed;
  for (const ByteView& part : rest) {
    if (EVP_DigestUpdate(context.get(), part.data, part.size) != 1) return Status::kCryptoFailed;
  }
  unsigned size = 0;
  const bool done = EVP_DigestFinal_ex(context.get(), digest, &size) == 1 && size == kSha256Size;
  return done ? Status::kOk : Status::kCryptoFailed;
}

// HMAC (RFC 2104). libcrypto's own takes three times as long for what HPKE hashes, and its HKDF frees the
// salt, a secret in HPKE, without wiping it. `output` may be one of the parts.
Status hmac_sha256(ByteView key, std::initializer_list<ByteView> parts, uint8_t output[kSha256Size]) {
  constexpr size_t kBlockSize = 64;
  SecretBytes<kBlockSize> pad;  // the key, then zeros
  SecretBytes<kSha256Size> inner;
  Status status = Status::kOk;
  if (key.size > kBlockSize) {
    status = sha256_of(key, {}, pad.bytes);
  } else if (key.size > 0) {
    std::memcpy(pad.bytes, key.data, key.size);
  }
  for (uint8_t& byte : pad.bytes) byte ^= 0x36;
  if (status == Status::kOk) status = sha256_of({pad.bytes, kBlockSize}, parts, inner.bytes);
  for (uint8_t& byte : pad.bytes) byte ^= 0x36 ^ 0x5c;
  return status == Status::kOk ? sha256_of({pad.bytes, kBlockSize}, {{inner.bytes, kSha256Size}}, output)
                               : status;
}

}  // namespace

Status sha256(std::initializer_list<ByteView> parts, uint8_t digest[kSha256Size]) {
  return sha256_of({nullptr, 0}, parts, digest);
}

Status hkdf_sha256(ByteView key, ByteView salt, ByteView info, uint8_t* output, size_t output_size) {
  SecretBytes<kSha256Size> prk;
  const Status status = hkdf_sha256_extract(salt, key, prk.bytes);
  return status == Status::kOk ? hkdf_sha256_expand(prk.bytes, info, output, output_size) : status;
}

Status hkdf_sha256_extract(ByteView salt, ByteView key, uint8_t output[kSha256Size]) {
  return hmac_sha256(salt, {key}, output);
}

Status hkdf_sha256_expand(const uint8_t prk[kSha256Size], ByteView info, uint8_t* output,
                          size_t output_size) {
  if (output_size > 255 * kSha256Size) return Status::kCryptoFailed;
  SecretBytes<kSha256Size> block;
  size_t block_size = 0;  // none before the first
  for (uint8_t counter = 1; output_size > 0; ++counter) {
    const Status status =
        hmac_sha256({prk, kSha256Size}, {{block.bytes, block_size}, info, {&counter, 1}}, block.bytes);
    if (status != Status::kOk) return status;
    block_size = kSha256Size;
    const size_t size = std::min(output_size, kSha256Size);
    std::memcpy(output, block.bytes, size);
    output += size;
    output_size -= size;
  }
  return Status::kOk;
}

Status x25519_public_key(const uint8_t private_key[kX25519KeySize], uint8_t public_key[kX25519KeySize]) {
  const Owned<EVP_PKEY> key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, private_key, kX25519KeySize));
  size_t size = kX25519KeySize;
  const bool done =
      key && EVP_PKEY_get_raw_public_key(key.get(), public_key, &size) == 1 && size == kX25519KeySize;
  return done ? Status::kOk : Status::kCryptoFailed;
}

Status x25519(const X25519Key& own, const uint8_t peer_public_key[kX25519KeySize],
              uint8_t shared_secret[kX25519KeySize], bool* valid) {
  *valid = false;
  // Of the private half alone libcrypto would compute the public one, which takes as long as all the rest.
  const OSSL_PARAM parameters[] = {
      octets(OSSL_PKEY_PARAM_PRIV_KEY, {own.private_key, kX25519KeySize}),
      octets(OSSL_PKEY_PARAM_PUB_KEY, {own.public_key, kX25519KeySize}),
      OSSL_PARAM_construct_end(),
  };
  const Owned<EVP_PKEY_CTX> import(EVP_PKEY_CTX_new_from_name(nullptr, "X25519", nullptr));
  EVP_PKEY* made = nullptr;
  const bool imported =
      import && EVP_PKEY_fromdata_init(import.get()) == 1 &&
      EVP_PKEY_fromdata(import.get(), &made, EVP_PKEY_KEYPAIR, const_cast<OSSL_PARAM*>(parameters)) == 1;
  const Owned<EVP_PKEY> key(imported ? made : nullptr);
  const Owned<EVP_PKEY> peer(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, peer_public_key, kX25519KeySize));
  const Owned<EVP_PKEY_CTX> context(key ? EVP_PKEY_CTX_new(key.get(), nullptr) : nullptr);
  const bool ready = context && peer && EVP_PKEY_derive_init(context.get()) == 1 &&
                     EVP_PKEY_derive_set_peer(context.get(), peer.get()) == 1;
  if (!ready) return Status::kCryptoFailed;
  // All that is left for libcrypto to refuse is the all-zero result. Its error codes for that differ from
  // version to version, so they are not asked.
  size_t size = kX25519KeySize;
  *valid = EVP_PKEY_derive(context.get(), shared_secret, &size) == 1 && size == kX25519KeySize;
  if (!*valid) wipe(shared_secret, kX25519KeySize);
  return Status::kOk;
}

Status aes256_gcm_encrypt(const GcmKey& key, ByteView aad, ByteView plaintext, uint8_t* ciphertext,
                          uint8_t tag[kGcmTagSize]) {
  Owned<EVP_CIPHER_CTX> context(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool done =
      context && fits_int(aad) && fits_int(plaintext) &&
      EVP_EncryptInit_ex(context.get(), algorithms().aes256_gcm.get(), nullptr, key.key, key.nonce) == 1 &&
      EVP_EncryptUpdate(context.get(), nullptr, &size, aad.data, as_int(aad)) == 1 &&
      EVP_EncryptUpdate(context.get(), ciphertext, &size, plaintext.data, as_int(plaintext)) == 1 &&
      EVP_EncryptFinal_ex(context.get(), ciphertext + size, &size) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kGcmTagSize, tag) == 1;
  return done ? Status::kOk : Status::kCryptoFailed;
}

Status aes256_gcm_decrypt(const GcmKey& key, ByteView aad, ByteView ciphertext,
                          const uint8_t tag[kGcmTagSize], uint8_t* plaintext, bool* authentic) {
  *authentic = false;
  Owned<EVP_CIPHER_CTX> context(EVP_CIPHER_CTX_new());
  uint8_t expected_tag[kGcmTagSize];  // EVP_CIPHER_CTX_ctrl takes no const pointer
  std::memcpy(expected_tag, tag, kGcmTagSize);
  int size = 0;
  const bool done =
      context && fits_int(aad) && fits_int(ciphertext) &&
      EVP_DecryptInit_ex(context.get(), algorithms().aes256_gcm.get(), nullptr, key.key, key.nonce) == 1 &&
      EVP_DecryptUpdate(context.get(), nullptr, &size, aad.data, as_int(aad)) == 1 &&
      EVP_DecryptUpdate(context.get(), plaintext, &size, ciphertext.data, as_int(ciphertext)) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kGcmTagSize, expected_tag) == 1;
  if (!done) {
    wipe(plaintext, ciphertext.size);
    return Status::kCryptoFailed;
  }
  *authentic = EVP_DecryptFinal_ex(context.get(), plaintext + size, &size) == 1;
  if (!*authentic) wipe(plaintext, ciphertext.size);
  return Status::kOk;
}

bool equal_in_constant_time(const uint8_t* a, const uint8_t* b, size_t size) {
  return CRYPTO_memcmp(a, b, size) == 0;
}

namespace {

// FIPS 180-4 example "abc".
bool sha256_known_answer() {
  static const uint8_t kMessage[] = {'a', 'b', 'c'};
  static const uint8_t kDigest[kSha256Size] = {
      0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
      0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
  uint8_t digest[kSha256Size];
  return sha256({{kMessage, 1}, {kMessage + 1, 2}}, digest) == Status::kOk &&
         std::memcmp(digest, kDigest, sizeof kDigest) == 0;
}

// RFC 5869 appendix A.1.
bool hkdf_known_answer() {
  static const uint8_t kKey[22] = {0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b,
                                   0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b, 0x0b};
  static const uint8_t kSalt[13] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  static const uint8_t kInfo[10] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9};
  static const uint8_t kOutput[42] = {0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f,
                                      0x64, 0xd0, 0x36, 0x2f, 0x2a, 0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a,
                                      0x5a, 0x4c, 0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf, 0x34,
                                      0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65};
  uint8_t output[sizeof kOutput];
  return hkdf_sha256({kKey, sizeof kKey}, {kSalt, sizeof kSalt}, {kInfo, sizeof kInfo}, output,
                     sizeof output) == Status::kOk &&
         std::memcmp(output, kOutput, sizeof kOutput) == 0;
}

// Test case 14 of the GCM specification (McGrew, Viega): zero key, nonce and 16-byte plaintext. A tag with
// one bit flipped must not open.
bool gcm_known_answer() {
  static const uint8_t kZero[kAesKeySize] = {};
  static const uint8_t kCiphertext[16] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e,
                                          0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18};
  static const uint8_t kTag[kGcmTagSize] = {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0,
                                            0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
  const GcmKey key{kZero, kZero};
  uint8_t text[16], tag[kGcmTagSize], opened[16];
  bool authentic = false;
  if (aes256_gcm_encrypt(key, {kZero, 0}, {kZero, 16}, text, tag) != Status::kOk) return false;
  if (std::memcmp(text, kCiphertext, 16) != 0 || std::memcmp(tag, kTag, kGcmTagSize) != 0) return false;
  if (aes256_gcm_decrypt(key, {kZero, 0}, {text, 16}, tag, opened, &authentic) != Status::kOk) return false;
  if (!authentic || std::memcmp(opened, kZero, 16) != 0) return false;
  tag[0] ^= 1;
  return aes256_gcm_decrypt(key, {kZero, 0}, {text, 16}, tag, opened, &authentic) == Status::kOk &&
         !authentic;
}

}  // namespace

Status crypto_start() {
  // Without this libcrypto would read the file that OPENSSL_CONF names and load what it lists.
  if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr) != 1) return Status::kCryptoFailed;
  return sha256_known_answer() && hkdf_known_answer() && gcm_known_answer() ? Status::kOk
                                                                            : Status::kCryptoFailed;
}

}  // namespace confidential_ml
