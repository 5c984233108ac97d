// The set of requests that an epoch has opened: nothing is forgotten, nothing is known that was not there.

#include "enclave/replay_set.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "common/limits.h"

namespace confidential_ml {
namespace {

using Entry = ReplaySet::Entry;

// An entry whose place is `slot`; `number` tells it from others of that place.
Entry entry_at(uint64_t slot, uint64_t number) {
  Entry entry{};
  std::memcpy(entry.data(), &slot, sizeof slot);
  std::memcpy(entry.data() + 8, &number, sizeof number);
  return entry;
}

std::vector<Entry> random_entries(size_t count) {
  std::mt19937_64 random(1);
  std::vector<Entry> entries(count);
  for (Entry& entry : entries) entry = entry_at(random(), random());
  return entries;
}

TEST(ReplaySet, KnowsWhatWasInserted) {
  ReplaySet set;
  EXPECT_EQ(0u, set.size());
  EXPECT_TRUE(set.insert(entry_at(1, 1)));
  EXPECT_FALSE(set.insert(entry_at(1, 1)));
  EXPECT_TRUE(set.insert(entry_at(1, 2)));
  EXPECT_TRUE(set.insert(entry_at(2, 1)));
  EXPECT_FALSE(set.insert(entry_at(1, 2)));
  EXPECT_EQ(3u, set.size());
}

// As many as an epoch may have, through every growth.
TEST(ReplaySet, HoldsAFullEpoch) {
  const auto entries = random_entries(kMaxEpochRequests + 1000);
  ReplaySet set;
  for (size_t i = 0; i < kMaxEpochRequests; ++i) {
    ASSERT_TRUE(set.insert(entries[i])) << i;
    ASSERT_EQ(i + 1, set.size());
    ASSERT_FALSE(set.insert(entries[i / 2])) << i;
  }
  for (size_t i = 0; i < kMaxEpochRequests; ++i) ASSERT_FALSE(set.insert(entries[i])) << i;
  for (size_t i = kMaxEpochRequests; i < entries.size(); ++i) ASSERT_TRUE(set.insert(entries[i])) << i;
}

TEST(ReplaySet, EntriesOfOnePlaceAreToldApart) {
  for (const uint64_t slot : {uint64_t{0}, uint64_t{5}, uint64_t{1023}, uint64_t{1022}, UINT64_MAX}) {
    ReplaySet set;
    for (uint64_t number = 1; number <= 600; ++number) ASSERT_TRUE(set.insert(entry_at(slot, number)));
    for (uint64_t number = 1; number <= 600; ++number) ASSERT_FALSE(set.insert(entry_at(slot, number)));
    ASSERT_TRUE(set.insert(entry_at(slot, 601)));
    EXPECT_EQ(601u, set.size());
  }
}

TEST(ReplaySet, EveryByteOfAnEntryCounts) {
  ReplaySet set;
  const Entry base = entry_at(0x0101010101010101, 0x0101010101010101);
  EXPECT_TRUE(set.insert(base));
  for (size_t bit = 0; bit < base.size() * 8; ++bit) {
    Entry other = base;
    other[bit / 8] = static_cast<uint8_t>(other[bit / 8] ^ 1u << bit % 8);
    EXPECT_TRUE(set.insert(other)) << bit;
  }
}

// A digest of zeros stands for an empty place: it is refused rather than opened for ever.
TEST(ReplaySet, ZerosCountAsKnown) {
  ReplaySet set;
  EXPECT_FALSE(set.insert(Entry{}));
  EXPECT_TRUE(set.insert(entry_at(0, 1)));
  EXPECT_FALSE(set.insert(Entry{}));
  EXPECT_EQ(1u, set.size());
}

}  // namespace
}  // namespace confidential_ml
