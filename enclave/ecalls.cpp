// The ecalls of edl/confidential_ml.edl. Each checks sizes and handle, delegates and answers with a status;
// nothing that is thrown inside leaves the enclave.
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"
#include "confidential_ml_t.h"
#include "enclave/channel.h"
#include "enclave/claims.h"
#include "enclave/confidential_request.h"
#include "enclave/crypto.h"
#include "enclave/guarded.h"
#include "enclave/hpke.h"
#include "enclave/model.h"
#include "enclave/platform.h"
#include "enclave/prediction.h"
#include "enclave/registry.h"
#include "enclave/sealing.h"
#include "enclave/secret_memory.h"
#include "enclave/signature.h"

namespace confidential_ml {
namespace {

constexpr size_t kIdentitySize = 72;
constexpr size_t kDescriptionSize = 192;
constexpr size_t kOwnerSize = kEd25519KeySize + kEd25519SignatureSize;

enum class Phase { kNew, kStarting, kStarted };
std::atomic<Phase> phase{Phase::kNew};

Registry& registry() {
  static Registry instance;
  return instance;
}

// The enclave's end of requests; its keys live as long as the enclave.
Channel& channel() {
  static Channel instance;
  return instance;
}

// For every ecall but enclave_start.
template <typename Body>
uint32_t answer(Body body) noexcept {
  if (phase.load(std::memory_order_acquire) != Phase::kStarted)
    return static_cast<uint32_t>(Status::kNotStarted);
  return static_cast<uint32_t>(guarded(body));
}

// The glue passes NULL through even when it comes with a size.
bool is_present(const void* data, size_t size) { return data != nullptr || size == 0; }

bool is_aligned(const float* data) { return reinterpret_cast<uintptr_t>(data) % alignof(float) == 0; }

Status start(ByteView input) {
  Phase expected = Phase::kNew;
  if (!phase.compare_exchange_strong(expected, Phase::kStarting)) return Status::kAlreadyStarted;
  // Guarded here: what is thrown must not leave the phase as it is, or no later start would succeed.
  const Status status = guarded([&] {
    Status step = platform_start(input);
    if (step == Status::kOk) step = crypto_start();
    if (step == Status::kOk) step = hpke_known_answer();
    if (step == Status::kOk) step = signature_known_answer();
    if (step == Status::kOk) step = channel().start();
    return step;
  });
  phase.store(status == Status::kOk ? Phase::kStarted : Phase::kNew, std::memory_order_release);
  return status;
}

Status write_identity(uint8_t* output, size_t size) {
  Identity identity;
  const Status status = platform_identity(&identity);
  if (status != Status::kOk) return status;
  Writer writer(output, size);
  writer.write(static_cast<uint16_t>(identity.platform));
  writer.write(identity.isv_prod_id);
  writer.write(identity.isv_svn);
  writer.write(static_cast<uint16_t>(identity.debug));
  writer.append(identity.mrenclave, sizeof identity.mrenclave);
  writer.append(identity.mrsigner, sizeof identity.mrsigner);
  return writer.failed() ? Status::kInternal : Status::kOk;
}

Status load(ByteView sealed, uint64_t* handle) {
  SealedDescription description{};
  Model model{};
  {
    SecretVector<uint8_t> flat;  // gone before the model is registered: the plaintext is not kept twice
    Status status = unseal(sealed, &flat, &description);
    if (status == Status::kOk) status = parse_model(flat.data(), flat.size(), &model);
    if (status != Status::kOk) return status;
  }
  return registry().add(std::make_shared<const LoadedModel>(std::move(model), description), handle);
}

Status write_description(const LoadedModel& loaded, uint8_t* output, size_t size) {
  const Model& model = loaded.forest.model();
  const SealedDescription& sealed = loaded.description;
  Writer writer(output, size);
  writer.write(static_cast<uint32_t>(model.booster));
  writer.write(static_cast<uint32_t>(model.objective));
  writer.write(model.feature_count);
  writer.write(model.group_count);
  writer.write(value_columns(model.objective, model.group_count));
  writer.write(model.round_count);
  writer.write(static_cast<uint32_t>(model.trees.size()));
  writer.write(model.node_count);
  writer.write(model.depth);
  writer.write(model.leaf_size);
  writer.write(static_cast<uint32_t>(sealed.policy));
  writer.write(static_cast<uint32_t>(sealed.model_id_size));
  writer.write(static_cast<uint64_t>(loaded.forest.plan_size()));
  writer.append(sealed.model_digest, sizeof sealed.model_digest);
  writer.append(sealed.ownership.owner, sizeof sealed.ownership.owner);
  writer.write(sealed.ownership.model_version);
  writer.append(sealed.model_id, sizeof sealed.model_id);
  return writer.failed() ? Status::kInternal : Status::kOk;
}

void write_size(uint64_t size, uint8_t* output) { std::memcpy(output, &size, sizeof size); }

Status make_evidence(ByteView nonce, OutputBuffer* evidence) {
  uint8_t epoch_part[kEpochPartSize];
  std::vector<uint8_t> claims;
  channel().epoch_part(epoch_part);
  write_claims(epoch_part, nonce, registry().all(), &claims);
  return platform_evidence({claims.data(), claims.size()}, evidence->data, evidence->capacity,
                           &evidence->size);
}

}  // namespace
}  // namespace confidential_ml

using namespace confidential_ml;  // NOLINT(google-build-using-namespace): the names below belong to the EDL

uint32_t enclave_start(const uint8_t* platform_input, size_t platform_input_size) {
  return static_cast<uint32_t>(guarded([&] {
    if (!is_present(platform_input, platform_input_size)) return Status::kInvalidArgument;
    return start({platform_input, platform_input_size});
  }));
}

uint32_t enclave_identity(uint8_t* identity, size_t identity_size) {
  return answer([&] {
    if (identity == nullptr || identity_size != kIdentitySize) return Status::kInvalidArgument;
    return write_identity(identity, identity_size);
  });
}

uint32_t enclave_seal_model(const uint8_t* model, size_t model_size, const uint8_t* model_id,
                            size_t model_id_size, uint32_t policy, uint64_t model_version,
                            const uint8_t* owner, size_t owner_size, uint8_t* sealed, size_t sealed_capacity,
                            uint8_t* sealed_size) {
  return answer([&] {
    if (model == nullptr || model_id == nullptr || sealed == nullptr || sealed_size == nullptr ||
        (owner_size != 0 && owner_size != kOwnerSize) || !is_present(owner, owner_size) ||
        sealed_capacity > kMaxSealedModelSize) {
      return Status::kInvalidArgument;
    }
    SealingRequest request{{model_id, model_id_size}, policy, {}};
    request.ownership.model_version = model_version;
    Reader reader(owner, owner_size);
    reader.copy_to(request.ownership.owner, sizeof request.ownership.owner);
    reader.copy_to(request.ownership.signature, sizeof request.ownership.signature);
    OutputBuffer output{sealed, sealed_capacity, 0};
    SealedDescription description{};
    const Status status = check_and_seal({model, model_size}, request, &output, &description);
    if (status == Status::kOk) write_size(output.size, sealed_size);
    return status;
  });
}

uint32_t enclave_load_model(const uint8_t* sealed, size_t sealed_size, uint8_t* handle) {
  return answer([&] {
    if (!is_present(sealed, sealed_size) || handle == nullptr) return Status::kInvalidArgument;
    if (sealed_size > kMaxSealedModelSize) return Status::kModelLimitExceeded;
    uint64_t value = 0;
    const Status status = load({sealed, sealed_size}, &value);
    std::memcpy(handle, &value, sizeof value);
    return status;
  });
}

uint32_t enclave_unload_model(uint64_t handle) {
  return answer([&] { return registry().remove(handle); });
}

uint32_t enclave_describe_model(uint64_t handle, uint8_t* description, size_t description_size) {
  return answer([&] {
    if (description == nullptr || description_size != kDescriptionSize) return Status::kInvalidArgument;
    const auto loaded = registry().find(handle);
    if (loaded == nullptr) return Status::kUnknownModel;
    return write_description(*loaded, description, description_size);
  });
}

uint32_t enclave_predict(uint64_t handle, uint32_t output_margin, uint32_t round_begin, uint32_t round_end,
                         uint64_t row_count, const float* rows, size_t rows_size, const float* base_margin,
                         size_t base_margin_size, float* predictions, size_t predictions_size) {
  return answer([&] {
    if (!is_present(rows, rows_size) || !is_present(base_margin, base_margin_size) ||
        !is_present(predictions, predictions_size) || !is_aligned(rows) || !is_aligned(base_margin) ||
        !is_aligned(predictions) || output_margin > 1) {
      return Status::kInvalidArgument;
    }
    const auto loaded = registry().find(handle);
    if (loaded == nullptr) return Status::kUnknownModel;
    return predict(*loaded, {output_margin == 1,
                             {round_begin, round_end},
                             row_count,
                             rows,
                             rows_size,
                             base_margin,
                             base_margin_size,
                             predictions,
                             predictions_size});
  });
}

uint32_t enclave_evidence(const uint8_t* nonce, size_t nonce_size, uint8_t* evidence,
                          size_t evidence_capacity, uint8_t* evidence_size) {
  return answer([&] {
    if (!is_present(nonce, nonce_size) || nonce_size > kMaxNonceSize || evidence == nullptr ||
        evidence_capacity > kMaxEvidenceSize || evidence_size == nullptr) {
      return Status::kInvalidArgument;
    }
    OutputBuffer output{evidence, evidence_capacity, 0};
    const Status status = make_evidence({nonce, nonce_size}, &output);
    if (status == Status::kOk) write_size(output.size, evidence_size);
    return status;
  });
}

uint32_t enclave_new_epoch() {
  return answer([&] { return channel().new_epoch(); });
}

uint32_t enclave_end_former_epoch() {
  return answer([&] {
    channel().end_former_epoch();
    return Status::kOk;
  });
}

uint32_t enclave_answer_request(const uint8_t* request, size_t request_size, uint8_t* answer_buffer,
                                size_t answer_capacity, uint8_t* answer_size) {
  return answer([&] {
    if (!is_present(request, request_size) || answer_buffer == nullptr || answer_size == nullptr ||
        answer_capacity > kAnswerOverhead + kMaxAnswerContent) {
      return Status::kInvalidArgument;
    }
    OutputBuffer output{answer_buffer, answer_capacity, 0};
    const Status status = answer_request(&channel(), registry(), {request, request_size}, &output);
    if (status == Status::kOk) write_size(output.size, answer_size);
    return status;
  });
}

uint32_t enclave_import_model(const uint8_t* request, size_t request_size, uint8_t* sealed,
                              size_t sealed_capacity, uint8_t* sealed_size, uint8_t* answer_buffer,
                              size_t answer_capacity, uint8_t* answer_size) {
  return answer([&] {
    if (!is_present(request, request_size) || sealed == nullptr || sealed_size == nullptr ||
        answer_buffer == nullptr || answer_size == nullptr || sealed_capacity > kMaxSealedModelSize ||
        answer_capacity > kAnswerOverhead + kMaxAnswerContent) {
      return Status::kInvalidArgument;
    }
    OutputBuffer sealed_output{sealed, sealed_capacity, 0};
    OutputBuffer output{answer_buffer, answer_capacity, 0};
    const Status status =
        import_model(&channel(), registry(), {request, request_size}, &sealed_output, &output);
    if (status != Status::kOk) return status;
    write_size(sealed_output.size, sealed_size);
    write_size(output.size, answer_size);
    return status;
  });
}

uint32_t enclave_check_request(const uint8_t* header, size_t header_size, uint64_t request_size) {
  return answer([&] {
    if (header == nullptr || header_size != kRequestHeaderSize) return Status::kInvalidArgument;
    return check_request(channel(), registry(), {header, header_size}, request_size);
  });
}
