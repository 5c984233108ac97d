// The transforms as one would write them: the reference for those of the enclave, which have no branch on a
// value.
#pragma once

#include <cstdint>

#include "enclave/float_math.h"

namespace confidential_ml::test {

constexpr float kEpsilon = 1e-6f;

inline float softplus(float x) {
  return x > 0.0f ? x + log1p_float(exp_float(-x)) : log1p_float(exp_float(x));
}

inline float sigmoid(float x) {
  float negated = -x;
  if (88.7f < negated) negated = 88.7f;  // a NaN stays one
  return 1.0f / (exp_float(negated) + 1.0f + 1e-16f);
}

inline void softmax_probability(float* row, uint32_t count) {
  float largest = row[0];
  for (uint32_t i = 1; i < count; ++i) {
    // fmaxf: the other operand if one is NaN.
    if (row[i] > largest || largest != largest) largest = row[i];
  }
  double sum = 0.0;
  for (uint32_t i = 0; i < count; ++i) {
    row[i] = exp_float(row[i] - largest);
    sum += static_cast<double>(row[i]);
  }
  for (uint32_t i = 0; i < count; ++i) row[i] /= static_cast<float>(sum);
}

inline float argmax(const float* row, uint32_t count) {
  uint32_t best = 0;
  for (uint32_t i = 1; i < count; ++i) {
    if (row[i] > row[best]) best = i;
  }
  return static_cast<float>(best);
}

inline void sort_ascending(float* row, uint32_t count) {
  for (uint32_t i = 1; i < count; ++i) {
    const float value = row[i];
    uint32_t j = i;
    for (; j > 0 && value < row[j - 1]; --j) row[j] = row[j - 1];
    row[j] = value;
  }
}

// Each further expectile is the one before plus a positive step.
inline void expectiles(float* row, uint32_t count) {
  float value = row[0];
  for (uint32_t i = 1; i < count; ++i) {
    value += kEpsilon + softplus(row[i]);
    row[i] = value;
  }
}

}  // namespace confidential_ml::test
