// A prediction: its rows cut into blocks of bounded size, so that memory stays flat however many there are,
// and the blocks shared out among threads.
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "common/status.h"
#include "confidential_ml_u.h"
#include "host/enclave_call.h"

namespace confidential_ml::host {
namespace {

constexpr size_t kBlockBytes = size_t{128} << 10;  // of rows: copied into the enclave, they are in the cache
constexpr size_t kBlockStep = 256;                 // rows that the engine takes at a time ...
constexpr size_t kWideBlockBytes = size_t{1} << 20;  // ... though they are more than those bytes
// How long a prediction goes on without asking whether it shall stop.
constexpr std::chrono::milliseconds kInterruptible{50};
// The work that is worth a thread, which costs some 20 microseconds to start, in nodes x rows. A node takes
// 5 to 20 picoseconds per row.
constexpr size_t kThreadWork = size_t{20} << 20;
// A microsecond or two.
constexpr size_t kShortWork = size_t{16} << 10;

size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

size_t processor_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<size_t>(std::max(1, CPU_COUNT(&set)));
}

// Rows times what one costs; a row costs something even without nodes.
size_t work_of(const PredictRequest& r) { return r.row_count * (r.node_count + 64 * r.feature_count + 64); }

size_t threads_for(const PredictRequest& r) {
  const size_t worth = work_of(r) / kThreadWork;
  if (worth <= 1 || r.thread_count == 1) return 1;
  const size_t asked = r.thread_count == 0 ? processor_count() : r.thread_count;
  return std::max<size_t>(1,
                          std::min({asked, worth, size_t{kThreadCount}, divide_up(r.row_count, kBlockStep)}));
}

size_t rows_per_block(const PredictRequest& r, size_t threads) {
  const size_t row_bytes = std::max({r.feature_count, r.group_count, r.columns, size_t{1}}) * sizeof(float);
  const size_t in_bound = kBlockBytes / row_bytes;
  const size_t fair = divide_up(divide_up(r.row_count, threads), kBlockStep) * kBlockStep;
  if (in_bound < kBlockStep) return std::max<size_t>(1, std::min(kBlockStep, kWideBlockBytes / row_bytes));
  return std::max(kBlockStep, std::min(fair, in_bound / kBlockStep * kBlockStep));
}

}  // namespace

// Hands out the blocks, to any thread, until one of them has failed.
class Enclave::Blocks {
 public:
  Blocks(size_t row_count, size_t block_rows) : row_count_(row_count), block_rows_(block_rows) {}

  // The first block exists even if there are no rows: handle and rounds are checked with it.
  bool next(size_t* first_row, size_t* row_count) {
    const size_t first = next_.fetch_add(block_rows_);
    if (first != 0 && first >= row_count_) return false;
    *first_row = first;
    *row_count = std::min(block_rows_, row_count_ - first);
    return true;
  }

  void fail(std::exception_ptr error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::move(error);
    next_ = row_count_ + block_rows_;
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const size_t row_count_, block_rows_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

template <typename Body>
void Enclave::then_finish_deferred(const Body& body) {
  try {
    body();
  } catch (...) {
    finish_deferred();
    throw;
  }
  finish_deferred();
}

void Enclave::predict(const PredictRequest& request) {
  then_finish_deferred([&] { predict_all(request); });
}

bool Enclave::predict_if_short(const PredictRequest& request) {
  // Groups cost as well: gblinear has a weight of every feature for each, and quantiles are sorted.
  const size_t of_groups = request.group_count * (request.group_count + request.feature_count);
  if (work_of(request) + request.row_count * of_groups > kShortWork) return false;
  try {
    then_finish_deferred([&] {
      const Prediction prediction(*this, request.handle, Prediction::Slot::kFree);
      predict_block(prediction, request, 0, request.row_count);
    });
  } catch (const NoSlotFree&) {
    return false;
  }
  return true;
}

void Enclave::predict_all(const PredictRequest& request) {
  const size_t threads = threads_for(request);
  const size_t block_rows = rows_per_block(request, threads);
  const bool is_one_block = request.row_count <= block_rows;
  const Prediction prediction(*this, request.handle,
                              is_one_block ? Prediction::Slot::kWaitedFor : Prediction::Slot::kForEachCall);
  if (is_one_block) return predict_block(prediction, request, 0, request.row_count);
  Blocks blocks(request.row_count, block_rows);
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    PredictRequest quiet = request;
    quiet.interrupted = nullptr;
    while (others.size() < threads - 1) {
      others.emplace_back(
          [this, &prediction, quiet, &blocks] { predict_blocks(prediction, quiet, &blocks); });
    }
  } catch (const std::exception&) {
    // No more threads to be had (system_error, bad_alloc): those there are do the work.
  }
  predict_blocks(prediction, request, &blocks);
  for (std::thread& other : others) other.join();
  blocks.rethrow();
}

void Enclave::predict_blocks(const Prediction& prediction, const PredictRequest& request, Blocks* blocks) {
  using Clock = std::chrono::steady_clock;
  size_t first_row = 0, row_count = 0;
  auto asked = Clock::now();
  try {
    while (blocks->next(&first_row, &row_count)) {
      predict_block(prediction, request, first_row, row_count);
      if (request.interrupted == nullptr || Clock::now() - asked < kInterruptible) continue;
      const Interruption here{this, interruption};
      interruption = &here;
      const bool stop = request.interrupted();
      interruption = here.outer;
      if (stop) throw Interrupted();
      asked = Clock::now();
    }
  } catch (...) {
    blocks->fail(std::current_exception());
  }
}

void Enclave::predict_block(const Prediction& prediction, const PredictRequest& r, size_t first_row,
                            size_t row_count) {
  const float* rows = r.rows + first_row * r.feature_count;
  const float* base_margin = r.base_margin == nullptr ? nullptr : r.base_margin + first_row * r.group_count;
  const size_t base_margin_size = r.base_margin == nullptr ? 0 : row_count * r.group_count * sizeof(float);
  const Call call(*this, &prediction);
  uint32_t status = 0;
  const oe_result_t result = enclave_predict(
      call.get(), &status, r.handle, r.output_margin ? 1 : 0, r.round_begin, r.round_end, row_count, rows,
      row_count * r.feature_count * sizeof(float), base_margin, base_margin_size,
      r.predictions + first_row * r.columns, row_count * r.columns * sizeof(float));
  finish(call, result, status);
}

}  // namespace confidential_ml::host
