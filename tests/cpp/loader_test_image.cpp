// The trusted side of tests/edl/boundary_sample.edl: an image that is only good for testing the loader.

#include <openssl/evp.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include "boundary_sample_t.h"

inline uint32_t inline_counter = 0;  // inline: the kind of symbol that two loaded copies may come to share

extern "C" {

uint32_t sample_scribble(const uint8_t* bytes, size_t bytes_size) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes_size; ++i) {
    sum += bytes[i];
    const_cast<uint8_t*>(bytes)[i]++;
  }
  return sum;
}

uint32_t sample_fill(uint8_t* bytes, size_t bytes_size, uint8_t value) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes_size; ++i) sum += bytes[i];
  std::memset(bytes, value, bytes_size);
  return sum;
}

uint32_t sample_scalars(bool a, int8_t b, uint16_t c, int32_t d, uint64_t e, size_t f, float g, double h,
                        double* all) {
  all[0] = a ? b : 0;
  all[1] = c + static_cast<double>(d);
  all[2] = static_cast<double>(e);
  all[3] = static_cast<double>(f);
  all[4] = static_cast<double>(g) + h;
  return 5;
}

uint32_t sample_mix(uint8_t* first, uint32_t first_size, const float* second, uint64_t second_size,
                    float* third, size_t third_size, const uint8_t* fourth) {
  std::memset(first, fourth[2], first_size);
  for (size_t i = 0; i < third_size / sizeof(float); ++i)
    third[i] = 2 * second[i % (second_size / sizeof(float))];
  return fourth[0];
}

uint32_t sample_is_null(const uint8_t* bytes, size_t bytes_size) {
  return bytes == nullptr ? static_cast<uint32_t>(bytes_size) : 0;
}

uint32_t sample_count() {
  static uint32_t static_counter = 0;
  return ++inline_counter + ++static_counter;
}

void sample_wait(uint32_t milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

uint32_t sample_throw() { throw std::runtime_error("nobody in the enclave catches this"); }

// Makes state of this image in the calling thread: libcrypto's, and on request a C++ object with a
// destructor, which stays behind.
uint32_t sample_touch_thread_local(uint32_t with_destructor) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  const bool hashed = EVP_Digest("abc", 3, digest, &size, EVP_sha256(), nullptr) == 1;
  if (!hashed || with_destructor == 0) return size;
  thread_local std::string text = "long enough to be allocated on the heap rather than stored in place";
  text += 'x';
  return static_cast<uint32_t>(text.size());
}

}  // extern "C"
