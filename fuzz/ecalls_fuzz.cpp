// libFuzzer target: sequences of ecalls with hostile arguments, through the generated glue and the signed
// image. Beside what the sanitizers find it stops when an answer is wrong: a status of another block, a
// sealed model that opens although it was changed, a prediction with sizes that do not fit.

#include <openenclave/host.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "common/bytes.h"
#include "common/limits.h"
#include "common/status.h"
#include "confidential_ml_u.h"
#include "enclave/crypto.h"
#include "fuzz/steps.h"
#include "simulation/loader.h"

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
  uint8_t rest[144];
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
  const Status status = call(enclave_seal_model, model.data(), model.size(), id.data(), id.size(),
                             uint32_t{s.policy}, uint64_t{0}, nullptr, size_t{0}, output.get(), output.size, used_bytes);
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
  CML_REQUIRE(status == (output.size != 144 ? Status::kInvalidArgument
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
