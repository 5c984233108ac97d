// What the enclave does with a request that only it can read: docs/protocol.md sections 3 and 4.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "enclave/channel.h"
#include "enclave/crypto.h"
#include "enclave/registry.h"

namespace confidential_ml {

struct OutputBuffer {
  uint8_t* data;
  size_t capacity;
  uint64_t size;  // used
};

// Predicts. Any status but kOk is seen by the host, so it says only that the request could not be opened, or
// what the host knows itself: that there is too little room for the answer (kBufferTooSmall), which does not
// use the request up. May throw std::bad_alloc before the request is open, never after.
[[nodiscard]] Status answer_request(Channel* channel, const Registry& registry, ByteView request,
                                    OutputBuffer* answer);

// Seals the model that the request holds; nothing is sealed if the answer carries an error.
[[nodiscard]] Status import_model(Channel* channel, const Registry& registry, ByteView request,
                                  OutputBuffer* sealed, OutputBuffer* answer);

// Whether a request of `request_size` bytes that begins with `header` may be one: kOk, or kRequestUnreadable,
// which is what the calls above would say. So that a host need not set memory aside for whatever comes.
[[nodiscard]] Status check_request(const Channel& channel, const Registry& registry, ByteView header,
                                   uint64_t request_size);

// Seals a flat model that this enclave can load again. May throw std::bad_alloc or PlanLimitExceeded.
[[nodiscard]] Status check_and_seal(ByteView flat_model, const SealingRequest& request, OutputBuffer* sealed,
                                    SealedDescription* description);

}  // namespace confidential_ml
