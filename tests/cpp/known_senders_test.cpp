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
}

// The last byte tells the two encs of a place apart.
TEST(KnownSenders, HaveAPlaceForEachOf1024) {
  KnownSenders senders;
  const auto enc_at = [](int place, uint8_t last) {
    return enc_of(static_cast<uint8_t>(place), static_cast<uint8_t>(place >> 8), last);
  };
  for (int place = 0; place < 1024; ++place) {
    remember(&senders, enc_at(place, 0), static_cast<uint8_t>(place % 251));
  }
  for (int place = 0; place < 1024; ++place) EXPECT_EQ(place % 251, found(senders, enc_at(place, 0)));
  for (int place = 0; place < 1024; ++place) {
    remember(&senders, enc_at(place + 1024 * (1 + place % 63), 1), 252);
    EXPECT_EQ(-1, found(senders, enc_at(place, 0))) << "no more than 1,024";
    if (place < 1023) {
      EXPECT_EQ((place + 1) % 251, found(senders, enc_at(place + 1, 0)));
    }
  }
}

TEST(KnownSenders, AreFoundByEveryBit) {
  KnownSenders senders;
  const Enc enc = enc_of(0x5a, 0xa5, 0x3c);
  remember(&senders, enc, 1);
  for (size_t bit = 0; bit < 8 * enc.size(); ++bit) {
    Enc other = enc;
    other[bit / 8] = static_cast<uint8_t>(other[bit / 8] ^ 1u << bit % 8);
    EXPECT_EQ(-1, found(senders, other)) << bit;
  }
  EXPECT_EQ(1, found(senders, enc));
}

}  // namespace
}  // namespace confidential_ml
