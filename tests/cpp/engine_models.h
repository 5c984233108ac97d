// One model for every path through the engine, and rows that meet its thresholds exactly.
#pragma once

#include <string>
#include <vector>

#include "enclave/forest.h"
#include "enclave/model.h"
#include "tests/cpp/flat_model_builder.h"

namespace confidential_ml::test {

struct NamedModel {
  std::string name;
  BuiltModel model;
};

std::vector<NamedModel> engine_models(uint64_t seed);

// Thresholds of the model, their neighbours, category edges, NaN, infinities, zeros, subnormals.
std::vector<float> engine_rows(const BuiltModel& model, size_t row_count, Random* random);

Model parsed(const BuiltModel& model);
RoundRange all_rounds(const Model& model);

}  // namespace confidential_ml::test
