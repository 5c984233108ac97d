// Wiping really happens: this program's operator delete looks at every block before it gives it back.

#include "enclave/secret_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "enclave/channel.h"
#include "enclave/known_senders.h"
#include "enclave/model.h"
#include "tests/cpp/flat_model_builder.h"
#include "tests/cpp/test_identity.h"

namespace {

// In front of each block, so that operator delete knows the size whichever form of it is called.
constexpr size_t kPrefix = alignof(std::max_align_t);

thread_local bool watching = false;
thread_local size_t blocks_freed = 0;
thread_local size_t blocks_freed_unwiped = 0;
thread_local size_t largest_freed = 0;

void look_at(const unsigned char* block, size_t size) {
  ++blocks_freed;
  largest_freed = std::max(largest_freed, size);
  if (std::any_of(block, block + size, [](unsigned char byte) { return byte != 0; })) ++blocks_freed_unwiped;
}

void* allocate(size_t size) {
  auto* start = static_cast<unsigned char*>(std::malloc(size + kPrefix));
  if (start == nullptr) throw std::bad_alloc();
  std::memcpy(start, &size, sizeof size);
  return start + kPrefix;
}

void give_back(void* block) noexcept {
  if (block == nullptr) return;
  unsigned char* start = static_cast<unsigned char*>(block) - kPrefix;
  size_t size = 0;
  std::memcpy(&size, start, sizeof size);
  if (watching) look_at(start + kPrefix, size);
  std::free(start);
}

}  // namespace

void* operator new(size_t size) { return allocate(size); }
void* operator new[](size_t size) { return allocate(size); }
void operator delete(void* block) noexcept { give_back(block); }
void operator delete[](void* block) noexcept { give_back(block); }
void operator delete(void* block, size_t) noexcept { give_back(block); }
void operator delete[](void* block, size_t) noexcept { give_back(block); }

namespace confidential_ml {
namespace {

class Watch {
 public:
  Watch() {
    blocks_freed = blocks_freed_unwiped = largest_freed = 0;
    watching = true;
  }
  ~Watch() { watching = false; }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
};

// Calls through a pointer the compiler cannot see through: it may leave out a pair of new and delete.
template <typename Body>
void watched(Body body) {
  void (*volatile call)(Body&) = [](Body& run) { run(); };
  const Watch watch;
  call(body);
}

TEST(Watching, SeesWhatAnOrdinaryVectorLeavesBehind) {
  watched([] {
    std::vector<uint8_t> ordinary(100, 0xaa);
    ordinary.resize(1000, 0xbb);
  });
  EXPECT_EQ(2u, blocks_freed);
  EXPECT_EQ(2u, blocks_freed_unwiped);
}

TEST(SecretVector, IsWipedWhenItGoes) {
  watched([] { const SecretVector<uint8_t> secret(1000, 0xaa); });
  EXPECT_EQ(1u, blocks_freed);
  EXPECT_EQ(0u, blocks_freed_unwiped);
}

TEST(SecretVector, IsWipedWhenItGrowsShrinksOrIsMovedInto) {
  watched([] {
    SecretVector<uint32_t> secret;
    for (uint32_t i = 0; i < 10000; ++i) secret.push_back(~i);
    secret.resize(3);
    secret.shrink_to_fit();
    SecretVector<uint32_t> other(50, 7u);
    other = std::move(secret);
  });
  EXPECT_GT(blocks_freed, 10u);
  EXPECT_EQ(0u, blocks_freed_unwiped);
}

TEST(SecretVector, IsWipedPastItsSizeUpToItsCapacity) {
  watched([] {
    SecretVector<uint8_t> secret(100, 0xaa);
    secret.clear();
  });
  EXPECT_EQ(1u, blocks_freed);
  EXPECT_EQ(0u, blocks_freed_unwiped);
}

TEST(KnownSenders, AreWipedWhenTheyGo) {
  watched([] {
    KnownSenders senders;
    HpkeSharedSecret shared_secret;
    std::memset(shared_secret.bytes, 0xaa, sizeof shared_secret.bytes);
    for (uint8_t first = 0; first < 100; ++first) {
      const uint8_t enc[kX25519KeySize] = {first, 1};
      senders.remember(enc, shared_secret);
    }
  });
  EXPECT_EQ(1u, blocks_freed);
  EXPECT_EQ(0u, blocks_freed_unwiped);
}

// Nothing keeps an epoch that is over, with its key and the secrets it knows.
TEST(Channel, FreesAnEpochThatHasEnded) {
  constexpr size_t kSecretsOfSenders = 1024 * 32;
  test::become(test::default_identity());
  Channel channel;
  ASSERT_EQ(Status::kOk, channel.start());
  ASSERT_EQ(Status::kOk, channel.new_epoch());
  watched([&] { channel.end_former_epoch(); });
  EXPECT_GT(largest_freed, kSecretsOfSenders);
  ASSERT_EQ(Status::kOk, channel.new_epoch());
  watched([&] { ASSERT_EQ(Status::kOk, channel.new_epoch()); });
  EXPECT_GT(largest_freed, kSecretsOfSenders);
}

TEST(SecretBytes, AreWipedWhenTheyGoOutOfScope) {
  using Key = SecretBytes<32>;
  alignas(Key) unsigned char storage[sizeof(Key)];
  auto* key = new (storage) Key;
  std::memset(key->bytes, 0xaa, sizeof key->bytes);
  key->size = 16;
  key->~Key();
  const volatile unsigned char* bytes = storage;
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(0, bytes[i]) << i;
}

TEST(SecretBytes, AreNotCopied) {
  EXPECT_FALSE(std::is_copy_constructible_v<SecretBytes<32>>);
  EXPECT_FALSE(std::is_copy_assignable_v<SecretBytes<32>>);
  EXPECT_FALSE(std::is_move_constructible_v<SecretBytes<32>>);
}

TEST(Wipe, TakesNothing) { wipe(nullptr, 0); }

TEST(Wipe, StaysInItsBounds) {
  uint8_t bytes[5] = {1, 2, 3, 4, 5};
  wipe(bytes + 1, 3);
  EXPECT_EQ(1, bytes[0]);
  EXPECT_EQ(0, bytes[1] | bytes[2] | bytes[3]);
  EXPECT_EQ(5, bytes[4]);
}

// So that the parser finds out last.
void spoil_last_word(test::Kind kind, test::Bytes* flat) {
  const uint32_t word = kind == test::Kind::kCategorical ? 0 : 0x7fc00000;  // a set must end in a bit; NaN
  std::memcpy(flat->data() + flat->size() - sizeof word, &word, sizeof word);
}

// The parser keeps nothing of a model in memory that is not wiped, neither while it reads nor afterwards,
// whether it accepts the model or refuses it half-way.
TEST(ParsedModel, IsWipedWhole) {
  for (const test::Kind kind : test::kAllKinds) {
    for (const bool accepted : {true, false}) {
      test::Bytes flat = test::flat_bytes(test::random_model(kind, 5));
      if (!accepted) spoil_last_word(kind, &flat);
      bool was_accepted = !accepted;
      watched([&] {
        Model model{};
        was_accepted = parse_model(flat.data(), flat.size(), &model) == Status::kOk;
      });
      EXPECT_EQ(accepted, was_accepted) << test::name_of(kind);
      EXPECT_GE(blocks_freed, 1u) << test::name_of(kind);
      EXPECT_EQ(0u, blocks_freed_unwiped) << test::name_of(kind);
    }
  }
}

}  // namespace
}  // namespace confidential_ml
