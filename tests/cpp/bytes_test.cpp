// Reader and Writer never step over an end, and never recover from having been asked to.

#include "common/bytes.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

namespace confidential_ml {
namespace {

TEST(Reader, ReadsLittleEndianFieldsInOrder) {
  const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b};
  Reader reader(bytes, sizeof bytes);
  EXPECT_EQ(0x01, reader.read<uint8_t>());
  EXPECT_EQ(0x0302, reader.read<uint16_t>());
  EXPECT_EQ(0x0b0a090807060504u, reader.read<uint64_t>());
  EXPECT_TRUE(reader.finished());
}

TEST(Reader, StaysFailedEvenForFieldsThatWouldFit) {
  const uint8_t bytes[] = {1, 2, 3};
  Reader reader(bytes, sizeof bytes);
  EXPECT_EQ(0u, reader.read<uint32_t>());
  EXPECT_TRUE(reader.failed());
  EXPECT_EQ(0, reader.read<uint8_t>());
  EXPECT_EQ(nullptr, reader.take(0));
  EXPECT_EQ(3u, reader.left());
  EXPECT_FALSE(reader.finished());
}

TEST(Reader, LeavesTheDestinationAloneWhenItFails) {
  const uint8_t bytes[] = {1, 2, 3};
  Reader reader(bytes, sizeof bytes);
  std::array<uint8_t, 4> destination{9, 9, 9, 9};
  reader.copy_to(destination.data(), destination.size());
  EXPECT_EQ((std::array<uint8_t, 4>{9, 9, 9, 9}), destination);
}

TEST(Reader, HugeSizesDoNotWrapAround) {
  const uint8_t bytes[] = {1, 2, 3};
  for (const size_t size : {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2, size_t{4}}) {
    Reader reader(bytes, sizeof bytes);
    reader.take(1);
    EXPECT_EQ(nullptr, reader.take(size)) << size;
    EXPECT_TRUE(reader.failed());
  }
}

TEST(Reader, NothingIsFinishedAtOnce) {
  Reader reader(nullptr, 0);
  EXPECT_TRUE(reader.finished());
  reader.copy_to(nullptr, 0);
  EXPECT_FALSE(reader.failed());
  EXPECT_EQ(0, reader.read<uint8_t>());
  EXPECT_TRUE(reader.failed());
}

TEST(Writer, WritesLittleEndianFieldsInOrder) {
  std::array<uint8_t, 8> bytes{};
  Writer writer(bytes.data(), 7);
  writer.write(uint16_t{0x0201});
  writer.write(uint32_t{0x06050403});
  uint8_t* reserved = writer.reserve(1);
  ASSERT_EQ(bytes.data() + 6, reserved);
  *reserved = 7;
  EXPECT_FALSE(writer.failed());
  EXPECT_EQ(7u, writer.written());
  EXPECT_EQ((std::array<uint8_t, 8>{1, 2, 3, 4, 5, 6, 7, 0}), bytes);
}

TEST(Writer, WritesNothingOnceItHasFailed) {
  std::array<uint8_t, 4> bytes{9, 9, 9, 9};
  Writer writer(bytes.data(), 3);
  writer.write(uint32_t{0});
  writer.write(uint8_t{0});
  writer.append(bytes.data(), 0);
  EXPECT_EQ(nullptr, writer.reserve(0));
  EXPECT_TRUE(writer.failed());
  EXPECT_EQ(0u, writer.written());
  EXPECT_EQ((std::array<uint8_t, 4>{9, 9, 9, 9}), bytes);
}

TEST(Writer, HugeSizesDoNotWrapAround) {
  uint8_t byte = 9;
  for (const size_t size : {SIZE_MAX, SIZE_MAX / 2, size_t{2}}) {
    Writer writer(&byte, 1);
    EXPECT_EQ(nullptr, writer.reserve(size)) << size;
    EXPECT_EQ(9, byte);
  }
}

}  // namespace
}  // namespace confidential_ml
