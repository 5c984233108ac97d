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

class NoSlotFree {};

// A prediction of any number of blocks: while one is under way, its model stays loaded and its enclave open.
// That of one block takes the slot of its call at once: for a single row the lock is a good part of the call.
class Enclave::Prediction {
 public:
  enum class Slot : uint8_t { kForEachCall, kWaitedFor, kFree };

  // May throw NoSlotFree if a free one is asked for.
  Prediction(const Enclave& owner, uint64_t handle, Slot slot)
      : shared_(*owner.shared_), slots_(slot == Slot::kForEachCall ? 0 : 1) {
    owner.check_open();
    std::unique_lock<std::mutex> lock(shared_.mutex);
    const auto ready = [&] { return shared_.closing || shared_.calls + slots_ <= kThreadCount; };
    if (slot == Slot::kFree && !ready()) throw NoSlotFree();
    shared_.changed.wait(lock, ready);
    if (shared_.closing) throw EnclaveException(kClosed);
    const auto found = shared_.models.find(handle);
    if (found == shared_.models.end() || found->second.unloading) {
      throw EnclaveException(Status::kUnknownModel);
    }
    model_ = &found->second;
    ++model_->predictions;
    ++shared_.predictions;
    shared_.calls += slots_;
  }
  ~Prediction() {
    const std::lock_guard<std::mutex> lock(shared_.mutex);
    --model_->predictions;
    --shared_.predictions;
    shared_.calls -= slots_;
    shared_.changed.notify_all();
  }
  Prediction(const Prediction&) = delete;
  Prediction& operator=(const Prediction&) = delete;

  bool has_slot() const { return slots_ != 0; }

 private:
  Shared& shared_;
  const size_t slots_;
  LoadedModel* model_;  // not forgotten before its predictions are done
};

// One ecall: holds one of the enclave's thread slots, waiting for it if need be.
class Enclave::Call {
 public:
  explicit Call(const Enclave& owner, const Prediction* part_of = nullptr)
      : shared_(*owner.shared_), slots_(part_of != nullptr && part_of->has_slot() ? 0 : 1) {
    if (slots_ == 0) return;
    if (part_of == nullptr || owner.is_forked()) owner.check_open();
    std::unique_lock<std::mutex> lock(shared_.mutex);
    // A block of a prediction that began before the closing is still let in.
    const auto refused = [&] { return shared_.closing && part_of == nullptr; };
    shared_.changed.wait(lock, [&] { return refused() || shared_.calls < kThreadCount; });
    if (refused()) throw EnclaveException(kClosed);
    ++shared_.calls;
  }
  ~Call() {
    if (slots_ == 0) return;
    const std::lock_guard<std::mutex> lock(shared_.mutex);
    --shared_.calls;
    shared_.changed.notify_all();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  oe_enclave_t* get() const { return shared_.enclave; }

 private:
  Shared& shared_;
  const size_t slots_;
};

}  // namespace confidential_ml::host
