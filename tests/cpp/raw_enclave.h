// One enclave through the generated glue, every argument as the caller wants it.
#pragma once

#include <gtest/gtest.h>
#include <openenclave/host.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "common/limits.h"
#include "common/status.h"
#include "confidential_ml_u.h"
#include "simulation/loader.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/protocol_client.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml::test {

inline constexpr size_t kTcs = 8;  // of enclave.conf
inline const Bytes kFuseKey(32, 0x42);
inline constexpr uint32_t kMrenclave = 1, kMrsigner = 2;

// One raw enclave; each call gives the status, or kCallFailed and last_result if the call itself failed.
class RawEnclave {
 public:
  explicit RawEnclave(bool started = true, const char* image = CONFIDENTIAL_ML_IMAGE) {
    const oe_result_t created = oe_create_confidential_ml_enclave(
        image, OE_ENCLAVE_TYPE_SGX, OE_ENCLAVE_FLAG_SIMULATE, nullptr, 0, &enclave_);
    EXPECT_EQ(OE_OK, created) << confidential_ml_simulation_last_error();
    if (started) {
      EXPECT_EQ(Status::kOk, start());
    }
  }
  ~RawEnclave() { EXPECT_EQ(OE_OK, oe_terminate_enclave(enclave_)); }
  RawEnclave(const RawEnclave&) = delete;
  RawEnclave& operator=(const RawEnclave&) = delete;

  oe_enclave_t* get() const { return enclave_; }

  template <typename Ecall, typename... Arguments>
  Status call(Ecall ecall, Arguments... arguments) const {
    uint32_t status = 0xdead;
    last_result = ecall(enclave_, &status, arguments...);
    return last_result == OE_OK ? static_cast<Status>(status) : kCallFailed;
  }

  Status start() const { return call(enclave_start, kFuseKey.data(), kFuseKey.size()); }

  Status seal(const Bytes& model, const std::string& id, uint32_t policy, Bytes* sealed) const {
    sealed->assign(model.size() + 5000, 0);
    uint8_t size[8] = {};
    const Status status =
        call(enclave_seal_model, model.data(), model.size(), reinterpret_cast<const uint8_t*>(id.data()),
             id.size(), policy, uint64_t{0}, nullptr, size_t{0}, sealed->data(), sealed->size(), size);
    sealed->resize(used(size));
    return status;
  }

  Bytes sealed(const Bytes& model, uint32_t policy = kMrenclave) const {
    Bytes sealed;
    EXPECT_EQ(Status::kOk, seal(model, "m", policy, &sealed));
    return sealed;
  }

  Status load(const Bytes& sealed, uint64_t* handle) const {
    uint8_t bytes[8] = {};
    const Status status = call(enclave_load_model, sealed.data(), sealed.size(), bytes);
    std::memcpy(handle, bytes, sizeof *handle);
    return status;
  }

  uint64_t loaded(const Bytes& flat) const {
    uint64_t handle = 0;
    EXPECT_EQ(Status::kOk, load(sealed(flat), &handle));
    return handle;
  }

  // The claims of evidence whose report is bound to them.
  Claims claims(const Bytes& nonce = {}) const {
    Bytes evidence(kMaxEvidenceSize);
    uint8_t size[8] = {};
    EXPECT_EQ(Status::kOk,
              call(enclave_evidence, nonce.data(), nonce.size(), evidence.data(), evidence.size(), size));
    evidence.resize(used(size));
    const Bytes bytes = part(evidence, kReportBodySize, evidence.size() - kReportBodySize);
    EXPECT_EQ(join({sha256_of(bytes), Bytes(32)}), part(evidence, kReportDataOffset, 64));
    const auto parsed = parse_claims(bytes);
    EXPECT_TRUE(parsed.has_value());
    return parsed.value_or(Claims{});
  }

  // The answer's buffer has room for what the header asks for; *answer is cut to what was used.
  Status answer(const Bytes& request, Bytes* answer_bytes) const {
    uint32_t answer_size = 0;
    if (request.size() >= 52) std::memcpy(&answer_size, request.data() + 48, sizeof answer_size);
    answer_bytes->assign(64 + std::min(answer_size, kMaxAnswerContent), 0xee);
    uint8_t size[8] = {};
    const Status status = call(enclave_answer_request, request.data(), request.size(), answer_bytes->data(),
                               answer_bytes->size(), size);
    answer_bytes->resize(used(size));
    return status;
  }

  Status import(const Bytes& request, Bytes* sealed_model, Bytes* answer_bytes) const {
    sealed_model->assign(request.size() + 5000, 0xee);
    answer_bytes->assign(64 + 512, 0xee);
    uint8_t sealed_size[8] = {}, size[8] = {};
    const Status status =
        call(enclave_import_model, request.data(), request.size(), sealed_model->data(), sealed_model->size(),
             sealed_size, answer_bytes->data(), answer_bytes->size(), size);
    sealed_model->resize(used(sealed_size));
    answer_bytes->resize(used(size));
    return status;
  }

  static uint64_t used(const uint8_t size[8]) {
    uint64_t value = 0;
    std::memcpy(&value, size, sizeof value);
    return value;
  }

  static constexpr size_t kReportBodySize = 384, kReportDataOffset = 320;
  static constexpr Status kCallFailed = static_cast<Status>(9999);
  static inline thread_local oe_result_t last_result = OE_OK;

 private:
  oe_enclave_t* enclave_ = nullptr;
};

}  // namespace confidential_ml::test
