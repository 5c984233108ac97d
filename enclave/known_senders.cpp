#include "enclave/known_senders.h"

#include <cstring>

namespace confidential_ml {

bool KnownSenders::find(const uint8_t enc[kX25519KeySize], HpkeSharedSecret* shared_secret) const {
  const Place& place = places_[place_of(enc)];
  if (!place.is_taken || std::memcmp(place.enc, enc, sizeof place.enc) != 0) return false;
  std::memcpy(shared_secret->bytes, place.shared_secret, sizeof place.shared_secret);
  return true;
}

void KnownSenders::remember(const uint8_t enc[kX25519KeySize], const HpkeSharedSecret& shared_secret) {
  Place& place = places_[place_of(enc)];
  place.is_taken = true;
  std::memcpy(place.enc, enc, sizeof place.enc);
  std::memcpy(place.shared_secret, shared_secret.bytes, sizeof place.shared_secret);
}

}  // namespace confidential_ml
