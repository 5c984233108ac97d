#include "enclave/cpu.h"

namespace confidential_ml {

// Built for the x86-64 baseline: nothing to ask for.
bool cpu_is_suitable() { return true; }

}  // namespace confidential_ml
