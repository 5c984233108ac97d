#include "enclave/replay_set.h"

#include <cstring>

namespace confidential_ml {

bool ReplaySet::place(const Entry& entry, std::vector<Entry>* slots) {
  const Entry empty{};
  uint64_t slot = 0;
  std::memcpy(&slot, entry.data(), sizeof slot);
  for (;; ++slot) {
    Entry& found = (*slots)[slot & (slots->size() - 1)];
    if (found == entry) return false;
    if (found == empty) {
      found = entry;
      return true;
    }
  }
}

bool ReplaySet::insert(const Entry& entry) {
  if (2 * (size_ + 1) > slots_.size()) {
    std::vector<Entry> larger(slots_.empty() ? kFirstSlots : 2 * slots_.size());
    for (const Entry& known : slots_) {
      if (known != Entry{}) place(known, &larger);
    }
    slots_.swap(larger);
  }
  if (!place(entry, &slots_)) return false;
  ++size_;
  return true;
}

}  // namespace confidential_ml
