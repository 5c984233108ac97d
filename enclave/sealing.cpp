#include "enclave/sealing.h"

#include <cstring>

#include "common/bytes.h"
#include "enclave/key_request.h"
#include "enclave/signature.h"

namespace confidential_ml {
namespace {

constexpr uint8_t kMagic[8] = {'C', 'M', 'L', 'S', 'E', 'A', 'L', 0};
constexpr uint32_t kVersion = 2;
constexpr size_t kPreludeSize = 16;       // magic, version, header_size
constexpr size_t kFixedHeaderSize = 332;  // up to the model id
constexpr size_t kDigestEnd = kPreludeSize + kSha256Size;
constexpr size_t kSaltSize = 32;
constexpr size_t kKeyCheckSize = 32;
constexpr char kOwnerLabel[] = "confidential_ml owner v1";
constexpr char kLabel[] = "confidential_ml sealed model v2";

struct Header {
  uint32_t version;
  uint32_t header_size;
  uint16_t policy;
  Identity sealer;
  uint8_t model_digest[kSha256Size];
  uint8_t salt[kSaltSize];
  uint8_t key_check[kKeyCheckSize];
  Ownership ownership;
  uint64_t ciphertext_size;
  uint8_t model_id[kMaxModelIdSize];
  size_t model_id_size;
  KeyInfo key_info;
};

struct FileKeys {
  uint8_t key[kAesKeySize];
  uint8_t nonce[kGcmNonceSize];
  uint8_t key_check[kKeyCheckSize];
};
static_assert(sizeof(FileKeys) == kAesKeySize + kGcmNonceSize + kKeyCheckSize, "one HKDF output");

// SecretBytes as storage, so that the keys are wiped on every way out.
struct DerivedKeys {
  SecretBytes<sizeof(FileKeys)> storage;
  const uint8_t* key() const { return storage.bytes + offsetof(FileKeys, key); }
  const uint8_t* nonce() const { return storage.bytes + offsetof(FileKeys, nonce); }
  const uint8_t* key_check() const { return storage.bytes + offsetof(FileKeys, key_check); }
};

Status derive_file_keys(const SealingKey& sealing_key, const uint8_t salt[kSaltSize], DerivedKeys* keys) {
  const ByteView label{reinterpret_cast<const uint8_t*>(kLabel), sizeof kLabel - 1};
  return hkdf_sha256({sealing_key.bytes, sealing_key.size}, {salt, kSaltSize}, label, keys->storage.bytes,
                     keys->storage.size);
}

bool is_id_character(uint8_t c, bool first) {
  const bool alphanumeric = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  return alphanumeric || (!first && (c == '.' || c == '_' || c == '-'));
}

bool is_model_id(const uint8_t* id, size_t size) {
  if (size == 0 || size > kMaxModelIdSize) return false;
  for (size_t i = 0; i < size; ++i) {
    if (!is_id_character(id[i], i == 0)) return false;
  }
  return true;
}

bool is_platform(Platform platform) {
  return platform == Platform::kSimulation || platform == Platform::kOpenEnclaveSimulation ||
         platform == Platform::kOpenEnclave;
}

bool is_policy(uint32_t policy) {
  return policy == static_cast<uint32_t>(SealingPolicy::kMrenclave) ||
         policy == static_cast<uint32_t>(SealingPolicy::kMrsigner);
}

Status header_digest(const uint8_t* header, size_t header_size, uint8_t digest[kSha256Size]) {
  return sha256({{header, kPreludeSize}, {header + kDigestEnd, header_size - kDigestEnd}}, digest);
}

Status write_header(const Header& h, uint8_t* output) {
  Writer writer(output, h.header_size);
  writer.append(kMagic, sizeof kMagic);
  writer.write(h.version);
  writer.write(h.header_size);
  uint8_t* digest = writer.reserve(kSha256Size);
  writer.write(h.policy);
  writer.write(static_cast<uint16_t>(h.sealer.platform));
  writer.write(h.sealer.isv_prod_id);
  writer.write(h.sealer.isv_svn);
  writer.append(h.sealer.mrenclave, sizeof h.sealer.mrenclave);
  writer.append(h.sealer.mrsigner, sizeof h.sealer.mrsigner);
  writer.append(h.model_digest, sizeof h.model_digest);
  writer.append(h.salt, sizeof h.salt);
  writer.append(h.key_check, sizeof h.key_check);
  writer.append(h.ownership.owner, sizeof h.ownership.owner);
  writer.append(h.ownership.signature, sizeof h.ownership.signature);
  writer.write(h.ownership.model_version);
  writer.write(h.ciphertext_size);
  writer.write(static_cast<uint16_t>(h.model_id_size));
  writer.write(static_cast<uint16_t>(h.key_info.size));
  writer.append(h.model_id, h.model_id_size);
  writer.append(h.key_info.bytes, h.key_info.size);
  if (writer.failed() || writer.written() != h.header_size) return Status::kInternal;
  return header_digest(output, h.header_size, digest);
}

// The part that means the same in every version: enough to tell damage from another version.
Status check_prelude(ByteView sealed, Header* h) {
  Reader reader(sealed.data, sealed.size);
  const uint8_t* magic = reader.take(sizeof kMagic);
  if (magic == nullptr || std::memcmp(magic, kMagic, sizeof kMagic) != 0) return Status::kNotASealedModel;
  h->version = reader.read<uint32_t>();
  h->header_size = reader.read<uint32_t>();
  const uint8_t* digest = reader.take(kSha256Size);
  if (digest == nullptr || h->header_size < kDigestEnd || h->header_size > kMaxSealedHeaderSize ||
      h->header_size > sealed.size) {
    return Status::kSealedModelDamaged;
  }
  uint8_t actual[kSha256Size];
  const Status hashed = header_digest(sealed.data, h->header_size, actual);
  if (hashed != Status::kOk) return hashed;
  if (std::memcmp(actual, digest, kSha256Size) != 0) return Status::kSealedModelDamaged;
  return h->version == kVersion ? Status::kOk : Status::kSealedVersionUnsupported;
}

void read_fields(Reader& reader, Header* h) {
  h->policy = reader.read<uint16_t>();
  h->sealer.platform = static_cast<Platform>(reader.read<uint16_t>());
  h->sealer.isv_prod_id = reader.read<uint16_t>();
  h->sealer.isv_svn = reader.read<uint16_t>();
  reader.copy_to(h->sealer.mrenclave, sizeof h->sealer.mrenclave);
  reader.copy_to(h->sealer.mrsigner, sizeof h->sealer.mrsigner);
  reader.copy_to(h->model_digest, sizeof h->model_digest);
  reader.copy_to(h->salt, sizeof h->salt);
  reader.copy_to(h->key_check, sizeof h->key_check);
  reader.copy_to(h->ownership.owner, sizeof h->ownership.owner);
  reader.copy_to(h->ownership.signature, sizeof h->ownership.signature);
  h->ownership.model_version = reader.read<uint64_t>();
  h->ciphertext_size = reader.read<uint64_t>();
  h->model_id_size = reader.read<uint16_t>();
  h->key_info.size = reader.read<uint16_t>();
}

Status read_header(ByteView sealed, Header* h) {
  const Status prelude = check_prelude(sealed, h);
  if (prelude != Status::kOk) return prelude;
  Reader reader(sealed.data, h->header_size);
  reader.take(kDigestEnd);
  read_fields(reader, h);
  if (reader.failed() || h->model_id_size > kMaxModelIdSize || h->key_info.size > kMaxKeyInfoSize) {
    return Status::kSealedModelDamaged;
  }
  reader.copy_to(h->model_id, h->model_id_size);
  reader.copy_to(h->key_info.bytes, h->key_info.size);
  const bool sizes_agree = reader.finished() && h->key_info.size > 0 &&
                           h->ciphertext_size <= kMaxFlatModelSize &&
                           sealed.size == h->header_size + h->ciphertext_size + kGcmTagSize;
  if (!sizes_agree || !is_policy(h->policy) || !is_platform(h->sealer.platform) ||
      !is_model_id(h->model_id, h->model_id_size)) {
    return Status::kSealedModelDamaged;
  }
  return Status::kOk;
}

// The header's words about policy and SVN must be the ones the key is derived under: a file may not claim
// MRENCLAVE and open for every enclave of the signer.
Status check_key_info(const Header& h) {
  KeyRequest request;
  if (h.key_info.size != sizeof request) return Status::kSealedModelDamaged;
  std::memcpy(&request, h.key_info.bytes, sizeof request);
  const bool agrees = request.key_name == kKeyNameSeal && request.key_policy == h.policy &&
                      request.isv_svn == h.sealer.isv_svn;
  return agrees ? Status::kOk : Status::kSealedModelDamaged;
}

// The keys of a file that this enclave may open, or why it may not.
Status recover_keys(const Header& h, DerivedKeys* keys) {
  Identity self;
  SealingKey sealing_key;
  Status status = platform_identity(&self);
  if (status != Status::kOk) return status;
  if (h.sealer.platform != self.platform) return Status::kSealedPlatformDiffers;
  if (h.sealer.isv_svn > self.isv_svn) return Status::kSealedSvnTooHigh;
  status = check_key_info(h);
  if (status == Status::kOk) status = platform_sealing_key(h.key_info, &sealing_key);
  if (status == Status::kOk) status = derive_file_keys(sealing_key, h.salt, keys);
  if (status != Status::kOk) return status;
  const bool key_fits = equal_in_constant_time(keys->key_check(), h.key_check, kKeyCheckSize);
  return key_fits ? Status::kOk : Status::kSealedKeyDiffers;
}

// docs/protocol.md section 5. Nobody's model has zeros for owner and signature.
Status check_owner(const Header& h) {
  const Ownership& ownership = h.ownership;
  uint8_t bits = 0;
  for (const uint8_t byte : ownership.owner) bits |= byte;
  if (bits == 0) {
    for (const uint8_t byte : ownership.signature) bits |= byte;
    return bits == 0 ? Status::kOk : Status::kOwnerSignatureWrong;
  }
  uint8_t message[sizeof kOwnerLabel - 1 + kSha256Size + 8 + 2 + kMaxModelIdSize];
  Writer writer(message, sizeof message);
  writer.append(kOwnerLabel, sizeof kOwnerLabel - 1);
  writer.append(h.model_digest, kSha256Size);
  writer.write(ownership.model_version);
  writer.write(static_cast<uint16_t>(h.model_id_size));
  writer.append(h.model_id, h.model_id_size);
  bool valid = false;
  const Status status =
      signature_verify(ownership.owner, {message, writer.written()}, ownership.signature, &valid);
  if (status != Status::kOk) return status;
  return valid ? Status::kOk : Status::kOwnerSignatureWrong;
}

Status describe(ByteView flat_model, const SealingRequest& request, Header* h) {
  const ByteView model_id = request.model_id;
  if (!is_policy(request.policy)) return Status::kSealingPolicyUnknown;
  if (!is_model_id(model_id.data, model_id.size)) return Status::kModelIdInvalid;
  h->version = kVersion;
  h->policy = static_cast<uint16_t>(request.policy);
  h->ownership = request.ownership;
  h->ciphertext_size = flat_model.size;
  std::memcpy(h->model_id, model_id.data, model_id.size);
  h->model_id_size = model_id.size;
  Status status = platform_identity(&h->sealer);
  if (status == Status::kOk) status = sha256({flat_model}, h->model_digest);
  if (status == Status::kOk) status = check_owner(*h);
  if (status == Status::kOk) status = platform_random(h->salt, kSaltSize);
  return status;
}

void describe_sealed(const Header& header, SealedDescription* description) {
  description->policy = static_cast<SealingPolicy>(header.policy);
  description->ownership = header.ownership;
  std::memcpy(description->model_digest, header.model_digest, kSha256Size);
  std::memcpy(description->model_id, header.model_id, header.model_id_size);
  description->model_id_size = header.model_id_size;
}

}  // namespace

Status seal(ByteView flat_model, const SealingRequest& request, uint8_t* sealed, size_t sealed_capacity,
            uint64_t* sealed_size, SealedDescription* description) {
  Header header{};
  SealingKey sealing_key;
  DerivedKeys keys;
  Status status = describe(flat_model, request, &header);
  if (status == Status::kOk) {
    status =
        platform_new_sealing_key(static_cast<SealingPolicy>(request.policy), &sealing_key, &header.key_info);
  }
  if (status == Status::kOk) status = derive_file_keys(sealing_key, header.salt, &keys);
  if (status != Status::kOk) return status;
  std::memcpy(header.key_check, keys.key_check(), kKeyCheckSize);
  header.header_size = static_cast<uint32_t>(kFixedHeaderSize + header.model_id_size + header.key_info.size);
  const uint64_t total = uint64_t{header.header_size} + flat_model.size + kGcmTagSize;
  if (sealed_capacity < total) return Status::kBufferTooSmall;
  status = write_header(header, sealed);
  if (status != Status::kOk) return status;
  uint8_t* ciphertext = sealed + header.header_size;
  *sealed_size = total;
  describe_sealed(header, description);
  return aes256_gcm_encrypt({keys.key(), keys.nonce()}, {sealed, header.header_size}, flat_model, ciphertext,
                            ciphertext + flat_model.size);
}

Status unseal(ByteView sealed, SecretVector<uint8_t>* flat_model, SealedDescription* description) {
  Header header{};
  DerivedKeys keys;
  Status status = read_header(sealed, &header);
  if (status == Status::kOk) status = recover_keys(header, &keys);
  if (status != Status::kOk) return status;
  const ByteView ciphertext{sealed.data + header.header_size, static_cast<size_t>(header.ciphertext_size)};
  flat_model->resize(ciphertext.size);
  bool authentic = false;
  status = aes256_gcm_decrypt({keys.key(), keys.nonce()}, {sealed.data, header.header_size}, ciphertext,
                              ciphertext.data + ciphertext.size, flat_model->data(), &authentic);
  if (status != Status::kOk) return status;
  uint8_t digest[kSha256Size];
  if (!authentic) return Status::kSealedModelDamaged;
  status = sha256({{flat_model->data(), flat_model->size()}}, digest);
  if (status != Status::kOk) return status;
  if (std::memcmp(digest, header.model_digest, kSha256Size) != 0) return Status::kSealedModelDamaged;
  describe_sealed(header, description);
  return Status::kOk;
}

}  // namespace confidential_ml
