// docs/protocol.md sections 1, 3 and 4.1: which requests the enclave's end of the channel opens, once, and
// that everything else is refused with one status.

#include "enclave/channel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cpp/protocol_client.h"
#include "tests/cpp/status_printer.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {
// The linker puts this in front of the enclave's (--wrap), to see when an X25519 operation is saved.
Status
real_decap(const HpkeKeyPair& pair, const uint8_t* enc, HpkeSharedSecret* shared_secret, bool* valid) __asm__(
    "__real__ZN15confidential_ml10hpke_decapERKNS_11HpkeKeyPairEPKhPNS_11SecretBytesILm32EEEPb");
Status
counted_decap(const HpkeKeyPair& pair, const uint8_t* enc, HpkeSharedSecret* shared_secret, bool* valid) __asm__(
    "__wrap__ZN15confidential_ml10hpke_decapERKNS_11HpkeKeyPairEPKhPNS_11SecretBytesILm32EEEPb");

std::atomic<int> decap_count{0};

Status counted_decap(const HpkeKeyPair& pair, const uint8_t* enc, HpkeSharedSecret* shared_secret,
                     bool* valid) {
  ++decap_count;
  return real_decap(pair, enc, shared_secret, valid);
}

namespace {

using test::Bytes;
using test::EpochKey;
using test::RequestHeader;
using test::SealedRequest;

Bytes from_hex(const std::string& digits) {
  Bytes bytes;
  for (size_t i = 0; i < digits.size(); i += 2)
    bytes.push_back(static_cast<uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  return bytes;
}

// The vector of mode 0, kem 0x0020, kdf 0x0001, aead 0x0002 among those that RFC 9180 refers to (appendix A).
TEST(ProtocolClient, SealsAsTheVectorsOfRfc9180) {
  const auto sender =
      test::hpke_setup_sender(from_hex("430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c"),
                              test::text("Ode on a Grecian Urn"),
                              from_hex("179d4b53b6365c45b600c4163b61d95cbc2f4d9e36f1695558dce265ab8bab11"));
  EXPECT_EQ(from_hex("6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256"), sender.enc);
  EXPECT_EQ(from_hex("f50b0609186798729ed0564b36ef2ef8044f1f9d05636874d1f46c819c7a669f"), sender.key);
  EXPECT_EQ(from_hex("151d9929e2449747889bc923"), sender.base_nonce);
  EXPECT_EQ(
      from_hex("e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d"
               "5b7a"),
      test::hpke_seal_first(sender, test::text("Count-0"), test::text("Beauty is truth, truth beauty")));
  EXPECT_EQ(from_hex("7c5ded445732c14fe09727d29b4251c0fd38455fe8440571e687f0886aac94d2"),
            test::hpke_export_secret(sender, test::text("TestContext"), 32));
}

TEST(BucketSize, IsTheSmallestOfTheSpecificationThatFits) {
  for (uint64_t size = 0; size < 5000; ++size) EXPECT_EQ(test::smallest_bucket(size), bucket_size(size));
  for (uint64_t power = 4096; power <= uint64_t{1} << 32; power *= 2) {
    for (const uint64_t step : {power / 8, power / 16, power / 5}) {
      for (uint64_t base = power; base < 2 * power; base += step) {
        for (const uint64_t size : {base - 1, base, base + 1}) {
          ASSERT_EQ(test::smallest_bucket(size), bucket_size(size)) << size;
        }
      }
    }
  }
}

TEST(BucketSize, WastesAnEighthAtMost) {
  for (uint64_t size = 257; size < 100000; size += 7) {
    ASSERT_LE(8 * (bucket_size(size) - size), bucket_size(size)) << size;
  }
}

class ChannelTest : public ::testing::Test {
 protected:
  ChannelTest() {
    test::become(test::default_identity());
    EXPECT_EQ(Status::kOk, channel_.start());
  }

  static EpochKey key_of(const Channel& channel) {
    uint8_t part[kEpochPartSize];
    channel.epoch_part(part);
    return test::epoch_key(part);
  }
  EpochKey key() const { return key_of(channel_); }

  static RequestHeader header(const EpochKey& epoch, RequestKind kind = RequestKind::kPredict) {
    const Bytes digest = kind == RequestKind::kPredict ? Bytes(32, 0xd1) : Bytes(32);
    return test::request_header(epoch, static_cast<uint16_t>(kind), digest, 512);
  }

  SealedRequest request(const Bytes& plaintext = Bytes(256, 0x77)) const {
    return test::seal_request(key(), header(key()), plaintext);
  }

  Status open(const Bytes& bytes, RequestKind kind = RequestKind::kPredict) {
    OpenedRequest opened;
    return channel_.open({bytes.data(), bytes.size()}, kind, &opened);
  }

  // A request that is right but for its header, sealed all the same by somebody who means it so.
  Status open_with(const std::function<void(RequestHeader*)>& change,
                   RequestKind kind = RequestKind::kPredict) {
    RequestHeader changed = header(key(), kind);
    change(&changed);
    return open(test::seal_request(key(), changed, Bytes(256, 1)).bytes, kind);
  }

  Channel channel_;
};

TEST_F(ChannelTest, OpensWhatAClientHasSealed) {
  const EpochKey epoch = key();
  for (const RequestKind kind : {RequestKind::kPredict, RequestKind::kProvision}) {
    const Bytes plaintext = test::random_bytes(320);
    const SealedRequest sent = test::seal_request(epoch, header(epoch, kind), plaintext);
    OpenedRequest opened;
    ASSERT_EQ(Status::kOk, channel_.open({sent.bytes.data(), sent.bytes.size()}, kind, &opened));
    EXPECT_EQ(plaintext, Bytes(opened.bytes().data, opened.bytes().data + opened.bytes().size));
    EXPECT_EQ(kind, opened.kind);
    EXPECT_EQ(512u, opened.answer_size);
    EXPECT_EQ(test::part(sent.bytes, 8, 8), Bytes(opened.key_id, opened.key_id + 8));
    EXPECT_EQ(test::part(sent.bytes, 16, 32), Bytes(opened.model_digest, opened.model_digest + 32));
    EXPECT_EQ(sent.bytes, Bytes(opened.request.data, opened.request.data + opened.request.size));
    EXPECT_EQ(epoch.digest, Bytes(opened.epoch_digest, opened.epoch_digest + 32));
  }
}

// ---- what is refused ----

TEST_F(ChannelTest, EveryFieldOfTheHeaderHasOneValueOrIsRefused) {
  const std::vector<std::function<void(RequestHeader*)>> changes = {
      [](RequestHeader* h) { h->version = 0; },       [](RequestHeader* h) { h->version = 2; },
      [](RequestHeader* h) { h->version = 0x0101; },  [](RequestHeader* h) { h->suite = 0; },
      [](RequestHeader* h) { h->suite = 2; },         [](RequestHeader* h) { h->suite = 0x0101; },
      [](RequestHeader* h) { h->kind = 0; },          [](RequestHeader* h) { h->kind = 2; },
      [](RequestHeader* h) { h->kind = 3; },          [](RequestHeader* h) { h->kind = 0x0101; },
      [](RequestHeader* h) { h->zero = 1; },          [](RequestHeader* h) { h->zero = 0x8000; },
      [](RequestHeader* h) { h->zero_too = 1; },      [](RequestHeader* h) { h->zero_too = 0x80000000; },
      [](RequestHeader* h) { h->key_id = Bytes(8); }, [](RequestHeader* h) { h->key_id[7] ^= 1; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_EQ(Status::kRequestUnreadable, open_with(changes[i])) << "change " << i;
  }
  EXPECT_EQ(Status::kOk, open_with([](RequestHeader*) {}));
  EXPECT_EQ(Status::kOk, open_with([](RequestHeader* h) { h->model_digest = Bytes(32, 0xff); }))
      << "which models there are is said in the answer";
}

TEST_F(ChannelTest, ProvisioningNamesNoModelInTheHeader) {
  for (const size_t byte : {size_t{0}, size_t{31}}) {
    EXPECT_EQ(Status::kRequestUnreadable,
              open_with([&](RequestHeader* h) { h->model_digest[byte] = 1; }, RequestKind::kProvision));
  }
  EXPECT_EQ(Status::kOk, open_with([](RequestHeader*) {}, RequestKind::kProvision));
}

TEST_F(ChannelTest, AnswerSizeIsABucketWithinTheLimit) {
  const auto with_size = [&](uint32_t size) {
    return open_with([&](RequestHeader* h) { h->answer_size = size; });
  };
  for (const uint32_t size : {256u, 288u, 512u, 15u << 20, 16u << 20}) {
    EXPECT_EQ(Status::kOk, with_size(size)) << size;
  }
  for (const uint32_t size : {0u, 1u, 32u, 128u, 224u, 255u, 257u, 300u, 511u, 544u, (16u << 20) - 1,
                              (16u << 20) + 1, 18u << 20, 1u << 31, 15u << 28, UINT32_MAX}) {
    EXPECT_EQ(Status::kRequestUnreadable, with_size(size)) << size;
  }
}

TEST_F(ChannelTest, EachKindOpensByItself) {
  const EpochKey epoch = key();
  const Bytes predict = test::seal_request(epoch, header(epoch), Bytes(256)).bytes;
  const Bytes provision = test::seal_request(epoch, header(epoch, RequestKind::kProvision), Bytes(256)).bytes;
  EXPECT_EQ(Status::kRequestUnreadable, open(predict, RequestKind::kProvision));
  EXPECT_EQ(Status::kRequestUnreadable, open(provision, RequestKind::kPredict));
  EXPECT_EQ(Status::kOk, open(predict, RequestKind::kPredict)) << "asking the wrong way uses nothing up";
  EXPECT_EQ(Status::kOk, open(provision, RequestKind::kProvision));
}

TEST_F(ChannelTest, NoFlippedBitIsOverlooked) {
  const Bytes genuine = request().bytes;
  for (size_t bit = 0; bit < genuine.size() * 8; ++bit) {
    ASSERT_EQ(Status::kRequestUnreadable, open(test::flipped(genuine, bit))) << "bit " << bit;
  }
  EXPECT_EQ(Status::kOk, open(genuine)) << "copies that were forged do not use the genuine one up";
}

TEST_F(ChannelTest, NoOtherLengthOpens) {
  const Bytes genuine = request().bytes;
  for (size_t size = 0; size < genuine.size(); ++size) {
    ASSERT_EQ(Status::kRequestUnreadable, open(test::part(genuine, 0, size))) << size;
  }
  for (const size_t more : {size_t{1}, size_t{16}, size_t{32}, size_t{256}}) {
    EXPECT_EQ(Status::kRequestUnreadable, open(test::join({genuine, Bytes(more)}))) << more;
  }
  EXPECT_EQ(Status::kOk, open(genuine));
}

TEST_F(ChannelTest, PlaintextsHaveABucketSize) {
  for (const size_t size : {size_t{256}, size_t{288}, size_t{480}, size_t{512}, size_t{576}}) {
    EXPECT_EQ(Status::kOk, open(request(Bytes(size)).bytes)) << size;
  }
  for (const size_t size : {size_t{0}, size_t{1}, size_t{40}, size_t{128}, size_t{255}, size_t{257},
                            size_t{287}, size_t{500}, size_t{544}}) {
    EXPECT_EQ(Status::kRequestUnreadable, open(request(Bytes(size)).bytes)) << size;
  }
}

TEST_F(ChannelTest, PlaintextsOfPredictionsEndAtSixteenMebibytes) {
  EXPECT_EQ(Status::kOk, open(request(Bytes(size_t{16} << 20)).bytes));
  EXPECT_EQ(Status::kRequestUnreadable, open(request(Bytes(size_t{18} << 20)).bytes));
}

// The largest flat model with its header and the longest id is just above 128 MiB.
TEST_F(ChannelTest, PlaintextsOfModelsEndAboveTheLargestModel) {
  const EpochKey epoch = key();
  const size_t largest = test::smallest_bucket(kMaxFlatModelSize + 128 + kMaxModelIdSize);
  ASSERT_EQ(size_t{144} << 20, largest);
  const auto status_of = [&](size_t size) {
    return open(test::seal_request(epoch, header(epoch, RequestKind::kProvision), Bytes(size)).bytes,
                RequestKind::kProvision);
  };
  EXPECT_EQ(Status::kOk, status_of(largest));
  EXPECT_EQ(Status::kRequestUnreadable, status_of(size_t{160} << 20));
}

// The x coordinates of small order on the curve and its twist, which all keys map to zero (RFC 7748, 6.1).
TEST_F(ChannelTest, EncOfSmallOrderIsUnreadable) {
  const std::vector<Bytes> small = {
      Bytes(32),
      from_hex("0100000000000000000000000000000000000000000000000000000000000000"),
      from_hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
      from_hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
      from_hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
      from_hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
      from_hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
  };
  for (const bool senders_are_known : {false, true}) {
    for (const Bytes& enc : small) {
      Bytes bytes = request().bytes;
      std::copy(enc.begin(), enc.end(), bytes.begin() + test::kEncOffset);
      EXPECT_EQ(Status::kRequestUnreadable, open(bytes));
    }
    ASSERT_EQ(Status::kOk, open(request().bytes)) << senders_are_known;
  }
}

// What a secret of zeros, as an empty place of the known senders holds it, would open.
TEST_F(ChannelTest, NothingIsEncryptedToAnEmptyPlace) {
  ASSERT_EQ(Status::kOk, open(request().bytes));
  const EpochKey epoch = key();
  const Bytes head = header(epoch).bytes(), nonce(16, 1);
  const Bytes info = test::join({test::text("confidential_ml request v1"), head, nonce, epoch.digest});
  HpkeContext context;
  ASSERT_EQ(Status::kOk, hpke_key_schedule(HpkeSharedSecret(), {info.data(), info.size()}, &context));
  const Bytes key_bytes(context.key.bytes, context.key.bytes + 32);
  const Bytes base_nonce(context.base_nonce.bytes, context.base_nonce.bytes + 12);
  const Bytes sealed = test::hpke_seal_first({Bytes(32), key_bytes, base_nonce, {}}, head, Bytes(256));
  EXPECT_EQ(Status::kRequestUnreadable, open(test::join({head, Bytes(32), nonce, sealed})));
}

TEST_F(ChannelTest, ClaimsThatDifferInOneBitGiveAnotherKey) {
  EpochKey other = key();
  other.digest[31] ^= 1;  // the key id is the same, the public key too
  EXPECT_EQ(Status::kRequestUnreadable, open(test::seal_request(other, header(key()), Bytes(256)).bytes));
}

// ---- replay ----

TEST_F(ChannelTest, OpensARequestOnce) {
  const Bytes first = request().bytes, second = request().bytes;
  EXPECT_EQ(Status::kOk, open(first));
  EXPECT_EQ(Status::kRequestUnreadable, open(first));
  EXPECT_EQ(Status::kOk, open(second));
  EXPECT_EQ(Status::kRequestUnreadable, open(first));
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  EXPECT_EQ(Status::kRequestUnreadable, open(second)) << "nor in the former epoch";
}

TEST_F(ChannelTest, OpensARequestOnceForTheFormerEpochToo) {
  const Bytes late = request().bytes;
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  EXPECT_EQ(Status::kOk, open(late));
  EXPECT_EQ(Status::kRequestUnreadable, open(late));
}

// Sent again under the same key, enc and nonce, with other content, by the client itself.
TEST_F(ChannelTest, OneEncAndNonceOpenOnce) {
  const SealedRequest first = request();
  const Bytes head = test::part(first.bytes, 0, test::kEncOffset);
  const Bytes nonce = test::part(first.bytes, test::kRequestNonceOffset, 16);
  const Bytes second = test::join(
      {head, first.sender.enc, nonce, test::hpke_seal_first(first.sender, head, Bytes(256, 0x78))});
  EXPECT_EQ(Status::kOk, open(second));
  EXPECT_EQ(Status::kRequestUnreadable, open(first.bytes));
}

// ---- an enc that is used again ----

class UsedAgainTest : public ChannelTest {
 protected:
  SealedRequest with(const Bytes& ephemeral, const Bytes& nonce) const {
    return test::seal_request(key(), header(key()), Bytes(256, 0x77), ephemeral, nonce);
  }

  // Two ephemeral keys whose enc have the same first two bytes, which say the place.
  static std::pair<Bytes, Bytes> of_one_place() {
    std::map<std::pair<uint8_t, uint8_t>, Bytes> found;
    for (;;) {
      const Bytes ephemeral = test::random_bytes(32);
      uint8_t enc[kX25519KeySize];
      if (x25519_public_key(ephemeral.data(), enc) != Status::kOk) std::abort();
      const auto [other, is_new] = found.try_emplace({enc[0], enc[1]}, ephemeral);
      if (!is_new) return {other->second, ephemeral};
    }
  }
};

TEST_F(UsedAgainTest, EveryNonceOpensOnce) {
  const Bytes ephemeral = test::random_bytes(32);
  for (uint8_t round = 0; round < 5; ++round) {
    const SealedRequest sent = with(ephemeral, Bytes(16, round));
    OpenedRequest opened;
    ASSERT_EQ(Status::kOk,
              channel_.open({sent.bytes.data(), sent.bytes.size()}, RequestKind::kPredict, &opened));
    const Bytes key(opened.context.key.bytes, opened.context.key.bytes + 32);
    EXPECT_EQ(sent.sender.key, key);
    EXPECT_EQ(Status::kRequestUnreadable, open(sent.bytes));
  }
}

// A request that has been opened must not open again with a bit of it changed, of its enc above all; nor one
// that has not.
TEST_F(UsedAgainTest, NoBitIsOverlooked) {
  const Bytes ephemeral = test::random_bytes(32);
  const Bytes opened = with(ephemeral, Bytes(16, 0)).bytes, good = with(ephemeral, Bytes(16, 1)).bytes;
  ASSERT_EQ(Status::kOk, open(opened));
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    ASSERT_EQ(Status::kRequestUnreadable, open(test::flipped(opened, bit))) << bit;
    ASSERT_EQ(Status::kRequestUnreadable, open(test::flipped(good, bit))) << bit;
  }
  EXPECT_EQ(Status::kOk, open(good));
}

TEST_F(UsedAgainTest, TakesOneDecapUntilItIsDisplaced) {
  const auto [one, other] = of_one_place();
  const int before = decap_count;
  for (uint8_t round = 0; round < 3; ++round) ASSERT_EQ(Status::kOk, open(with(one, Bytes(16, round)).bytes));
  EXPECT_EQ(before + 1, decap_count);
  ASSERT_EQ(Status::kOk, open(with(other, Bytes(16, 0)).bytes));
  ASSERT_EQ(Status::kOk, open(with(one, Bytes(16, 9)).bytes));
  EXPECT_EQ(before + 3, decap_count);
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  ASSERT_EQ(Status::kOk, open(with(one, Bytes(16, 9)).bytes));
  EXPECT_EQ(before + 4, decap_count) << "another epoch's key, another secret";
}

// Or anybody could fill the places with what nobody has a use for.
TEST_F(UsedAgainTest, IsRememberedOnlyOnceItHasOpenedSomething) {
  const Bytes ephemeral = test::random_bytes(32);
  const Bytes good = with(ephemeral, Bytes(16, 1)).bytes;
  const int before = decap_count;
  EXPECT_EQ(Status::kRequestUnreadable, open(test::flipped(good, 8 * good.size() - 1)));
  EXPECT_EQ(Status::kOk, open(good));
  EXPECT_EQ(before + 2, decap_count);
}

TEST_F(UsedAgainTest, SendersOfOnePlaceDisplaceEachOther) {
  const auto [one, other] = of_one_place();
  for (uint8_t round = 0; round < 3; ++round) {
    EXPECT_EQ(Status::kOk, open(with(one, Bytes(16, round)).bytes));
    EXPECT_EQ(Status::kOk, open(with(other, Bytes(16, round)).bytes));
  }
}

TEST_F(UsedAgainTest, AnEncIsOfOneEpoch) {
  const Bytes ephemeral = test::random_bytes(32);
  const SealedRequest late = with(ephemeral, Bytes(16, 2)), too_late = with(ephemeral, Bytes(16, 3));
  ASSERT_EQ(Status::kOk, open(with(ephemeral, Bytes(16, 1)).bytes));
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  EXPECT_EQ(Status::kOk, open(late.bytes)) << "of the former";
  EXPECT_EQ(Status::kOk, open(with(ephemeral, Bytes(16, 2)).bytes)) << "of the present";
  channel_.end_former_epoch();
  EXPECT_EQ(Status::kRequestUnreadable, open(too_late.bytes)) << "never opened, its enc was known";
}

TEST_F(ChannelTest, OfCopiesAtTheSameTimeExactlyOneIsOpened) {
  constexpr int kRounds = 100, kThreads = 4;
  for (int round = 0; round < kRounds; ++round) {
    const Bytes bytes = request().bytes;
    std::atomic<int> waiting{kThreads}, opened{0}, unreadable{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        const Status status = open(bytes);
        opened += status == Status::kOk;
        unreadable += status == Status::kRequestUnreadable;
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(1, opened);
    ASSERT_EQ(kThreads - 1, unreadable);
  }
}

// ---- epochs ----

TEST_F(ChannelTest, FormerEpochIsReadableUntilItEnds) {
  std::vector<Bytes> of_first, of_second;
  for (int i = 0; i < 3; ++i) of_first.push_back(request().bytes);
  channel_.end_former_epoch();  // there is none
  EXPECT_EQ(Status::kOk, open(of_first[0]));
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  of_second.push_back(request().bytes);
  EXPECT_EQ(Status::kOk, open(of_first[1]));
  channel_.end_former_epoch();
  EXPECT_EQ(Status::kRequestUnreadable, open(of_first[2]));
  EXPECT_EQ(Status::kOk, open(of_second[0])) << "the present one does not end";
}

TEST_F(ChannelTest, OneFormerEpochIsKeptAndNoMore) {
  const Bytes of_first = request().bytes;
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  const Bytes of_second = request().bytes;
  ASSERT_EQ(Status::kOk, channel_.new_epoch());
  EXPECT_EQ(Status::kRequestUnreadable, open(of_first));
  EXPECT_EQ(Status::kOk, open(of_second));
}

TEST_F(ChannelTest, EpochsHaveNewKeysAndOneInstance) {
  std::set<Bytes> public_keys, digests;
  uint8_t first[kEpochPartSize], part[kEpochPartSize];
  channel_.epoch_part(first);
  for (uint64_t epoch = 1; epoch <= 5; ++epoch) {
    channel_.epoch_part(part);
    uint64_t number = 0;
    std::memcpy(&number, part + 24, sizeof number);
    EXPECT_EQ(epoch, number);
    EXPECT_EQ(0, std::memcmp(first, part, 24));
    EXPECT_EQ(0, std::memcmp(first + 32, part + 32, 16 + 32)) << "instance, config digest";
    EXPECT_EQ(0, std::memcmp(first + 112, part + 112, 32)) << "receipt key";
    EXPECT_EQ(0, std::memcmp(part + 112, channel_.receipt_key().public_key, 32));
    EXPECT_EQ(0, std::memcmp(part + 32, channel_.instance(), 16));
    public_keys.insert(key().public_key);
    digests.insert(key().digest);
    ASSERT_EQ(Status::kOk, channel_.new_epoch());
  }
  EXPECT_EQ(5u, public_keys.size());
  EXPECT_EQ(5u, digests.size());
}

TEST_F(ChannelTest, AfterARestartNothingOldIsReadable) {
  const Bytes old_request = request().bytes;
  const EpochKey old_key = key();
  Channel restarted;
  ASSERT_EQ(Status::kOk, restarted.start());
  OpenedRequest opened;
  EXPECT_EQ(Status::kRequestUnreadable,
            restarted.open({old_request.data(), old_request.size()}, RequestKind::kPredict, &opened));
  EXPECT_NE(old_key.public_key, key_of(restarted).public_key);
  EXPECT_NE(0, std::memcmp(channel_.instance(), restarted.instance(), kInstanceSize));
  EXPECT_NE(0, std::memcmp(channel_.receipt_key().public_key, restarted.receipt_key().public_key, 32));
}

TEST_F(ChannelTest, EpochsChangeBesideRequestsUnderWay) {
  std::atomic<bool> done{false};
  std::atomic<int> other{0}, opened_count{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 150; ++i) {
        const Status status = open(request().bytes);
        opened_count += status == Status::kOk;
        other += status != Status::kOk && status != Status::kRequestUnreadable;
      }
    });
  }
  std::thread host([&] {
    for (int i = 0; !done; ++i) {
      if (i % 3 == 0) channel_.end_former_epoch();
      if (channel_.new_epoch() != Status::kOk) ++other;
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  host.join();
  EXPECT_EQ(0, other);
  EXPECT_GT(opened_count, 0);
}

TEST_F(ChannelTest, ReceiptsAreNumberedFromOneWithoutGapOrRepetition) {
  std::vector<uint64_t> numbers[4];
  std::vector<std::thread> threads;
  for (auto& own : numbers) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) own.push_back(channel_.next_receipt());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<uint64_t> all;
  for (const auto& own : numbers) all.insert(own.begin(), own.end());
  EXPECT_EQ(2000u, all.size());
  EXPECT_EQ(1u, *all.begin());
  EXPECT_EQ(2000u, *all.rbegin());
}

// ---- answers ----

class Answering : public ChannelTest {
 protected:
  Answering() {
    EXPECT_EQ(Status::kOk,
              channel_.open({sent_.bytes.data(), sent_.bytes.size()}, RequestKind::kPredict, &opened_));
    plaintext_[0] = 0x5a;  // a status of no meaning
  }

  Bytes answer() {
    Bytes bytes(kAnswerOverhead + plaintext_.size());
    EXPECT_EQ(Status::kOk,
              channel_.seal_answer(opened_, {plaintext_.data(), plaintext_.size()}, bytes.data()));
    return bytes;
  }

  const SealedRequest sent_ = request();
  OpenedRequest opened_;
  Bytes plaintext_ = Bytes(512);
};

TEST_F(Answering, TheClientReadsIt) {
  const auto read = test::open_answer(sent_, answer());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(0x5au, read->status);
}

TEST_F(Answering, NeverGivesTheSameBytesTwice) {
  const Bytes one = answer(), other = answer();
  EXPECT_EQ(test::part(one, 0, 16), test::part(other, 0, 16));
  EXPECT_NE(test::part(one, 16, 32), test::part(other, 16, 32)) << "nonce";
  EXPECT_NE(test::part(one, 48, 512), test::part(other, 48, 512));
}

TEST_F(Answering, NoFlippedBitIsOverlooked) {
  const Bytes genuine = answer();
  ASSERT_TRUE(test::open_answer(sent_, genuine).has_value());
  for (size_t bit = 0; bit < genuine.size() * 8; ++bit) {
    ASSERT_FALSE(test::open_answer(sent_, test::flipped(genuine, bit)).has_value()) << "bit " << bit;
  }
}

TEST_F(Answering, BelongsToItsRequest) {
  const Bytes genuine = answer();
  EXPECT_TRUE(test::open_answer(sent_, genuine).has_value());
  EXPECT_FALSE(test::open_answer(request(), genuine).has_value()) << "another request of the same client";
}

}  // namespace
}  // namespace confidential_ml
