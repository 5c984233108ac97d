// Every bound that the enclave enforces, in one place; docs/formats.md states the same numbers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace confidential_ml {

// Flat model. Whether it fits the heap with its plan is seen when it is sealed, which takes more than
// loading.
inline constexpr uint64_t kMaxFlatModelSize = uint64_t{128} << 20;
inline constexpr uint32_t kMaxFeatures = 1u << 22;
inline constexpr uint32_t kMaxGroups = 1u << 16;
inline constexpr uint32_t kMaxRounds = 1u << 20;
inline constexpr uint32_t kMaxTrees = 1u << 20;
inline constexpr uint32_t kMaxNodes = 1u << 24;
inline constexpr uint32_t kMaxDepth = 4096;
inline constexpr uint32_t kMaxCategoryWords = 1u << 19;  // per split: categories are below 2^24
inline constexpr uint32_t kMaxQuantiles = 1u << 10;      // groups of reg:quantileerror, which sorts them

// The plan that is made of a flat model, and what it makes of 32 rows.
inline constexpr uint64_t kMaxPlanSize = uint64_t{192} << 20;
inline constexpr uint64_t kMaxColumnBytes = uint64_t{64} << 20;

// Sealed model.
inline constexpr size_t kMaxModelIdSize = 64;
inline constexpr size_t kMaxKeyInfoSize = 1024;
inline constexpr size_t kMaxSealedHeaderSize = 4096;
inline constexpr uint64_t kMaxSealedModelSize = kMaxFlatModelSize + kMaxSealedHeaderSize + 16;

// Loaded models, and one predict ecall. The host cuts larger batches into blocks.
inline constexpr size_t kMaxLoadedModels = 256;
inline constexpr uint64_t kMaxPredictBytes = uint64_t{64} << 20;  // rows, base margin or predictions, each

// Confidential requests: padded plaintexts, nonce of the evidence, requests of an epoch.
inline constexpr uint32_t kMaxRequestContent = 16u << 20;     // of a prediction
inline constexpr uint32_t kMaxProvisionContent = 144u << 20;  // of a model
inline constexpr uint32_t kMaxAnswerContent = 16u << 20;
inline constexpr uint32_t kSmallAnswerContent = 64u << 10;  // any request may ask for it
inline constexpr size_t kMaxNonceSize = 64;
inline constexpr uint32_t kMaxEpochRequests = 1u << 18;
inline constexpr size_t kMaxEvidenceSize = 128u << 10;

}  // namespace confidential_ml
