#include "enclave/registry.h"

#include <cstring>
#include <utility>

#include "common/limits.h"

namespace confidential_ml {

Status Registry::add(std::shared_ptr<const LoadedModel> model, uint64_t* handle) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (models_.size() >= kMaxLoadedModels) return Status::kTooManyModels;
  models_.emplace(last_handle_ + 1, std::move(model));
  *handle = ++last_handle_;
  return Status::kOk;
}

Status Registry::remove(uint64_t handle) {
  std::shared_ptr<const LoadedModel> removed;  // its memory is wiped after the lock is given back
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = models_.find(handle);
  if (found == models_.end()) return Status::kUnknownModel;
  removed = std::move(found->second);
  models_.erase(found);
  return Status::kOk;
}

std::shared_ptr<const LoadedModel> Registry::find(uint64_t handle) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = models_.find(handle);
  return found == models_.end() ? nullptr : found->second;
}

std::shared_ptr<const LoadedModel> Registry::find_by_digest(const uint8_t digest[kSha256Size]) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [handle, model] : models_) {
    if (std::memcmp(model->description.model_digest, digest, kSha256Size) == 0) return model;
  }
  return nullptr;
}

LoadedModels Registry::all() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  LoadedModels models;
  for (const auto& [handle, model] : models_) models.push_back(model);
  return models;
}

}  // namespace confidential_ml
