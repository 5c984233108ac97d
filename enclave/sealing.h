// Sealed models: docs/formats.md section 2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/limits.h"
#include "common/status.h"
#include "enclave/crypto.h"
#include "enclave/platform.h"
#include "enclave/secret_memory.h"
#include "enclave/signature.h"

namespace confidential_ml {

// Whose model it is and which of theirs (docs/protocol.md section 5); zeros if it is nobody's.
struct Ownership {
  uint8_t owner[kEd25519KeySize];
  uint8_t signature[kEd25519SignatureSize];
  uint64_t model_version;
};

struct SealingRequest {
  ByteView model_id;
  uint32_t policy;
  Ownership ownership;
};

// What a sealed model says about itself besides the model; authenticated once unseal() has returned kOk.
struct SealedDescription {
  SealingPolicy policy;
  Ownership ownership;
  uint8_t model_digest[kSha256Size];
  uint8_t model_id[kMaxModelIdSize];
  size_t model_id_size;
};

// Encrypts a flat model into `sealed`; *sealed_size is the number of bytes used. The caller has parsed the
// model.
[[nodiscard]] Status seal(ByteView flat_model, const SealingRequest& request, uint8_t* sealed,
                          size_t sealed_capacity, uint64_t* sealed_size, SealedDescription* description);

// Opens a sealed model. May throw std::bad_alloc.
[[nodiscard]] Status unseal(ByteView sealed, SecretVector<uint8_t>* flat_model,
                            SealedDescription* description);

}  // namespace confidential_ml
