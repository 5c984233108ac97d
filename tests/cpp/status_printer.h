// Lets GoogleTest print a status as its number.
#pragma once

#include <ostream>

#include "common/status.h"

namespace confidential_ml {

inline std::ostream& operator<<(std::ostream& out, Status status) {
  return out << "status " << static_cast<uint32_t>(status);
}

}  // namespace confidential_ml
