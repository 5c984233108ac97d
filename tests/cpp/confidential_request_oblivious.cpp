// Run under valgrind: checks that between the opening of a confidential prediction and the host's sight of
// its answer no branch and no address depends on the rows, the base margin or the predictions: not in reading
// the request, in predicting, in the receipt or in the encryption. The object code is the enclave's; the
// linker puts `opened_with_secrets` in front of Channel::open (--wrap), which marks what was decrypted as
// undefined.
//
// Declassified: the fields of the request and its padding, which decide what is done. Nothing else.
//
// Built with -DPLANT_LEAK the fields are secret too, and it must fail.
//
// Exit status: 0 all oblivious, 1 not, 2 not running under valgrind.

#include <valgrind/memcheck.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "enclave/confidential_request.h"
#include "enclave/prediction.h"
#include "tests/cpp/engine_models.h"
#include "tests/cpp/protocol_client.h"
#include "tests/cpp/test_identity.h"

namespace confidential_ml {

constexpr size_t kFieldsSize = 40;

Status real_open(Channel* channel, ByteView request, RequestKind kind, OpenedRequest* opened) __asm__(
    "__real__ZN15confidential_ml7Channel4openENS_8ByteViewENS_11RequestKindEPNS_13OpenedRequestE");
Status
opened_with_secrets(Channel* channel, ByteView request, RequestKind kind, OpenedRequest* opened) __asm__(
    "__wrap__ZN15confidential_ml7Channel4openENS_8ByteViewENS_11RequestKindEPNS_13OpenedRequestE");

Status opened_with_secrets(Channel* channel, ByteView request, RequestKind kind, OpenedRequest* opened) {
  const Status status = real_open(channel, request, kind, opened);
  if (status != Status::kOk) return status;
  auto* plaintext = reinterpret_cast<uint8_t*>(opened->plaintext.data());
  uint32_t features = 0;
  uint64_t row_count = 0, base_margin_size = 0;
  std::memcpy(&features, plaintext + 12, sizeof features);
  std::memcpy(&row_count, plaintext + 16, sizeof row_count);
  std::memcpy(&base_margin_size, plaintext + 24, sizeof base_margin_size);
  const size_t secrets = row_count * features * sizeof(float) + base_margin_size;
#ifdef PLANT_LEAK
  (void)VALGRIND_MAKE_MEM_UNDEFINED(plaintext, kFieldsSize);
#endif
  (void)VALGRIND_MAKE_MEM_UNDEFINED(plaintext + kFieldsSize, secrets);
  return status;
}

namespace {

using test::Bytes;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "confidential_request_oblivious: %s\n", what);
  std::abort();
}

bool is_secret(const Bytes& bytes) {
  Bytes undefined_bits(bytes.size());
  (void)VALGRIND_GET_VBITS(bytes.data(), undefined_bits.data(), bytes.size());
  for (const uint8_t bits : undefined_bits) {
    if (bits != 0) return true;
  }
  return false;
}

// One enclave's worth of state with one model.
class Enclave {
 public:
  explicit Enclave(const test::BuiltModel& built) {
    SealedDescription description{};
    uint64_t handle = 0;
    loaded_ = std::make_shared<const LoadedModel>(test::parsed(built), description);
    require(registry_.add(loaded_, &handle) == Status::kOk && channel_.start() == Status::kOk, "start");
  }

  test::SealedRequest sealed(const test::PredictPlaintext& plaintext, uint32_t answer_size) const {
    uint8_t part[kEpochPartSize];
    channel_.epoch_part(part);
    const test::EpochKey key = test::epoch_key(part);
    return test::seal_request(key, test::request_header(key, test::kPredictKind, Bytes(32), answer_size),
                              test::padded(plaintext.bytes()));
  }

  Bytes answer(const test::SealedRequest& request, uint32_t answer_size) {
    Bytes bytes(kAnswerOverhead + answer_size);
    OutputBuffer output{bytes.data(), bytes.size(), 0};
    require(answer_request(&channel_, registry_, {request.bytes.data(), request.bytes.size()}, &output) ==
                Status::kOk,
            "the request was not opened");
    return bytes;
  }

  const Model& model() const { return loaded_->forest.model(); }

 private:
  Channel channel_;
  Registry registry_;
  std::shared_ptr<const LoadedModel> loaded_;
};

bool check(const test::NamedModel& named, size_t row_count, uint32_t flags, bool with_base_margin) {
  const auto errors_before = VALGRIND_COUNT_ERRORS;
  Enclave enclave(named.model);
  test::Random random(row_count);
  auto plaintext = test::predict_plaintext(test::engine_rows(named.model, row_count, &random),
                                           enclave.model().feature_count);
  plaintext.flags = flags;
  if (with_base_margin) plaintext.base_margin.assign(row_count * enclave.model().group_count, 0.5f);
  plaintext.base_margin_size = plaintext.base_margin.size() * sizeof(float);
  const uint32_t columns = prediction_columns(enclave.model(), (flags & test::kWantMargin) != 0);
  const size_t content = row_count * columns * sizeof(float);
  const auto answer_size = static_cast<uint32_t>(test::smallest_bucket(48 + content + test::kReceiptBytes));
  const test::SealedRequest request = enclave.sealed(plaintext, answer_size);
  Bytes bytes = enclave.answer(request, answer_size);
  const bool leaks = VALGRIND_COUNT_ERRORS != errors_before;
  // What an encryption yields may be seen: from here on it is the client's.
  const bool followed = is_secret(bytes);
  (void)VALGRIND_MAKE_MEM_DEFINED(bytes.data(), bytes.size());
  const auto answer = test::open_answer(request, bytes);
  const bool answered = answer.has_value() && answer->status == 0 && answer->content.size() == content;
  std::printf("%-28s rows %zu, flags %u%s  %s\n", named.name.c_str(), row_count, flags,
              with_base_margin ? ", base margin" : "",
              leaks       ? "LEAKS"
              : !followed ? "NOT CHECKED: the answer does not depend on the secret"
              : !answered ? "NOT CHECKED: no prediction"
                          : "oblivious");
  return !leaks && followed && answered;
}

// An objective of every transform, on margins of three groups.
bool check_objectives() {
  bool clean = true;
  for (uint32_t code = 1; code <= 20; ++code) {
    test::NamedModel named{"objective " + std::to_string(code),
                           test::random_model(test::Kind::kMultiGroup, 2)};
    named.model.objective = code;
    named.model.base_score.assign(named.model.group_count, 0.5f);
    clean = check(named, 5, test::kWantReceipt, true) && clean;
  }
  return clean;
}

}  // namespace
}  // namespace confidential_ml

int main() {
  using namespace confidential_ml;
  if (RUNNING_ON_VALGRIND == 0) {
    std::fprintf(stderr, "confidential_request_oblivious checks nothing unless it runs under valgrind\n");
    return 2;
  }
  test::become(test::default_identity());
  bool clean = true;
  for (const test::NamedModel& named : test::engine_models(1)) {
    const bool has_trees = !named.model.rounds.empty() || named.model.booster == 3;
    for (const size_t row_count : {1u, 35u}) {
      // Without trees nothing but the base margin reaches the answer.
      clean = check(named, row_count, test::kWantMargin | test::kWantReceipt, !has_trees) && clean;
      clean = check(named, row_count, 0, true) && clean;
    }
  }
  return check_objectives() && clean ? 0 : 1;
}
