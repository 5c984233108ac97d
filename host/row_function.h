// The short way from Python into the enclave, for rows that need no conversion and a call without options:
// for a single row the call costs more than the prediction.
#pragma once

#include <pybind11/pybind11.h>

#include "host/enclave.h"

namespace confidential_ml::host {

struct BoundModel {
  pybind11::object keeps_alive;  // the Enclave's Python object
  Enclave* enclave;
  uint64_t handle;
  size_t feature_count, group_count, columns, node_count;
};

// A function of one argument. It returns the values of the rows, or NotImplemented unless the argument is a
// C-contiguous, aligned, native float32 matrix of feature_count columns and at least one row.
pybind11::object row_function(BoundModel model);

}  // namespace confidential_ml::host
