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

// info of HPKE: "confidential_ml request v1" | header | request nonce | epoch digest.
struct Info {
  uint8_t bytes[sizeof kRequestLabel - 1 + kRequestHeaderSize + kRequestNonceSize + kSha256Size];

  Info(const uint8_t* header, const uint8_t* nonce, const uint8_t epoch_digest[kSha256Size]) {
    Writer writer(bytes, sizeof bytes);
    writer.append(kRequestLabel, sizeof kRequestLabel - 1);
    writer.append(header, kRequestHeaderSize);
    writer.append(nonce, kRequestNonceSize);
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

Status read_request_header(ByteView bytes, uint64_t request_size, RequestHeader* header) {
  Reader reader(bytes.data, bytes.size);
  const auto version = reader.read<uint16_t>();
  const auto suite = reader.read<uint16_t>();
  header->kind = reader.read<RequestKind>();
  const auto reserved = reader.read<uint16_t>();
  reader.copy_to(header->key_id, sizeof header->key_id);
  reader.copy_to(header->model_digest, sizeof header->model_digest);
  header->answer_size = reader.read<uint32_t>();
  const auto reserved_too = reader.read<uint32_t>();
  const bool is_provision = header->kind == RequestKind::kProvision;
  const bool known = !reader.failed() && version == kVersion && suite == kSuite && reserved == 0 &&
                     reserved_too == 0 && (is_provision || header->kind == RequestKind::kPredict) &&
                     is_answer_size(header->answer_size) && (!is_provision || is_zero(header->model_digest));
  const bool has_size =
      request_size >= kRequestOverhead && is_content_size(header->kind, request_size - kRequestOverhead);
  return known && has_size ? Status::kOk : Status::kRequestUnreadable;
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

Status Channel::shared_secret_with(const Epoch& epoch, const uint8_t enc[kX25519KeySize],
                                   HpkeSharedSecret* shared_secret, bool* valid) const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    *valid = epoch.senders.find(enc, shared_secret);
  }
  return *valid ? Status::kOk : hpke_decap(epoch.keys, enc, shared_secret, valid);
}

// Refuses a request that was opened before, also by another thread a moment ago.
Status Channel::record(const std::shared_ptr<Epoch>& epoch, const uint8_t* enc_and_nonce,
                       const HpkeSharedSecret& shared_secret) {
  uint8_t digest[kSha256Size];
  const Status hashed = sha256(
      {{epoch->salt, sizeof epoch->salt}, {enc_and_nonce, kX25519KeySize + kRequestNonceSize}}, digest);
  if (hashed != Status::kOk) return hashed;
  ReplaySet::Entry entry;
  std::memcpy(entry.data(), digest, entry.size());
  const std::lock_guard<std::mutex> lock(mutex_);
  if (epoch != present_ && epoch != former_) return Status::kRequestUnreadable;  // ended meanwhile
  epoch->senders.remember(enc_and_nonce, shared_secret);
  if (!epoch->opened.insert(entry)) return Status::kRequestUnreadable;
  if (epoch->opened.size() < kMaxEpochRequests) return Status::kOk;
  // Full: this is the last request that its key opens.
  if (epoch == present_) return begin_epoch(false);
  former_ = nullptr;
  return Status::kOk;
}

Status Channel::open(ByteView request, RequestKind kind, OpenedRequest* opened) {
  const Status header_read = read_request_header(request, request.size, opened);
  if (header_read != Status::kOk || opened->kind != kind) return Status::kRequestUnreadable;
  std::memcpy(opened->enc, request.data + kRequestHeaderSize, sizeof opened->enc);
  const std::shared_ptr<Epoch> epoch = find_epoch(opened->key_id);
  if (epoch == nullptr) return Status::kRequestUnreadable;
  const ByteView header{request.data, kRequestHeaderSize};
  const uint8_t* enc_and_nonce = request.data + kRequestHeaderSize;
  const uint8_t* nonce = enc_and_nonce + kX25519KeySize;
  const uint8_t* sealed = nonce + kRequestNonceSize;
  const ByteView ciphertext{sealed, static_cast<size_t>(request.data + request.size - sealed)};
  HpkeSharedSecret shared_secret;
  bool valid = false;
  Status status = shared_secret_with(*epoch, opened->enc, &shared_secret, &valid);
  if (status != Status::kOk || !valid) return Status::kRequestUnreadable;
  status = hpke_key_schedule(shared_secret, Info(header.data, nonce, epoch->digest).view(), &opened->context);
  if (status != Status::kOk) return Status::kRequestUnreadable;
  opened->plaintext.resize((ciphertext.size - kGcmTagSize) / sizeof(float));
  status = hpke_open_first(opened->context, header, ciphertext,
                           reinterpret_cast<uint8_t*>(opened->plaintext.data()), &valid);
  if (status != Status::kOk || !valid) return Status::kRequestUnreadable;
  opened->request = request;
  std::memcpy(opened->epoch_digest, epoch->digest, sizeof opened->epoch_digest);
  const Status recorded = record(epoch, enc_and_nonce, shared_secret);
  return recorded == Status::kOk ? Status::kOk : Status::kRequestUnreadable;
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
