// Opens confidential requests and seals their answers: docs/protocol.md sections 1, 3 and 4.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "common/limits.h"
#include "common/status.h"
#include "enclave/claims.h"
#include "enclave/crypto.h"
#include "enclave/hpke.h"
#include "enclave/known_senders.h"
#include "enclave/replay_set.h"
#include "enclave/secret_memory.h"
#include "enclave/signature.h"

namespace confidential_ml {

enum class RequestKind : uint16_t { kPredict = 1, kProvision = 2 };

inline constexpr size_t kKeyIdSize = 8;
inline constexpr size_t kRequestHeaderSize = 56;
inline constexpr size_t kRequestNonceSize = 16;
// Header, enc, nonce and tag around the plaintext.
inline constexpr size_t kRequestOverhead =
    kRequestHeaderSize + kX25519KeySize + kRequestNonceSize + kGcmTagSize;
inline constexpr size_t kAnswerOverhead = 48 + kGcmTagSize;

// The smallest size in protocol.md section 3.3 that holds `size` bytes, at most 2^60.
[[nodiscard]] uint64_t bucket_size(uint64_t size);

// What a request says in clear, which anybody can write.
struct RequestHeader {
  RequestKind kind;
  uint8_t key_id[kKeyIdSize];
  uint8_t model_digest[kSha256Size];
  uint32_t answer_size;  // of the padded plaintext
};

// Reads the first kRequestHeaderSize bytes of a request that has `request_size` in all. kRequestUnreadable if
// they, or that size, are none of a request's.
[[nodiscard]] Status read_request_header(ByteView bytes, uint64_t request_size, RequestHeader* header);

// An opened request, and what its answer is sealed with.
struct OpenedRequest : RequestHeader {
  uint8_t enc[kX25519KeySize];
  ByteView request;  // all of it, where the caller has it
  uint8_t epoch_digest[kSha256Size];
  HpkeContext context;
  // Of floats, though most of it is read as bytes: the rows in it are used where they lie.
  SecretVector<float> plaintext;

  ByteView bytes() const {
    return {reinterpret_cast<const uint8_t*>(plaintext.data()), plaintext.size() * sizeof(float)};
  }
};

class Channel {
 public:
  // Makes the keys of a new instance. Once, before anything else.
  [[nodiscard]] Status start();

  // Safe from any thread, as is everything below. May throw std::bad_alloc.
  [[nodiscard]] Status new_epoch();
  void end_former_epoch();
  void epoch_part(uint8_t part[kEpochPartSize]) const;

  // Whether a request to this key may be opened: that of the present epoch or of the former.
  [[nodiscard]] bool has_key(const uint8_t key_id[kKeyIdSize]) const { return find_epoch(key_id) != nullptr; }

  // kRequestUnreadable for everything that is wrong with the request. May throw std::bad_alloc.
  [[nodiscard]] Status open(ByteView request, RequestKind kind, OpenedRequest* opened);

  // `plaintext` has the size the request asked for; `answer` has kAnswerOverhead bytes more.
  [[nodiscard]] Status seal_answer(const OpenedRequest& opened, ByteView plaintext, uint8_t* answer) const;

  const SigningKey& receipt_key() const { return receipt_key_; }
  const uint8_t* instance() const { return instance_; }
  uint64_t next_receipt() { return receipts_.fetch_add(1) + 1; }

 private:
  struct Epoch {
    HpkeKeyPair keys;
    uint8_t part[kEpochPartSize];
    uint8_t digest[kSha256Size];  // of the part; begins with the key id
    uint8_t salt[kSha256Size];
    ReplaySet opened;      // under the channel's mutex
    KnownSenders senders;  // too
  };

  [[nodiscard]] Status make_epoch(uint64_t number, std::shared_ptr<Epoch>* epoch) const;
  [[nodiscard]] Status begin_epoch(bool keep_former);
  [[nodiscard]] std::shared_ptr<Epoch> find_epoch(const uint8_t key_id[kKeyIdSize]) const;
  [[nodiscard]] Status shared_secret_with(const Epoch& epoch, const uint8_t enc[kX25519KeySize],
                                          HpkeSharedSecret* shared_secret, bool* valid) const;
  [[nodiscard]] Status record(const std::shared_ptr<Epoch>& epoch, const uint8_t* enc_and_nonce,
                              const HpkeSharedSecret& shared_secret);

  mutable std::mutex mutex_;  // the two epochs and the sets in them
  std::shared_ptr<Epoch> present_;
  std::shared_ptr<Epoch> former_;
  uint64_t epoch_count_ = 0;

  uint8_t instance_[kInstanceSize] = {};
  SigningKey receipt_key_;
  std::atomic<uint64_t> receipts_{0};
};

}  // namespace confidential_ml
