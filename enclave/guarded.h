// What is thrown in the enclave becomes a status; nothing thrown passes the boundary.
#pragma once

#include <new>

#include "common/status.h"
#include "enclave/plan.h"

namespace confidential_ml {

template <typename Body>
[[nodiscard]] Status guarded(Body body) noexcept {
  try {
    return body();
  } catch (const PlanLimitExceeded&) {
    return Status::kModelPlanTooLarge;
  } catch (const RandomFailure&) {
    return Status::kRandomFailed;
  } catch (const std::bad_alloc&) {
    return Status::kOutOfMemory;
  } catch (...) {
    return Status::kInternal;
  }
}

}  // namespace confidential_ml
