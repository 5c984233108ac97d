// The client's end of docs/protocol.md, for the tests and the fuzzer. Written from the specification and RFC
// 9180, not from the enclave's end: labels, offsets and padding stand here a second time on purpose. Only the
// primitives of enclave/crypto.h, which have vectors of their own, are shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/cpp/flat_model_builder.h"

namespace confidential_ml::test {

inline constexpr uint16_t kPredictKind = 1, kProvisionKind = 2;
inline constexpr uint32_t kWantMargin = 1, kWantReceipt = 2;  // flags of a prediction
inline constexpr size_t kEncOffset = 56, kRequestNonceOffset = 88, kCiphertextOffset = 104,
                        kRequestTagSize = 16, kReceiptBytes = 344;
inline constexpr size_t kLeastAnswer = 256, kLeastAnswerWithReceipt = 416;  // buckets

// ---- HPKE (RFC 9180), sender's side of the base mode, suite 1 of the protocol ----

struct HpkeSender {
  Bytes enc, key, base_nonce, exporter_secret;
};

// SetupBaseS with a given ephemeral private key (the "skEm" of the RFC's vectors).
HpkeSender hpke_setup_sender(const Bytes& receiver_public_key, const Bytes& info, const Bytes& ephemeral);
Bytes hpke_seal_first(const HpkeSender& sender, const Bytes& aad, const Bytes& plaintext);
Bytes hpke_export_secret(const HpkeSender& sender, const Bytes& context, size_t size);

// ---- claims ----

struct ModelClaims {
  Bytes digest, owner;
  uint64_t version;
  uint32_t features, groups, value_columns;
  std::string id;
};

struct Claims {
  uint16_t platform, suites, obliviousness, rollback;
  uint64_t epoch;
  Bytes instance, config_digest, epoch_public_key, receipt_public_key, nonce, epoch_digest;
  std::vector<ModelClaims> models;
};

// Nothing if they are not of the form, to the last byte.
std::optional<Claims> parse_claims(const Bytes& claims);

// What requests of an epoch are sealed to.
struct EpochKey {
  Bytes public_key, digest;
};
EpochKey epoch_key(const Claims& claims);
EpochKey epoch_key(const uint8_t epoch_part[144]);

// ---- requests ----

struct RequestHeader {
  uint16_t version = 1, suite = 1, kind = kPredictKind, zero = 0;
  Bytes key_id = Bytes(8), model_digest = Bytes(32);
  uint32_t answer_size = kLeastAnswer, zero_too = 0;

  Bytes bytes() const;
};

// The header of a request that is right.
RequestHeader request_header(const EpochKey& epoch, uint16_t kind, const Bytes& model_digest,
                             uint32_t answer_size);

// Sizes may be set to what they are not: the vectors are appended whatever the fields say.
struct PredictPlaintext {
  uint32_t flags = 0, round_begin = 0, round_end = 0, features = 0;
  uint64_t row_count = 0, base_margin_size = 0, time = 0;
  std::vector<float> rows, base_margin;

  Bytes bytes() const;  // without padding
};

struct ProvisionPlaintext {
  uint32_t policy = 1;
  uint16_t zero = 0, id_size = 0;
  uint64_t model_version = 0, time = 0, flat_size = 0;
  Bytes owner = Bytes(32), signature = Bytes(64), id, flat;

  Bytes bytes() const;
};

PredictPlaintext predict_plaintext(const std::vector<float>& rows, uint32_t features);
ProvisionPlaintext provision_plaintext(const Bytes& flat, const std::string& id);

// The smallest size of section 3.3 that holds `size` bytes, found by looking at all of them.
size_t smallest_bucket(size_t size);
Bytes padded(Bytes content);

struct SealedRequest {
  Bytes bytes;
  HpkeSender sender;  // the answer is opened with it
};
SealedRequest seal_request(const EpochKey& epoch, const RequestHeader& header, const Bytes& plaintext);
// With an ephemeral key and a nonce of one's choice: an enc may be used again, both together may not.
SealedRequest seal_request(const EpochKey& epoch, const RequestHeader& header, const Bytes& plaintext,
                           const Bytes& ephemeral, const Bytes& nonce);

// ---- answers ----

struct Answer {
  uint32_t status;
  Bytes blind, content, receipt;  // receipt empty if there is none
};

// Nothing if it is not authentic or breaks any rule of section 4, the length among them.
std::optional<Answer> open_answer(const SealedRequest& request, const Bytes& answer);

// ---- receipts and owners ----

struct Receipt {
  uint16_t kind, policy;
  uint64_t counter, time, model_version;
  Bytes instance, model_digest, owner, epoch_digest, mrenclave, request_digest, content_digest;
};

// Nothing if it is not of the form or not signed by the key.
std::optional<Receipt> verify_receipt(const Bytes& receipt, const Bytes& receipt_public_key);

Bytes blinded_content_digest(const Bytes& blind, const Bytes& content);

struct OwnerKey {
  Bytes private_key, public_key;
};
OwnerKey new_owner();
// Signs as section 5 says; `digest` is that of the flat model.
Bytes owner_signature(const OwnerKey& owner, const Bytes& digest, uint64_t version, const std::string& id);

// ---- bytes ----

Bytes sha256_of(const Bytes& bytes);
Bytes random_bytes(size_t size);
Bytes join(std::initializer_list<Bytes> parts);
Bytes text(const std::string& characters);
Bytes part(const Bytes& bytes, size_t offset, size_t size);
Bytes flipped(Bytes bytes, size_t bit);

}  // namespace confidential_ml::test
