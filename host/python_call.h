// Calls into an enclave from Python: without the GIL, and with errors as confidential_ml.errors has them.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <exception>
#include <optional>
#include <utility>

#include "host/enclave.h"
#include "host/status_table.h"

namespace confidential_ml::host {

// Sets the Python exception that the error names.
void raise(const EnclaveException& error);

// Calls that have given the GIL back and not yet taken it again.
inline std::atomic<size_t> calls_without_gil{0};
// Of this thread, which may be in several: a signal handler can interrupt one and begin the next.
inline thread_local size_t own_calls_without_gil = 0;

// Not py::gil_scoped_release: a thread that asks for the GIL after the interpreter has begun to end is
// unwound by pthread_exit, which may not pass through a destructor.
template <typename Body>
auto without_gil(Body body) {
  calls_without_gil.fetch_add(1);
  ++own_calls_without_gil;
  PyThreadState* thread = PyEval_SaveThread();
  std::exception_ptr thrown;
  std::optional<decltype(body())> result;
  try {
    result.emplace(body());
  } catch (...) {
    thrown = std::current_exception();
  }
  PyEval_RestoreThread(thread);
  --own_calls_without_gil;
  calls_without_gil.fetch_sub(1);
  if (thrown) std::rethrow_exception(thrown);
  return std::move(*result);
}

// As above, for a call into an enclave. Refused with the GIL still held if the enclave is closed: at the end
// of the interpreter all are, and then no thread is in want of the GIL (wait_for_calls).
template <typename Body>
auto call(Enclave& enclave, Body body) {
  enclave.check_open();
  return without_gil(std::move(body));
}

// Whether a Python signal handler has raised (Ctrl-C). For a thread that has given the GIL back.
inline bool signal_has_raised() {
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return raised;
}

// As call(); Ctrl-C ends it between two blocks. To give the GIL back and take it again may take longer than a
// row.
inline void predict_rows(Enclave& enclave, PredictRequest request) {
  if (enclave.predict_if_short(request)) return;
  request.interrupted = &signal_has_raised;
  try {
    call(enclave, [&] { return enclave.predict(request), true; });
  } catch (const Interrupted&) {
    throw pybind11::error_already_set();
  }
}

}  // namespace confidential_ml::host
