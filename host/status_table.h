// What each status code means to a caller of the library: which exception class, and what to do.
#pragma once

#include <stdexcept>
#include <string>

#include "common/status.h"

namespace confidential_ml::host {

struct StatusMeaning {
  const char* exception;  // a class of confidential_ml.errors
  const char* message;    // what was wrong and what to do
};

StatusMeaning meaning_of(Status status);

// Carries a status, or a failure of the call itself, up to the Python module, which raises the class it
// names.
class EnclaveException : public std::runtime_error {
 public:
  explicit EnclaveException(Status status)
      : std::runtime_error(meaning_of(status).message),
        exception_(meaning_of(status).exception),
        status_(status) {}
  explicit EnclaveException(const std::string& message)
      : std::runtime_error(message), exception_("EnclaveError"), status_(Status::kOk) {}

  const char* exception() const { return exception_; }
  Status status() const { return status_; }  // kOk if the enclave was never reached

 private:
  const char* exception_;
  Status status_;
};

}  // namespace confidential_ml::host
