#include "host/enclave.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "build_config.h"
#include "common/bytes.h"
#include "common/limits.h"
#include "confidential_ml_u.h"
#include "host/enclave_call.h"
#include "host/status_table.h"

namespace confidential_ml::host {
namespace {

constexpr size_t kIdentitySize = 72;
constexpr size_t kDescriptionSize = 192;
constexpr size_t kRequestHeaderSize = 56, kAnswerSizeOffset = 48;  // of a confidential request
constexpr size_t kRequestOverhead = 120, kAnswerOverhead = 64;
// The least that is worth an ecall of its own to find out whether it is asked for in earnest.
constexpr size_t kLargeMessage = 64 << 10;

// Counts forks, so that "is this still the process that made the enclave" costs one load instead of a system
// call.
std::atomic<uint64_t> process_generation{0};

uint64_t watch_forks() {
  static const int installed =
      pthread_atfork(nullptr, nullptr, [] { process_generation.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(installed);
  return process_generation.load(std::memory_order_relaxed);
}

// What to look at when an enclave cannot be created; the SDK's own log on standard error says more.
constexpr const char* kCreationAdvice =
    kTakesFuseKey
        ? "; check that the image exists, is signed and was built for this platform"
        : "; check that the image exists and is signed, and that this machine has SGX, its driver and the "
          "SGX runtime (docs/building.md)";

std::string read_string(Reader& reader, size_t size) {
  std::string value(size, '\0');
  reader.copy_to(value.data(), size);
  return value;
}

uint8_t* bytes_of(std::string& buffer) { return reinterpret_cast<uint8_t*>(buffer.data()); }

// An output buffer to the size that the enclave says it has used.
void cut(std::string* buffer, const uint8_t size_bytes[8]) {
  const auto size = Reader(size_bytes, 8).read<uint64_t>();
  if (size > buffer->size()) throw EnclaveException(Status::kInternal);
  buffer->resize(size);
}

// As the request says it in clear.
uint32_t answer_size_of(ByteView request) {
  Reader reader(request.data, request.size);
  reader.take(kAnswerSizeOffset);
  return reader.read<uint32_t>();
}

}  // namespace

Enclave::Enclave(const std::string& image, ByteView platform_input)
    : process_generation_(watch_forks()), shared_(std::make_unique<Shared>()) {
  const oe_result_t created = oe_create_confidential_ml_enclave(image.c_str(), OE_ENCLAVE_TYPE_SGX,
                                                                kCreateFlags, nullptr, 0, &shared_->enclave);
  if (created != OE_OK) {
    throw EnclaveException("the enclave could not be created from " + image + ": " + oe_result_str(created) +
                           kCreationAdvice);
  }
  try {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_start(call.get(), &status, platform_input.data, platform_input.size);
    finish(call, result, status);
  } catch (...) {
    oe_terminate_enclave(shared_->enclave);
    throw;
  }
}

Enclave::~Enclave() {
  close();
  if (!is_forked()) return;
  // Kept in a list: what cannot be destroyed here shall not count as leaked either.
  static std::atomic<Shared*> inherited{nullptr};
  Shared* kept = shared_.release();
  kept->next_inherited = inherited.exchange(kept);
}

bool Enclave::is_forked() const {
  return process_generation_ != process_generation.load(std::memory_order_relaxed);
}

void Enclave::finish(const Call&, oe_result_t result, uint32_t status) const {
  if (result != OE_OK)
    throw EnclaveException(std::string("the call into the enclave failed: ") + oe_result_str(result));
  if (status != static_cast<uint32_t>(Status::kOk)) throw EnclaveException(static_cast<Status>(status));
}

Identity Enclave::identity() {
  uint8_t buffer[kIdentitySize] = {};
  {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_identity(call.get(), &status, buffer, sizeof buffer);
    finish(call, result, status);
  }
  Reader reader(buffer, sizeof buffer);
  Identity identity;
  identity.platform = reader.read<uint16_t>();
  identity.isv_prod_id = reader.read<uint16_t>();
  identity.isv_svn = reader.read<uint16_t>();
  identity.debug = reader.read<uint16_t>() != 0;
  identity.mrenclave = read_string(reader, 32);
  identity.mrsigner = read_string(reader, 32);
  return identity;
}

std::string Enclave::seal_model(ByteView model, const SealingRequest& request) {
  if (model.size > kMaxFlatModelSize) throw EnclaveException(Status::kModelLimitExceeded);
  std::string sealed(model.size + kMaxSealedHeaderSize + 16, '\0');
  uint8_t size[8] = {};
  {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_seal_model(
        call.get(), &status, model.data, model.size,
        reinterpret_cast<const uint8_t*>(request.model_id.data()), request.model_id.size(), request.policy,
        request.model_version, request.owner.data, request.owner.size, bytes_of(sealed), sealed.size(), size);
    finish(call, result, status);
  }
  cut(&sealed, size);
  return sealed;
}

uint64_t Enclave::load_model(ByteView sealed) {
  if (sealed.size > kMaxSealedModelSize) throw EnclaveException(Status::kModelLimitExceeded);
  uint8_t handle[8] = {};
  const Call call(*this);
  uint32_t status = 0;
  const oe_result_t result = enclave_load_model(call.get(), &status, sealed.data, sealed.size, handle);
  finish(call, result, status);
  const auto value = Reader(handle, sizeof handle).read<uint64_t>();
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->models[value] = {};
  return value;
}

void Enclave::unload_model(uint64_t handle) {
  check_open();
  {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    const auto found = shared_->models.find(handle);
    if (found == shared_->models.end() || found->second.unloading) {
      throw EnclaveException(Status::kUnknownModel);
    }
    found->second.unloading = true;
    if (is_interrupted()) {
      found->second.deferred = shared_->any_deferred = true;
      return;
    }
    wait_and_unload(&lock, handle);
  }
}

// Gives the lock back.
void Enclave::wait_and_unload(std::unique_lock<std::mutex>* lock, uint64_t handle) {
  const auto found = shared_->models.find(handle);
  shared_->changed.wait(*lock, [&] { return found->second.predictions == 0; });
  shared_->models.erase(found);  // handles are never used twice
  lock->unlock();
  const Call call(*this);
  uint32_t status = 0;
  const oe_result_t result = enclave_unload_model(call.get(), &status, handle);
  finish(call, result, status);
}

ModelDescription Enclave::describe_model(uint64_t handle) {
  uint8_t buffer[kDescriptionSize] = {};
  {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_describe_model(call.get(), &status, handle, buffer, sizeof buffer);
    finish(call, result, status);
  }
  Reader reader(buffer, sizeof buffer);
  ModelDescription d;
  for (uint32_t* field : {&d.booster, &d.objective, &d.feature_count, &d.group_count, &d.value_columns,
                          &d.round_count, &d.tree_count, &d.node_count, &d.depth, &d.leaf_size, &d.policy}) {
    *field = reader.read<uint32_t>();
  }
  const auto id_size = reader.read<uint32_t>();
  d.plan_size = reader.read<uint64_t>();
  d.digest = read_string(reader, 32);
  d.owner = read_string(reader, 32);
  d.model_version = reader.read<uint64_t>();
  d.model_id = read_string(reader, std::min<size_t>(id_size, kMaxModelIdSize));
  return d;
}

std::string Enclave::evidence(ByteView nonce) {
  std::string evidence(kMaxEvidenceSize, '\0');
  uint8_t size[8] = {};
  {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_evidence(call.get(), &status, nonce.data, nonce.size,
                                                bytes_of(evidence), evidence.size(), size);
    finish(call, result, status);
  }
  cut(&evidence, size);
  return evidence;
}

void Enclave::new_epoch() {
  const Call call(*this);
  uint32_t status = 0;
  const oe_result_t result = enclave_new_epoch(call.get(), &status);
  finish(call, result, status);
}

void Enclave::end_former_epoch() {
  const Call call(*this);
  uint32_t status = 0;
  const oe_result_t result = enclave_end_former_epoch(call.get(), &status);
  finish(call, result, status);
}

void Enclave::check_request(ByteView header, uint64_t request_size) {
  if (header.size != kRequestHeaderSize) throw EnclaveException(Status::kRequestUnreadable);
  const Call call(*this);
  uint32_t status = 0;
  const oe_result_t result =
      enclave_check_request(call.get(), &status, header.data, header.size, request_size);
  finish(call, result, status);
}

// Room for the answer. What is longer than any request is not even looked at, and nothing that is large is
// copied or set aside for before the enclave has seen the header.
std::string Enclave::answer_buffer(ByteView request, size_t max_content) {
  if (request.size < kRequestHeaderSize || request.size > kRequestOverhead + max_content)
    throw EnclaveException(Status::kRequestUnreadable);
  const uint32_t size = answer_size_of(request);
  if (request.size > kLargeMessage || size > kLargeMessage)
    check_request({request.data, kRequestHeaderSize}, request.size);
  return std::string(kAnswerOverhead + size, '\0');
}

std::string Enclave::answer_request(ByteView request) {
  std::string answer = answer_buffer(request, kMaxRequestContent);
  uint8_t size[8] = {};
  {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_answer_request(call.get(), &status, request.data, request.size,
                                                      bytes_of(answer), answer.size(), size);
    finish(call, result, status);
  }
  cut(&answer, size);
  return answer;
}

ImportedModel Enclave::import_model(ByteView request) {
  ImportedModel imported;
  imported.answer = answer_buffer(request, kMaxProvisionContent);
  imported.sealed.resize(std::min<size_t>(request.size + kMaxSealedHeaderSize + 16, kMaxSealedModelSize));
  uint8_t sealed_size[8] = {}, answer_size[8] = {};
  {
    const Call call(*this);
    uint32_t status = 0;
    const oe_result_t result = enclave_import_model(
        call.get(), &status, request.data, request.size, bytes_of(imported.sealed), imported.sealed.size(),
        sealed_size, bytes_of(imported.answer), imported.answer.size(), answer_size);
    finish(call, result, status);
  }
  cut(&imported.sealed, sealed_size);
  cut(&imported.answer, answer_size);
  return imported;
}

void Enclave::close() {
  if (is_forked()) return;
  std::unique_lock<std::mutex> lock(shared_->mutex);
  const bool first = !shared_->closing;
  shared_->closing = true;
  shared_->changed.notify_all();
  if (is_interrupted()) {
    if (first) shared_->close_deferred = shared_->any_deferred = true;
    return;
  }
  if (first) return wait_and_end(&lock);
  shared_->changed.wait(lock, [&] { return shared_->calls == 0 && shared_->predictions == 0; });
}

void Enclave::wait_and_end(std::unique_lock<std::mutex>* lock) {
  shared_->changed.wait(*lock, [&] { return shared_->calls == 0 && shared_->predictions == 0; });
  oe_terminate_enclave(shared_->enclave);
  shared_->enclave = nullptr;
}

bool Enclave::is_interrupted() const {
  for (const Interruption* one = interruption; one != nullptr; one = one->outer) {
    if (one->enclave == this) return true;
  }
  return false;
}

// What signal handlers have asked for on top of predictions that are over now.
void Enclave::finish_deferred() {
  if (!shared_->any_deferred || is_interrupted() || is_forked()) return;
  std::unique_lock<std::mutex> lock(shared_->mutex);
  const auto is_due = [](const auto& entry) {
    return entry.second.deferred && entry.second.predictions == 0;
  };
  auto& models = shared_->models;
  for (auto due = std::find_if(models.begin(), models.end(), is_due); due != models.end();
       due = std::find_if(models.begin(), models.end(), is_due)) {
    try {
      wait_and_unload(&lock, due->first);
    } catch (const EnclaveException&) {
      // Closed meanwhile: the model goes with the enclave.
    }
    lock.lock();
  }
  if (shared_->predictions == 0 && std::exchange(shared_->close_deferred, false)) wait_and_end(&lock);
}

void Enclave::check_open() const {
  if (is_forked()) {
    throw EnclaveException(
        "the enclave was made before this process was forked and belongs to the parent; make a new Enclave "
        "and load the model again in the child");
  }
  if (shared_->closing) throw EnclaveException(kClosed);
}

bool Enclave::is_open() const { return !is_forked() && !shared_->closing; }

}  // namespace confidential_ml::host
