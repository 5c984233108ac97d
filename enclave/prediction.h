// One prediction on a loaded model, its arguments checked: what enclave_predict and a confidential request
// share.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "enclave/forest.h"
#include "enclave/registry.h"

namespace confidential_ml {

struct PredictRequest {
  bool output_margin;
  RoundRange rounds;
  uint64_t row_count;
  const float* rows;
  uint64_t rows_size;  // bytes, as are the other sizes
  const float* base_margin;
  uint64_t base_margin_size;
  float* predictions;
  uint64_t predictions_size;
};

// Floats that `row_count` rows yield are row_count times these.
[[nodiscard]] uint32_t prediction_columns(const Model& model, bool output_margin);

// May throw std::bad_alloc.
[[nodiscard]] Status predict(const LoadedModel& loaded, PredictRequest request);

}  // namespace confidential_ml
