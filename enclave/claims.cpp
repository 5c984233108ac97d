#include "enclave/claims.h"

#include <cstring>

#include "common/limits.h"
#include "enclave/platform.h"
#include "enclave/prediction.h"

namespace confidential_ml {
namespace {

constexpr uint8_t kMagic[8] = {'C', 'M', 'L', 'C', 'L', 'A', 'I', 'M'};
constexpr uint32_t kVersion = 1;
constexpr uint16_t kSuites = 1;
constexpr uint16_t kOblivious = 1;
constexpr uint16_t kRollbackUnprotected = 0;
constexpr char kConfigLabel[] = "confidential_ml config v1";

struct EpochPart {
  uint8_t magic[8];
  uint32_t version;
  uint16_t platform, suites, obliviousness, rollback;
  uint32_t reserved;
  uint64_t epoch;
  uint8_t instance[kInstanceSize];
  uint8_t config_digest[kSha256Size];
  uint8_t epoch_public_key[kX25519KeySize];
  uint8_t receipt_public_key[kEd25519KeySize];
};
static_assert(sizeof(EpochPart) == kEpochPartSize && offsetof(EpochPart, epoch) == 24, "no padding");

Status config_digest(uint8_t digest[kSha256Size]) {
  const uint64_t limits[] = {
      kMaxFlatModelSize, kMaxFeatures,      kMaxGroups,        kMaxRounds,       kMaxTrees,
      kMaxNodes,         kMaxDepth,         kMaxCategoryWords, kMaxQuantiles,    kMaxPlanSize,
      kMaxColumnBytes,   kMaxModelIdSize,   kMaxLoadedModels,  kMaxPredictBytes, kMaxRequestContent,
      kMaxAnswerContent, kMaxEpochRequests,
  };
  return sha256({{reinterpret_cast<const uint8_t*>(kConfigLabel), sizeof kConfigLabel - 1},
                 {reinterpret_cast<const uint8_t*>(limits), sizeof limits}},
                digest);
}

using Bytes = std::vector<uint8_t>;

void append(ByteView bytes, Bytes* claims) {
  claims->insert(claims->end(), bytes.data, bytes.data + bytes.size);
}

template <typename T>
void append_integer(T value, Bytes* claims) {
  append({reinterpret_cast<const uint8_t*>(&value), sizeof value}, claims);
}

void append_model(const LoadedModel& loaded, Bytes* claims) {
  const SealedDescription& description = loaded.description;
  const Model& model = loaded.forest.model();
  append({description.model_digest, sizeof description.model_digest}, claims);
  append({description.ownership.owner, sizeof description.ownership.owner}, claims);
  append_integer(description.ownership.model_version, claims);
  append_integer(model.feature_count, claims);
  append_integer(model.group_count, claims);
  append_integer(prediction_columns(model, false), claims);
  append_integer(static_cast<uint16_t>(description.model_id_size), claims);
  append({description.model_id, description.model_id_size}, claims);
}

}  // namespace

Status write_epoch_part(const EpochClaims& epoch, uint8_t output[kEpochPartSize]) {
  Identity self;
  EpochPart part{};
  Status status = platform_identity(&self);
  if (status == Status::kOk) status = config_digest(part.config_digest);
  if (status != Status::kOk) return status;
  std::memcpy(part.magic, kMagic, sizeof part.magic);
  part.version = kVersion;
  part.platform = static_cast<uint16_t>(self.platform);
  part.suites = kSuites;
  part.obliviousness = kOblivious;
  part.rollback = kRollbackUnprotected;
  part.epoch = epoch.epoch;
  std::memcpy(part.instance, epoch.instance, sizeof part.instance);
  std::memcpy(part.epoch_public_key, epoch.epoch_public_key, sizeof part.epoch_public_key);
  std::memcpy(part.receipt_public_key, epoch.receipt_public_key, sizeof part.receipt_public_key);
  std::memcpy(output, &part, sizeof part);
  return Status::kOk;
}

void write_claims(const uint8_t epoch_part[kEpochPartSize], ByteView nonce, const LoadedModels& models,
                  std::vector<uint8_t>* claims) {
  claims->assign(epoch_part, epoch_part + kEpochPartSize);
  append_integer(static_cast<uint16_t>(nonce.size), claims);
  append_integer(static_cast<uint16_t>(models.size()), claims);
  append_integer(uint32_t{0}, claims);
  append(nonce, claims);
  for (const auto& loaded : models) append_model(*loaded, claims);
}

}  // namespace confidential_ml
