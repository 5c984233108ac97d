// What no confidential request can do without on the enclave's end: AES-256-GCM of its bytes, and nothing
// else.
//
//   aes_gcm_bench REQUEST_SIZE ANSWER_SIZE
//
// Prints the quartiles of decrypting so many bytes and encrypting so many, with the enclave's own functions
// and libcrypto, as a JSON object (benchmarks/remote.py reads it).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "enclave/crypto.h"

namespace {

using namespace confidential_ml;
using Clock = std::chrono::steady_clock;

constexpr size_t kSamples = 41;
constexpr size_t kCalls = 50;
constexpr uint8_t kKey[kAesKeySize] = {1};
constexpr uint8_t kNonce[kGcmNonceSize] = {2};
constexpr uint8_t kHeader[56] = {3};

// Both ends of one direction, in place.
class Message {
 public:
  explicit Message(size_t size) : bytes_(size) {}

  bool seal() {
    return aes256_gcm_encrypt({kKey, kNonce}, {kHeader, sizeof kHeader}, view(), bytes_.data(), tag_) ==
           Status::kOk;
  }
  bool open() {
    bool authentic = false;
    const Status status = aes256_gcm_decrypt({kKey, kNonce}, {kHeader, sizeof kHeader}, view(), tag_,
                                             bytes_.data(), &authentic);
    return status == Status::kOk && authentic;
  }

 private:
  ByteView view() const { return {bytes_.data(), bytes_.size()}; }

  std::vector<uint8_t> bytes_;
  uint8_t tag_[kGcmTagSize] = {};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: aes_gcm_bench REQUEST_SIZE ANSWER_SIZE\n");
    return 2;
  }
  Message request(std::strtoull(argv[1], nullptr, 10)), answer(std::strtoull(argv[2], nullptr, 10));
  if (crypto_start() != Status::kOk) return 1;
  std::vector<double> times;
  for (size_t sample = 0; sample < kSamples; ++sample) {
    std::chrono::duration<double, std::nano> taken{0};
    for (size_t i = 0; i < kCalls; ++i) {
      if (!request.seal()) return 1;
      const auto start = Clock::now();
      if (!request.open() || !answer.seal()) return 1;
      taken += Clock::now() - start;
    }
    times.push_back(taken.count() / kCalls);
  }
  std::sort(times.begin(), times.end());
  std::printf("{\"p25_ns\": %.1f, \"median_ns\": %.1f, \"p75_ns\": %.1f}\n", times[kSamples / 4],
              times[kSamples / 2], times[3 * kSamples / 4]);
  return 0;
}
