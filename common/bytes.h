// Bounds-checked reading and writing of little-endian fields. A failed step makes all later ones fail too, so
// a caller checks once at the end and never sees a field that was not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace confidential_ml {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the formats are little-endian and copied as they are");

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : next_(data), left_(size) {}

  template <typename T>
  T read() {
    T value{};
    copy_to(&value, sizeof(T));
    return value;
  }

  // Advances over `size` bytes and returns where they start, or nullptr if fewer are left.
  const uint8_t* take(size_t size) {
    if (failed_ || size > left_) {
      failed_ = true;
      return nullptr;
    }
    const uint8_t* start = next_;
    next_ += size;
    left_ -= size;
    return start;
  }

  void copy_to(void* destination, size_t size) {
    const uint8_t* source = take(size);
    if (source != nullptr && size > 0) std::memcpy(destination, source, size);
  }

  size_t left() const { return left_; }
  bool failed() const { return failed_; }
  bool finished() const { return !failed_ && left_ == 0; }

 private:
  const uint8_t* next_;
  size_t left_;
  bool failed_ = false;
};

class Writer {
 public:
  Writer(uint8_t* data, size_t size) : next_(data), left_(size), size_(size) {}

  template <typename T>
  void write(T value) {
    append(&value, sizeof(T));
  }

  void append(const void* source, size_t size) {
    uint8_t* destination = reserve(size);
    if (destination != nullptr && size > 0) std::memcpy(destination, source, size);
  }

  // Advances over `size` bytes for the caller to fill in and returns where they start, or nullptr.
  uint8_t* reserve(size_t size) {
    if (failed_ || size > left_) {
      failed_ = true;
      return nullptr;
    }
    uint8_t* start = next_;
    next_ += size;
    left_ -= size;
    return start;
  }

  size_t written() const { return size_ - left_; }
  bool failed() const { return failed_; }

 private:
  uint8_t* next_;
  size_t left_;
  size_t size_;
  bool failed_ = false;
};

}  // namespace confidential_ml
