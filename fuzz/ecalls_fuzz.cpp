// libFuzzer target: sequences of ecalls with hostile arguments, through the generated glue and the signed
// image. Beside what the sanitizers find it stops when an answer is wrong: a status of another block, a
// sealed model that opens although it was changed, a prediction with sizes that do not fit, a request that is
// opened although it was changed or sent before, or is not although it is right, an answer that its client
// cannot open or that differs from enclave_predict's.

#include <openenclave/host.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"
#include "confidential_ml_u.h"
#include "enclave/crypto.h"
#include "fuzz/steps.h"
#include "simulation/loader.h"
#include "tests/cpp/protocol_client.h"

namespace confidential_ml::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;

#define CML_REQUIRE(condition)                                             \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                        \
    }                                                                      \
  } while (false)

oe_enclave_t* enclave() {
  static oe_enclave_t* const instance = [] {
    oe_enclave_t* created = nullptr;
    const oe_result_t result = oe_create_confidential_ml_enclave(
        CONFIDENTIAL_ML_IMAGE, OE_ENCLAVE_TYPE_SGX, OE_ENCLAVE_FLAG_SIMULATE, nullptr, 0, &created);
    if (result != OE_OK) std::fprintf(stderr, "%s\n", confidential_ml_simulation_last_error());
    CML_REQUIRE(result == OE_OK);
    const Bytes fuse_key(32, 7);
    uint32_t status = 1;
    CML_REQUIRE(enclave_start(created, &status, fuse_key.data(), fuse_key.size()) == OE_OK && status == 0);
    return created;
  }();
  return instance;
}

template <typename Ecall, typename... Arguments>
Status call(Ecall ecall, Arguments... arguments) {
  uint32_t status = 0xdead;
  const oe_result_t result = ecall(enclave(), &status, arguments...);
  CML_REQUIRE(result == OE_OK || result == OE_INTEGER_OVERFLOW || result == OE_OUT_OF_MEMORY);
  return result == OE_OK ? static_cast<Status>(status) : Status::kOutOfMemory;
}

bool is_between(Status status, Status first, Status last) { return status >= first && status <= last; }

// A buffer of exactly this size, so that AddressSanitizer sees the first byte beyond it.
template <typename T>
struct Buffer {
  explicit Buffer(size_t size_in_bytes)
      : storage(static_cast<T*>(std::calloc(1, std::max<size_t>(1, size_in_bytes)))), size(size_in_bytes) {
    CML_REQUIRE(storage != nullptr);
  }
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  T* get(bool missing = false) const { return missing ? nullptr : storage.get(); }
  std::unique_ptr<T, Free> storage;
  size_t size;
};

struct Description {
  uint32_t booster, objective, features, groups, columns, rounds, trees, nodes, depth, leaf_size, policy,
      id_size;
  uint64_t plan_size;
  uint8_t digest[32];
  uint8_t rest[104];
};
static_assert(sizeof(Description) == 192, "as in the EDL");

void write_little_endian(Bytes* bytes, size_t offset, uint64_t value) {
  if (bytes->size() >= offset + sizeof value) std::memcpy(bytes->data() + offset, &value, sizeof value);
}

void fix_flat(uint8_t fix, Bytes* model) {
  if ((fix & kFixMagic) != 0 && model->size() >= 12) std::memcpy(model->data(), "CMLFLAT\0\1\0\0\0", 12);
  if ((fix & kFixSize) != 0) write_little_endian(model, 56, model->size());
}

void fix_sealed(uint8_t fix, Bytes* sealed) {
  if ((fix & kFixMagic) != 0 && sealed->size() >= 12) std::memcpy(sealed->data(), "CMLSEAL\0\2\0\0\0", 12);
  uint32_t header_size = 0;
  if ((fix & kFixDigest) == 0 || sealed->size() < 48) return;
  std::memcpy(&header_size, sealed->data() + 12, sizeof header_size);
  if (header_size < 48 || header_size > sealed->size()) return;
  CML_REQUIRE(sha256({{sealed->data(), 16}, {sealed->data() + 48, header_size - 48}}, sealed->data() + 16) ==
              Status::kOk);
}

// ---- the client's view of the enclave ----

constexpr size_t kReportBodySize = 384, kReportDataOffset = 320;
constexpr size_t kPredictFields = 40, kProvisionFields = 128;

bool is_zero(const Bytes& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

uint64_t used(const uint8_t size[8]) {
  uint64_t value = 0;
  std::memcpy(&value, size, sizeof value);
  return value;
}

template <typename T>
T field(const Bytes& bytes, size_t offset) {
  T value{};
  CML_REQUIRE(offset + sizeof value <= bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <typename T>
void set_field(Bytes* bytes, size_t offset, T value) {
  CML_REQUIRE(offset + sizeof value <= bytes->size());
  std::memcpy(bytes->data() + offset, &value, sizeof value);
}

// Claims that the report is bound to.
test::Claims claims_of(const Bytes& evidence) {
  CML_REQUIRE(evidence.size() >= kReportBodySize);
  const Bytes bytes = test::part(evidence, kReportBodySize, evidence.size() - kReportBodySize);
  CML_REQUIRE(test::part(evidence, kReportDataOffset, 64) == test::join({test::sha256_of(bytes), Bytes(32)}));
  const auto claims = test::parse_claims(bytes);
  CML_REQUIRE(claims.has_value());
  return *claims;
}

// Which epochs there are and how many requests each has opened: all inputs share one enclave.
class Epochs {
 public:
  struct Epoch {
    test::EpochKey key;
    uint32_t opened = 0;
  };

  Epochs() { see_next(); }

  void begin_next() {
    CML_REQUIRE(call(enclave_new_epoch) == Status::kOk);
    ended_ = former_.has_value() ? former_ : ended_;
    former_ = present_;
    see_next();
  }
  void end_former() {
    CML_REQUIRE(call(enclave_end_former_epoch) == Status::kOk);
    ended_ = former_.has_value() ? former_ : ended_;
    former_.reset();
  }

  // 0 the present, 1 the former, 2 one that has ended; the present if there is none such.
  const test::EpochKey& key(uint8_t which) const {
    if (which % 3 == 1 && former_.has_value()) return former_->key;
    if (which % 3 == 2 && ended_.has_value()) return ended_->key;
    return present_.key;
  }
  bool is_readable(const test::EpochKey& key) const {
    return key.digest == present_.key.digest || (former_.has_value() && key.digest == former_->key.digest);
  }
  void count_opened(const test::EpochKey& key) {
    if (key.digest == present_.key.digest) {
      if (++present_.opened < kMaxEpochRequests) return;
      ended_ = present_;
      former_.reset();
      see_next();
    } else if (++former_->opened == kMaxEpochRequests) {
      ended_ = former_;
      former_.reset();
    }
  }

  const test::Claims& claims() const { return claims_; }

 private:
  void see_next() {
    Bytes evidence(kMaxEvidenceSize);
    uint8_t size[8] = {};
    CML_REQUIRE(call(enclave_evidence, nullptr, size_t{0}, evidence.data(), evidence.size(), size) ==
                Status::kOk);
    evidence.resize(used(size));
    const uint64_t before = claims_.epoch;
    claims_ = claims_of(evidence);
    CML_REQUIRE(claims_.epoch == before + 1);
    present_ = {test::epoch_key(claims_), 0};
  }

  test::Claims claims_{};
  Epoch present_;
  std::optional<Epoch> former_, ended_;
};

Epochs& epochs() {
  static Epochs instance;
  return instance;
}

const test::OwnerKey& owner() {
  static const test::OwnerKey instance = test::new_owner();
  return instance;
}

test::RequestHeader header_from(const Bytes& bytes) {
  test::RequestHeader header;
  header.version = field<uint16_t>(bytes, 0);
  header.suite = field<uint16_t>(bytes, 2);
  header.kind = field<uint16_t>(bytes, 4);
  header.zero = field<uint16_t>(bytes, 6);
  header.key_id = test::part(bytes, 8, 8);
  header.model_digest = test::part(bytes, 16, 32);
  header.answer_size = field<uint32_t>(bytes, 48);
  header.zero_too = field<uint32_t>(bytes, 52);
  return header;
}

bool is_bucket(size_t size) { return test::smallest_bucket(size) == size; }

// Section 3 of the protocol, for the ecall of `kind`; key id and long answers aside.
bool has_form(const test::RequestHeader& header, uint16_t kind, size_t plaintext_size) {
  return header.version == 1 && header.suite == 1 && header.kind == kind && header.zero == 0 &&
         header.zero_too == 0 && is_bucket(plaintext_size) && is_bucket(header.answer_size) &&
         header.answer_size <= kMaxAnswerContent &&
         (kind == test::kPredictKind || is_zero(header.model_digest));
}

// Both ecalls that take a request, with buffers that are zeroed before and seen after.
struct Sent {
  Status status;
  Bytes answer, sealed;
  bool is_untouched;
};

Sent send_request(bool provision, const Bytes& request, size_t answer_capacity, size_t sealed_capacity,
                  uint8_t missing) {
  const Buffer<uint8_t> answer(answer_capacity), sealed(sealed_capacity);
  uint8_t answer_size[8] = {}, sealed_size[8] = {};
  const uint8_t* in = (missing & 1) != 0 ? nullptr : request.data();
  uint8_t* const size = (missing & 4) != 0 ? nullptr : answer_size;
  const Status status =
      provision
          ? call(enclave_import_model, in, request.size(), sealed.get(missing & 8), sealed.size,
                 (missing & 16) != 0 ? nullptr : sealed_size, answer.get(missing & 2), answer.size, size)
          : call(enclave_answer_request, in, request.size(), answer.get(missing & 2), answer.size, size);
  CML_REQUIRE(used(answer_size) <= answer.size && used(sealed_size) <= sealed.size);
  const Bytes whole_answer(answer.get(), answer.get() + answer.size),
      whole_sealed(sealed.get(), sealed.get() + sealed.size);
  // Beyond what was used there is nothing.
  CML_REQUIRE(is_zero(test::part(whole_sealed, used(sealed_size), sealed.size - used(sealed_size))));
  return {status, test::part(whole_answer, 0, used(answer_size)),
          test::part(whole_sealed, 0, used(sealed_size)),
          is_zero(whole_answer) && is_zero(whole_sealed) && used(answer_size) == 0 && used(sealed_size) == 0};
}

// What one input has made so far.
class Session {
 public:
  explicit Session(Reader input) : input_(input) {}
  ~Session() {
    for (const uint64_t handle : handles_) CML_REQUIRE(call(enclave_unload_model, handle) == Status::kOk);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bool step();

 private:
  void seal();
  void load_patched();
  void load_raw();
  void load(const Bytes& sealed);
  void predict();
  void unload();
  void describe();
  void identity();
  void start();
  void evidence();
  void raw_request();
  void sealed_request();

  bool may_need(const test::RequestHeader& header, size_t plaintext_size);
  void send(const SealedRequestStep& step, const Bytes& plaintext);
  void check_answer(const test::SealedRequest& request, const Bytes& plaintext, const Bytes& answer_bytes,
                    const Bytes& sealed);
  void check_prediction(const test::Answer& answer, const Bytes& request, const Bytes& plaintext);
  void check_provision(const test::Answer& answer, const Bytes& sealed);
  void fix_predict_fields(uint8_t which, Bytes* plaintext) const;
  static void fix_provision_fields(uint8_t fix, Bytes* plaintext);
  test::RequestHeader header_of(const SealedRequestStep& step, const test::EpochKey& epoch) const;

  Bytes take(size_t size) {
    size = std::min(size, input_.left());
    const uint8_t* bytes = input_.take(size);
    return bytes == nullptr ? Bytes() : Bytes(bytes, bytes + size);
  }
  uint64_t handle(uint8_t which) const {
    return handles_.empty() ? which : handles_[which % handles_.size()];
  }
  static Description description_of(uint64_t handle);

  Reader input_;
  Bytes ephemeral_;            // of the last request's enc
  std::vector<Bytes> sealed_;  // what the enclave itself has sealed: nothing else may ever open
  std::vector<uint64_t> handles_;
};

Description Session::description_of(uint64_t handle) {
  Description description{};
  uint8_t bytes[sizeof description] = {};
  CML_REQUIRE(call(enclave_describe_model, handle, bytes, sizeof bytes) == Status::kOk);
  std::memcpy(&description, bytes, sizeof description);
  return description;
}

void Session::seal() {
  const auto s = input_.read<SealStep>();
  Bytes model = take(s.model_size);
  fix_flat(s.fix, &model);
  const Bytes id(s.id_size, 'm');
  const size_t needed = model.size() + 332 + id.size() + 1024 + 16;
  const Buffer<uint8_t> output(needed - std::min<size_t>(needed, s.capacity_short * size_t{16}));
  uint8_t used_bytes[8] = {};
  const Status status =
      call(enclave_seal_model, model.data(), model.size(), id.data(), id.size(), uint32_t{s.policy},
           uint64_t{0}, nullptr, size_t{0}, output.get(), output.size, used_bytes);
  uint64_t used = 0;
  std::memcpy(&used, used_bytes, sizeof used);
  if (status != Status::kOk) {
    CML_REQUIRE(is_between(status, Status::kModelNotFlat, Status::kModelPlanTooLarge) ||
                is_between(status, Status::kModelIdInvalid, Status::kSealingPolicyUnknown) ||
                status == Status::kBufferTooSmall || status == Status::kInvalidArgument);
    return;
  }
  CML_REQUIRE(used <= output.size);
  sealed_.emplace_back(output.get(), output.get() + used);
  load(sealed_.back());
}

void Session::load(const Bytes& sealed) {
  uint8_t handle_bytes[8] = {};
  const Status status = call(enclave_load_model, sealed.data(), sealed.size(), handle_bytes);
  uint64_t handle = 0;
  std::memcpy(&handle, handle_bytes, sizeof handle);
  const bool is_genuine = std::find(sealed_.begin(), sealed_.end(), sealed) != sealed_.end();
  if (is_genuine) {
    CML_REQUIRE(status == Status::kOk || status == Status::kTooManyModels);
  } else {
    CML_REQUIRE(is_between(status, Status::kNotASealedModel, Status::kSealedKeyDiffers) ||
                (sealed.empty() && status == Status::kInvalidArgument));
  }
  CML_REQUIRE((status == Status::kOk) == (handle != 0));
  if (status == Status::kOk) handles_.push_back(handle);
}

void Session::load_patched() {
  const auto s = input_.read<LoadPatchedStep>();
  Bytes sealed = sealed_.empty() ? Bytes(900, s.which) : sealed_[s.which % sealed_.size()];
  for (uint8_t i = 0; i < s.patch_count && !input_.failed(); ++i) {
    const auto patch = input_.read<Patch>();
    const size_t offset = patch.offset % sealed.size();
    uint8_t& byte = sealed[patch.from_end != 0 ? sealed.size() - 1 - offset : offset];
    byte = static_cast<uint8_t>(byte ^ patch.xor_with);
  }
  sealed.resize(static_cast<size_t>(static_cast<ptrdiff_t>(sealed.size()) + s.size_change));
  fix_sealed(s.fix, &sealed);
  load(sealed);
}

void Session::load_raw() {
  const auto s = input_.read<LoadRawStep>();
  Bytes sealed = take(s.size);
  fix_sealed(s.fix, &sealed);
  load(sealed);
}

size_t changed(uint64_t size, int8_t change) {
  return static_cast<size_t>(std::max<int64_t>(0, static_cast<int64_t>(size) + change));
}

void Session::predict() {
  const auto s = input_.read<PredictStep>();
  const Bytes pattern = take(s.float_count * sizeof(float));
  const Description d = handles_.empty() ? Description{} : description_of(handle(s.which));
  constexpr uint64_t kSlow = 1u << 16;  // floats: beyond, an input takes seconds and nothing is learnt
  if (uint64_t{d.features} * s.row_count > kSlow || uint64_t{d.groups} * s.row_count > kSlow) return;
  const uint64_t row_size = d.features * sizeof(float), margin_size = d.groups * sizeof(float);
  const uint64_t columns = s.output_margin == 1 ? d.groups : d.columns;
  const Buffer<float> rows(changed(s.row_count * row_size, s.rows_change));
  const Buffer<float> base_margin(s.has_base_margin ? changed(s.row_count * margin_size, s.base_margin_change)
                                                    : 0);
  const Buffer<float> predictions(changed(s.row_count * columns * sizeof(float), s.predictions_change));
  auto* row_bytes = reinterpret_cast<uint8_t*>(rows.get());
  for (size_t i = 0; !pattern.empty() && i < rows.size; ++i) row_bytes[i] = pattern[i % pattern.size()];
  const Status status = call(enclave_predict, handle(s.which), uint32_t{s.output_margin}, s.round_begin,
                             s.round_end, uint64_t{s.row_count}, rows.get(s.missing_buffers & 1), rows.size,
                             base_margin.get(s.missing_buffers & 2), base_margin.size,
                             predictions.get(s.missing_buffers & 4), predictions.size);
  if (status == Status::kOk) {
    CML_REQUIRE(!handles_.empty() && rows.size == s.row_count * row_size);
    CML_REQUIRE(base_margin.size == 0 || base_margin.size == s.row_count * margin_size);
    CML_REQUIRE(predictions.size == s.row_count * columns * sizeof(float) && s.output_margin <= 1);
    return;
  }
  CML_REQUIRE(is_between(status, Status::kRowsSizeWrong, Status::kBaseMarginSizeWrong) ||
              status == Status::kInvalidArgument || status == Status::kUnknownModel);
}

void Session::unload() {
  const auto which = input_.read<uint8_t>();
  const uint64_t wanted = handle(which);
  const Status status = call(enclave_unload_model, wanted);
  CML_REQUIRE(status == (handles_.empty() ? Status::kUnknownModel : Status::kOk));
  handles_.erase(std::remove(handles_.begin(), handles_.end(), wanted), handles_.end());
  CML_REQUIRE(call(enclave_unload_model, wanted) == Status::kUnknownModel);
}

void Session::describe() {
  const auto which = input_.read<uint8_t>();
  const Buffer<uint8_t> output(input_.read<uint8_t>());
  const Status status = call(enclave_describe_model, handle(which), output.get(), output.size);
  CML_REQUIRE(status == (output.size != 192 ? Status::kInvalidArgument
                         : handles_.empty() ? Status::kUnknownModel
                                            : Status::kOk));
}

void Session::identity() {
  const Buffer<uint8_t> output(input_.read<uint8_t>());
  const Status status = call(enclave_identity, output.get(), output.size);
  CML_REQUIRE(status == (output.size == 72 ? Status::kOk : Status::kInvalidArgument));
}

void Session::start() {
  const Bytes platform_input = take(input_.read<uint8_t>());
  const Status status = call(enclave_start, platform_input.data(), platform_input.size());
  CML_REQUIRE(status == Status::kAlreadyStarted);
}

void Session::evidence() {
  const auto s = input_.read<EvidenceStep>();
  const Bytes nonce = take(s.nonce_size);
  const Buffer<uint8_t> output(s.capacity);
  uint8_t size[8] = {};
  const bool no_nonce = (s.missing_buffers & 1) != 0 && !nonce.empty();
  const Status status =
      call(enclave_evidence, no_nonce ? nullptr : nonce.data(), nonce.size(),
           output.get(s.missing_buffers & 2), output.size, (s.missing_buffers & 4) != 0 ? nullptr : size);
  if (no_nonce || nonce.size() > 64 || (s.missing_buffers & 6) != 0) {
    CML_REQUIRE(status == Status::kInvalidArgument && used(size) == 0);
    return;
  }
  if (status == Status::kBufferTooSmall) {
    CML_REQUIRE(used(size) == 0 && output.size < kReportBodySize + 152 + 64 + 150 * handles_.size());
    return;
  }
  CML_REQUIRE(status == Status::kOk && used(size) <= output.size);
  const test::Claims claims = claims_of(Bytes(output.get(), output.get() + used(size)));
  CML_REQUIRE(claims.nonce == nonce && claims.epoch_digest == epochs().key(0).digest);
  CML_REQUIRE(claims.models.size() == handles_.size());
  for (size_t i = 0; i < handles_.size(); ++i) {
    const Description d = description_of(handles_[i]);
    CML_REQUIRE(claims.models[i].digest == Bytes(d.digest, d.digest + 32));
    CML_REQUIRE(claims.models[i].features == d.features && claims.models[i].groups == d.groups);
    CML_REQUIRE(claims.models[i].value_columns == d.columns && claims.models[i].id.size() == d.id_size);
  }
}

void Session::raw_request() {
  const auto s = input_.read<RawRequestStep>();
  const bool provision = s.kind % 2 == 0;
  Bytes request = take(s.size);
  if ((s.fix & kFixPadding) != 0) request.resize(120 + test::smallest_bucket(request.size()));
  if ((s.fix & kFixHeader) != 0 && request.size() >= 56) {
    const Bytes header = test::request_header(epochs().key(0), provision ? 2 : 1, Bytes(32), 256).bytes();
    std::copy(header.begin(), header.end(), request.begin());
  }
  const size_t capacity = 320 - std::min<size_t>(320, s.capacity_short);
  const uint8_t missing = s.missing_buffers & (provision ? 31 : 7);
  const Sent sent = send_request(provision, request, capacity, 100, missing);
  const bool refused = (missing & ~1) != 0 || ((missing & 1) != 0 && !request.empty());
  CML_REQUIRE(sent.is_untouched);
  CML_REQUIRE(refused ? sent.status == Status::kInvalidArgument
                      : sent.status == Status::kRequestUnreadable ||
                            (sent.status == Status::kBufferTooSmall && request.size() >= 52 &&
                             capacity < 64 + field<uint32_t>(request, 48)));
}

// Rows as many as the bytes hold; a base margin if there is to be one.
void Session::fix_predict_fields(uint8_t which, Bytes* plaintext) const {
  if (handles_.empty() || plaintext->size() < kPredictFields) return;
  const Description d = description_of(handle(which));
  const size_t row_size = d.features * sizeof(float);
  const uint64_t rows = (plaintext->size() - kPredictFields) / row_size;
  const bool with_base_margin = field<uint64_t>(*plaintext, 24) % 2 == 1 && rows * d.groups < 10000;
  const uint64_t base_margin = with_base_margin ? rows * d.groups * sizeof(float) : 0;
  plaintext->resize(kPredictFields + rows * row_size + base_margin);
  set_field(plaintext, 0, field<uint32_t>(*plaintext, 0) % 4);
  set_field(plaintext, 4, field<uint32_t>(*plaintext, 4) % (d.rounds + 2));
  set_field(plaintext, 8, field<uint32_t>(*plaintext, 8) % (d.rounds + 2));
  set_field(plaintext, 12, d.features);
  set_field(plaintext, 16, rows);
  set_field(plaintext, 24, base_margin);
}

void Session::fix_provision_fields(uint8_t fix, Bytes* plaintext) {
  if (plaintext->size() < kProvisionFields + 64) return;
  const auto id_size = static_cast<uint16_t>(field<uint16_t>(*plaintext, 6) % 65);
  set_field(plaintext, 0, 1 + field<uint32_t>(*plaintext, 0) % 2);
  set_field(plaintext, 4, uint16_t{0});
  set_field(plaintext, 6, id_size);
  std::fill_n(plaintext->begin() + kProvisionFields, id_size, uint8_t{'m'});
  Bytes flat =
      test::part(*plaintext, kProvisionFields + id_size, plaintext->size() - kProvisionFields - id_size);
  if ((fix & kFixFlat) != 0) fix_flat(kFixMagic | kFixSize, &flat);
  set_field(plaintext, 24, uint64_t{flat.size()});
  std::copy(flat.begin(), flat.end(),
            plaintext->begin() + static_cast<ptrdiff_t>(kProvisionFields + id_size));
  std::fill_n(plaintext->begin() + 32, 96, uint8_t{0});
  if ((fix & kFixOwner) == 0) return;
  const Bytes signature = test::owner_signature(owner(), test::sha256_of(flat),
                                                field<uint64_t>(*plaintext, 8), std::string(id_size, 'm'));
  std::copy(owner().public_key.begin(), owner().public_key.end(), plaintext->begin() + 32);
  std::copy(signature.begin(), signature.end(), plaintext->begin() + 64);
}

test::RequestHeader Session::header_of(const SealedRequestStep& step, const test::EpochKey& epoch) const {
  Bytes digest(32);
  if (step.kind % 2 == 1 && !handles_.empty()) {
    const Description d = description_of(handle(step.which));
    digest.assign(d.digest, d.digest + 32);
  }
  uint32_t answer_size = step.answer_size % (1u << 20);
  if ((step.fix & kFixHeader) != 0) answer_size = static_cast<uint32_t>(test::smallest_bucket(answer_size));
  Bytes bytes = test::request_header(epoch, step.kind, digest, answer_size).bytes();
  const size_t offset = step.header_offset % bytes.size();
  bytes[offset] = static_cast<uint8_t>(bytes[offset] ^ step.header_xor);
  return header_from(bytes);
}

void Session::sealed_request() {
  const auto s = input_.read<SealedRequestStep>();
  Bytes plaintext = take(s.size);
  if ((s.fix & kFixFields) != 0 && s.kind % 2 == 1) fix_predict_fields(s.which, &plaintext);
  if ((s.fix & kFixFields) != 0 && s.kind % 2 == 0) fix_provision_fields(s.fix, &plaintext);
  if ((s.fix & kFixPadding) != 0) plaintext = test::padded(plaintext);
  send(s, plaintext);
}

// Section 3 of the protocol: no more than 64 KiB, or than an answer to so long a request can have.
bool Session::may_need(const test::RequestHeader& header, size_t plaintext_size) {
  if (header.answer_size <= 64u << 10) return true;
  if (header.kind == test::kProvisionKind) return false;
  size_t features = 1, columns = 1;
  for (const uint64_t handle : handles_) {
    const Description d = description_of(handle);
    if (std::memcmp(d.digest, header.model_digest.data(), sizeof d.digest) != 0) continue;
    features = d.features;
    columns = std::max(d.groups, d.columns);
  }
  const size_t rows = (plaintext_size - kPredictFields) / (4 * features);
  return header.answer_size <= test::smallest_bucket(48 + 344 + rows * columns * 4);
}

void Session::send(const SealedRequestStep& step, const Bytes& plaintext) {
  const test::EpochKey epoch = epochs().key(step.epoch);
  const test::RequestHeader header = header_of(step, epoch);
  const bool provision = step.kind % 2 == 0;
  if ((step.fix & kFixSender) == 0 || ephemeral_.empty()) ephemeral_ = test::random_bytes(32);
  test::SealedRequest request =
      test::seal_request(epoch, header, plaintext, ephemeral_, test::random_bytes(16));
  const size_t offset = step.patch.offset % request.bytes.size();
  uint8_t& byte = request.bytes[step.patch.from_end != 0 ? request.bytes.size() - 1 - offset : offset];
  byte = static_cast<uint8_t>(byte ^ step.patch.xor_with);
  const test::RequestHeader sent_header = header_from(test::part(request.bytes, 0, 56));
  const bool formed =
      has_form(sent_header, provision ? 2 : 1, plaintext.size()) && may_need(sent_header, plaintext.size());
  bool readable = formed && step.patch.xor_with == 0 && epochs().is_readable(epoch) &&
                  header.key_id == test::part(epoch.digest, 0, 8);
  const size_t room = 64 + size_t{formed ? sent_header.answer_size : 0};
  const size_t sealed_room = plaintext.size() + 2000;
  if (step.capacity_short > 0) {
    const Sent sent = send_request(provision, request.bytes,
                                   room - std::min<size_t>(room, step.capacity_short), sealed_room, 0);
    CML_REQUIRE(sent.is_untouched &&
                sent.status == (room > 64 ? Status::kBufferTooSmall : Status::kRequestUnreadable));
  }
  for (int i = 0; i <= step.times % 3; ++i) {
    const Sent sent = send_request(provision, request.bytes, room, sealed_room, 0);
    CML_REQUIRE(sent.status == (readable ? Status::kOk : Status::kRequestUnreadable));
    CML_REQUIRE(readable || sent.is_untouched);
    if (readable) {
      epochs().count_opened(epoch);
      check_answer(request, plaintext, sent.answer, sent.sealed);
    }
    readable = false;  // a second time
  }
}

void Session::check_answer(const test::SealedRequest& request, const Bytes& plaintext,
                           const Bytes& answer_bytes, const Bytes& sealed) {
  const auto answer = test::open_answer(request, answer_bytes);
  CML_REQUIRE(answer.has_value());
  if (!answer->receipt.empty()) {
    const auto receipt = test::verify_receipt(answer->receipt, epochs().claims().receipt_public_key);
    CML_REQUIRE(receipt.has_value() && receipt->request_digest == test::sha256_of(request.bytes));
    CML_REQUIRE(receipt->content_digest == (sealed.empty()
                                                ? test::blinded_content_digest(answer->blind, answer->content)
                                                : test::sha256_of(sealed)));
  }
  if (field<uint16_t>(request.bytes, 4) == test::kProvisionKind) {
    check_provision(*answer, sealed);
  } else {
    check_prediction(*answer, request.bytes, plaintext);
  }
}

void Session::check_provision(const test::Answer& answer, const Bytes& sealed) {
  const auto status = static_cast<Status>(answer.status);
  CML_REQUIRE((status == Status::kOk) == !sealed.empty() && sealed.empty() == answer.receipt.empty());
  if (status == Status::kOk) {
    sealed_.push_back(sealed);
    load(sealed);
    return;
  }
  CML_REQUIRE(is_between(status, Status::kModelNotFlat, Status::kModelPlanTooLarge) ||
              is_between(status, Status::kModelIdInvalid, Status::kOwnerSignatureWrong) ||
              status == Status::kRequestInvalid || status == Status::kAnswerTooSmall);
}

void Session::check_prediction(const test::Answer& answer, const Bytes& request, const Bytes& plaintext) {
  const auto status = static_cast<Status>(answer.status);
  if (status != Status::kOk) {
    CML_REQUIRE(is_between(status, Status::kRowsSizeWrong, Status::kBaseMarginSizeWrong) ||
                status == Status::kRequestInvalid || status == Status::kAnswerTooSmall ||
                status == Status::kUnknownModel);
    return;
  }
  const auto found = std::find_if(handles_.begin(), handles_.end(), [&](uint64_t handle) {
    const Description d = description_of(handle);
    return std::memcmp(d.digest, request.data() + 16, sizeof d.digest) == 0;
  });
  CML_REQUIRE(found != handles_.end());
  const auto row_count = field<uint64_t>(plaintext, 16), base_margin_size = field<uint64_t>(plaintext, 24);
  const size_t rows_size = row_count * field<uint32_t>(plaintext, 12) * sizeof(float);
  const Buffer<float> rows(rows_size), base_margin(base_margin_size), expected(answer.content.size());
  std::memcpy(rows.get(), plaintext.data() + kPredictFields, rows_size);
  std::memcpy(base_margin.get(), plaintext.data() + kPredictFields + rows_size, base_margin_size);
  CML_REQUIRE(call(enclave_predict, *found, field<uint32_t>(plaintext, 0) & 1, field<uint32_t>(plaintext, 4),
                   field<uint32_t>(plaintext, 8), row_count, rows.get(), rows.size, base_margin.get(),
                   base_margin.size, expected.get(), expected.size) == Status::kOk);
  const auto* expected_bytes = reinterpret_cast<const uint8_t*>(expected.get());
  CML_REQUIRE(answer.content == Bytes(expected_bytes, expected_bytes + expected.size));
}

bool Session::step() {
  if (input_.left() == 0 || input_.failed()) return false;
  switch (input_.read<uint8_t>() % kCodeCount) {
    case kSeal:
      seal();
      break;
    case kLoadPatched:
      load_patched();
      break;
    case kLoadRaw:
      load_raw();
      break;
    case kPredict:
      predict();
      break;
    case kUnload:
      unload();
      break;
    case kDescribe:
      describe();
      break;
    case kIdentity:
      identity();
      break;
    case kEvidence:
      evidence();
      break;
    case kNewEpoch:
      epochs().begin_next();
      break;
    case kEndFormerEpoch:
      epochs().end_former();
      break;
    case kRawRequest:
      raw_request();
      break;
    case kSealedRequest:
      sealed_request();
      break;
    default:
      start();
  }
  return true;
}

}  // namespace
}  // namespace confidential_ml::fuzz

// Before the first input: libFuzzer takes stock of the loaded modules at its start, and the image is one.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  static_cast<void>(confidential_ml::fuzz::enclave());
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int kMaxSteps = 32;
  confidential_ml::fuzz::Session session(confidential_ml::Reader(data, size));
  for (int i = 0; i < kMaxSteps && session.step(); ++i) {
  }
  return 0;
}
