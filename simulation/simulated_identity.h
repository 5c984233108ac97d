// The identity that SGX would keep in the enclave's SECS: measured by the loader, handed to the image after
// loading.
#ifndef CONFIDENTIAL_ML_SIMULATION_SIMULATED_IDENTITY_H
#define CONFIDENTIAL_ML_SIMULATION_SIMULATED_IDENTITY_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct confidential_ml_simulated_identity {
  uint8_t mrenclave[32];
  uint8_t mrsigner[32];
  uint16_t isv_prod_id;
  uint16_t isv_svn;
  uint16_t platform;  // docs/formats.md 2.1: 1 simulation, 2 openenclave-simulation
  uint32_t debug;
};

// Exported by the image; the loader calls it once, before the first ecall.
void confidential_ml_simulation_set_identity(const struct confidential_ml_simulated_identity* identity);

#ifdef __cplusplus
}

// Null as long as nobody has told the image who it is.
const confidential_ml_simulated_identity* simulated_identity();
#endif

#endif  // CONFIDENTIAL_ML_SIMULATION_SIMULATED_IDENTITY_H
