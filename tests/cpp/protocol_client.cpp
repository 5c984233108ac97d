#include "tests/cpp/protocol_client.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "enclave/crypto.h"

namespace confidential_ml::test {
namespace {

// The client's own failures are bugs of the test.
void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "protocol_client: %s\n", what);
  std::abort();
}
void require(Status status, const char* what) { require(status == Status::kOk, what); }

ByteView view(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

template <typename T>
Bytes integer(T value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <typename T>
T integer_at(const Bytes& bytes, size_t offset) {
  T value{};
  require(offset + sizeof value <= bytes.size(), "an integer beyond the end");
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

Bytes floats(const std::vector<float>& values) {
  Bytes bytes(values.size() * sizeof(float));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

bool is_zero(const Bytes& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

// I2OSP(value, 2): RFC 9180 is big-endian.
Bytes two_bytes(size_t value) { return {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)}; }

// ---- RFC 9180, section 4 ----

const Bytes kKem = join({text("KEM"), two_bytes(0x0020)});
const Bytes kHpke = join({text("HPKE"), two_bytes(0x0020), two_bytes(0x0001), two_bytes(0x0002)});

Bytes labeled_extract(const Bytes& suite, const Bytes& salt, const char* label, const Bytes& ikm) {
  const Bytes labeled_ikm = join({text("HPKE-v1"), suite, text(label), ikm});
  Bytes prk(32);
  require(hkdf_sha256_extract(view(salt), view(labeled_ikm), prk.data()), "extract");
  return prk;
}

Bytes expand(const Bytes& prk, const Bytes& info, size_t size) {
  Bytes output(size);
  require(hkdf_sha256_expand(prk.data(), view(info), output.data(), size), "expand");
  return output;
}

Bytes labeled_expand(const Bytes& suite, const Bytes& prk, const char* label, const Bytes& info,
                     size_t size) {
  return expand(prk, join({two_bytes(size), text("HPKE-v1"), suite, text(label), info}), size);
}

// Encap, with the ephemeral key given: the shared secret; *enc is the ephemeral public key.
Bytes encap(const Bytes& receiver, const Bytes& ephemeral, Bytes* enc) {
  Bytes dh(32);
  bool valid = false;
  enc->resize(32);
  require(x25519_public_key(ephemeral.data(), enc->data()), "public key");
  require(x25519({ephemeral.data(), enc->data()}, receiver.data(), dh.data(), &valid), "X25519");
  require(valid, "a receiver's key of small order");
  const Bytes eae_prk = labeled_extract(kKem, {}, "eae_prk", dh);
  return labeled_expand(kKem, eae_prk, "shared_secret", join({*enc, receiver}), 32);
}

// ---- Ed25519, on libcrypto itself ----

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Context = std::unique_ptr<EVP_MD_CTX, Free>;

bool is_signature(const Bytes& public_key, const Bytes& message, const Bytes& signature) {
  const Key key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, public_key.data(), public_key.size()));
  const Context context(EVP_MD_CTX_new());
  return key && context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), signature.data(), signature.size(), message.data(),
                          message.size()) == 1;
}

Bytes sign(const Bytes& private_key, const Bytes& message) {
  const Key key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, private_key.data(), private_key.size()));
  const Context context(EVP_MD_CTX_new());
  Bytes signature(64);
  size_t size = signature.size();
  require(key && context && EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
              EVP_DigestSign(context.get(), signature.data(), &size, message.data(), message.size()) == 1,
          "signing");
  return signature;
}

// ---- claims ----

constexpr size_t kEpochPart = 144, kClaimsFixed = 152, kModelFixed = 86;

// The entry at *offset, which is advanced; nothing if it does not fit.
std::optional<ModelClaims> parse_model_claims(const Bytes& claims, size_t* offset) {
  if (claims.size() - *offset < kModelFixed) return std::nullopt;
  const Bytes entry = part(claims, *offset, kModelFixed);
  const auto id_size = integer_at<uint16_t>(entry, 84);
  *offset += kModelFixed;
  if (id_size < 1 || id_size > 64 || claims.size() - *offset < id_size) return std::nullopt;
  const Bytes id = part(claims, *offset, id_size);
  *offset += id_size;
  return ModelClaims{part(entry, 0, 32),
                     part(entry, 32, 32),
                     integer_at<uint64_t>(entry, 64),
                     integer_at<uint32_t>(entry, 72),
                     integer_at<uint32_t>(entry, 76),
                     integer_at<uint32_t>(entry, 80),
                     std::string(id.begin(), id.end())};
}

}  // namespace

// ---- bytes ----

Bytes sha256_of(const Bytes& bytes) {
  Bytes digest(32);
  require(sha256({view(bytes)}, digest.data()), "SHA-256");
  return digest;
}

Bytes random_bytes(size_t size) {
  Bytes bytes(size);
  require(RAND_bytes(bytes.data(), static_cast<int>(size)) == 1, "random bytes");
  return bytes;
}

Bytes join(std::initializer_list<Bytes> parts) {
  Bytes joined;
  for (const Bytes& bytes : parts) joined.insert(joined.end(), bytes.begin(), bytes.end());
  return joined;
}

Bytes text(const std::string& characters) { return Bytes(characters.begin(), characters.end()); }

Bytes part(const Bytes& bytes, size_t offset, size_t size) {
  require(offset <= bytes.size() && size <= bytes.size() - offset, "a part beyond the end");
  const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(offset);
  return Bytes(begin, begin + static_cast<std::ptrdiff_t>(size));
}

Bytes flipped(Bytes bytes, size_t bit) {
  uint8_t& byte = bytes.at(bit / 8);
  byte = static_cast<uint8_t>(byte ^ 1u << bit % 8);
  return bytes;
}

// ---- HPKE ----

HpkeSender hpke_setup_sender(const Bytes& receiver_public_key, const Bytes& info, const Bytes& ephemeral) {
  HpkeSender sender;
  const Bytes shared_secret = encap(receiver_public_key, ephemeral, &sender.enc);
  const Bytes psk_id_hash = labeled_extract(kHpke, {}, "psk_id_hash", {});
  const Bytes info_hash = labeled_extract(kHpke, {}, "info_hash", info);
  const Bytes schedule_context = join({{0}, psk_id_hash, info_hash});
  const Bytes secret = labeled_extract(kHpke, shared_secret, "secret", {});
  sender.key = labeled_expand(kHpke, secret, "key", schedule_context, 32);
  sender.base_nonce = labeled_expand(kHpke, secret, "base_nonce", schedule_context, 12);
  sender.exporter_secret = labeled_expand(kHpke, secret, "exp", schedule_context, 32);
  return sender;
}

Bytes hpke_seal_first(const HpkeSender& sender, const Bytes& aad, const Bytes& plaintext) {
  Bytes sealed(plaintext.size() + kRequestTagSize);
  require(aes256_gcm_encrypt({sender.key.data(), sender.base_nonce.data()}, view(aad), view(plaintext),
                             sealed.data(), sealed.data() + plaintext.size()),
          "sealing");
  return sealed;
}

Bytes hpke_export_secret(const HpkeSender& sender, const Bytes& context, size_t size) {
  return labeled_expand(kHpke, sender.exporter_secret, "sec", context, size);
}

// ---- claims ----

std::optional<Claims> parse_claims(const Bytes& claims) {
  if (claims.size() < kClaimsFixed || part(claims, 0, 8) != text("CMLCLAIM")) return std::nullopt;
  if (integer_at<uint32_t>(claims, 8) != 1 || !is_zero(part(claims, 20, 4))) return std::nullopt;
  const auto nonce_size = integer_at<uint16_t>(claims, 144), model_count = integer_at<uint16_t>(claims, 146);
  if (!is_zero(part(claims, 148, 4)) || nonce_size > 64 || model_count > 256) return std::nullopt;
  if (claims.size() < kClaimsFixed + nonce_size) return std::nullopt;
  Claims parsed{integer_at<uint16_t>(claims, 12),
                integer_at<uint16_t>(claims, 14),
                integer_at<uint16_t>(claims, 16),
                integer_at<uint16_t>(claims, 18),
                integer_at<uint64_t>(claims, 24),
                part(claims, 32, 16),
                part(claims, 48, 32),
                part(claims, 80, 32),
                part(claims, 112, 32),
                part(claims, kClaimsFixed, nonce_size),
                sha256_of(part(claims, 0, kEpochPart)),
                {}};
  size_t offset = kClaimsFixed + nonce_size;
  for (uint16_t i = 0; i < model_count; ++i) {
    const auto model = parse_model_claims(claims, &offset);
    if (!model.has_value()) return std::nullopt;
    parsed.models.push_back(*model);
  }
  return offset == claims.size() ? std::optional(parsed) : std::nullopt;
}

EpochKey epoch_key(const Claims& claims) { return {claims.epoch_public_key, claims.epoch_digest}; }

EpochKey epoch_key(const uint8_t epoch_part[144]) {
  const Bytes bytes(epoch_part, epoch_part + kEpochPart);
  return {part(bytes, 80, 32), sha256_of(bytes)};
}

// ---- requests ----

Bytes RequestHeader::bytes() const {
  Bytes header = join({integer(version), integer(suite), integer(kind), integer(zero), key_id, model_digest,
                       integer(answer_size), integer(zero_too)});
  require(header.size() == kEncOffset, "a header of 56 bytes");
  return header;
}

RequestHeader request_header(const EpochKey& epoch, uint16_t kind, const Bytes& model_digest,
                             uint32_t answer_size) {
  RequestHeader header;
  header.kind = kind;
  header.key_id = part(epoch.digest, 0, 8);
  header.model_digest = model_digest;
  header.answer_size = answer_size;
  return header;
}

Bytes PredictPlaintext::bytes() const {
  return join({integer(flags), integer(round_begin), integer(round_end), integer(features),
               integer(row_count), integer(base_margin_size), integer(time), floats(rows),
               floats(base_margin)});
}

Bytes ProvisionPlaintext::bytes() const {
  return join({integer(policy), integer(zero), integer(id_size), integer(model_version), integer(time),
               integer(flat_size), owner, signature, id, flat});
}

PredictPlaintext predict_plaintext(const std::vector<float>& rows, uint32_t features) {
  PredictPlaintext plaintext;
  plaintext.features = features;
  plaintext.row_count = rows.size() / features;
  plaintext.rows = rows;
  return plaintext;
}

ProvisionPlaintext provision_plaintext(const Bytes& flat, const std::string& id) {
  ProvisionPlaintext plaintext;
  plaintext.id = text(id);
  plaintext.id_size = static_cast<uint16_t>(id.size());
  plaintext.flat = flat;
  plaintext.flat_size = flat.size();
  return plaintext;
}

size_t smallest_bucket(size_t size) {
  size_t best = SIZE_MAX;
  for (size_t k = 5; k < 40; ++k) {
    for (size_t m = 8; m <= 15; ++m) {
      const size_t bucket = m << k;
      if (bucket >= size) best = std::min(best, bucket);
    }
  }
  return best;
}

Bytes padded(Bytes content) {
  content.resize(smallest_bucket(content.size()));
  return content;
}

SealedRequest seal_request(const EpochKey& epoch, const RequestHeader& header, const Bytes& plaintext) {
  return seal_request(epoch, header, plaintext, random_bytes(32), random_bytes(16));
}

SealedRequest seal_request(const EpochKey& epoch, const RequestHeader& header, const Bytes& plaintext,
                           const Bytes& ephemeral, const Bytes& nonce) {
  const Bytes header_bytes = header.bytes();
  const Bytes info = join({text("confidential_ml request v1"), header_bytes, nonce, epoch.digest});
  SealedRequest request;
  request.sender = hpke_setup_sender(epoch.public_key, info, ephemeral);
  request.bytes = join(
      {header_bytes, request.sender.enc, nonce, hpke_seal_first(request.sender, header_bytes, plaintext)});
  return request;
}

// ---- answers ----

namespace {

constexpr size_t kAnswerNonceOffset = 16, kAnswerCiphertext = 48, kAnswerFields = 48;

std::optional<Bytes> decrypt_answer(const SealedRequest& request, const Bytes& answer) {
  const Bytes secret = hpke_export_secret(request.sender, text("confidential_ml answer v1"), 32);
  const Bytes salt = join({request.sender.enc, part(answer, kAnswerNonceOffset, 32)});
  Bytes prk(32);
  require(hkdf_sha256_extract(view(salt), view(secret), prk.data()), "extract");
  const Bytes key = expand(prk, text("key"), 32), nonce = expand(prk, text("nonce"), 12);
  const Bytes aad = part(answer, 0, kAnswerNonceOffset);
  const size_t size = answer.size() - kAnswerCiphertext - kRequestTagSize;
  Bytes plaintext(size);
  bool authentic = false;
  require(aes256_gcm_decrypt({key.data(), nonce.data()}, view(aad), {answer.data() + kAnswerCiphertext, size},
                             answer.data() + kAnswerCiphertext + size, plaintext.data(), &authentic),
          "opening");
  return authentic ? std::optional(plaintext) : std::nullopt;
}

bool is_answer_header(const SealedRequest& request, const Bytes& answer) {
  const auto answer_size = integer_at<uint32_t>(request.bytes, 48);
  return answer.size() == kAnswerCiphertext + answer_size + kRequestTagSize &&
         integer_at<uint16_t>(answer, 0) == 1 &&
         integer_at<uint16_t>(answer, 2) == integer_at<uint16_t>(request.bytes, 4) &&
         is_zero(part(answer, 4, 4)) && part(answer, 8, 8) == part(request.bytes, 8, 8);
}

}  // namespace

std::optional<Answer> open_answer(const SealedRequest& request, const Bytes& answer) {
  if (!is_answer_header(request, answer)) return std::nullopt;
  const auto plaintext = decrypt_answer(request, answer);
  if (!plaintext.has_value()) return std::nullopt;
  const auto status = integer_at<uint32_t>(*plaintext, 0), receipt_size = integer_at<uint32_t>(*plaintext, 4);
  const auto content_size = integer_at<uint64_t>(*plaintext, 8);
  const size_t room = plaintext->size() - kAnswerFields;
  if (receipt_size != 0 && receipt_size != kReceiptBytes) return std::nullopt;
  if (content_size > room || receipt_size > room - content_size) return std::nullopt;
  const size_t end = kAnswerFields + content_size + receipt_size;
  if (!is_zero(part(*plaintext, end, plaintext->size() - end))) return std::nullopt;
  const bool of_prediction = integer_at<uint16_t>(request.bytes, 4) == kPredictKind;
  const Bytes blind = part(*plaintext, 16, 32);
  if (is_zero(blind) == (receipt_size != 0 && of_prediction)) return std::nullopt;
  if (status != 0 && end != kAnswerFields) return std::nullopt;
  return Answer{status, blind, part(*plaintext, kAnswerFields, content_size),
                part(*plaintext, kAnswerFields + content_size, receipt_size)};
}

// ---- receipts and owners ----

std::optional<Receipt> verify_receipt(const Bytes& receipt, const Bytes& receipt_public_key) {
  constexpr size_t kSigned = 280;
  if (receipt.size() != kReceiptBytes || part(receipt, 0, 8) != Bytes{'C', 'M', 'L', 'R', 'C', 'P', 'T', 0})
    return std::nullopt;
  if (integer_at<uint32_t>(receipt, 8) != 1 || !is_zero(part(receipt, 248, 32))) return std::nullopt;
  const Bytes message = join({text("confidential_ml receipt v1"), part(receipt, 0, kSigned)});
  if (!is_signature(receipt_public_key, message, part(receipt, kSigned, 64))) return std::nullopt;
  return Receipt{integer_at<uint16_t>(receipt, 12),
                 integer_at<uint16_t>(receipt, 14),
                 integer_at<uint64_t>(receipt, 32),
                 integer_at<uint64_t>(receipt, 40),
                 integer_at<uint64_t>(receipt, 48),
                 part(receipt, 16, 16),
                 part(receipt, 56, 32),
                 part(receipt, 88, 32),
                 part(receipt, 120, 32),
                 part(receipt, 152, 32),
                 part(receipt, 184, 32),
                 part(receipt, 216, 32)};
}

Bytes blinded_content_digest(const Bytes& blind, const Bytes& content) {
  return sha256_of(join({text("confidential_ml content v1"), blind, content}));
}

OwnerKey new_owner() {
  OwnerKey owner{random_bytes(32), Bytes(32)};
  const Key key(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, owner.private_key.data(), 32));
  size_t size = 32;
  require(key && EVP_PKEY_get_raw_public_key(key.get(), owner.public_key.data(), &size) == 1, "owner key");
  return owner;
}

Bytes owner_signature(const OwnerKey& owner, const Bytes& digest, uint64_t version, const std::string& id) {
  return sign(owner.private_key, join({text("confidential_ml owner v1"), digest, integer(version),
                                       integer(static_cast<uint16_t>(id.size())), text(id)}));
}

}  // namespace confidential_ml::test
