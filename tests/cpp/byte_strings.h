// Byte strings for known answers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "enclave/crypto.h"

namespace confidential_ml::test {

using Bytes = std::vector<uint8_t>;

inline Bytes hex(const std::string& digits) {
  Bytes bytes;
  for (size_t i = 0; i < digits.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

inline Bytes text(std::string_view characters) { return {characters.begin(), characters.end()}; }

inline ByteView view(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

inline Bytes with_bit_flipped(Bytes bytes, size_t bit) {
  bytes[bit / 8] = static_cast<uint8_t>(bytes[bit / 8] ^ 1u << bit % 8);
  return bytes;
}

}  // namespace confidential_ml::test
