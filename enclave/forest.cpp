// The order of float32 operations is XGBoost's: trees in file order, one addition each. Compiled with
// -ffp-contract=off; a fused multiply-add would change the last bit.
#include "enclave/forest.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "enclave/kernel.h"
#include "enclave/masks.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {
namespace {

size_t vectors_of(size_t row_count) { return (row_count + kLanes - 1) / kLanes; }

// Vectors of rows that go through a tree while its nodes are in the cache, as far as their columns leave
// room.
constexpr size_t kBlockBytes = 128 << 10;
// Conditions are asked for in place of columns, which may then be more.
constexpr size_t kLongBlockBytes = 4 << 20;
// Conditions are made for 256 rows, however many there are: up to here it takes longer than comparing bytes.
constexpr size_t kFewVectors = 2;

}  // namespace

// How rows are cut into blocks, and how these are encoded.
struct Forest::BlockShape {
  size_t vectors;
  size_t column_bytes, sum_bytes;  // of a vector
  size_t condition_bytes;          // of a block; 0 for none

  BlockShape(const Plan& plan, size_t row_count)
      : column_bytes(plan.column_bytes), sum_bytes(plan.group_count * kLanes * sizeof(float)) {
    const size_t needed = vectors_of(row_count);
    const size_t asked_for = plan.general_nodes.empty() ? plan.split_columns : plan.column_bytes;
    const size_t most = plan.general_nodes.empty() ? kLongBlockBytes : kBlockBytes;
    vectors = std::min(kBitVectors, most / (asked_for + sum_bytes));
    if (plan.condition_count != 0 && vectors > kFewVectors && needed > kFewVectors) {
      column_bytes = asked_for;
      condition_bytes = plan.condition_count * kConditionBytes;
    } else {
      vectors = std::min(kBitVectors, std::max<size_t>(1, kBlockBytes / (column_bytes + sum_bytes)));
      condition_bytes = 0;
    }
    vectors = std::min(vectors, needed);
  }
};

namespace {

// Up to here each row is predicted on its own: a vector of 32 costs as much as a few rows.
constexpr size_t kFewRows = 4;

// Aligned for the kernel, which std::allocator does not promise; not initialised, and wiped.
class Workspace {
 public:
  explicit Workspace(size_t size) : size_(size + kLanes), bytes_(new uint8_t[size_]) {}
  ~Workspace() { wipe(bytes_.get(), size_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  uint8_t* take(size_t size) {
    uint8_t* start = bytes_.get() + used_ + (kLanes - reinterpret_cast<uintptr_t>(bytes_.get()) % kLanes);
    used_ += size;
    return start;
  }

 private:
  size_t size_;
  std::unique_ptr<uint8_t[]> bytes_;
  size_t used_ = 0;
};

}  // namespace

// Some rows, and where to work on them.
struct Forest::Block {
  const float* rows;
  size_t first_row, row_count;
  EncodedRows encoded;
  uint8_t* scratch;
  float* sums;
};

Forest::Forest(Model model) : model_(std::move(model)), plan_(make_plan(model_)) {
  model_.nodes = {};
  model_.leaf_values = {};
  model_.category_sets = {};
  model_.category_words = {};
}

// gblinear starts every group from the first base score, as XGBoost's gblinear.cc does.
float Forest::start_of(size_t row, size_t group, const float* base_margin) const {
  if (base_margin != nullptr) return base_margin[row * model_.group_count + group];
  return model_.base_margin[model_.booster == Booster::kGblinear ? 0 : group];
}

void Forest::predict_margins(RoundRange rounds, const float* rows, size_t row_count, const float* base_margin,
                             float* margins) const {
  const size_t groups = model_.group_count;
  if (row_count == 0) return;
  if (model_.booster == Booster::kGblinear) {
    for (size_t i = 0; i < row_count; ++i) {
      for (size_t g = 0; g < groups; ++g) margins[i * groups + g] = start_of(i, g, base_margin);
      add_linear(rows + i * model_.feature_count, margins + i * groups);
    }
    return;
  }
  if (row_count <= kFewRows) return predict_few(rounds, rows, row_count, base_margin, margins);
  // A few rows at the end are better off without conditions, as few rows are by themselves.
  const BlockShape shape(plan_, row_count);
  const size_t rest = row_count % (shape.vectors * kLanes);
  const size_t left_over = shape.condition_bytes != 0 && rest <= kFewVectors * kLanes ? rest : 0;
  const size_t end = row_count - left_over;
  predict_blocks(rounds, shape, rows, end, base_margin, margins);
  predict_margins(rounds, rows + end * model_.feature_count, left_over,
                  base_margin == nullptr ? nullptr : base_margin + end * groups, margins + end * groups);
}

void Forest::predict_blocks(RoundRange rounds, const BlockShape& shape, const float* rows, size_t row_count,
                            const float* base_margin, float* margins) const {
  const size_t columns_size = shape.vectors * shape.column_bytes, sums_size = shape.vectors * shape.sum_bytes;
  Workspace workspace(columns_size + sums_size + shape.condition_bytes + scratch_bytes(plan_));
  Block block{};
  block.encoded.columns = workspace.take(columns_size);
  block.encoded.column_bytes = shape.column_bytes;
  if (shape.condition_bytes != 0) block.encoded.conditions = workspace.take(shape.condition_bytes);
  block.sums = reinterpret_cast<float*>(workspace.take(sums_size));
  block.scratch = workspace.take(scratch_bytes(plan_));
  block.rows = rows;
  for (size_t i = 0; i < row_count; i += shape.vectors * kLanes) {
    block.first_row = i;
    block.row_count = std::min(row_count - i, shape.vectors * kLanes);
    block.encoded.vector_count = vectors_of(block.row_count);
    predict_block(rounds, block, base_margin, margins);
  }
}

void Forest::predict_block(RoundRange rounds, const Block& block, const float* base_margin,
                           float* margins) const {
  const size_t groups = model_.group_count;
  // The sum of a group for every row: visit(row, group, sum). Rows that are not there begin as any other.
  const auto each_sum = [&](size_t row_count, auto visit) {
    for (size_t i = 0; i < row_count; ++i) {
      float* sums = block.sums + i / kLanes * groups * kLanes + i % kLanes;
      for (size_t g = 0; g < groups; ++g) visit(std::min(i, block.row_count - 1), g, sums[g * kLanes]);
    }
  };
  each_sum(block.encoded.vector_count * kLanes,
           [&](size_t row, size_t g, float& sum) { sum = start_of(block.first_row + row, g, base_margin); });
  encode_rows(plan_, block.rows + block.first_row * model_.feature_count, block.row_count, block.encoded);
  add_trees(plan_, model_.round_begin[rounds.begin], model_.round_begin[rounds.end], block.encoded,
            block.scratch, block.sums);
  float* own = margins + block.first_row * groups;
  each_sum(block.row_count, [&](size_t row, size_t g, const float& sum) { own[row * groups + g] = sum; });
}

void Forest::predict_few(RoundRange rounds, const float* rows, size_t row_count, const float* base_margin,
                         float* margins) const {
  const size_t groups = model_.group_count;
  Workspace workspace(row_code_bytes(plan_) + row_scratch_bytes(plan_));
  uint8_t* codes = workspace.take(row_code_bytes(plan_));
  uint8_t* scratch = workspace.take(row_scratch_bytes(plan_));
  for (size_t i = 0; i < row_count; ++i) {
    for (size_t g = 0; g < groups; ++g) margins[i * groups + g] = start_of(i, g, base_margin);
    encode_row(plan_, rows + i * model_.feature_count, codes);
    add_trees_to_row(plan_, model_.round_begin[rounds.begin], model_.round_begin[rounds.end], codes, scratch,
                     margins + i * groups);
  }
}

void Forest::add_linear(const float* row, float* margin) const {
  const size_t groups = model_.group_count;
  const float* biases = model_.linear_weights.data() + size_t{model_.feature_count} * groups;
  for (size_t g = 0; g < groups; ++g) {
    float sum = biases[g] + margin[g];
    for (size_t f = 0; f < model_.feature_count; ++f) {
      const float next = sum + row[f] * model_.linear_weights[f * groups + g];
      sum = select(is_nan(row[f]), sum, next);
    }
    margin[g] = sum;
  }
}

}  // namespace confidential_ml
