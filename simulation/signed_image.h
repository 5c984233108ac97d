// The trailer of a simulated enclave image (docs/formats.md, section 3), which stands in for SGX's SIGSTRUCT.
// The only code that knows its layout; the signing tool writes it and the loader checks it.
#ifndef CONFIDENTIAL_ML_SIMULATION_SIGNED_IMAGE_H
#define CONFIDENTIAL_ML_SIMULATION_SIGNED_IMAGE_H

#include <openenclave/bits/result.h>
#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace confidential_ml::simulation {

constexpr size_t kTrailerSize = 960;
constexpr size_t kMaxImageSize = size_t{256} << 20;
constexpr uint32_t kMaxTcs = 1024;  // as in Open Enclave
constexpr unsigned kKeyBits = 3072;

using Digest = std::array<uint8_t, 32>;
using Trailer = std::array<uint8_t, kTrailerSize>;

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Key = std::unique_ptr<EVP_PKEY, FreeKey>;

// What enclave.conf decides and the signature covers.
struct ImageProperties {
  uint16_t isv_prod_id = 0;
  uint16_t isv_svn = 0;
  uint32_t debug = 0;
  uint32_t num_tcs = 0;
  uint64_t num_heap_pages = 0;
};

struct SignedImage {
  ImageProperties properties;
  Digest mrenclave;
  Digest mrsigner;
};

// An image or key that is refused; result() is for code, what() for people.
class ImageRefused : public std::runtime_error {
 public:
  ImageRefused(oe_result_t result, const std::string& reason) : std::runtime_error(reason), result_(result) {}
  oe_result_t result() const { return result_; }

 private:
  oe_result_t result_;
};

// True if the file ends in something that says it is a trailer, right or wrong.
bool has_trailer(const uint8_t* file, size_t size);

// Checks everything about a signed image: form, ranges, signature, measurement. Throws ImageRefused.
SignedImage verify_signed_image(const uint8_t* file, size_t size);

// The trailer for an image that has none. The key is RSA-3072 with public exponent 3, as SGX wants it.
Trailer sign_image(const uint8_t* image, size_t size, const ImageProperties& properties, EVP_PKEY* key);

}  // namespace confidential_ml::simulation

#endif  // CONFIDENTIAL_ML_SIMULATION_SIGNED_IMAGE_H
