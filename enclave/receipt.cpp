#include "enclave/receipt.h"

#include <cstring>

#include "common/bytes.h"
#include "enclave/platform.h"

namespace confidential_ml {
namespace {

constexpr uint8_t kMagic[8] = {'C', 'M', 'L', 'R', 'C', 'P', 'T', 0};
constexpr uint32_t kVersion = 1;
constexpr char kLabel[] = "confidential_ml receipt v1";
constexpr size_t kLabelSize = sizeof kLabel - 1;
constexpr char kContentLabel[] = "confidential_ml content v1";
constexpr size_t kSignedSize = kReceiptSize - kEd25519SignatureSize;
constexpr uint8_t kReserved[32] = {};

}  // namespace

Status blinded_digest(const uint8_t blind[kBlindSize], ByteView content, uint8_t digest[kSha256Size]) {
  const ByteView label{reinterpret_cast<const uint8_t*>(kContentLabel), sizeof kContentLabel - 1};
  return sha256({label, {blind, kBlindSize}, content}, digest);
}

Status write_receipt(const SigningKey& key, const ReceiptFields& fields, uint8_t receipt[kReceiptSize]) {
  Identity self;
  const Status status = platform_identity(&self);
  if (status != Status::kOk) return status;
  uint8_t message[kLabelSize + kSignedSize];
  std::memcpy(message, kLabel, kLabelSize);
  Writer writer(message + kLabelSize, kSignedSize);
  writer.append(kMagic, sizeof kMagic);
  writer.write(kVersion);
  writer.write(fields.kind);
  writer.write(fields.policy);
  writer.append(fields.instance, kInstanceSize);
  writer.write(fields.counter);
  writer.write(fields.time);
  writer.write(fields.model->ownership.model_version);
  writer.append(fields.model->model_digest, kSha256Size);
  writer.append(fields.model->ownership.owner, kEd25519KeySize);
  writer.append(fields.epoch_digest, kSha256Size);
  writer.append(self.mrenclave, sizeof self.mrenclave);
  writer.append(fields.request_digest, kSha256Size);
  writer.append(fields.content_digest, kSha256Size);
  writer.append(kReserved, sizeof kReserved);
  if (writer.failed() || writer.written() != kSignedSize) return Status::kInternal;
  std::memcpy(receipt, message + kLabelSize, kSignedSize);
  return signature_make(key, {message, sizeof message}, receipt + kSignedSize);
}

}  // namespace confidential_ml
