// Memory that is wiped before it is given back: keys, plaintext models, rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

namespace confidential_ml {

// The empty asm statement reads the memory as far as the compiler knows, so the memset is no dead store.
inline void wipe(void* data, size_t size) {
  if (size == 0) return;
  std::memset(data, 0, size);
  __asm__ __volatile__("" : : "r"(data) : "memory");
}

template <typename T>
struct WipingAllocator {
  using value_type = T;
  using propagate_on_container_move_assignment =
      std::true_type;  // one is as good as another: moving copies nothing

  WipingAllocator() = default;
  template <typename U>
  WipingAllocator(const WipingAllocator<U>&) {}  // NOLINT(google-explicit-constructor): rebinding

  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* data, size_t count) {
    wipe(data, count * sizeof(T));
    std::allocator<T>().deallocate(data, count);
  }

  template <typename U>
  bool operator==(const WipingAllocator<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const WipingAllocator<U>&) const {
    return false;
  }
};

template <typename T>
using SecretVector = std::vector<T, WipingAllocator<T>>;

template <typename T>
size_t bytes_of(const SecretVector<T>& values) {
  return values.capacity() * sizeof(T);
}

// A key of at most `kCapacity` bytes on the stack, wiped when it goes out of scope and never copied.
template <size_t kCapacity>
struct SecretBytes {
  uint8_t bytes[kCapacity] = {};
  size_t size = kCapacity;

  SecretBytes() = default;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes() { wipe(bytes, kCapacity); }
};

}  // namespace confidential_ml
