// What the enclave says of itself: docs/protocol.md section 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/status.h"
#include "enclave/crypto.h"
#include "enclave/hpke.h"
#include "enclave/registry.h"
#include "enclave/signature.h"

namespace confidential_ml {

inline constexpr size_t kEpochPartSize = 144;
inline constexpr size_t kInstanceSize = 16;

struct EpochClaims {
  uint64_t epoch;
  uint8_t instance[kInstanceSize];
  uint8_t epoch_public_key[kX25519KeySize];
  uint8_t receipt_public_key[kEd25519KeySize];
};

// The bytes that all clients of an epoch see alike.
[[nodiscard]] Status write_epoch_part(const EpochClaims& epoch, uint8_t output[kEpochPartSize]);

// May throw std::bad_alloc.
void write_claims(const uint8_t epoch_part[kEpochPartSize], ByteView nonce, const LoadedModels& models,
                  std::vector<uint8_t>* claims);

}  // namespace confidential_ml
