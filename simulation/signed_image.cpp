#include "simulation/signed_image.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <cstring>

namespace confidential_ml::simulation {
namespace {

constexpr char kMagic[8] = {'C', 'M', 'L', 'S', 'I', 'G', 'N', '\0'};
constexpr uint32_t kVersion = 1;
constexpr char kMeasurementLabel[] = "confidential_ml simulated enclave v1";
constexpr unsigned kPublicExponent = 3;
constexpr size_t kModulusSize = kKeyBits / 8;

constexpr size_t kVersionOffset = 8;
constexpr size_t kProdIdOffset = 12;
constexpr size_t kSvnOffset = 14;
constexpr size_t kDebugOffset = 16;
constexpr size_t kTcsOffset = 20;
constexpr size_t kHeapOffset = 24;
constexpr size_t kMrenclaveOffset = 32;
constexpr size_t kModulusOffset = 64;
constexpr size_t kSignatureOffset = kModulusOffset + kModulusSize;
constexpr size_t kZeroOffset = kSignatureOffset + kModulusSize;
static_assert(kZeroOffset + 128 == kTrailerSize);

using LittleEndianNumber = std::array<uint8_t, kModulusSize>;

struct FreeBignum {
  void operator()(BIGNUM* number) const { BN_free(number); }
};
using Bignum = std::unique_ptr<BIGNUM, FreeBignum>;

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
  void operator()(OSSL_PARAM_BLD* builder) const { OSSL_PARAM_BLD_free(builder); }
  void operator()(OSSL_PARAM* parameters) const { OSSL_PARAM_free(parameters); }
};
using DigestContext = std::unique_ptr<EVP_MD_CTX, FreeContext>;

template <typename T>
T load(const uint8_t* bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value | T{bytes[i]} << (8 * i));
  return value;
}

template <typename T>
void store(uint8_t* bytes, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
}

void require(bool done, const char* what) {
  if (!done) throw ImageRefused(OE_UNEXPECTED, std::string("libcrypto failed: ") + what);
}

Digest finish(EVP_MD_CTX* context) {
  Digest digest;
  unsigned size = 0;
  require(EVP_DigestFinal_ex(context, digest.data(), &size) == 1 && size == digest.size(), "SHA-256");
  return digest;
}

Digest measure(const ImageProperties& properties, const uint8_t* image, size_t size) {
  uint8_t numbers[16];
  store(numbers, properties.debug);
  store(numbers + 4, properties.num_tcs);
  store(numbers + 8, properties.num_heap_pages);
  const DigestContext context(EVP_MD_CTX_new());
  require(context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1, "SHA-256");
  require(EVP_DigestUpdate(context.get(), kMeasurementLabel, sizeof(kMeasurementLabel) - 1) == 1, "SHA-256");
  require(EVP_DigestUpdate(context.get(), numbers, sizeof(numbers)) == 1, "SHA-256");
  require(EVP_DigestUpdate(context.get(), image, size) == 1, "SHA-256");
  return finish(context.get());
}

Digest sha256(const uint8_t* bytes, size_t size) {
  const DigestContext context(EVP_MD_CTX_new());
  require(context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1, "SHA-256");
  require(EVP_DigestUpdate(context.get(), bytes, size) == 1, "SHA-256");
  return finish(context.get());
}

void check_ranges(const ImageProperties& properties) {
  if (properties.debug > 1)
    throw ImageRefused(OE_INVALID_IMAGE, "the image's debug field is neither 0 nor 1");
  if (properties.num_tcs < 1 || properties.num_tcs > kMaxTcs) {
    throw ImageRefused(OE_INVALID_IMAGE, "the image's NumTCS is not from 1 to 1024");
  }
}

Key public_key(const uint8_t* modulus) {
  const Bignum n(BN_lebin2bn(modulus, kModulusSize, nullptr));
  require(n != nullptr, "modulus");
  if (BN_num_bits(n.get()) != static_cast<int>(kKeyBits) || !BN_is_odd(n.get())) {
    throw ImageRefused(OE_VERIFY_FAILED, "the image's modulus is not that of an RSA-3072 key");
  }
  const std::unique_ptr<OSSL_PARAM_BLD, FreeContext> builder(OSSL_PARAM_BLD_new());
  require(builder && OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) == 1 &&
              OSSL_PARAM_BLD_push_uint(builder.get(), OSSL_PKEY_PARAM_RSA_E, kPublicExponent) == 1,
          "RSA parameters");
  const std::unique_ptr<OSSL_PARAM, FreeContext> parameters(OSSL_PARAM_BLD_to_param(builder.get()));
  const std::unique_ptr<EVP_PKEY_CTX, FreeContext> context(
      EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr));
  EVP_PKEY* key = nullptr;
  require(parameters && context && EVP_PKEY_fromdata_init(context.get()) == 1 &&
              EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, parameters.get()) == 1,
          "RSA public key");
  return Key(key);
}

bool signature_verifies(const uint8_t* trailer) {
  const Key key = public_key(trailer + kModulusOffset);
  LittleEndianNumber signature;
  std::reverse_copy(trailer + kSignatureOffset, trailer + kZeroOffset, signature.begin());
  const DigestContext context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* padding = nullptr;
  require(context && EVP_DigestVerifyInit(context.get(), &padding, EVP_sha256(), nullptr, key.get()) == 1 &&
              EVP_PKEY_CTX_set_rsa_padding(padding, RSA_PKCS1_PADDING) == 1,
          "RSA");
  return EVP_DigestVerify(context.get(), signature.data(), signature.size(), trailer, kSignatureOffset) == 1;
}

LittleEndianNumber modulus_of(EVP_PKEY* key) {
  BIGNUM* modulus = nullptr;
  BIGNUM* exponent = nullptr;
  const bool read = EVP_PKEY_is_a(key, "RSA") &&
                    EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &modulus) == 1 &&
                    EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) == 1;
  const Bignum n(modulus);
  const Bignum e(exponent);
  LittleEndianNumber bytes;
  if (!read || BN_num_bits(n.get()) != static_cast<int>(kKeyBits) || !BN_is_word(e.get(), kPublicExponent) ||
      BN_bn2lebinpad(n.get(), bytes.data(), kModulusSize) != static_cast<int>(kModulusSize)) {
    throw ImageRefused(OE_INVALID_PARAMETER, "the signing key is not RSA-3072 with public exponent 3");
  }
  return bytes;
}

}  // namespace

bool has_trailer(const uint8_t* file, size_t size) {
  return size >= kTrailerSize && std::memcmp(file + size - kTrailerSize, kMagic, sizeof(kMagic)) == 0;
}

SignedImage verify_signed_image(const uint8_t* file, size_t size) {
  // The first call, or libcrypto would read the file that OPENSSL_CONF names and load what it lists.
  require(OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr) == 1, "start");
  if (size > kMaxImageSize) throw ImageRefused(OE_INVALID_IMAGE, "the image is larger than 256 MiB");
  if (!has_trailer(file, size))
    throw ImageRefused(OE_INVALID_IMAGE, "the file is not a signed simulation image");
  const size_t image_size = size - kTrailerSize;
  const uint8_t* trailer = file + image_size;
  if (load<uint32_t>(trailer + kVersionOffset) != kVersion) {
    throw ImageRefused(OE_INVALID_IMAGE, "the image's trailer is of another version");
  }
  if (std::any_of(trailer + kZeroOffset, trailer + kTrailerSize, [](uint8_t byte) { return byte != 0; })) {
    throw ImageRefused(OE_INVALID_IMAGE, "the image's trailer does not end in zeros");
  }
  if (!signature_verifies(trailer)) {
    throw ImageRefused(OE_VERIFY_FAILED, "the signature of the image does not verify");
  }
  SignedImage signed_image;
  ImageProperties& properties = signed_image.properties;
  properties.isv_prod_id = load<uint16_t>(trailer + kProdIdOffset);
  properties.isv_svn = load<uint16_t>(trailer + kSvnOffset);
  properties.debug = load<uint32_t>(trailer + kDebugOffset);
  properties.num_tcs = load<uint32_t>(trailer + kTcsOffset);
  properties.num_heap_pages = load<uint64_t>(trailer + kHeapOffset);
  check_ranges(properties);
  signed_image.mrenclave = measure(properties, file, image_size);
  if (!std::equal(signed_image.mrenclave.begin(), signed_image.mrenclave.end(), trailer + kMrenclaveOffset)) {
    throw ImageRefused(OE_VERIFY_FAILED, "the image is not the one that was signed");
  }
  signed_image.mrsigner = sha256(trailer + kModulusOffset, kModulusSize);
  return signed_image;
}

Trailer sign_image(const uint8_t* image, size_t size, const ImageProperties& properties, EVP_PKEY* key) {
  if (size > kMaxImageSize - kTrailerSize)
    throw ImageRefused(OE_INVALID_IMAGE, "the image is larger than 256 MiB");
  if (has_trailer(image, size)) throw ImageRefused(OE_INVALID_IMAGE, "the image is already signed");
  check_ranges(properties);
  Trailer trailer{};
  std::copy(std::begin(kMagic), std::end(kMagic), trailer.begin());
  store(&trailer[kVersionOffset], kVersion);
  store(&trailer[kProdIdOffset], properties.isv_prod_id);
  store(&trailer[kSvnOffset], properties.isv_svn);
  store(&trailer[kDebugOffset], properties.debug);
  store(&trailer[kTcsOffset], properties.num_tcs);
  store(&trailer[kHeapOffset], properties.num_heap_pages);
  const Digest mrenclave = measure(properties, image, size);
  std::copy(mrenclave.begin(), mrenclave.end(), &trailer[kMrenclaveOffset]);
  const LittleEndianNumber modulus = modulus_of(key);
  std::copy(modulus.begin(), modulus.end(), &trailer[kModulusOffset]);

  LittleEndianNumber signature;
  size_t signature_size = signature.size();
  const DigestContext context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* padding = nullptr;
  require(context && EVP_DigestSignInit(context.get(), &padding, EVP_sha256(), nullptr, key) == 1 &&
              EVP_PKEY_CTX_set_rsa_padding(padding, RSA_PKCS1_PADDING) == 1 &&
              EVP_DigestSign(context.get(), signature.data(), &signature_size, trailer.data(),
                             kSignatureOffset) == 1 &&
              signature_size == signature.size(),
          "RSA signature");
  std::reverse_copy(signature.begin(), signature.end(), &trailer[kSignatureOffset]);
  return trailer;
}

}  // namespace confidential_ml::simulation
