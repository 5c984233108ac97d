// What holds an enclave open while it is called: Enclave's own, for enclave.cpp and prediction.cpp.
#pragma once

#include "build_config.h"
#include "host/enclave.h"
#include "host/status_table.h"

namespace confidential_ml::host {

// Whose predictions the signal handlers interrupt that this thread is in: a handler's may be interrupted too.
struct Interruption {
  const Enclave* enclave;
  const Interruption* outer;
};
inline thread_local const Interruption* interruption = nullptr;

inline constexpr char kClosed[] = "the enclave is closed; make a new Enclave";

// A prediction of any number of blocks: while one is under way, its model stays loaded and its enclave open.
class Enclave::Prediction {
 public:
  Prediction(const Enclave& owner, uint64_t handle) : shared_(*owner.shared_) {
    owner.check_open();
    const std::lock_guard<std::mutex> lock(shared_.mutex);
    if (shared_.closing) throw EnclaveException(kClosed);
    const auto found = shared_.models.find(handle);
    if (found == shared_.models.end() || found->second.unloading) {
      throw EnclaveException(Status::kUnknownModel);
    }
    model_ = &found->second;
    ++model_->predictions;
    ++shared_.predictions;
  }
  ~Prediction() {
    const std::lock_guard<std::mutex> lock(shared_.mutex);
    --model_->predictions;
    --shared_.predictions;
    shared_.changed.notify_all();
  }
  Prediction(const Prediction&) = delete;
  Prediction& operator=(const Prediction&) = delete;

 private:
  Shared& shared_;
  LoadedModel* model_;  // not forgotten before its predictions are done
};

// One ecall: holds one of the enclave's thread slots, waiting for it if need be.
class Enclave::Call {
 public:
  explicit Call(const Enclave& owner, const Prediction* part_of = nullptr) : shared_(*owner.shared_) {
    if (part_of == nullptr || owner.is_forked()) owner.check_open();
    std::unique_lock<std::mutex> lock(shared_.mutex);
    // A block of a prediction that began before the closing is still let in.
    const auto refused = [&] { return shared_.closing && part_of == nullptr; };
    shared_.changed.wait(lock, [&] { return refused() || shared_.calls < kThreadCount; });
    if (refused()) throw EnclaveException(kClosed);
    ++shared_.calls;
  }
  ~Call() {
    const std::lock_guard<std::mutex> lock(shared_.mutex);
    --shared_.calls;
    shared_.changed.notify_all();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  oe_enclave_t* get() const { return shared_.enclave; }

 private:
  Shared& shared_;
};

}  // namespace confidential_ml::host
