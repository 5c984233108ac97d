#include "host/status_table.h"

namespace confidential_ml::host {

// No default: a status without a meaning does not compile (-Wswitch).
StatusMeaning meaning_of(Status status) {
  switch (status) {
    case Status::kOk:
      return {"EnclaveError", "no error"};
    case Status::kInvalidArgument:
      return {"EnclaveError",
              "the enclave refused the sizes of a call; the library and its enclave image do not match, "
              "reinstall "
              "the package"};
    case Status::kNotStarted:
      return {"EnclaveError", "the enclave has not been started; make a new Enclave"};
    case Status::kAlreadyStarted:
      return {"EnclaveError", "the enclave has been started already; make a new Enclave"};
    case Status::kOutOfMemory:
      return {
          "EnclaveError",
          "the enclave's heap is too small for this; unload models you do not need or raise NumHeapPages in "
          "enclave.conf and build again"};
    case Status::kInternal:
      return {"EnclaveError", "the enclave failed in a way that should not happen; please report it"};
    case Status::kUnknownModel:
      return {"EnclaveError", "the model is not loaded (any more); load the sealed file again"};
    case Status::kTooManyModels:
      return {"EnclaveError", "the enclave holds 256 models, its limit; close those you do not need"};
    case Status::kBufferTooSmall:
      return {"EnclaveError",
              "the enclave's answer does not fit; the library and its enclave image do not match"};
    case Status::kCpuUnsuitable:
      return {"EnclaveError",
              "this CPU lacks AVX2, FMA, AES-NI or PCLMULQDQ, for which the enclave was built; use another "
              "machine, "
              "or for simulation build with CONFIDENTIAL_ML_INSTRUCTION_SET=portable"};
    case Status::kRandomFailed:
      return {"EnclaveError", "the platform gave no random bytes; try again"};
    case Status::kSealingKeyFailed:
      return {"SealError",
              "the platform gave no sealing key; check that SGX and its driver work on this machine"};
    case Status::kCryptoFailed:
      return {"EnclaveError", "libcrypto failed inside the enclave; rebuild the package"};
    case Status::kPlatformInputInvalid:
      return {"EnclaveError",
              "the enclave refused its start-up input; a simulation needs a fuse key of 32 bytes, SGX takes "
              "none"};
    case Status::kEvidenceFailed:
      return {"EnclaveError",
              "the platform gave no evidence; check that the DCAP quote provider and the quoting enclave are "
              "installed and work (docs/building.md)"};
    case Status::kModelNotFlat:
      return {"ModelFormatError", "this is no flat model (docs/formats.md); export it with confidential_ml"};
    case Status::kModelVersionUnsupported:
      return {"ModelFormatError",
              "the flat model has a format version this enclave does not read; export it again with this "
              "release"};
    case Status::kModelSizeWrong:
      return {"ModelFormatError", "the flat model is cut off or has bytes left over; export it again"};
    case Status::kModelLimitExceeded:
      return {"ModelFormatError",
              "the model is over a limit of docs/formats.md (size, trees, nodes, features, groups, rounds); "
              "train a smaller one"};
    case Status::kModelBoosterUnknown:
      return {"ModelFormatError", "the flat model names a booster this enclave does not know"};
    case Status::kModelObjectiveUnknown:
      return {"ModelFormatError", "the flat model names an objective this enclave does not know"};
    case Status::kModelLeafSizeWrong:
      return {"ModelFormatError", "the flat model's leaf vectors do not fit its groups; export it again"};
    case Status::kModelRoundsWrong:
      return {"ModelFormatError", "the flat model's rounds do not cover its trees in order; export it again"};
    case Status::kModelTreeWrong:
      return {"ModelFormatError",
              "a tree of the flat model breaks a rule of docs/formats.md 1.3; export it again"};
    case Status::kModelTooDeep:
      return {"ModelFormatError", "a tree is deeper than 4096 levels; train with max_depth or max_leaves"};
    case Status::kModelCategoriesWrong:
      return {"ModelFormatError",
              "a category set of the flat model breaks a rule of docs/formats.md; export it again"};
    case Status::kModelNotFinite:
      return {"ModelFormatError", "the model contains a number that is not finite; train it again"};
    case Status::kModelBaseScoreWrong:
      return {
          "ModelFormatError",
          "base_score has no margin under the model's objective (logistic: 0 to 1; log links: not negative)"};
    case Status::kModelPlanTooLarge:
      return {
          "ModelFormatError",
          "the model would take more memory in the enclave than a limit of docs/formats.md allows; train a "
          "smaller one"};
    case Status::kNotASealedModel:
      return {"DamagedSealedModelError", "this is not a sealed model; make one with confidential_ml.seal"};
    case Status::kSealedModelDamaged:
      return {
          "DamagedSealedModelError",
          "the sealed model is damaged: bytes were changed, lost or added; restore the file or seal again"};
    case Status::kSealedVersionUnsupported:
      return {
          "UnsupportedVersionError",
          "the sealed model has a format version this enclave does not read; use the release that sealed it"};
    case Status::kSealedPlatformDiffers:
      return {"WrongEnclaveError",
              "the model was sealed on another platform (simulation, openenclave-simulation and openenclave "
              "do not "
              "open each other's files); seal it again here"};
    case Status::kSealedSvnTooHigh:
      return {
          "WrongEnclaveError",
          "the model was sealed by a newer version of the enclave (higher ISV SVN); install that version"};
    case Status::kSealedKeyDiffers:
      return {"WrongEnclaveError",
              "the model was sealed by another enclave or on another machine; seal it again with this one"};
    case Status::kModelIdInvalid:
      return {"InvalidInputError",
              "a model id has 1 to 64 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit"};
    case Status::kSealingPolicyUnknown:
      return {"InvalidInputError", "the sealing policy must be 'mrenclave' or 'mrsigner'"};
    case Status::kOwnerSignatureWrong:
      return {"SealError", "the owner's signature is not over this model, version and id; sign them again"};
    case Status::kRowsSizeWrong:
      return {"InvalidInputError", "the rows do not match the model's features or are too many for one call"};
    case Status::kRoundsOutOfRange:
      return {"InvalidInputError", "iteration_range is outside the model's boosting rounds"};
    case Status::kBaseMarginSizeWrong:
      return {"InvalidInputError", "base_margin must hold one value per row and group"};
    case Status::kRequestUnreadable:
      return {"RequestUnreadableError",
              "the enclave cannot read the request: it was changed on the way, sent twice, or encrypted to a "
              "key that "
              "the enclave does not have; get new evidence and send it again"};
    case Status::kRequestInvalid:
      return {"EnclaveError",
              "the enclave opened the request but its fields are not those of docs/protocol.md; client and "
              "enclave do "
              "not match"};
    case Status::kAnswerTooSmall:
      return {"EnclaveError",
              "the answer does not fit the size that the request named for it; name a larger one"};
  }
  return {"EnclaveError",
          "the enclave answered with a status this library does not know; the library and its image do not "
          "match"};
}

}  // namespace confidential_ml::host
