// The requests that an epoch has opened: docs/protocol.md section 4.1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "enclave/crypto.h"

namespace confidential_ml {

// Open addressing over digests that nobody outside can steer (salted), so a slot is as good as random.
// Addresses depend on what was on the wire, which is no secret.
class ReplaySet {
 public:
  using Entry = std::array<uint8_t, 16>;

  size_t size() const { return size_; }

  // False if it is known already. May throw std::bad_alloc, and then has not changed.
  [[nodiscard]] bool insert(const Entry& entry);

 private:
  static constexpr size_t kFirstSlots = 1024;  // a power of two, as all later sizes

  static bool place(const Entry& entry, std::vector<Entry>* slots);

  std::vector<Entry> slots_;  // zeros are empty
  size_t size_ = 0;
};

}  // namespace confidential_ml
