#include "enclave/hpke.h"

#include <cstring>
#include <string_view>

#include "common/bytes.h"
#include "enclave/platform.h"

namespace confidential_ml {
namespace {

// Names as in RFC 9180: suite_id of DHKEM (4.1) and of the whole suite (5.1).
constexpr uint8_t kKemSuite[] = {'K', 'E', 'M', 0x00, 0x20};
constexpr uint8_t kSuite[] = {'H', 'P', 'K', 'E', 0x00, 0x20, 0x00, 0x01, 0x00, 0x02};
constexpr std::string_view kVersionLabel = "HPKE-v1";
constexpr uint8_t kModeBase = 0;
constexpr size_t kLongestLabelSize = 13;  // "shared_secret"
constexpr size_t kMaxLabeledSize =
    sizeof(uint16_t) + kVersionLabel.size() + sizeof kSuite + kLongestLabelSize + kMaxHpkeInfoSize;

using Prk = SecretBytes<kSha256Size>;

template <size_t kSize>
ByteView view(const uint8_t (&bytes)[kSize]) {
  return {bytes, kSize};
}

void append_labeled(ByteView suite_id, std::string_view label, ByteView value, Writer* writer) {
  writer->append(kVersionLabel.data(), kVersionLabel.size());
  writer->append(suite_id.data, suite_id.size);
  writer->append(label.data(), label.size());
  writer->append(value.data, value.size);
}

// LabeledExtract (RFC 9180, 4).
Status labeled_extract(ByteView suite_id, ByteView salt, std::string_view label, ByteView ikm,
                       uint8_t output[kSha256Size]) {
  SecretBytes<kMaxLabeledSize> labeled_ikm;
  Writer writer(labeled_ikm.bytes, labeled_ikm.size);
  append_labeled(suite_id, label, ikm, &writer);
  if (writer.failed()) return Status::kInternal;
  return hkdf_sha256_extract(salt, {labeled_ikm.bytes, writer.written()}, output);
}

// LabeledExpand (RFC 9180, 4). What is too long for two bytes is far too long for HKDF, which refuses it.
Status labeled_expand(ByteView suite_id, const Prk& prk, std::string_view label, ByteView info,
                      uint8_t* output, size_t output_size) {
  SecretBytes<kMaxLabeledSize> labeled_info;
  Writer writer(labeled_info.bytes, labeled_info.size);
  writer.write(static_cast<uint8_t>(output_size >> 8));
  writer.write(static_cast<uint8_t>(output_size));
  append_labeled(suite_id, label, info, &writer);
  if (writer.failed()) return Status::kInternal;
  return hkdf_sha256_expand(prk.bytes, {labeled_info.bytes, writer.written()}, output, output_size);
}

}  // namespace

Status hpke_decap(const HpkeKeyPair& pair, const uint8_t enc[kX25519KeySize], HpkeSharedSecret* shared_secret,
                  bool* valid) {
  SecretBytes<kX25519KeySize> dh;
  Status status = x25519({pair.private_key.bytes, pair.public_key}, enc, dh.bytes, valid);
  if (status != Status::kOk || !*valid) return status;
  uint8_t kem_context[2 * kX25519KeySize];
  std::memcpy(kem_context, enc, kX25519KeySize);
  std::memcpy(kem_context + kX25519KeySize, pair.public_key, kX25519KeySize);
  Prk prk;
  status = labeled_extract(view(kKemSuite), {nullptr, 0}, "eae_prk", view(dh.bytes), prk.bytes);
  if (status != Status::kOk) return status;
  return labeled_expand(view(kKemSuite), prk, "shared_secret", view(kem_context), shared_secret->bytes,
                        shared_secret->size);
}

Status hpke_key_schedule(const HpkeSharedSecret& shared_secret, ByteView info, HpkeContext* context) {
  if (info.size > kMaxHpkeInfoSize) return Status::kInvalidArgument;
  constexpr ByteView kNone{nullptr, 0};
  const ByteView suite = view(kSuite);
  uint8_t schedule_context[1 + 2 * kSha256Size] = {kModeBase};
  uint8_t* psk_id_hash = schedule_context + 1;
  uint8_t* info_hash = psk_id_hash + kSha256Size;
  Prk secret;
  Status status = labeled_extract(suite, kNone, "psk_id_hash", kNone, psk_id_hash);
  if (status == Status::kOk) status = labeled_extract(suite, kNone, "info_hash", info, info_hash);
  if (status == Status::kOk) {
    status = labeled_extract(suite, view(shared_secret.bytes), "secret", kNone, secret.bytes);
  }
  const auto expand = [&](std::string_view label, uint8_t* output, size_t size) {
    return labeled_expand(suite, secret, label, view(schedule_context), output, size);
  };
  if (status == Status::kOk) status = expand("key", context->key.bytes, kAesKeySize);
  if (status == Status::kOk) status = expand("base_nonce", context->base_nonce.bytes, kGcmNonceSize);
  if (status == Status::kOk) status = expand("exp", context->exporter_secret.bytes, kSha256Size);
  return status;
}

Status hpke_generate(HpkeKeyPair* pair) {
  const Status status = platform_random(pair->private_key.bytes, kX25519KeySize);
  return status == Status::kOk ? x25519_public_key(pair->private_key.bytes, pair->public_key) : status;
}

Status hpke_open_first(const HpkeContext& context, ByteView aad, ByteView ciphertext, uint8_t* plaintext,
                       bool* authentic) {
  *authentic = false;
  if (ciphertext.size < kGcmTagSize) return Status::kOk;
  const size_t size = ciphertext.size - kGcmTagSize;
  // The nonce is base_nonce XOR the sequence number (RFC 9180, 5.2), which is 0.
  const GcmKey key{context.key.bytes, context.base_nonce.bytes};
  return aes256_gcm_decrypt(key, aad, {ciphertext.data, size}, ciphertext.data + size, plaintext, authentic);
}

Status hpke_export(const HpkeContext& context, ByteView exporter_context, uint8_t* output,
                   size_t output_size) {
  if (exporter_context.size > kMaxHpkeInfoSize) return Status::kInvalidArgument;
  return labeled_expand(view(kSuite), context.exporter_secret, "sec", exporter_context, output, output_size);
}

namespace {

// A vector of the suite from those that RFC 9180 refers to (appendix A): mode 0, its first encryption, its
// first export.
constexpr uint8_t kPrivateKey[kX25519KeySize] = {
    0x49, 0x7b, 0x45, 0x02, 0x66, 0x4c, 0xfe, 0xa5, 0xd5, 0xaf, 0x0b, 0x39, 0x93, 0x4d, 0xac, 0x72,
    0x24, 0x2a, 0x74, 0xf8, 0x48, 0x04, 0x51, 0xe1, 0xae, 0xe7, 0xd6, 0xa5, 0x33, 0x20, 0x33, 0x3d};
constexpr uint8_t kPublicKey[kX25519KeySize] = {
    0x43, 0x0f, 0x4b, 0x98, 0x59, 0x66, 0x51, 0x45, 0xa6, 0xb1, 0xba, 0x27, 0x40, 0x24, 0x48, 0x7b,
    0xd6, 0x6f, 0x03, 0xa2, 0xdd, 0x57, 0x7d, 0x77, 0x53, 0xc6, 0x8d, 0x7d, 0x7d, 0x00, 0xc0, 0x0c};
constexpr uint8_t kEnc[kX25519KeySize] = {0x6c, 0x93, 0xe0, 0x98, 0x69, 0xdf, 0x34, 0x02, 0xd7, 0xbf, 0x23,
                                          0x1b, 0xf5, 0x40, 0xfa, 0xdd, 0x35, 0xcd, 0x56, 0xbe, 0x14, 0xf9,
                                          0x71, 0x78, 0xf0, 0x95, 0x4d, 0xb9, 0x4b, 0x7f, 0xc2, 0x56};
constexpr std::string_view kInfo = "Ode on a Grecian Urn";
constexpr std::string_view kAad = "Count-0";
constexpr std::string_view kPlaintext = "Beauty is truth, truth beauty";
constexpr uint8_t kCiphertext[] = {0xe5, 0xd8, 0x4c, 0xd5, 0x31, 0xcf, 0xb5, 0x83, 0x09, 0x6e, 0x7c, 0xfa,
                                   0x96, 0x41, 0xbd, 0x30, 0x79, 0xcf, 0x3a, 0x91, 0xcd, 0xa8, 0x13, 0xc5,
                                   0x2d, 0xeb, 0x5f, 0x51, 0x2b, 0xe9, 0x93, 0x19, 0x80, 0xa4, 0x1d, 0xe1,
                                   0x25, 0xa9, 0x25, 0xcd, 0xad, 0x85, 0x9d, 0x5b, 0x7a};
constexpr uint8_t kExported[] = {0xde, 0xd6, 0xcf, 0xfa, 0xfa, 0xea, 0x6b, 0x81, 0x2c, 0xbf, 0x3e,
                                 0x24, 0x1e, 0x88, 0x33, 0x2a, 0xdb, 0xc0, 0x77, 0xac, 0xa8, 0x15,
                                 0x12, 0x91, 0x42, 0x13, 0x81, 0x0e, 0xe2, 0x91, 0x77, 0x0a};

ByteView view(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

bool first_message_and_export_are_known(const HpkeContext& context) {
  uint8_t opened[kPlaintext.size()], exported[sizeof kExported];
  bool authentic = false;
  return hpke_open_first(context, view(kAad), view(kCiphertext), opened, &authentic) == Status::kOk &&
         authentic && std::memcmp(opened, kPlaintext.data(), sizeof opened) == 0 &&
         hpke_export(context, {nullptr, 0}, exported, sizeof exported) == Status::kOk &&
         std::memcmp(exported, kExported, sizeof exported) == 0;
}

}  // namespace

Status hpke_known_answer() {
  static const uint8_t kLowOrder[kX25519KeySize] = {};
  HpkeKeyPair pair;
  HpkeSharedSecret shared_secret;
  HpkeContext context;
  bool valid = false;
  std::memcpy(pair.private_key.bytes, kPrivateKey, kX25519KeySize);
  Status status = x25519_public_key(kPrivateKey, pair.public_key);
  if (status == Status::kOk) status = hpke_decap(pair, kEnc, &shared_secret, &valid);
  if (status == Status::kOk) status = hpke_key_schedule(shared_secret, view(kInfo), &context);
  if (status != Status::kOk) return status;
  if (!valid || std::memcmp(pair.public_key, kPublicKey, kX25519KeySize) != 0) return Status::kCryptoFailed;
  if (!first_message_and_export_are_known(context)) return Status::kCryptoFailed;
  status = hpke_decap(pair, kLowOrder, &shared_secret, &valid);
  return status == Status::kOk && valid ? Status::kCryptoFailed : status;
}

}  // namespace confidential_ml
