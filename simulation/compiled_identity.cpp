// The identity of an image that runs under the real Open Enclave runtime in simulate mode, where nothing
// measures it: a digest that the build made of the image itself, compiled in
// (enclave/openenclave_image.cmake).
#include "simulation/simulated_identity.h"

namespace {

constexpr confidential_ml_simulated_identity kCompiledIdentity =
#include "compiled_identity.inc"
    ;

}  // namespace

const confidential_ml_simulated_identity* simulated_identity() { return &kCompiledIdentity; }
