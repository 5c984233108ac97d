// Sealed models: docs/formats.md section 2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/limits.h"
#include "common/status.h"
#include "enclave/crypto.h"
#include "enclave/platform.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

// What a sealed model says about itself besides the model; authenticated once unseal() has returned kOk.
struct SealedDescription {
  SealingPolicy policy;
  uint8_t model_digest[kSha256Size];
  uint8_t model_id[kMaxModelIdSize];
  size_t model_id_size;
};

// Encrypts a flat model into `sealed`; *sealed_size is the number of bytes used. The caller has parsed the
// model.
[[nodiscard]] Status seal(ByteView flat_model, ByteView model_id, uint32_t policy, uint8_t* sealed,
                          size_t sealed_capacity, uint64_t* sealed_size);

// Opens a sealed model. May throw std::bad_alloc.
[[nodiscard]] Status unseal(ByteView sealed, SecretVector<uint8_t>* flat_model,
                            SealedDescription* description);

}  // namespace confidential_ml
