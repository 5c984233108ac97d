// The shared secrets of senders whose requests were opened: docs/protocol.md section 3.5.
#pragma once

#include <cstddef>
#include <cstdint>

#include "enclave/crypto.h"
#include "enclave/hpke.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

// Each enc has one place, which its first bytes say. Who chooses an enc to displace another costs that sender
// an X25519 operation and nothing else. Addresses depend on what was on the wire, which is no secret.
class KnownSenders {
 public:
  // May throw std::bad_alloc: all places at once, so that a request that was opened never lacks one.
  KnownSenders() : places_(kPlaces) {}

  // False if the sender is not known (any more).
  [[nodiscard]] bool find(const uint8_t enc[kX25519KeySize], HpkeSharedSecret* shared_secret) const;

  void remember(const uint8_t enc[kX25519KeySize], const HpkeSharedSecret& shared_secret);

 private:
  static constexpr size_t kPlaces = 1024;

  struct Place {
    bool is_taken;
    uint8_t enc[kX25519KeySize];
    uint8_t shared_secret[kSha256Size];
  };

  static size_t place_of(const uint8_t enc[kX25519KeySize]) {
    return (enc[0] | static_cast<size_t>(enc[1]) << 8) % kPlaces;
  }

  SecretVector<Place> places_;
};

}  // namespace confidential_ml
