// Whether this CPU has the instructions the image was built for. cpu_avx2.cpp or cpu_portable.cpp, CMake
// chooses.
#pragma once

namespace confidential_ml {

[[nodiscard]] bool cpu_is_suitable();

}  // namespace confidential_ml
