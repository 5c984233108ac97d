// One small function per rule of XGBoost 3.4.1, in its order of float32 operations. The transforms have no
// branch and no index that depends on a margin.
#include "enclave/objective.h"

#include <cstring>

#include "enclave/float_math.h"
#include "enclave/masks.h"
#include "enclave/transform.h"

namespace confidential_ml {
namespace {

constexpr float kEpsilon = 1e-6f;  // XGBoost's kRtEps

enum class Transform {
  kIdentity,
  kSigmoid,
  kExp,
  kExpByDouble,
  kHinge,
  kSoftmaxProbability,
  kArgmax,
  kSort,
  kExpectile
};

Transform transform_of(Objective objective) {
  switch (objective) {
    case Objective::kRegLogistic:
    case Objective::kBinaryLogistic:
      return Transform::kSigmoid;
    case Objective::kPoisson:
    case Objective::kGamma:
    case Objective::kTweedie:
    case Objective::kCox:
      return Transform::kExp;
    case Objective::kAft:
      return Transform::kExpByDouble;
    case Objective::kHinge:
      return Transform::kHinge;
    case Objective::kSoftprob:
      return Transform::kSoftmaxProbability;
    case Objective::kSoftmax:
      return Transform::kArgmax;
    case Objective::kQuantile:
      return Transform::kSort;
    case Objective::kExpectile:
      return Transform::kExpectile;
    case Objective::kSquaredError:
    case Objective::kSquaredLogError:
    case Objective::kPseudoHuberError:
    case Objective::kAbsoluteError:
    case Objective::kLogitRaw:
    case Objective::kRankPairwise:
    case Objective::kRankNdcg:
    case Objective::kRankMap:
      return Transform::kIdentity;
  }
  return Transform::kIdentity;
}

float logit(float p) {
  if (!(p > kEpsilon)) p = kEpsilon;
  if (!(p < 1.0f - kEpsilon)) p = 1.0f - kEpsilon;
  return -log_float(1.0f / p - 1.0f);
}

float softplus(float x) {
  const uint32_t positive = less(0.0f, x);
  const float rest = log1p_float(exp_float(select(positive, -x, x)));
  return select(positive, x + rest, rest);
}

float softplus_inverse(float x) {
  if (!(x > kEpsilon)) x = kEpsilon;
  return x + log_float(-expm1_float(-x));
}

float argmax(const float* row, uint32_t count) {
  uint32_t best = 0;
  float largest = row[0];
  for (uint32_t i = 1; i < count; ++i) {
    const uint32_t larger = less(largest, row[i]);
    best = select(larger, i, best);
    largest = select(larger, row[i], largest);
  }
  return static_cast<float>(best);
}

float hinge(float x) { return select(less(0.0f, x), 1.0f, 0.0f); }

// Insertion, in which a value that has found its place is compared on to the front, without effect.
void sort_ascending(float* row, uint32_t count) {
  for (uint32_t i = 1; i < count; ++i) {
    uint32_t moving = ~uint32_t{0};
    for (uint32_t j = i; j > 0; --j) {
      const float lower = row[j - 1], upper = row[j];
      moving &= less(upper, lower);
      row[j - 1] = select(moving, upper, lower);
      row[j] = select(moving, lower, upper);
    }
  }
}

// Each further expectile is the one before plus a positive step.
void expectiles(float* row, uint32_t count) {
  float value = row[0];
  for (uint32_t i = 1; i < count; ++i) {
    value += kEpsilon + softplus(row[i]);
    row[i] = value;
  }
}

}  // namespace

bool is_objective(uint32_t code) {
  return code >= static_cast<uint32_t>(Objective::kSquaredError) &&
         code <= static_cast<uint32_t>(Objective::kRankMap);
}

Status link(Objective objective, float* base_score, uint32_t group_count) {
  const Transform transform = transform_of(objective);
  if (transform == Transform::kExpectile) {
    for (uint32_t j = group_count - 1; j > 0; --j) {
      base_score[j] = softplus_inverse(base_score[j] - base_score[j - 1] - kEpsilon);
    }
  }
  for (uint32_t j = 0; j < group_count; ++j) {
    if (transform == Transform::kSigmoid) {
      if (!(base_score[j] >= 0.0f && base_score[j] <= 1.0f)) return Status::kModelBaseScoreWrong;
      base_score[j] = logit(base_score[j]);
    } else if (transform == Transform::kExp || transform == Transform::kExpByDouble) {
      base_score[j] = log_float(base_score[j]);
    }
    if (base_score[j] != base_score[j]) return Status::kModelBaseScoreWrong;
  }
  return Status::kOk;
}

uint32_t value_columns(Objective objective, uint32_t group_count) {
  return objective == Objective::kSoftmax ? 1 : group_count;
}

void transform(Objective objective, uint32_t group_count, size_t row_count, float* margins, float* values) {
  const size_t count = row_count * group_count;
  const auto each_row = [&](auto rule) {
    for (size_t i = 0; i < row_count; ++i) rule(margins + i * group_count, group_count);
  };
  switch (transform_of(objective)) {
    case Transform::kIdentity:
      break;
    case Transform::kSigmoid:
      sigmoid_all(margins, count);
      break;
    case Transform::kExp:
      exp_all(margins, count);
      break;
    case Transform::kExpByDouble:
      for (size_t i = 0; i < count; ++i) margins[i] = exp_float_by_double(margins[i]);
      break;
    case Transform::kHinge:
      for (size_t i = 0; i < count; ++i) margins[i] = hinge(margins[i]);
      break;
    case Transform::kSoftmaxProbability:
      softmax_all(margins, row_count, group_count);
      break;
    case Transform::kArgmax:
      for (size_t i = 0; i < row_count; ++i) values[i] = argmax(margins + i * group_count, group_count);
      return;
    case Transform::kSort:
      each_row(sort_ascending);
      break;
    case Transform::kExpectile:
      each_row(expectiles);
      break;
  }
  if (count != 0) std::memcpy(values, margins, count * sizeof(float));
}

}  // namespace confidential_ml
