#include "simulation/simulated_identity.h"

namespace {

confidential_ml_simulated_identity measured_identity;
bool measured = false;

}  // namespace

extern "C" __attribute__((visibility("default"))) void confidential_ml_simulation_set_identity(
    const confidential_ml_simulated_identity* identity) {
  measured_identity = *identity;
  measured = true;
}

const confidential_ml_simulated_identity* simulated_identity() {
  return measured ? &measured_identity : nullptr;
}
