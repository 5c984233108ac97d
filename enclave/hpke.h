// HPKE (RFC 9180), receiver's side, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "enclave/crypto.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

// Bound of `info` and `exporter_context`, kInvalidArgument beyond (RFC 9180, 7.2.1 lets an implementation
// have one).
inline constexpr size_t kMaxHpkeInfoSize = 256;

struct HpkeKeyPair {
  SecretBytes<kX25519KeySize> private_key;
  uint8_t public_key[kX25519KeySize];
};

// What Encap and Decap make (RFC 9180, 4.1).
using HpkeSharedSecret = SecretBytes<kSha256Size>;

struct HpkeContext {
  SecretBytes<kAesKeySize> key;
  SecretBytes<kGcmNonceSize> base_nonce;
  SecretBytes<kSha256Size> exporter_secret;
};

// A new key pair from platform_random.
[[nodiscard]] Status hpke_generate(HpkeKeyPair* pair);

// Decap (RFC 9180, 4.1). kOk with *valid = false when `enc` gives an all-zero X25519 output (7.1.4).
[[nodiscard]] Status hpke_decap(const HpkeKeyPair& pair, const uint8_t enc[kX25519KeySize],
                                HpkeSharedSecret* shared_secret, bool* valid);

// KeySchedule of the base mode (RFC 9180, 5.1), where psk and psk_id are empty. After Decap: SetupBaseR.
[[nodiscard]] Status hpke_key_schedule(const HpkeSharedSecret& shared_secret, ByteView info,
                                       HpkeContext* context);

// Opens the first message of a context (sequence number 0). `ciphertext` ends in the tag; `plaintext` has
// ciphertext.size - kGcmTagSize bytes. kOk with *authentic = false when the tag does not fit; `plaintext` is
// wiped then.
[[nodiscard]] Status hpke_open_first(const HpkeContext& context, ByteView aad, ByteView ciphertext,
                                     uint8_t* plaintext, bool* authentic);

// Export (RFC 9180, 5.3).
[[nodiscard]] Status hpke_export(const HpkeContext& context, ByteView exporter_context, uint8_t* output,
                                 size_t output_size);

// Checks a known answer of the functions above; after crypto_start.
[[nodiscard]] Status hpke_known_answer();

}  // namespace confidential_ml
