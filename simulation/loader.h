// What the loader of simulated enclaves offers beyond Open Enclave's host API (<openenclave/host.h>).
#ifndef CONFIDENTIAL_ML_SIMULATION_LOADER_H
#define CONFIDENTIAL_ML_SIMULATION_LOADER_H

#include <openenclave/host.h>

#include "simulation/simulated_identity.h"

OE_EXTERNC_BEGIN

// Why the last oe_create_enclave or oe_terminate_enclave of this thread failed, for people; "" after a
// success.
const char* confidential_ml_simulation_last_error(void);

// The identity that was measured and handed to the image.
oe_result_t confidential_ml_simulation_identity(oe_enclave_t* enclave,
                                                struct confidential_ml_simulated_identity* identity);

OE_EXTERNC_END

#endif  // CONFIDENTIAL_ML_SIMULATION_LOADER_H
