#include "benchmarks/compiled_client.h"

#include <sys/random.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "enclave/channel.h"
#include "tests/cpp/protocol_client.h"

namespace confidential_ml::bench {
namespace {

constexpr size_t kReportBodySize = 384, kFieldsSize = 40, kAnswerFieldsSize = 48, kAnswerHeaderSize = 16;
constexpr size_t kHeaderSize = 56, kNonceSize = 16, kAnswerNonceSize = 32;
constexpr size_t kBeforeCiphertext = kHeaderSize + kX25519KeySize + kNonceSize;
constexpr std::string_view kKem{"KEM\x00\x20", 5};

void check(bool is_right, const char* what) {
  if (is_right) return;
  std::fprintf(stderr, "compiled_client: %s failed\n", what);
  std::exit(1);
}

void check(Status status, const char* what) { check(status == Status::kOk, what); }

ByteView view(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }
ByteView view(const std::vector<uint8_t>& bytes) { return {bytes.data(), bytes.size()}; }

std::vector<uint8_t> joined(std::initializer_list<ByteView> parts) {
  std::vector<uint8_t> all;
  for (const ByteView part : parts) all.insert(all.end(), part.data, part.data + part.size);
  return all;
}

void draw(uint8_t* bytes, size_t size) {
  check(getrandom(bytes, size, 0) == static_cast<ssize_t>(size), "getrandom");
}

}  // namespace

CompiledClient::CompiledClient(host::Enclave* enclave, size_t features, size_t columns)
    : enclave_(enclave), features_(features), columns_(columns), enc_(kX25519KeySize) {
  check(crypto_start(), "crypto_start");
  const std::string evidence = enclave->evidence({nullptr, 0});
  const auto claims = test::parse_claims(Bytes(evidence.begin() + kReportBodySize, evidence.end()));
  check(claims.has_value() && !claims->models.empty(), "evidence");
  model_digest_ = claims->models[0].digest;
  epoch_digest_ = claims->epoch_digest;
  epoch_key_ = claims->epoch_public_key;
  encapsulate();
}

// Encap (RFC 9180, 4.1), once for all requests.
void CompiledClient::encapsulate() {
  uint8_t ephemeral[kX25519KeySize], dh[kX25519KeySize], prk[kSha256Size];
  bool valid = false;
  draw(ephemeral, sizeof ephemeral);
  check(x25519_public_key(ephemeral, enc_.data()), "x25519_public_key");
  check(x25519({ephemeral, enc_.data()}, epoch_key_.data(), dh, &valid), "x25519");
  const Bytes ikm = joined({view("HPKE-v1"), view(kKem), view("eae_prk"), {dh, sizeof dh}});
  check(hkdf_sha256_extract({nullptr, 0}, view(ikm), prk), "extract");
  const Bytes info = joined({view({"\x00\x20", 2}), view("HPKE-v1"), view(kKem), view("shared_secret"),
                             view(enc_), view(epoch_key_)});
  check(hkdf_sha256_expand(prk, view(info), shared_secret_.bytes, shared_secret_.size), "expand");
}

const std::vector<float>& CompiledClient::predict(const float* rows, size_t row_count) {
  write_plaintext(rows, row_count);
  encrypt(row_count);
  const std::string answer = enclave_->answer_request({message_.data(), message_.size()});
  open(view(std::string_view(answer)), row_count);
  return predictions_;
}

void CompiledClient::write_plaintext(const float* rows, size_t row_count) {
  const size_t rows_size = row_count * features_ * sizeof(float);
  const uint64_t size = bucket_size(kFieldsSize + rows_size);
  if (plaintext_.size() != size) plaintext_.assign(size, 0);
  Writer writer(plaintext_.data(), plaintext_.size());
  for (const uint32_t field : {uint32_t{0}, uint32_t{0}, uint32_t{0}, static_cast<uint32_t>(features_)}) {
    writer.write(field);
  }
  for (const uint64_t field : {uint64_t{row_count}, uint64_t{0}, uint64_t{0}}) writer.write(field);
  writer.append(rows, rows_size);
}

void CompiledClient::encrypt(size_t row_count) {
  opened_.resize(bucket_size(kAnswerFieldsSize + row_count * columns_ * sizeof(float)));
  message_.resize(kBeforeCiphertext + plaintext_.size() + kGcmTagSize);
  uint8_t* header = message_.data();
  Writer writer(header, message_.size());
  constexpr uint16_t kFirst[] = {1, 1, 1, 0};  // version, suite, kind, zero
  writer.append(kFirst, sizeof kFirst);
  writer.append(epoch_digest_.data(), 8);
  writer.append(model_digest_.data(), model_digest_.size());
  writer.write(static_cast<uint32_t>(opened_.size()));
  writer.write(uint32_t{0});
  writer.append(enc_.data(), enc_.size());
  draw(writer.reserve(kNonceSize), kNonceSize);
  const Bytes info = joined({view("confidential_ml request v1"),
                             {header, kHeaderSize},
                             {header + kHeaderSize + kX25519KeySize, kNonceSize},
                             view(epoch_digest_)});
  HpkeContext context;
  check(hpke_key_schedule(shared_secret_, view(info), &context), "hpke_key_schedule");
  uint8_t* ciphertext = header + kBeforeCiphertext;
  check(aes256_gcm_encrypt({context.key.bytes, context.base_nonce.bytes}, {header, kHeaderSize},
                           view(plaintext_), ciphertext, ciphertext + plaintext_.size()),
        "encrypt");
  check(hpke_export(context, view("confidential_ml answer v1"), answer_secret_, sizeof answer_secret_),
        "export");
}

void CompiledClient::open(ByteView answer, size_t row_count) {
  const size_t before = kAnswerHeaderSize + kAnswerNonceSize;
  check(answer.size == before + opened_.size() + kGcmTagSize, "size of the answer");
  const Bytes salt = joined({view(enc_), {answer.data + kAnswerHeaderSize, kAnswerNonceSize}});
  uint8_t prk[kSha256Size], key[kAesKeySize], nonce[kGcmNonceSize];
  check(hkdf_sha256_extract(view(salt), {answer_secret_, sizeof answer_secret_}, prk), "extract");
  check(hkdf_sha256_expand(prk, view("key"), key, sizeof key), "expand");
  check(hkdf_sha256_expand(prk, view("nonce"), nonce, sizeof nonce), "expand");
  bool authentic = false;
  check(aes256_gcm_decrypt({key, nonce}, {answer.data, kAnswerHeaderSize},
                           {answer.data + before, opened_.size()}, answer.data + before + opened_.size(),
                           opened_.data(), &authentic),
        "decrypt");
  check(authentic, "authentication of the answer");
  predictions_.resize(row_count * columns_);
  std::memcpy(predictions_.data(), opened_.data() + kAnswerFieldsSize, predictions_.size() * sizeof(float));
}

}  // namespace confidential_ml::bench
