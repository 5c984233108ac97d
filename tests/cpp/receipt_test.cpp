// docs/protocol.md section 6: every byte of a receipt, and who could have signed it.

#include "enclave/receipt.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/cpp/protocol_client.h"
#include "tests/cpp/status_printer.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {
namespace {

using test::Bytes;
using test::part;

class ReceiptTest : public ::testing::Test {
 protected:
  ReceiptTest() {
    test::become(test::default_identity());
    EXPECT_EQ(Status::kOk, signature_generate(&key_));
    std::memset(model_.model_digest, 0x44, sizeof model_.model_digest);
    std::memset(model_.ownership.owner, 0x55, sizeof model_.ownership.owner);
    model_.ownership.model_version = 0x1112131415161718;
  }

  Bytes written() const {
    Bytes receipt(kReceiptSize);
    EXPECT_EQ(Status::kOk, write_receipt(key_,
                                         {2, 1, 0x0102030405060708, 0x2122232425262728, instance_.data(),
                                          epoch_.data(), request_.data(), content_.data(), &model_},
                                         receipt.data()));
    return receipt;
  }
  Bytes public_key() const { return Bytes(key_.public_key, key_.public_key + 32); }

  SigningKey key_;
  SealedDescription model_{};
  const Bytes instance_ = Bytes(16, 0x66), epoch_ = Bytes(32, 0x77), request_ = Bytes(32, 0x88),
              content_ = Bytes(32, 0x99);
};

TEST_F(ReceiptTest, IsThatOfTheSpecification) {
  const Bytes receipt = written();
  ASSERT_EQ(344u, receipt.size());
  EXPECT_EQ((Bytes{'C', 'M', 'L', 'R', 'C', 'P', 'T', 0}), part(receipt, 0, 8));
  EXPECT_EQ((Bytes{1, 0, 0, 0}), part(receipt, 8, 4)) << "version";
  EXPECT_EQ((Bytes{2, 0}), part(receipt, 12, 2)) << "kind";
  EXPECT_EQ((Bytes{1, 0}), part(receipt, 14, 2)) << "policy";
  EXPECT_EQ(instance_, part(receipt, 16, 16));
  EXPECT_EQ((Bytes{8, 7, 6, 5, 4, 3, 2, 1}), part(receipt, 32, 8)) << "counter";
  EXPECT_EQ((Bytes{0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21}), part(receipt, 40, 8)) << "time";
  EXPECT_EQ((Bytes{0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11}), part(receipt, 48, 8)) << "version";
  EXPECT_EQ(Bytes(32, 0x44), part(receipt, 56, 32)) << "model digest";
  EXPECT_EQ(Bytes(32, 0x55), part(receipt, 88, 32)) << "owner";
  EXPECT_EQ(epoch_, part(receipt, 120, 32));
  EXPECT_EQ(Bytes(32, 0xe1), part(receipt, 152, 32)) << "MRENCLAVE";
  EXPECT_EQ(request_, part(receipt, 184, 32));
  EXPECT_EQ(content_, part(receipt, 216, 32));
  EXPECT_EQ(Bytes(32), part(receipt, 248, 32));
}

TEST_F(ReceiptTest, IsSignedByTheReceiptKey) {
  EXPECT_TRUE(test::verify_receipt(written(), public_key()).has_value());
  SigningKey other;
  ASSERT_EQ(Status::kOk, signature_generate(&other));
  EXPECT_FALSE(test::verify_receipt(written(), Bytes(other.public_key, other.public_key + 32)).has_value());
}

TEST_F(ReceiptTest, IsSignedInEveryBit) {
  const Bytes genuine = written();
  for (size_t bit = 0; bit < genuine.size() * 8; ++bit) {
    ASSERT_FALSE(test::verify_receipt(test::flipped(genuine, bit), public_key()).has_value())
        << "bit " << bit;
  }
}

TEST(BlindedDigest, CoversLabelBlindAndContent) {
  const Bytes blind = test::random_bytes(32);
  for (const Bytes& content : {Bytes(), Bytes(4, 1), Bytes(100000, 2)}) {
    Bytes digest(32);
    ASSERT_EQ(Status::kOk, blinded_digest(blind.data(), {content.data(), content.size()}, digest.data()));
    EXPECT_EQ(test::blinded_content_digest(blind, content), digest);
  }
}

}  // namespace
}  // namespace confidential_ml
