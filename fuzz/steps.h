// How an input of ecalls_fuzz is read: a code, the step's fields, then as many bytes as they announce; again
// until the input ends. Shared with make_corpus, which writes inputs worth starting from.
#pragma once

#include <cstdint>

namespace confidential_ml::fuzz {

enum Code : uint8_t {
  kSeal,
  kLoadPatched,
  kLoadRaw,
  kPredict,
  kUnload,
  kDescribe,
  kIdentity,
  kStart,
  kEvidence,
  kNewEpoch,
  kEndFormerEpoch,
  kRawRequest,
  kSealedRequest,
  kCodeCount
};

// What is put right before the call, so that the fuzzer gets past the checks it could hardly meet by chance.
inline constexpr uint8_t kFixMagic = 1, kFixSize = 2, kFixDigest = 4;
// Of requests: the header, or padding to a bucket; the plaintext's own fields; the flat model; the signature.
inline constexpr uint8_t kFixHeader = 1, kFixPadding = 2, kFixFields = 4, kFixFlat = 8, kFixOwner = 16;
// And the enc: that of the last request, which the enclave knows if it is of the same epoch.
inline constexpr uint8_t kFixSender = 32;

// Seals the bytes that follow; what is accepted is loaded as well.
struct SealStep {
  uint8_t fix;
  uint8_t policy;
  uint8_t id_size;
  uint8_t capacity_short;  // so much less room than needed
  uint16_t model_size;     // bytes that follow
};

// Loads a sealed model with `patch_count` Patches applied, which follow.
struct LoadPatchedStep {
  uint8_t fix;
  uint8_t which;
  uint8_t patch_count;
  int8_t size_change;
};

struct Patch {
  uint16_t offset;  // modulo the size; from the end if `from_end`
  uint8_t from_end;
  uint8_t xor_with;
};

// Loads the bytes that follow.
struct LoadRawStep {
  uint8_t fix;
  uint8_t unused;
  uint16_t size;
};

// Sizes are what they should be plus a change. Rows repeat the `float_count` floats that follow.
struct PredictStep {
  uint8_t which;
  uint8_t output_margin;
  uint8_t has_base_margin;
  uint8_t row_count;
  uint32_t round_begin, round_end;
  int8_t rows_change, base_margin_change, predictions_change;
  uint8_t missing_buffers;  // bits: rows, base margin, predictions are NULL
  uint8_t float_count;
  uint8_t unused[3];
};

// Asks for evidence with `nonce_size` bytes that follow as the nonce.
struct EvidenceStep {
  uint8_t nonce_size;
  uint8_t missing_buffers;  // bits: nonce, evidence, size are NULL
  uint16_t capacity;
};

// Sends the bytes that follow, which nobody has encrypted to the enclave. Without further fields the codes
// kNewEpoch and kEndFormerEpoch.
struct RawRequestStep {
  uint8_t kind;  // odd: a prediction, even: a model
  uint8_t fix;
  uint8_t missing_buffers;  // bits: request, answer, size, sealed model, its size are NULL
  uint8_t capacity_short;
  uint16_t size;
};

// Encrypts the bytes that follow as a client would, changes the result if `patch` says so, and sends it.
struct SealedRequestStep {
  uint8_t kind;   // of the header and, odd or even, of the ecall
  uint8_t epoch;  // modulo 3: present, former, one that has ended
  uint8_t fix;
  uint8_t which;          // of the loaded models
  uint32_t answer_size;   // modulo 1 MiB; made a bucket by kFixHeader
  uint8_t header_offset;  // modulo the header's size, changed before the encryption
  uint8_t header_xor;
  uint8_t times;  // modulo 3: sent so many times more
  uint8_t capacity_short;
  Patch patch;
  uint16_t size;
};

}  // namespace confidential_ml::fuzz
