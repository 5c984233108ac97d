// The cache of shared secrets: what is found, what is not, what displaces what.
#include "enclave/known_senders.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

namespace confidential_ml {
namespace {

using Enc = std::array<uint8_t, kX25519KeySize>;

Enc enc_of(uint8_t first, uint8_t second, uint8_t last) {
  Enc enc{};
  enc[0] = first, enc[1] = second, enc[31] = last;
  return enc;
}

void remember(KnownSenders* senders, const Enc& enc, uint8_t secret) {
  HpkeSharedSecret shared_secret;
  std::memset(shared_secret.bytes, secret, sizeof shared_secret.bytes);
  senders->remember(enc.data(), shared_secret);
}

// -1 if it is not known.
int found(const KnownSenders& senders, const Enc& enc) {
  HpkeSharedSecret shared_secret;
  if (!senders.find(enc.data(), &shared_secret)) return -1;
  for (const uint8_t byte : shared_secret.bytes) EXPECT_EQ(shared_secret.bytes[0], byte);
  return shared_secret.bytes[0];
}

TEST(KnownSenders, KnowNobodyAtFirst) {
  KnownSenders senders;
  EXPECT_EQ(-1, found(senders, Enc{}));
  EXPECT_EQ(-1, found(senders, enc_of(1, 2, 3)));
}

TEST(KnownSenders, AnEmptyPlaceIsNobodys) {
  KnownSenders senders;
  remember(&senders, enc_of(7, 0, 0), 1);
  EXPECT_EQ(-1, found(senders, Enc{}));
}

TEST(KnownSenders, FindWhomTheyRemember) {
  KnownSenders senders;
  for (int first = 0; first < 256; ++first) {
    remember(&senders, enc_of(static_cast<uint8_t>(first), 3, 9), static_cast<uint8_t>(first));
  }
  for (int first = 0; first < 256; ++first) {
    EXPECT_EQ(first, found(senders, enc_of(static_cast<uint8_t>(first), 3, 9)));
    EXPECT_EQ(-1, found(senders, enc_of(static_cast<uint8_t>(first), 3, 8))) << "another in its place";
    EXPECT_EQ(-1, found(senders, enc_of(static_cast<uint8_t>(first), 2, 9))) << "another place";
  }
}

TEST(KnownSenders, TheLastOfAPlaceStays) {
  KnownSenders senders;
  remember(&senders, enc_of(5, 1, 1), 10);
  remember(&senders, enc_of(5, 1, 2), 20);
  EXPECT_EQ(-1, found(senders, enc_of(5, 1, 1)));
  EXPECT_EQ(20, found(senders, enc_of(5, 1, 2)));
  remember(&senders, enc_of(5, 1, 2), 30);
  EXPECT_EQ(30, found(senders, enc_of(5, 1, 2)));
  EXPECT_EQ(-1, found(senders, enc_of(5, 5, 2))) << "1,024 places: bits of the second byte are left over";
}

}  // namespace
}  // namespace confidential_ml
