// What happens when an epoch has opened as many requests as it may. The real number takes most of a minute,
// so enclave/channel.cpp is compiled once more, here, with a smaller one; this object comes before the
// library's.

#include "common/limits.h"

namespace confidential_ml {
inline constexpr uint32_t kFewRequests = 5;
static_assert(kMaxEpochRequests == 262144, "docs/protocol.md section 1");
}  // namespace confidential_ml

#define kMaxEpochRequests kFewRequests
#include "enclave/channel.cpp"  // NOLINT(bugprone-suspicious-include): see above
#undef kMaxEpochRequests

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/cpp/protocol_client.h"
#include "tests/cpp/status_printer.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {
namespace {

using test::Bytes;

class FullEpoch : public ::testing::Test {
 protected:
  FullEpoch() {
    test::become(test::default_identity());
    EXPECT_EQ(Status::kOk, channel_.start());
  }

  uint64_t epoch() const {
    uint8_t part[kEpochPartSize];
    channel_.epoch_part(part);
    uint64_t number = 0;
    std::memcpy(&number, part + 24, sizeof number);
    return number;
  }

  Bytes request() const {
    uint8_t part[kEpochPartSize];
    channel_.epoch_part(part);
    const test::EpochKey key = test::epoch_key(part);
    return test::seal_request(key, test::request_header(key, 1, Bytes(32), 256), Bytes(256)).bytes;
  }
  std::vector<Bytes> requests(size_t count) const {
    std::vector<Bytes> made;
    for (size_t i = 0; i < count; ++i) made.push_back(request());
    return made;
  }

  Status open(const Bytes& bytes) {
    OpenedRequest opened;
    return channel_.open({bytes.data(), bytes.size()}, RequestKind::kPredict, &opened);
  }

  Channel channel_;
};

TEST_F(FullEpoch, TheLastRequestIsOpenedAndBeginsTheNext) {
  const auto made = requests(kFewRequests + 1);
  for (size_t i = 0; i < kFewRequests; ++i) {
    EXPECT_EQ(1u, epoch());
    EXPECT_EQ(Status::kOk, open(made[i])) << i;
  }
  EXPECT_EQ(2u, epoch());
  EXPECT_EQ(Status::kRequestUnreadable, open(made[kFewRequests])) << "a full epoch is not kept";
  EXPECT_EQ(Status::kRequestUnreadable, open(made[0])) << "and so nothing is replayed when its set is gone";
  EXPECT_EQ(Status::kOk, open(request()));
}

TEST_F(FullEpoch, OnlyWhatWasOpenedCounts) {
  const auto made = requests(kFewRequests);
  for (size_t i = 0; i + 1 < kFewRequests; ++i) {
    EXPECT_EQ(Status::kRequestUnreadable, open(test::flipped(made[i], 8 * made[i].size() - 1)));
    EXPECT_EQ(Status::kOk, open(made[i]));
    EXPECT_EQ(Status::kRequestUnreadable, open(made[i]));
  }
  EXPECT_EQ(1u, epoch());
  EXPECT_EQ(Status::kOk, open(made[kFewRequests - 1]));
  EXPECT_EQ(2u, epoch());
}

TEST_F(FullEpoch, TheFormerEpochEndsWhenItIsFull) {
  const auto made = requests(kFewRequests + 1);
  EXPECT_EQ(Status::kOk, open(made[0]));
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  const Bytes of_present = request();
  for (size_t i = 1; i < kFewRequests; ++i) EXPECT_EQ(Status::kOk, open(made[i])) << i;
  EXPECT_EQ(Status::kRequestUnreadable, open(made[kFewRequests]));
  EXPECT_EQ(2u, epoch()) << "the present one goes on";
  EXPECT_EQ(Status::kOk, open(of_present));
}

TEST_F(FullEpoch, TheFormerEpochEndsWhenThePresentOneIsFull) {
  const Bytes of_first = request();
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  for (const Bytes& bytes : requests(kFewRequests)) EXPECT_EQ(Status::kOk, open(bytes));
  EXPECT_EQ(3u, epoch());
  EXPECT_EQ(Status::kRequestUnreadable, open(of_first));
}

// Threads that find the epoch before it is full and are done after: no more than its number is opened.
TEST_F(FullEpoch, ThreadsDoNotOpenMoreThanItsNumber) {
  for (int round = 0; round < 30; ++round) {
    const uint64_t before = epoch();
    const auto made = requests(2 * kFewRequests);
    std::atomic<uint32_t> opened{0};
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (size_t i = t; i < made.size(); i += 4) opened += open(made[i]) == Status::kOk;
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(kFewRequests, opened);
    ASSERT_EQ(before + 1, epoch());
  }
}

}  // namespace
}  // namespace confidential_ml
