// The loaded models, under handles that are numbers and never pointers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "common/status.h"
#include "enclave/forest.h"
#include "enclave/sealing.h"

namespace confidential_ml {

struct LoadedModel {
  LoadedModel(Model model, const SealedDescription& sealed_description)
      : forest(std::move(model)), description(sealed_description) {}

  const Forest forest;
  const SealedDescription description;
};

using LoadedModels = std::vector<std::shared_ptr<const LoadedModel>>;

class Registry {
 public:
  // May throw std::bad_alloc.
  [[nodiscard]] Status add(std::shared_ptr<const LoadedModel> model, uint64_t* handle);
  [[nodiscard]] Status remove(uint64_t handle);

  // Null if there is no such model. The model lives on while a caller holds it, whatever is removed
  // meanwhile.
  [[nodiscard]] std::shared_ptr<const LoadedModel> find(uint64_t handle) const;
  [[nodiscard]] std::shared_ptr<const LoadedModel> find_by_digest(const uint8_t digest[kSha256Size]) const;

  // In the order they were loaded. May throw std::bad_alloc.
  [[nodiscard]] LoadedModels all() const;

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, std::shared_ptr<const LoadedModel>> models_;
  uint64_t last_handle_ = 0;
};

}  // namespace confidential_ml
