// The simulated platform. It PROTECTS NOTHING: the fuse key is a file of the user's. It behaves as SGX does
// where behaviour can be seen: who gets which sealing key, and who does not.
#include <sys/random.h>

#include <algorithm>
#include <cstring>

#include "common/bytes.h"
#include "enclave/cpu.h"
#include "enclave/key_request.h"
#include "enclave/platform.h"
#include "simulation/simulated_identity.h"

namespace confidential_ml {
namespace {

constexpr size_t kFuseKeySize = 32;
constexpr size_t kReportBodySize = 384;
constexpr uint8_t kCpuSvn[16] = {1};  // one simulated microcode, for all machines
uint8_t fuse_key[kFuseKeySize];

bool cpu_svn_is_reached(const uint8_t wanted[16]) {
  for (size_t i = 0; i < sizeof kCpuSvn; ++i) {
    if (wanted[i] > kCpuSvn[i]) return false;
  }
  return true;
}

// EGETKEY for sealing keys: the dependencies of the Intel SDM, vol. 3D, table 38-64, under a KDF of our own.
Status derive(const KeyRequest& request, SealingKey* key) {
  const confidential_ml_simulated_identity& self = *simulated_identity();
  struct Dependencies {
    char label[40];
    KeyRequest request;
    uint8_t mrenclave[32];
    uint8_t mrsigner[32];
    uint16_t isv_prod_id;
    uint16_t platform;
    uint32_t debug;
  } dependencies;
  static_assert(sizeof(Dependencies) == 40 + 512 + 72, "no padding: every byte is derived from");
  std::memset(&dependencies, 0, sizeof dependencies);
  std::strncpy(dependencies.label, "confidential_ml simulated EGETKEY v1", sizeof dependencies.label - 1);
  dependencies.request = request;
  if (request.key_policy & static_cast<uint16_t>(SealingPolicy::kMrenclave)) {
    std::memcpy(dependencies.mrenclave, self.mrenclave, 32);
  }
  if (request.key_policy & static_cast<uint16_t>(SealingPolicy::kMrsigner)) {
    std::memcpy(dependencies.mrsigner, self.mrsigner, 32);
  }
  dependencies.isv_prod_id = self.isv_prod_id;
  dependencies.platform = self.platform;
  dependencies.debug = self.debug;
  key->size = 16;  // as EGETKEY's
  return hkdf_sha256({fuse_key, kFuseKeySize}, {nullptr, 0},
                     {reinterpret_cast<const uint8_t*>(&dependencies), sizeof dependencies}, key->bytes,
                     key->size);
}

}  // namespace

Status platform_start(ByteView input) {
  if (input.size != kFuseKeySize || input.data == nullptr) return Status::kPlatformInputInvalid;
  std::memcpy(fuse_key, input.data, kFuseKeySize);
  return cpu_is_suitable() ? Status::kOk : Status::kCpuUnsuitable;
}

Status platform_identity(Identity* identity) {
  const confidential_ml_simulated_identity& self = *simulated_identity();
  identity->platform = static_cast<Platform>(self.platform);
  identity->isv_prod_id = self.isv_prod_id;
  identity->isv_svn = self.isv_svn;
  identity->debug = self.debug != 0;
  std::memcpy(identity->mrenclave, self.mrenclave, 32);
  std::memcpy(identity->mrsigner, self.mrsigner, 32);
  return Status::kOk;
}

// Of the kernel, as RDRAND is of the CPU on SGX. libcrypto keeps a generator for each thread, which it makes
// anew in every ecall, as the runtime ends the thread for it when the ecall returns. Not getentropy(): the
// Open Enclave SDK has none.
Status platform_random(uint8_t* output, size_t size) {
  constexpr size_t kMost = 256;  // that no signal interrupts
  for (size_t i = 0; i < size; i += kMost) {
    const size_t count = std::min(kMost, size - i);
    if (getrandom(output + i, count, 0) != static_cast<ssize_t>(count)) return Status::kRandomFailed;
  }
  return Status::kOk;
}

Status platform_new_sealing_key(SealingPolicy policy, SealingKey* key, KeyInfo* key_info) {
  KeyRequest request;
  std::memset(&request, 0, sizeof request);
  request.key_name = kKeyNameSeal;
  request.key_policy = static_cast<uint16_t>(policy);
  request.isv_svn = simulated_identity()->isv_svn;
  std::memcpy(request.cpu_svn, kCpuSvn, sizeof kCpuSvn);
  const Status random = platform_random(request.key_id, sizeof request.key_id);
  if (random != Status::kOk) return random;
  std::memcpy(key_info->bytes, &request, sizeof request);
  key_info->size = sizeof request;
  return derive(request, key);
}

Status platform_sealing_key(const KeyInfo& key_info, SealingKey* key) {
  KeyRequest request;
  if (key_info.size != sizeof request) return Status::kSealedKeyDiffers;
  std::memcpy(&request, key_info.bytes, sizeof request);
  const bool one_policy = request.key_policy == static_cast<uint16_t>(SealingPolicy::kMrenclave) ||
                          request.key_policy == static_cast<uint16_t>(SealingPolicy::kMrsigner);
  if (request.key_name != kKeyNameSeal || !one_policy) return Status::kSealedKeyDiffers;
  if (request.isv_svn > simulated_identity()->isv_svn) return Status::kSealedSvnTooHigh;
  if (!cpu_svn_is_reached(request.cpu_svn)) return Status::kSealedKeyDiffers;
  return derive(request, key);
}

// What EREPORT would say (Intel SDM vol. 3D, 38.15), with DEBUG whatever the image was signed as: nobody
// shall take this for an enclave that protects. The quoting enclave that signs it is simulated, too, and
// outside.
Status platform_evidence(ByteView claims, uint8_t* output, size_t capacity, uint64_t* size) {
  constexpr uint64_t kInit = 1, kDebug = 2, kMode64 = 4, kX87AndSse = 3;
  constexpr uint8_t kZeros[64] = {};
  const confidential_ml_simulated_identity& self = *simulated_identity();
  uint8_t digest[kSha256Size];
  const Status hashed = sha256({claims}, digest);
  if (hashed != Status::kOk) return hashed;
  Writer writer(output, capacity);
  writer.append(kCpuSvn, sizeof kCpuSvn);
  writer.append(kZeros, 4 + 28);  // MISCSELECT, reserved
  writer.write(kInit | kDebug | kMode64);
  writer.write(kX87AndSse);
  writer.append(self.mrenclave, sizeof self.mrenclave);
  writer.append(kZeros, 32);
  writer.append(self.mrsigner, sizeof self.mrsigner);
  writer.append(kZeros, 32);
  writer.append(kZeros, 64);  // CONFIGID
  writer.write(self.isv_prod_id);
  writer.write(self.isv_svn);
  writer.append(kZeros, 2 + 42 + 16);  // CONFIGSVN, reserved, ISV FAMILY ID
  writer.append(digest, sizeof digest);
  writer.append(kZeros, 32);
  if (!writer.failed() && writer.written() != kReportBodySize) return Status::kInternal;
  writer.append(claims.data, claims.size);
  if (writer.failed()) return Status::kBufferTooSmall;
  *size = writer.written();
  return Status::kOk;
}

}  // namespace confidential_ml
