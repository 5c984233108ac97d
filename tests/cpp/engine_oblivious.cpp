// Run under valgrind: checks that no branch and no address in the engine and the transforms depends on the
// rows or the base margin. They are marked undefined; memcheck then reports every jump and every address
// computed from them. The object code is the enclave's.
//
// Built with -DPLANT_LEAK it runs the walking reference instead, and must fail. As with float_math_oblivious,
// build it without speculative-load hardening.
//
// With the arguments "count SEED" it predicts once for rows drawn from that seed, for callgrind to count.
//
// Exit status: 0 all oblivious, 1 not, 2 not running under valgrind.

#include <valgrind/memcheck.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "enclave/forest.h"
#include "enclave/objective.h"
#include "tests/cpp/engine_models.h"
#include "tests/cpp/plain_forest.h"

namespace {

using namespace confidential_ml;
using Floats = std::vector<float>;

// Each goes another way: rows on their own; vectors whose complete parts look at columns; conditions.
constexpr size_t kRowCounts[] = {1, 3, 45, 200};

#ifdef PLANT_LEAK
using Engine = test::PlainForest;
#else
using Engine = Forest;
#endif

void mark_secret(Floats* values) {
  (void)VALGRIND_MAKE_MEM_UNDEFINED(values->data(), values->size() * sizeof(float));
}

// Whether memcheck has followed a secret into the values.
bool is_secret(const Floats& values) {
  std::vector<uint32_t> undefined_bits(values.size());
  (void)VALGRIND_GET_VBITS(values.data(), undefined_bits.data(), values.size() * sizeof(float));
  for (const uint32_t bits : undefined_bits) {
    if (bits != 0) return true;
  }
  return false;
}

bool report(const std::string& name, unsigned errors_before, bool followed) {
  const bool leaks = VALGRIND_COUNT_ERRORS != errors_before;
  std::printf("%-28s  %s\n", name.c_str(),
              leaks       ? "LEAKS"
              : !followed ? "NOT CHECKED: its results do not depend on the secret"
                          : "oblivious");
  return !leaks && followed;
}

Floats margins_of(const Engine& engine, const Floats& rows, const Floats& base_margin) {
  const Model& model = engine.model();
  const size_t row_count = rows.size() / model.feature_count;
  Floats margins(row_count * model.group_count);
  engine.predict_margins(test::all_rounds(model), rows.data(), row_count,
                         base_margin.empty() ? nullptr : base_margin.data(), margins.data());
  return margins;
}

bool check_engine(const test::NamedModel& named, size_t row_count) {
  const auto errors_before = VALGRIND_COUNT_ERRORS;
  test::Random random(row_count);
  const Engine engine(test::parsed(named.model));
  Floats rows = test::engine_rows(named.model, row_count, &random);
  // Without trees nothing but the base margin reaches the result.
  bool has_splits = named.model.booster == 3;
  for (const auto& round : named.model.rounds) {
    for (const auto& tree : round) has_splits = has_splits || tree.nodes.size() > 1;
  }
  Floats base_margin(has_splits ? 0 : row_count * named.model.group_count, 0.5f);
  mark_secret(&rows);
  mark_secret(&base_margin);
  const bool followed = is_secret(margins_of(engine, rows, base_margin));
  return report(named.name + ", rows " + std::to_string(row_count), errors_before, followed);
}

bool check_transform(uint32_t code) {
  const auto errors_before = VALGRIND_COUNT_ERRORS;
  constexpr uint32_t kGroups = 5;
  constexpr size_t kRows = 7;
  const auto objective = static_cast<Objective>(code);
  test::Random random(code);
  Floats margins(kRows * kGroups);
  for (float& x : margins) x = random.feature(false);
  Floats values(kRows * value_columns(objective, kGroups));
  mark_secret(&margins);
  transform(objective, kGroups, kRows, margins.data(), values.data());
  return report("transform " + std::to_string(code), errors_before, is_secret(values));
}

// The models are the same for every seed, the rows are not.
int count(uint64_t seed) {
  for (const test::NamedModel& named : test::engine_models(1)) {
    test::Random random(seed);
    const Engine engine(test::parsed(named.model));
    const uint32_t groups = engine.model().group_count;
    Floats margins;
    for (const size_t row_count : kRowCounts) {
      Floats rows(row_count * engine.model().feature_count);
      for (float& x : rows) x = random.feature(seed % 2 == 0);
      margins = margins_of(engine, rows, {});
    }
    const size_t last = kRowCounts[std::size(kRowCounts) - 1];
    for (uint32_t code = 1; code <= 20; ++code) {
      Floats values = margins, scratch = margins;
      transform(static_cast<Objective>(code), groups, last, scratch.data(), values.data());
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "count") == 0) return count(std::strtoull(argv[2], nullptr, 10));
  if (RUNNING_ON_VALGRIND == 0) {
    std::fprintf(stderr, "engine_oblivious checks nothing unless it runs under valgrind\n");
    return 2;
  }
  bool clean = true;
  for (const test::NamedModel& named : test::engine_models(1)) {
    for (const size_t row_count : kRowCounts) clean = check_engine(named, row_count) && clean;
  }
  for (uint32_t code = 1; code <= 20; ++code) clean = check_transform(code) && clean;
  return clean ? 0 : 1;
}
