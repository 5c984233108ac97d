// The few cryptographic functions the enclave uses, on libcrypto's EVP interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "common/status.h"

namespace confidential_ml {

inline constexpr size_t kSha256Size = 32;
inline constexpr size_t kAesKeySize = 32;
inline constexpr size_t kGcmNonceSize = 12;
inline constexpr size_t kGcmTagSize = 16;
inline constexpr size_t kX25519KeySize = 32;

struct ByteView {
  const uint8_t* data;
  size_t size;
};

// SHA-256 (FIPS 180-4) over the concatenation of the parts.
[[nodiscard]] Status sha256(std::initializer_list<ByteView> parts, uint8_t digest[kSha256Size]);

// HKDF-SHA256, extract and expand (RFC 5869).
[[nodiscard]] Status hkdf_sha256(ByteView key, ByteView salt, ByteView info, uint8_t* output,
                                 size_t output_size);

// The two steps by themselves. What goes into either may be secret and is wiped in libcrypto too.
[[nodiscard]] Status hkdf_sha256_extract(ByteView salt, ByteView key, uint8_t output[kSha256Size]);
[[nodiscard]] Status hkdf_sha256_expand(const uint8_t prk[kSha256Size], ByteView info, uint8_t* output,
                                        size_t output_size);

// X25519 (RFC 7748); any 32 bytes are a private key.
[[nodiscard]] Status x25519_public_key(const uint8_t private_key[kX25519KeySize],
                                       uint8_t public_key[kX25519KeySize]);

// Both halves of a key, kX25519KeySize bytes each.
struct X25519Key {
  const uint8_t* private_key;
  const uint8_t* public_key;
};

// kOk with *valid = false when the shared secret would be all zeros; `shared_secret` is wiped then.
[[nodiscard]] Status x25519(const X25519Key& own, const uint8_t peer_public_key[kX25519KeySize],
                            uint8_t shared_secret[kX25519KeySize], bool* valid);

struct GcmKey {
  const uint8_t* key;    // kAesKeySize bytes
  const uint8_t* nonce;  // kGcmNonceSize bytes
};

// AES-256-GCM (NIST SP 800-38D); `ciphertext` has the size of the plaintext.
[[nodiscard]] Status aes256_gcm_encrypt(const GcmKey& key, ByteView aad, ByteView plaintext,
                                        uint8_t* ciphertext, uint8_t tag[kGcmTagSize]);

// kOk with *authentic = false when the tag does not fit; `plaintext` is wiped then.
[[nodiscard]] Status aes256_gcm_decrypt(const GcmKey& key, ByteView aad, ByteView ciphertext,
                                        const uint8_t tag[kGcmTagSize], uint8_t* plaintext, bool* authentic);

// Compares without an early exit.
[[nodiscard]] bool equal_in_constant_time(const uint8_t* a, const uint8_t* b, size_t size);

// Keeps libcrypto from reading a configuration, then checks known answers of the functions above (X25519's
// are in those of HPKE): a build with a broken libcrypto must not seal anything. Also takes the 4-20 ms of
// its first use out of the first request.
[[nodiscard]] Status crypto_start();

}  // namespace confidential_ml
