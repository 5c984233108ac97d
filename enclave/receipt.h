// Signed receipts: docs/protocol.md section 6.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "enclave/claims.h"
#include "enclave/crypto.h"
#include "enclave/sealing.h"
#include "enclave/signature.h"

namespace confidential_ml {

inline constexpr size_t kReceiptSize = 344;
inline constexpr size_t kBlindSize = 32;

struct ReceiptFields {
  uint16_t kind;
  uint16_t policy;  // of the sealed model; 0 for a prediction
  uint64_t counter;
  uint64_t time;
  const uint8_t* instance;      // kInstanceSize bytes
  const uint8_t* epoch_digest;  // kSha256Size bytes, as are the next two
  const uint8_t* request_digest;
  const uint8_t* content_digest;
  const SealedDescription* model;
};

// What a receipt shows of an answer: nothing, unless one has the blind.
[[nodiscard]] Status blinded_digest(const uint8_t blind[kBlindSize], ByteView content,
                                    uint8_t digest[kSha256Size]);

[[nodiscard]] Status write_receipt(const SigningKey& key, const ReceiptFields& fields,
                                   uint8_t receipt[kReceiptSize]);

}  // namespace confidential_ml
