// libcrypto keeps copies of what it is given. Here it allocates through this program, which looks for the
// secrets of a request in every block that is given back.

#include <gtest/gtest.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "enclave/hpke.h"
#include "enclave/signature.h"
#include "tests/cpp/byte_strings.h"
#include "tests/cpp/status_printer.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using test::hex;
using test::text;
using test::view;

// In front of each block, for its size.
constexpr size_t kPrefix = alignof(std::max_align_t);

std::vector<Bytes>* sought = nullptr;
size_t blocks_freed = 0;
size_t blocks_freed_with_a_secret = 0;

bool holds(const uint8_t* block, size_t size, const Bytes& secret) {
  return std::search(block, block + size, secret.begin(), secret.end()) != block + size;
}

void look_at(const uint8_t* block, size_t size) {
  if (sought == nullptr) return;
  ++blocks_freed;
  const auto is_held = [&](const Bytes& secret) { return holds(block, size, secret); };
  if (std::any_of(sought->begin(), sought->end(), is_held)) ++blocks_freed_with_a_secret;
}

void* allocate(size_t size, const char*, int) {
  auto* start = static_cast<uint8_t*>(std::malloc(size + kPrefix));
  if (start == nullptr) return nullptr;
  std::memcpy(start, &size, sizeof size);
  return start + kPrefix;
}

void give_back(void* block, const char*, int) {
  if (block == nullptr) return;
  uint8_t* start = static_cast<uint8_t*>(block) - kPrefix;
  size_t size = 0;
  std::memcpy(&size, start, sizeof size);
  look_at(start + kPrefix, size);
  std::free(start);
}

void* reallocate(void* block, size_t size, const char* file, int line) {
  void* moved = allocate(size, file, line);
  if (block == nullptr || moved == nullptr) return moved;
  size_t former = 0;
  std::memcpy(&former, static_cast<uint8_t*>(block) - kPrefix, sizeof former);
  std::memcpy(moved, block, std::min(former, size));
  give_back(block, file, line);
  return moved;
}

// Before main, as libcrypto wants it: before its first allocation.
const bool kReplaced = CRYPTO_set_mem_functions(allocate, reallocate, give_back) == 1;

template <typename Body>
void watched(std::vector<Bytes> secrets, Body body) {
  blocks_freed = blocks_freed_with_a_secret = 0;
  sought = &secrets;
  body();
  sought = nullptr;
}

// Eight bytes: a copy of a part is found too, and chance does not make them.
Bytes part_of(const Bytes& secret) { return {secret.begin() + 8, secret.begin() + 16}; }

Bytes sha256_of(std::initializer_list<ByteView> parts) {
  Bytes digest(kSha256Size);
  EXPECT_EQ(Status::kOk, sha256(parts, digest.data()));
  return digest;
}

TEST(Watching, SeesABlockThatIsNotWiped) {
  ASSERT_TRUE(kReplaced);
  const Bytes secret = sha256_of({});
  watched({part_of(secret)}, [&] {
    void* block = OPENSSL_memdup(secret.data(), secret.size());
    OPENSSL_free(block);
    block = OPENSSL_memdup(secret.data(), secret.size());
    OPENSSL_clear_free(block, secret.size());
  });
  EXPECT_EQ(2u, blocks_freed);
  EXPECT_EQ(1u, blocks_freed_with_a_secret);
}

TEST(Hkdf, LeavesNothingBehind) {
  const Bytes salt = sha256_of({view(text("salt"))}), key = sha256_of({view(text("key"))});
  const Bytes info = sha256_of({view(text("info"))});
  Bytes prk(kSha256Size), output(kSha256Size);
  ASSERT_EQ(Status::kOk, hkdf_sha256_extract(view(salt), view(key), prk.data()));
  ASSERT_EQ(Status::kOk, hkdf_sha256_expand(prk.data(), view(info), output.data(), output.size()));
  watched({part_of(salt), part_of(key), part_of(info), part_of(prk), part_of(output)}, [&] {
    ASSERT_EQ(Status::kOk, hkdf_sha256_extract(view(salt), view(key), prk.data()));
    ASSERT_EQ(Status::kOk, hkdf_sha256_expand(prk.data(), view(info), output.data(), output.size()));
  });
  EXPECT_GT(blocks_freed, 2u);
  EXPECT_EQ(0u, blocks_freed_with_a_secret);
}

// The vector of hpke_test.cpp: its intermediate values are known. The ciphertext is none.
TEST(Hpke, LeavesNothingBehind) {
  const Bytes private_key = hex("497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d");
  const Bytes public_key = hex("430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c");
  const Bytes enc = hex("6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256");
  const Bytes shared_secret = hex("3101c54c3a4f87439eaac080699ed9bbcc726ffe44e860c0424ccb7e3e2ead7b");
  const Bytes secret = hex("2058ac9b02c1f52c1aaf08bedbec9198219751a94ef67b7d5f0c8b6e2b54ebfb");
  const Bytes key = hex("f50b0609186798729ed0564b36ef2ef8044f1f9d05636874d1f46c819c7a669f");
  const Bytes exporter_secret = hex("86017151bbff6a1940e8abae2ac9e0e7032e33df1eaaecc02ca6259b130d62df");
  const Bytes info = text("Ode on a Grecian Urn");
  Bytes dh(kX25519KeySize), plaintext(enc.size() - kGcmTagSize), exported(kSha256Size);
  HpkeKeyPair pair;
  HpkeContext context;
  bool valid = false, authentic = true;
  ASSERT_EQ(Status::kOk, x25519({private_key.data(), public_key.data()}, enc.data(), dh.data(), &valid));
  std::memcpy(pair.private_key.bytes, private_key.data(), kX25519KeySize);
  std::memcpy(pair.public_key, public_key.data(), kX25519KeySize);
  watched({part_of(private_key), part_of(dh), part_of(shared_secret), part_of(secret), part_of(key),
           part_of(exporter_secret)},
          [&] {
            HpkeSharedSecret decapsulated;
            ASSERT_EQ(Status::kOk, hpke_decap(pair, enc.data(), &decapsulated, &valid));
            ASSERT_EQ(Status::kOk, hpke_key_schedule(decapsulated, view(info), &context));
            ASSERT_EQ(Status::kOk,
                      hpke_open_first(context, {nullptr, 0}, view(enc), plaintext.data(), &authentic));
            ASSERT_EQ(Status::kOk, hpke_export(context, {nullptr, 0}, exported.data(), exported.size()));
          });
  EXPECT_EQ(0, std::memcmp(context.exporter_secret.bytes, exporter_secret.data(), kSha256Size));
  EXPECT_FALSE(authentic);
  EXPECT_GT(blocks_freed, 10u);
  EXPECT_EQ(0u, blocks_freed_with_a_secret);
}

TEST(Signature, LeavesNothingBehind) {
  SigningKey key;
  ASSERT_EQ(Status::kOk, signature_generate(&key));
  const Bytes private_key(key.private_key.bytes, key.private_key.bytes + kEd25519KeySize);
  watched({part_of(private_key)}, [&] {
    uint8_t signature[kEd25519SignatureSize];
    ASSERT_EQ(Status::kOk, signature_make(key, {key.public_key, kEd25519KeySize}, signature));
  });
  EXPECT_GT(blocks_freed, 2u);
  EXPECT_EQ(0u, blocks_freed_with_a_secret);
}

}  // namespace
}  // namespace confidential_ml
