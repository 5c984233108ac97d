// The ecalls of edl/confidential_ml.edl. Each checks sizes and handle, delegates and answers with a status;
// nothing that is thrown inside leaves the enclave.
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"
#include "confidential_ml_t.h"
#include "enclave/crypto.h"
#include "enclave/hpke.h"
#include "enclave/model.h"
#include "enclave/objective.h"
#include "enclave/plan.h"
#include "enclave/platform.h"
#include "enclave/registry.h"
#include "enclave/sealing.h"
#include "enclave/secret_memory.h"
#include "enclave/signature.h"

namespace confidential_ml {
namespace {

constexpr size_t kIdentitySize = 72;
constexpr size_t kDescriptionSize = 152;

enum class Phase { kNew, kStarting, kStarted };
std::atomic<Phase> phase{Phase::kNew};

Registry& registry() {
  static Registry instance;
  return instance;
}

template <typename Body>
uint32_t guarded(Body body) noexcept {
  try {
    return static_cast<uint32_t>(body());
  } catch (const PlanLimitExceeded&) {
    return static_cast<uint32_t>(Status::kModelPlanTooLarge);
  } catch (const std::bad_alloc&) {
    return static_cast<uint32_t>(Status::kOutOfMemory);
  } catch (...) {
    return static_cast<uint32_t>(Status::kInternal);
  }
}

// As guarded(), for every ecall but enclave_start.
template <typename Body>
uint32_t answer(Body body) noexcept {
  if (phase.load(std::memory_order_acquire) != Phase::kStarted)
    return static_cast<uint32_t>(Status::kNotStarted);
  return guarded(body);
}

// The glue passes NULL through even when it comes with a size.
bool is_present(const void* data, size_t size) { return data != nullptr || size == 0; }

bool is_aligned(const float* data) { return reinterpret_cast<uintptr_t>(data) % alignof(float) == 0; }

Status start(ByteView input) {
  Phase expected = Phase::kNew;
  if (!phase.compare_exchange_strong(expected, Phase::kStarting)) return Status::kAlreadyStarted;
  Status status = platform_start(input);
  if (status == Status::kOk) status = crypto_start();
  if (status == Status::kOk) status = hpke_known_answer();
  if (status == Status::kOk) status = signature_known_answer();
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
  writer.append(sealed.model_id, sizeof sealed.model_id);
  return writer.failed() ? Status::kInternal : Status::kOk;
}

struct PredictRequest {
  bool output_margin;
  RoundRange rounds;
  uint64_t row_count;
  const float* rows;
  size_t rows_size;
  const float* base_margin;
  size_t base_margin_size;
  float* predictions;
  size_t predictions_size;
};

// Whether `size` is that of row_count x columns floats, and within what one call may carry.
bool is_matrix_size(uint64_t size, uint64_t row_count, uint64_t columns) {
  if (row_count > kMaxPredictBytes || columns > kMaxPredictBytes) return false;  // no overflow below
  return size == row_count * columns * sizeof(float) && size <= kMaxPredictBytes;
}

Status check_request(const Model& model, PredictRequest* request) {
  const uint64_t row_count = request->row_count;
  const uint32_t groups = model.group_count;
  const uint32_t columns = request->output_margin ? groups : value_columns(model.objective, groups);
  if (!is_matrix_size(request->rows_size, row_count, model.feature_count)) return Status::kRowsSizeWrong;
  if (!is_matrix_size(row_count * groups * sizeof(float), row_count, groups)) return Status::kRowsSizeWrong;
  if (request->base_margin_size != 0 && !is_matrix_size(request->base_margin_size, row_count, groups)) {
    return Status::kBaseMarginSizeWrong;
  }
  if (!is_matrix_size(request->predictions_size, row_count, columns)) return Status::kInvalidArgument;
  if (model.booster == Booster::kGblinear) return Status::kOk;
  if (request->rounds.end == 0) request->rounds.end = model.round_count;
  const bool in_range =
      request->rounds.begin <= request->rounds.end && request->rounds.end <= model.round_count;
  return in_range ? Status::kOk : Status::kRoundsOutOfRange;
}

Status predict(const LoadedModel& loaded, PredictRequest request) {
  const Model& model = loaded.forest.model();
  const Status checked = check_request(model, &request);
  if (checked != Status::kOk) return checked;
  if (request.row_count == 0) return Status::kOk;
  const float* base_margin = request.base_margin_size != 0 ? request.base_margin : nullptr;
  const auto row_count = static_cast<size_t>(request.row_count);
  if (request.output_margin) {
    loaded.forest.predict_margins(request.rounds, request.rows, row_count, base_margin, request.predictions);
    return Status::kOk;
  }
  SecretVector<float> margins(row_count * model.group_count);
  loaded.forest.predict_margins(request.rounds, request.rows, row_count, base_margin, margins.data());
  transform(model.objective, model.group_count, row_count, margins.data(), request.predictions);
  return Status::kOk;
}

}  // namespace
}  // namespace confidential_ml

using namespace confidential_ml;  // NOLINT(google-build-using-namespace): the names below belong to the EDL

uint32_t enclave_start(const uint8_t* platform_input, size_t platform_input_size) {
  return guarded([&] {
    if (!is_present(platform_input, platform_input_size)) return Status::kInvalidArgument;
    return start({platform_input, platform_input_size});
  });
}

uint32_t enclave_identity(uint8_t* identity, size_t identity_size) {
  return answer([&] {
    if (identity == nullptr || identity_size != kIdentitySize) return Status::kInvalidArgument;
    return write_identity(identity, identity_size);
  });
}

uint32_t enclave_seal_model(const uint8_t* model, size_t model_size, const uint8_t* model_id,
                            size_t model_id_size, uint32_t policy, uint8_t* sealed, size_t sealed_capacity,
                            uint8_t* sealed_size) {
  return answer([&] {
    if (model == nullptr || model_id == nullptr || sealed == nullptr || sealed_size == nullptr ||
        sealed_capacity > kMaxSealedModelSize) {
      return Status::kInvalidArgument;
    }
    if (model_size > kMaxFlatModelSize) return Status::kModelLimitExceeded;
    {
      Model parsed{};
      const Status status = parse_model(model, model_size, &parsed);
      if (status != Status::kOk) return status;
      // A model that could not be loaded again is not sealed.
      static_cast<void>(make_plan(parsed));
    }
    uint64_t used = 0;
    const Status status =
        seal({model, model_size}, {model_id, model_id_size}, policy, sealed, sealed_capacity, &used);
    if (status == Status::kOk) std::memcpy(sealed_size, &used, sizeof used);
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
