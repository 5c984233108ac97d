// About the least that a client can take for a confidential prediction: docs/protocol.md 3 and 4 in C++, with
// buffers that are used again, the enclave's own cryptographic functions, and no check of what comes back.
// For engine_bench.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "enclave/hpke.h"
#include "host/enclave.h"

namespace confidential_ml::bench {

class CompiledClient {
 public:
  // Of the first model that the enclave has loaded. Ends the program if anything fails, as do the calls
  // below.
  CompiledClient(host::Enclave* enclave, size_t features, size_t columns);

  // Predictions of row_count x features values, row_count x columns of them, until the next call.
  const std::vector<float>& predict(const float* rows, size_t row_count);

 private:
  using Bytes = std::vector<uint8_t>;

  void encapsulate();
  void write_plaintext(const float* rows, size_t row_count);
  void encrypt(size_t row_count);
  void open(ByteView answer, size_t row_count);

  host::Enclave* enclave_;
  size_t features_, columns_;
  Bytes model_digest_, epoch_digest_, epoch_key_, enc_;
  HpkeSharedSecret shared_secret_;
  uint8_t answer_secret_[kSha256Size];
  Bytes plaintext_, message_, opened_;
  std::vector<float> predictions_;
};

}  // namespace confidential_ml::bench
