// What the enclave needs from the machine it runs on. One file per platform implements it, CMake chooses:
// platform_openenclave.cpp (SGX) or platform_simulation.cpp (protects nothing).
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/limits.h"
#include "common/status.h"
#include "enclave/crypto.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

enum class Platform : uint16_t { kSimulation = 1, kOpenEnclaveSimulation = 2, kOpenEnclave = 3 };

// The bits of SGX KEYPOLICY.
enum class SealingPolicy : uint16_t { kMrenclave = 1, kMrsigner = 2 };

struct Identity {
  Platform platform;
  uint16_t isv_prod_id;
  uint16_t isv_svn;
  bool debug;
  uint8_t mrenclave[32];
  uint8_t mrsigner[32];
};

// Public: which key it is (SGX KEYREQUEST), not the key.
struct KeyInfo {
  uint8_t bytes[kMaxKeyInfoSize];
  size_t size;
};

using SealingKey = SecretBytes<32>;

// Takes the start-up input of the EDL and refuses CPUs the kernels cannot run on.
[[nodiscard]] Status platform_start(ByteView input);
[[nodiscard]] Status platform_identity(Identity* identity);
[[nodiscard]] Status platform_random(uint8_t* output, size_t size);

// A sealing key of the present version of this enclave and what is needed to derive it again.
[[nodiscard]] Status platform_new_sealing_key(SealingPolicy policy, SealingKey* key, KeyInfo* key_info);

// The key that `key_info` names: kSealedSvnTooHigh or kSealedKeyDiffers if this enclave may not have it.
[[nodiscard]] Status platform_sealing_key(const KeyInfo& key_info, SealingKey* key);

// Evidence for these claims, in `output`; in simulation the report body in place of the quote.
[[nodiscard]] Status platform_evidence(ByteView claims, uint8_t* output, size_t capacity, uint64_t* size);

}  // namespace confidential_ml
