#include "tests/cpp/test_identity.h"

#include <cstring>

namespace {

confidential_ml_simulated_identity current = confidential_ml::test::default_identity();

}  // namespace

const confidential_ml_simulated_identity* simulated_identity() { return &current; }

namespace confidential_ml::test {

confidential_ml_simulated_identity default_identity() {
  confidential_ml_simulated_identity identity{};
  std::memset(identity.mrenclave, 0xe1, sizeof identity.mrenclave);
  std::memset(identity.mrsigner, 0x51, sizeof identity.mrsigner);
  identity.isv_prod_id = 1;
  identity.isv_svn = 5;
  identity.platform = 1;
  return identity;
}

void become(const confidential_ml_simulated_identity& identity) { current = identity; }

}  // namespace confidential_ml::test
