// XGBoost's objectives: the link from base score to margin and the transform from margin to value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"

namespace confidential_ml {

// Codes of docs/formats.md section 1.4.
enum class Objective : uint32_t {
  kSquaredError = 1,
  kSquaredLogError = 2,
  kPseudoHuberError = 3,
  kAbsoluteError = 4,
  kRegLogistic = 5,
  kBinaryLogistic = 6,
  kLogitRaw = 7,
  kPoisson = 8,
  kGamma = 9,
  kTweedie = 10,
  kCox = 11,
  kAft = 12,
  kHinge = 13,
  kSoftprob = 14,
  kSoftmax = 15,
  kQuantile = 16,
  kExpectile = 17,
  kRankPairwise = 18,
  kRankNdcg = 19,
  kRankMap = 20,
};

[[nodiscard]] bool is_objective(uint32_t code);

// Turns base scores into margins in place; kModelBaseScoreWrong if one has no margin.
[[nodiscard]] Status link(Objective objective, float* base_score, uint32_t group_count);

// Columns of a row of values: 1 for multi:softmax, else one per group.
[[nodiscard]] uint32_t value_columns(Objective objective, uint32_t group_count);

// Turns row_count rows of margins (group_count wide) into values (value_columns wide). `values` may be
// `margins`.
void transform(Objective objective, uint32_t group_count, size_t row_count, float* margins, float* values);

}  // namespace confidential_ml
