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
  kCodeCount
};

// What is put right before the call, so that the fuzzer gets past the checks it could hardly meet by chance.
inline constexpr uint8_t kFixMagic = 1, kFixSize = 2, kFixDigest = 4;

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

}  // namespace confidential_ml::fuzz
