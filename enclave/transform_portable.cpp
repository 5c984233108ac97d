#include "enclave/float_math.h"
#include "enclave/masks.h"
#include "enclave/transform.h"

namespace confidential_ml {
namespace {

// A NaN stays one.
float sigmoid(float x) {
  const float negated = select(less(88.7f, -x), 88.7f, -x);
  return 1.0f / (exp_float(negated) + 1.0f + 1e-16f);
}

void softmax(float* row, uint32_t count) {
  float largest = row[0];
  for (uint32_t i = 1; i < count; ++i) {
    // fmaxf: the other operand if one is NaN.
    largest = select(less(largest, row[i]) | is_nan(largest), row[i], largest);
  }
  double sum = 0.0;
  for (uint32_t i = 0; i < count; ++i) {
    row[i] = exp_float(row[i] - largest);
    sum += static_cast<double>(row[i]);
  }
  for (uint32_t i = 0; i < count; ++i) row[i] /= static_cast<float>(sum);
}

}  // namespace

void exp_all(float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) values[i] = exp_float(values[i]);
}

void sigmoid_all(float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) values[i] = sigmoid(values[i]);
}

void softmax_all(float* rows, size_t row_count, uint32_t group_count) {
  for (size_t i = 0; i < row_count; ++i) softmax(rows + i * group_count, group_count);
}

}  // namespace confidential_ml
