#include "enclave/channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/bytes.h"
#include "enclave/platform.h"

namespace confidential_ml {
namespace {

constexpr uint16_t kVersion = 1;
constexpr uint16_t kSuite = 1;
constexpr size_t kHeaderSize = 56;
constexpr size_t kAnswerSizeOffset = 48;
constexpr size_t kAnswerHeaderSize = 16;
constexpr size_t kAnswerNonceSize = 32;
constexpr char kRequestLabel[] = "confidential_ml request v1";
constexpr char kAnswerLabel[] = "confidential_ml answer v1";
constexpr uint64_t kLeastBucket = 256;

ByteView text(const char* label) { return {reinterpret_cast<const uint8_t*>(label), std::strlen(label)}; }

bool is_answer_size(uint32_t size) { return size <= kMaxAnswerContent && bucket_size(size) == size; }

bool is_content_size(RequestKind kind, uint64_t size) {
  const uint64_t limit = kind == RequestKind::kPredict ? kMaxRequestContent : kMaxProvisionContent;
  return size <= limit && bucket_size(size) == size;
}

bool is_zero(const uint8_t digest[kSha256Size]) {
  return std::all_of(digest, digest + kSha256Size, [](uint8_t byte) { return byte == 0; });
}

// Everything outside the ciphertext.
Status read_request(ByteView request, RequestKind kind, OpenedRequest* opened) {
  if (request.size < kRequestOverhead || !is_content_size(kind, request.size - kRequestOverhead))
    return Status::kRequestUnreadable;
  Reader reader(request.data, request.size);
  const auto version = reader.read<uint16_t>();
  const auto suite = reader.read<uint16_t>();
  const auto request_kind = reader.read<uint16_t>();
  const auto reserved = reader.read<uint16_t>();
  reader.copy_to(opened->key_id, sizeof opened->key_id);
  reader.copy_to(opened->model_digest, sizeof opened->model_digest);
  opened->answer_size = reader.read<uint32_t>();
  const auto reserved_too = reader.read<uint32_t>();
  reader.copy_to(opened->enc, sizeof opened->enc);
  opened->kind = kind;
  const bool known = version == kVersion && suite == kSuite && request_kind == static_cast<uint16_t>(kind) &&
                     reserved == 0 && reserved_too == 0 && is_answer_size(opened->answer_size) &&
                     (kind == RequestKind::kPredict || is_zero(opened->model_digest));
  return known && !reader.failed() ? Status::kOk : Status::kRequestUnreadable;
}

// info of HPKE: "confidential_ml request v1" | header | epoch digest.
struct Info {
  uint8_t bytes[sizeof kRequestLabel - 1 + kHeaderSize + kSha256Size];

  Info(const uint8_t* header, const uint8_t epoch_digest[kSha256Size]) {
    Writer writer(bytes, sizeof bytes);
    writer.append(kRequestLabel, sizeof kRequestLabel - 1);
    writer.append(header, kHeaderSize);
    writer.append(epoch_digest, kSha256Size);
  }
  ByteView view() const { return {bytes, sizeof bytes}; }
};

// RFC 9458 section 4.4.
Status answer_keys(const OpenedRequest& opened, const uint8_t answer_nonce[kAnswerNonceSize],
                   SecretBytes<kAesKeySize>* key, SecretBytes<kGcmNonceSize>* nonce) {
  SecretBytes<kSha256Size> secret, prk;
  uint8_t salt[kX25519KeySize + kAnswerNonceSize];
  std::memcpy(salt, opened.enc, kX25519KeySize);
  std::memcpy(salt + kX25519KeySize, answer_nonce, kAnswerNonceSize);
  Status status = hpke_export(opened.context, text(kAnswerLabel), secret.bytes, secret.size);
  if (status == Status::kOk)
    status = hkdf_sha256_extract({salt, sizeof salt}, {secret.bytes, secret.size}, prk.bytes);
  if (status == Status::kOk) status = hkdf_sha256_expand(prk.bytes, text("key"), key->bytes, key->size);
  if (status == Status::kOk) status = hkdf_sha256_expand(prk.bytes, text("nonce"), nonce->bytes, nonce->size);
  return status;
}

}  // namespace

uint64_t bucket_size(uint64_t size) {
  uint64_t unit = kLeastBucket / 8;
  while (16 * unit < size) unit *= 2;
  const uint64_t units = (size + unit - 1) / unit;
  return units < 8 ? kLeastBucket : units * unit;
}

uint32_t requested_answer_size(ByteView request) {
  Reader reader(request.data, request.size);
  reader.take(kAnswerSizeOffset);
  const auto size = reader.read<uint32_t>();
  return is_answer_size(size) ? size : 0;
}

Status Channel::start() {
  Status status = platform_random(instance_, sizeof instance_);
  if (status == Status::kOk) status = signature_generate(&receipt_key_);
  return status == Status::kOk ? new_epoch() : status;
}

Status Channel::make_epoch(uint64_t number, std::shared_ptr<Epoch>* epoch) const {
  auto made = std::make_shared<Epoch>();
  EpochClaims claims{};
  Status status = hpke_generate(&made->keys);
  if (status != Status::kOk) return status;
  claims.epoch = number;
  std::memcpy(claims.instance, instance_, sizeof claims.instance);
  std::memcpy(claims.epoch_public_key, made->keys.public_key, sizeof claims.epoch_public_key);
  std::memcpy(claims.receipt_public_key, receipt_key_.public_key, sizeof claims.receipt_public_key);
  status = write_epoch_part(claims, made->part);
  if (status == Status::kOk) status = sha256({{made->part, sizeof made->part}}, made->digest);
  if (status == Status::kOk) status = platform_random(made->salt, sizeof made->salt);
  if (status == Status::kOk) *epoch = std::move(made);
  return status;
}

// Under the mutex, so that two callers do not make the same epoch number.
Status Channel::begin_epoch(bool keep_former) {
  std::shared_ptr<Epoch> next;
  const Status status = make_epoch(epoch_count_ + 1, &next);
  if (status != Status::kOk) return status;
  ++epoch_count_;
  former_ = keep_former ? std::move(present_) : nullptr;
  present_ = std::move(next);
  return Status::kOk;
}

Status Channel::new_epoch() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return begin_epoch(true);
}

void Channel::end_former_epoch() {
  const std::lock_guard<std::mutex> lock(mutex_);
  former_ = nullptr;
}

void Channel::epoch_part(uint8_t part[kEpochPartSize]) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::memcpy(part, present_->part, kEpochPartSize);
}

std::shared_ptr<Channel::Epoch> Channel::find_epoch(const uint8_t key_id[kKeyIdSize]) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& epoch : {present_, former_}) {
    if (epoch != nullptr && std::memcmp(epoch->digest, key_id, kKeyIdSize) == 0) return epoch;
  }
  return nullptr;
}

// Refuses a request that was opened before, also by another thread a moment ago.
Status Channel::record(const std::shared_ptr<Epoch>& epoch, const uint8_t enc[kX25519KeySize]) {
  uint8_t digest[kSha256Size];
  const Status hashed = sha256({{epoch->salt, sizeof epoch->salt}, {enc, kX25519KeySize}}, digest);
  if (hashed != Status::kOk) return hashed;
  ReplaySet::Entry entry;
  std::memcpy(entry.data(), digest, entry.size());
  const std::lock_guard<std::mutex> lock(mutex_);
  if (epoch != present_ && epoch != former_) return Status::kRequestUnreadable;  // ended meanwhile
  if (!epoch->opened.insert(entry)) return Status::kRequestUnreadable;
  if (epoch->opened.size() < kMaxEpochRequests) return Status::kOk;
  // Full: this is the last request that its key opens.
  if (epoch == present_) return begin_epoch(false);
  former_ = nullptr;
  return Status::kOk;
}

Status Channel::open(ByteView request, RequestKind kind, OpenedRequest* opened) {
  if (read_request(request, kind, opened) != Status::kOk) return Status::kRequestUnreadable;
  const std::shared_ptr<Epoch> epoch = find_epoch(opened->key_id);
  if (epoch == nullptr) return Status::kRequestUnreadable;
  const ByteView header{request.data, kHeaderSize};
  const ByteView ciphertext{request.data + kHeaderSize + kX25519KeySize,
                            request.size - kHeaderSize - kX25519KeySize};
  bool valid = false;
  Status status = hpke_setup_receiver(epoch->keys, opened->enc, Info(header.data, epoch->digest).view(),
                                      &opened->context, &valid);
  if (status != Status::kOk || !valid) return Status::kRequestUnreadable;
  opened->plaintext.resize((ciphertext.size - kGcmTagSize) / sizeof(float));
  status = hpke_open_first(opened->context, header, ciphertext,
                           reinterpret_cast<uint8_t*>(opened->plaintext.data()), &valid);
  if (status != Status::kOk || !valid) return Status::kRequestUnreadable;
  opened->request = request;
  std::memcpy(opened->epoch_digest, epoch->digest, sizeof opened->epoch_digest);
  return record(epoch, opened->enc) == Status::kOk ? Status::kOk : Status::kRequestUnreadable;
}

Status Channel::seal_answer(const OpenedRequest& opened, ByteView plaintext, uint8_t* answer) const {
  SecretBytes<kAesKeySize> key;
  SecretBytes<kGcmNonceSize> nonce;
  Writer writer(answer, kAnswerHeaderSize + kAnswerNonceSize);
  writer.write(kVersion);
  writer.write(static_cast<uint16_t>(opened.kind));
  writer.write(uint32_t{0});
  writer.append(opened.key_id, kKeyIdSize);
  uint8_t* answer_nonce = writer.reserve(kAnswerNonceSize);
  if (answer_nonce == nullptr) return Status::kInternal;
  Status status = platform_random(answer_nonce, kAnswerNonceSize);
  if (status == Status::kOk) status = answer_keys(opened, answer_nonce, &key, &nonce);
  if (status != Status::kOk) return status;
  uint8_t* ciphertext = answer + kAnswerHeaderSize + kAnswerNonceSize;
  return aes256_gcm_encrypt({key.bytes, nonce.bytes}, {answer, kAnswerHeaderSize}, plaintext, ciphertext,
                            ciphertext + plaintext.size);
}

}  // namespace confidential_ml
