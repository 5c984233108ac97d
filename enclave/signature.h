// Ed25519 signatures (RFC 8032): receipts, and what model owners sign.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "enclave/crypto.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

inline constexpr size_t kEd25519KeySize = 32;
inline constexpr size_t kEd25519SignatureSize = 64;

struct SigningKey {
  SecretBytes<kEd25519KeySize> private_key;
  uint8_t public_key[kEd25519KeySize];
};

// A new key from platform_random.
[[nodiscard]] Status signature_generate(SigningKey* key);

[[nodiscard]] Status signature_make(const SigningKey& key, ByteView message,
                                    uint8_t signature[kEd25519SignatureSize]);

// Whether a public key can be somebody's: written as RFC 8032, 5.1.2 writes it, and none of the eight points
// of small order (all zeros is one), under which anybody can sign. Whether it is on the curve is not asked.
[[nodiscard]] bool signature_key_is_sound(const uint8_t public_key[kEd25519KeySize]);

// kOk with *valid = false when the signature is wrong, or the public key is not sound or no point.
[[nodiscard]] Status signature_verify(const uint8_t public_key[kEd25519KeySize], ByteView message,
                                      const uint8_t signature[kEd25519SignatureSize], bool* valid);

// Checks a known answer of the functions above; after crypto_start.
[[nodiscard]] Status signature_known_answer();

}  // namespace confidential_ml
