// Links and transforms of all objectives, against the formulas in double precision and at their special
// values. Bit equality with XGBoost is checked by the Python tests, on models XGBoost wrote.

#include "enclave/objective.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <vector>

#include "enclave/masks.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/plain_transforms.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Row = std::vector<float>;

const std::set<uint32_t> kSigmoid = {5, 6};
const std::set<uint32_t> kExponential = {8, 9, 10, 11, 12};
const std::set<uint32_t> kIdentity = {1, 2, 3, 4, 7, 18, 19, 20};

Row transformed(uint32_t code, Row margins, uint32_t groups) {
  const auto objective = static_cast<Objective>(code);
  const size_t rows = margins.size() / groups;
  Row values(rows * value_columns(objective, groups), -77.0f);
  transform(objective, groups, rows, margins.data(), values.data());
  return values;
}

float transformed(Objective objective, float margin) {
  return transformed(static_cast<uint32_t>(objective), Row{margin}, 1)[0];
}

Row linked(Objective objective, Row base_score) {
  EXPECT_EQ(Status::kOk, link(objective, base_score.data(), static_cast<uint32_t>(base_score.size())));
  return base_score;
}

void expect_close(double expected, float actual) {
  EXPECT_NEAR(expected, static_cast<double>(actual), 2e-7 * (1 + std::fabs(expected)));
}

const float kMargins[] = {0.0f, -0.0f, 1e-30f, 0.1f,   -0.1f, 1.0f,  -1.0f,
                          5.5f, -5.5f, 20.0f,  -20.0f, 80.0f, -80.0f};

TEST(Codes, AreOneToTwenty) {
  for (uint32_t code = 1; code <= 20; ++code) EXPECT_TRUE(is_objective(code)) << code;
  for (const uint32_t code : {0u, 21u, 1000u, UINT32_MAX}) EXPECT_FALSE(is_objective(code)) << code;
}

TEST(ValueColumns, AreOneForSoftmaxElseOnePerGroup) {
  for (uint32_t code = 1; code <= 20; ++code) {
    const auto objective = static_cast<Objective>(code);
    EXPECT_EQ(objective == Objective::kSoftmax ? 1u : 7u, value_columns(objective, 7)) << code;
  }
}

TEST(Transform, IsIdentityBitForBit) {
  for (const uint32_t code : kIdentity) {
    const Row margins = {0.0f, -0.0f, FLT_MAX, -FLT_TRUE_MIN, kInfinity, -kInfinity, 1.5f, -2.0f};
    EXPECT_EQ(margins, transformed(code, margins, 2)) << code;
    EXPECT_TRUE(std::signbit(transformed(code, margins, 1)[1])) << code;
    EXPECT_TRUE(std::isnan(transformed(code, {kNan}, 1)[0])) << code;
  }
}

TEST(Transform, IsSigmoid) {
  for (const uint32_t code : kSigmoid) {
    for (const float x : kMargins) {
      expect_close(1 / (1 + std::exp(-static_cast<double>(x))), transformed(code, {x}, 1)[0]);
    }
    EXPECT_EQ(0.5f, transformed(code, {0.0f}, 1)[0]);
    EXPECT_EQ(1.0f, transformed(code, {kInfinity}, 1)[0]);
    EXPECT_EQ(1.0f, transformed(code, {FLT_MAX}, 1)[0]);
    const float lowest = transformed(code, {-88.7f}, 1)[0];
    EXPECT_GT(lowest, 0.0f) << "XGBoost clamps so that no probability becomes 0";
    EXPECT_EQ(lowest, transformed(code, {-1000.0f}, 1)[0]);
    EXPECT_EQ(lowest, transformed(code, {-kInfinity}, 1)[0]);
    EXPECT_TRUE(std::isnan(transformed(code, {kNan}, 1)[0]));
  }
}

TEST(Transform, IsExponential) {
  for (const uint32_t code : kExponential) {
    for (const float x : kMargins) {
      const double expected = std::exp(static_cast<double>(x));
      EXPECT_NEAR(1.0, static_cast<double>(transformed(code, {x}, 1)[0]) / expected, 1e-6) << x;
    }
    EXPECT_EQ(0.0f, transformed(code, {-kInfinity}, 1)[0]);
    EXPECT_EQ(kInfinity, transformed(code, {kInfinity}, 1)[0]);
    EXPECT_EQ(kInfinity, transformed(code, {89.0f}, 1)[0]);
    EXPECT_TRUE(std::isnan(transformed(code, {kNan}, 1)[0]));
  }
}

// XGBoost takes the exponential of survival:aft in double; expf differs in one margin out of 1,500.
TEST(Transform, OfAftRoundsOnce) {
  size_t unlike_expf = 0;
  for (int i = -800000; i <= 800000; ++i) {
    const float x = static_cast<float>(i) * 1.0837e-4f;
    const float expected = static_cast<float>(std::exp(static_cast<double>(x)));
    ASSERT_EQ(expected, transformed(static_cast<uint32_t>(Objective::kAft), {x}, 1)[0]) << x;
    unlike_expf += expected != transformed(static_cast<uint32_t>(Objective::kPoisson), {x}, 1)[0];
  }
  EXPECT_GT(unlike_expf, 100u);
}

TEST(Transform, IsHinge) {
  const auto hinge = [](float x) { return transformed(Objective::kHinge, x); };
  for (const float positive : {FLT_TRUE_MIN, 1.0f, kInfinity}) EXPECT_EQ(1.0f, hinge(positive));
  for (const float other : {0.0f, -0.0f, -FLT_TRUE_MIN, -kInfinity, kNan}) EXPECT_EQ(0.0f, hinge(other));
}

TEST(Transform, IsSoftmaxOverTheGroupsOfEachRow) {
  const Row margins = {0.5f, -1.0f, 2.0f, 100.0f, 100.0f, 100.0f, -90.0f, 80.0f, 0.0f};
  const Row values = transformed(14, margins, 3);
  for (size_t row = 0; row < 3; ++row) {
    double sum = 0;
    for (size_t g = 0; g < 3; ++g) sum += std::exp(static_cast<double>(margins[row * 3 + g]));
    for (size_t g = 0; g < 3; ++g) {
      expect_close(std::exp(static_cast<double>(margins[row * 3 + g])) / sum, values[row * 3 + g]);
    }
  }
  EXPECT_EQ(Row{1.0f}, transformed(14, {3.0f}, 1));
}

TEST(Transform, SoftmaxOfHugeMarginsDoesNotOverflow) {
  EXPECT_EQ((Row{1, 0, 0}), transformed(14, {FLT_MAX, 0, -FLT_MAX}, 3));
  EXPECT_EQ((Row{0.5f, 0.5f}), transformed(14, {-FLT_MAX, -FLT_MAX}, 2));
  EXPECT_EQ((Row{0, 1}), transformed(14, {-kInfinity, 5}, 2));
  for (const float value : transformed(14, {1, kNan, 2}, 3)) EXPECT_TRUE(std::isnan(value));
}

TEST(Transform, IsTheFirstLargestClass) {
  EXPECT_EQ((Row{2, 0, 1, 0}), transformed(15, {1, 2, 3, 3, 3, 2, -1, 0, -kInfinity, 5, 5, 5}, 3));
  EXPECT_EQ((Row{0, 0, 0}), transformed(15, {1, -1, kNan}, 1));
  EXPECT_EQ((Row{1}), transformed(15, {-kInfinity, kInfinity}, 2));
  EXPECT_EQ((Row{0}), transformed(15, {kNan, 5}, 2)) << "nothing is larger than NaN";
  EXPECT_EQ((Row{2}), transformed(15, {1, kNan, 2}, 3));
}

TEST(Transform, SortsQuantilesOfEachRow) {
  EXPECT_EQ((Row{1, 2, 3, -5, 0, 4}), transformed(16, {3, 1, 2, 4, -5, 0}, 3));
  EXPECT_EQ((Row{-kInfinity, -1, -1, kInfinity}), transformed(16, {-1, kInfinity, -1, -kInfinity}, 4));
  EXPECT_EQ((Row{2, 1}), transformed(16, {2, 1}, 1));
}

double softplus(double x) { return std::log1p(std::exp(x)); }

TEST(Transform, AddsUpExpectiles) {
  const Row values = transformed(17, {1.0f, -2.0f, 0.5f, -3.0f, 30.0f, -30.0f}, 3);
  const double first = 1 + 1e-6 + softplus(-2);
  EXPECT_EQ(1.0f, values[0]);
  expect_close(first, values[1]);
  expect_close(first + 1e-6 + softplus(0.5), values[2]);
  EXPECT_EQ(-3.0f, values[3]);
  expect_close(-3 + 1e-6 + softplus(30), values[4]);
  EXPECT_GE(values[5], values[4]);
}

Row plain(uint32_t code, Row margins) {
  const auto count = static_cast<uint32_t>(margins.size());
  if (kSigmoid.count(code)) {
    for (float& x : margins) x = test::sigmoid(x);
  } else if (code == 13) {
    for (float& x : margins) x = x > 0.0f ? 1.0f : 0.0f;
  } else if (code == 14) {
    test::softmax_probability(margins.data(), count);
  } else if (code == 15) {
    return {test::argmax(margins.data(), count)};
  } else if (code == 16) {
    test::sort_ascending(margins.data(), count);
  } else {
    test::expectiles(margins.data(), count);
  }
  return margins;
}

// Zeros of both signs, NaNs and equal values among them: the order in which they come out is the plain one,
// too.
TEST(Transform, GivesTheBitsOfThePlainOne) {
  test::Random random(1);
  for (const uint32_t code : {5u, 13u, 14u, 15u, 16u, 17u}) {
    for (int trial = 0; trial < 3000; ++trial) {
      Row margins(1 + random.below(9));
      for (float& x : margins) x = random.chance(50) ? random.feature(false) : random.number() * 20.0f;
      const Row expected = plain(code, margins);
      const Row actual = transformed(code, margins, static_cast<uint32_t>(margins.size()));
      ASSERT_EQ(expected.size(), actual.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        if (std::isnan(expected[i]) && std::isnan(actual[i])) continue;
        ASSERT_EQ(bits_of(expected[i]), bits_of(actual[i])) << code << ", trial " << trial;
      }
    }
  }
}

TEST(Transform, InPlaceGivesTheSameValues) {
  for (uint32_t code = 1; code <= 20; ++code) {
    Row margins;
    for (int i = 0; i < 60; ++i) margins.push_back(static_cast<float>(i * 37 % 61) / 10.0f - 3.0f);
    const Row apart = transformed(code, margins, 3);
    transform(static_cast<Objective>(code), 3, 20, margins.data(), margins.data());
    margins.resize(apart.size());
    EXPECT_EQ(apart, margins) << code;
  }
}

TEST(Transform, OfNoRowsTouchesNothing) {
  for (uint32_t code = 1; code <= 20; ++code) {
    transform(static_cast<Objective>(code), 3, 0, nullptr, nullptr);
  }
}

TEST(Link, IsIdentityUnlessTheObjectiveHasAnother) {
  for (uint32_t code = 1; code <= 20; ++code) {
    if (kSigmoid.count(code) || kExponential.count(code) || code == 17) continue;
    EXPECT_EQ((Row{-3.5f, 0, FLT_MAX}), linked(static_cast<Objective>(code), {-3.5f, 0, FLT_MAX})) << code;
  }
}

TEST(Link, IsLogitClampedAwayFromItsPoles) {
  for (const uint32_t code : kSigmoid) {
    const auto objective = static_cast<Objective>(code);
    EXPECT_EQ(0.0f, linked(objective, {0.5f})[0]);
    expect_close(std::log(0.2 / 0.8), linked(objective, {0.2f})[0]);
    expect_close(std::log(0.999 / 0.001), linked(objective, {0.999f})[0]);
    EXPECT_NEAR(-13.8155, static_cast<double>(linked(objective, {0.0f})[0]), 1e-3);
    EXPECT_NEAR(13.8155, static_cast<double>(linked(objective, {1.0f})[0]), 0.1);
    EXPECT_EQ(linked(objective, {0.0f}), linked(objective, {1e-9f}));
    EXPECT_EQ(linked(objective, {0.0f}), linked(objective, {-0.0f}));
  }
}

TEST(Link, IsLogarithm) {
  for (const uint32_t code : kExponential) {
    const auto objective = static_cast<Objective>(code);
    EXPECT_EQ(0.0f, linked(objective, {1.0f})[0]);
    EXPECT_EQ(-kInfinity, linked(objective, {0.0f})[0]);
    expect_close(std::log(static_cast<double>(FLT_MAX)), linked(objective, {FLT_MAX})[0]);
    expect_close(std::log(static_cast<double>(FLT_TRUE_MIN)), linked(objective, {FLT_TRUE_MIN})[0]);
  }
}

TEST(Link, OfExpectilesIsUndoneByTheirTransform) {
  const Row base_score = {-2.0f, 0.5f, 0.75f, 100.0f};
  const Row values = transformed(17, linked(Objective::kExpectile, base_score), 4);
  for (size_t g = 0; g < 4; ++g) expect_close(static_cast<double>(base_score[g]), values[g]);
  for (const float margin : linked(Objective::kExpectile, {5.0f, 5.0f, 1.0f}))
    EXPECT_TRUE(std::isfinite(margin));
}

TEST(Link, RefusesBaseScoresWithoutAMargin) {
  const auto refused = [](uint32_t code, float score) {
    Row scores = {0.5f, score};
    return link(static_cast<Objective>(code), scores.data(), 2) == Status::kModelBaseScoreWrong;
  };
  for (const uint32_t code : kSigmoid) {
    for (const float bad : {-FLT_TRUE_MIN, std::nextafter(1.0f, 2.0f), kNan, kInfinity, -kInfinity}) {
      EXPECT_TRUE(refused(code, bad)) << code << " " << bad;
    }
  }
  for (const uint32_t code : kExponential) {
    for (const float bad : {-FLT_TRUE_MIN, -1.0f, kNan, -kInfinity}) EXPECT_TRUE(refused(code, bad)) << bad;
  }
  for (uint32_t code = 1; code <= 20; ++code) {
    if (code != 17) {  // whose link clamps NaN away, as XGBoost's fmax does
      EXPECT_TRUE(refused(code, kNan)) << code;
    }
  }
}

}  // namespace
}  // namespace confidential_ml
