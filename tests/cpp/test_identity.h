// The identity of the "enclave" that a unit test is, for the trusted code that is linked into it.
#pragma once

#include "simulation/simulated_identity.h"

namespace confidential_ml::test {

// An enclave of product 1, SVN 5, with measurements of its own.
confidential_ml_simulated_identity default_identity();

void become(const confidential_ml_simulated_identity& identity);

}  // namespace confidential_ml::test
