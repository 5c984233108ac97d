// The status codes of the boundary: stable numbers, one block per module, the only thing an ecall says.
#pragma once

#include <cstdint>

namespace confidential_ml {

// Numbers are never reused. The host's table (host/status_table.cpp) names an exception and a sentence for
// each.
enum class Status : uint32_t {
  kOk = 0,

  // The boundary (1xx).
  kInvalidArgument = 101,  // sizes or pointers that the host library never sends
  kNotStarted = 102,       // enclave_start has not succeeded
  kAlreadyStarted = 103,   // enclave_start a second time
  kOutOfMemory = 104,      // the enclave's heap is too small for this call
  kInternal = 105,         // a broken invariant; never expected
  kUnknownModel = 106,     // no model under this handle (unloaded, or never loaded)
  kTooManyModels = 107,    // the table of loaded models is full
  kBufferTooSmall = 108,   // an output does not fit the buffer it was offered

  // The platform (2xx).
  kCpuUnsuitable = 201,         // AVX2, FMA, AES-NI or PCLMULQDQ is missing
  kRandomFailed = 202,          // no random bytes
  kSealingKeyFailed = 203,      // the platform would not derive a sealing key
  kCryptoFailed = 204,          // libcrypto refused a step that cannot fail on valid input
  kPlatformInputInvalid = 205,  // start-up input of the wrong kind for this platform

  // The flat model (3xx), docs/formats.md section 1.
  kModelNotFlat = 301,  // magic
  kModelVersionUnsupported = 302,
  kModelSizeWrong = 303,      // total_size, sections and bytes given disagree
  kModelLimitExceeded = 304,  // a count over its limit
  kModelBoosterUnknown = 305,
  kModelObjectiveUnknown = 306,
  kModelLeafSizeWrong = 307,
  kModelRoundsWrong = 308,  // round_begin
  kModelTreeWrong = 309,    // node counts, node words, groups
  kModelTooDeep = 310,
  kModelCategoriesWrong = 311,
  kModelNotFinite = 312,
  kModelBaseScoreWrong = 313,  // the link of base_score is not a number
  kModelPlanTooLarge = 314,    // its plan is over a limit

  // The sealed model (4xx), docs/formats.md section 2.
  kNotASealedModel = 401,
  kSealedModelDamaged = 402,
  kSealedVersionUnsupported = 403,
  kSealedPlatformDiffers = 404,
  kSealedSvnTooHigh = 405,
  kSealedKeyDiffers = 406,
  kModelIdInvalid = 407,
  kSealingPolicyUnknown = 408,

  // Prediction (5xx).
  kRowsSizeWrong = 501,  // rows do not match the model's features, or too many at once
  kRoundsOutOfRange = 502,
  kBaseMarginSizeWrong = 503,

  // Confidential requests (6xx), docs/protocol.md.
  kRequestUnreadable = 601,  // not opened, for whatever reason
  kRequestInvalid = 602,     // opened, but padding or fields are wrong
  kAnswerTooSmall = 603,     // the answer does not fit the size the request named
  kOwnerSignatureWrong = 604,
};

}  // namespace confidential_ml
