// SGX through the Open Enclave SDK. The only hand-written trusted file that includes the SDK's headers.
#include <openenclave/attestation/attester.h>
#include <openenclave/attestation/sgx/evidence.h>
#include <openenclave/bits/sgx/sgxtypes.h>
#include <openenclave/enclave.h>

#include <cstring>

#include "enclave/cpu.h"
#include "enclave/key_request.h"
#include "enclave/platform.h"

namespace confidential_ml {
namespace {

static_assert(sizeof(sgx_key_request_t) == sizeof(KeyRequest), "key info is the SGX key request");

// The SDK's buffers, given back whichever way a function ends; oe_free_seal_key wipes the key.
struct SealKeyBuffers {
  uint8_t* key = nullptr;
  size_t key_size = 0;
  uint8_t* key_info = nullptr;
  size_t key_info_size = 0;

  SealKeyBuffers() = default;
  SealKeyBuffers(const SealKeyBuffers&) = delete;
  SealKeyBuffers& operator=(const SealKeyBuffers&) = delete;
  ~SealKeyBuffers() { oe_free_seal_key(key, key_info); }

  Status copy_key(SealingKey* destination) const {
    if (key_size == 0 || key_size > sizeof destination->bytes) return Status::kSealingKeyFailed;
    std::memcpy(destination->bytes, key, key_size);
    destination->size = key_size;
    return Status::kOk;
  }
};

Status status_of_seal_key(oe_result_t result) {
  switch (result) {
    case OE_OK:
      return Status::kOk;
    case OE_INVALID_ISVSVN:
      return Status::kSealedSvnTooHigh;
    case OE_INVALID_CPUSVN:     // sealed under newer microcode
    case OE_INVALID_PARAMETER:  // no key request of ours
    case OE_INVALID_KEYNAME:
      return Status::kSealedKeyDiffers;
    case OE_OUT_OF_MEMORY:
      return Status::kOutOfMemory;
    default:
      return Status::kSealingKeyFailed;
  }
}

// A request that leaves DEBUG out of the key would let a debug copy of this enclave, which has the same
// MRENCLAVE and no secrets from its debugger, make files that this one opens. The SDK's own requests ask for
// every security bit.
bool names_all_security_attributes(const sgx_key_request_t& request) {
  const uint64_t flags = OE_SEALKEY_DEFAULT_FLAGSMASK;
  return (request.attribute_mask.flags & flags) == flags;
}

}  // namespace

Status platform_start(ByteView input) {
  if (input.size != 0) return Status::kPlatformInputInvalid;
  return cpu_is_suitable() ? Status::kOk : Status::kCpuUnsuitable;
}

Status platform_identity(Identity* identity) {
  uint8_t* report = nullptr;
  size_t report_size = 0;
  oe_report_t parsed;
  std::memset(&parsed, 0, sizeof parsed);
  oe_result_t result = oe_get_report(0, nullptr, 0, nullptr, 0, &report, &report_size);
  if (result == OE_OK) result = oe_parse_report(report, report_size, &parsed);
  if (result == OE_OK) {
    identity->platform = Platform::kOpenEnclave;
    std::memcpy(&identity->isv_prod_id, parsed.identity.product_id, sizeof identity->isv_prod_id);
    identity->isv_svn = static_cast<uint16_t>(parsed.identity.security_version);
    identity->debug = (parsed.identity.attributes & OE_REPORT_ATTRIBUTES_DEBUG) != 0;
    std::memcpy(identity->mrenclave, parsed.identity.unique_id, sizeof identity->mrenclave);
    std::memcpy(identity->mrsigner, parsed.identity.signer_id, sizeof identity->mrsigner);
  }
  oe_free_report(report);
  return result == OE_OK ? Status::kOk : Status::kInternal;
}

Status platform_random(uint8_t* output, size_t size) {
  return oe_random(output, size) == OE_OK ? Status::kOk : Status::kRandomFailed;
}

Status platform_new_sealing_key(SealingPolicy policy, SealingKey* key, KeyInfo* key_info) {
  SealKeyBuffers buffers;
  const oe_seal_policy_t oe_policy =
      policy == SealingPolicy::kMrenclave ? OE_SEAL_POLICY_UNIQUE : OE_SEAL_POLICY_PRODUCT;
  const oe_result_t result = oe_get_seal_key_by_policy(oe_policy, &buffers.key, &buffers.key_size,
                                                       &buffers.key_info, &buffers.key_info_size);
  if (result != OE_OK) return status_of_seal_key(result);
  if (buffers.key_info_size != sizeof(KeyRequest)) return Status::kSealingKeyFailed;
  std::memcpy(key_info->bytes, buffers.key_info, buffers.key_info_size);
  key_info->size = buffers.key_info_size;
  return buffers.copy_key(key);
}

Status platform_sealing_key(const KeyInfo& key_info, SealingKey* key) {
  sgx_key_request_t request;
  if (key_info.size != sizeof request) return Status::kSealedKeyDiffers;
  std::memcpy(&request, key_info.bytes, sizeof request);
  if (!names_all_security_attributes(request)) return Status::kSealedKeyDiffers;
  SealKeyBuffers buffers;
  const oe_result_t result = oe_get_seal_key(key_info.bytes, key_info.size, &buffers.key, &buffers.key_size);
  return result == OE_OK ? buffers.copy_key(key) : status_of_seal_key(result);
}

Status platform_evidence(ByteView claims, uint8_t* output, size_t capacity, uint64_t* size) {
  static const oe_uuid_t kFormat = {OE_FORMAT_UUID_SGX_ECDSA};
  uint8_t* evidence = nullptr;
  size_t evidence_size = 0;
  oe_result_t result = oe_attester_initialize();  // idempotent
  if (result == OE_OK) {
    result = oe_get_evidence(&kFormat, 0, claims.data, claims.size, nullptr, 0, &evidence, &evidence_size,
                             nullptr, nullptr);
  }
  Status status = result == OE_OK ? Status::kOk : Status::kEvidenceFailed;
  if (status == Status::kOk && evidence_size > capacity) status = Status::kBufferTooSmall;
  if (status == Status::kOk) {
    std::memcpy(output, evidence, evidence_size);
    *size = evidence_size;
  }
  oe_free_evidence(evidence);
  return status;
}

}  // namespace confidential_ml
