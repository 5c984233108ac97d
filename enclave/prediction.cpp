#include "enclave/prediction.h"

#include "common/limits.h"
#include "enclave/objective.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {
namespace {

// Whether `size` is that of row_count x columns floats, and within what one call may carry.
bool is_matrix_size(uint64_t size, uint64_t row_count, uint64_t columns) {
  if (row_count > kMaxPredictBytes || columns > kMaxPredictBytes) return false;  // no overflow below
  return size == row_count * columns * sizeof(float) && size <= kMaxPredictBytes;
}

Status check_request(const Model& model, PredictRequest* request) {
  const uint64_t row_count = request->row_count;
  const uint32_t groups = model.group_count;
  const uint32_t columns = prediction_columns(model, request->output_margin);
  if (!is_matrix_size(request->rows_size, row_count, model.feature_count)) return Status::kRowsSizeWrong;
  if (!is_matrix_size(row_count * groups * sizeof(float), row_count, groups)) return Status::kRowsSizeWrong;
  if (request->base_margin_size != 0 && !is_matrix_size(request->base_margin_size, row_count, groups)) {
    return Status::kBaseMarginSizeWrong;
  }
  if (!is_matrix_size(request->predictions_size, row_count, columns)) return Status::kInvalidArgument;
  // No trees to leave out, and an end is without effect, as in XGBoost.
  if (model.booster == Booster::kGblinear) {
    return request->rounds.begin == 0 ? Status::kOk : Status::kRoundsOutOfRange;
  }
  if (request->rounds.end == 0) request->rounds.end = model.round_count;
  const bool in_range =
      request->rounds.begin <= request->rounds.end && request->rounds.end <= model.round_count;
  return in_range ? Status::kOk : Status::kRoundsOutOfRange;
}

}  // namespace

uint32_t prediction_columns(const Model& model, bool output_margin) {
  return output_margin ? model.group_count : value_columns(model.objective, model.group_count);
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

}  // namespace confidential_ml
