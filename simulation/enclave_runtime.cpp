// Trusted side of a simulated call: what Open Enclave's runtime does between EENTER and the generated code.
//
// The trusted function works on copies in memory of its own, as it would in an enclave. The host's input is
// read once, so nothing can change between a check and its use; the host's output is written once, at the
// end.

#include "simulation/enclave_runtime.h"

#include <openenclave/edger8r/enclave.h>
#include <openssl/crypto.h>
#include <sys/types.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>

// What libc links into every library. Written out because under ThreadSanitizer the name resolves to the
// sanitizer's, which forgets whose function it is and calls libcrypto's clean-up when the image is long gone.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the C++ ABI's own names
extern "C" void* __dso_handle;
extern "C" int __cxa_atexit(void (*function)(void*), void* argument, void* library);
extern "C" int atexit(void (*function)()) {
  return __cxa_atexit(reinterpret_cast<void (*)(void*)>(function), nullptr, &__dso_handle);
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)

namespace {

struct Free {
  void operator()(uint8_t* buffer) const { std::free(buffer); }
};
using Buffer = std::unique_ptr<uint8_t[], Free>;

std::atomic<bool> aborting{false};

bool valid_size(size_t size) {
  return size >= sizeof(oe_call_function_return_args_t) && size % OE_EDGER8R_BUFFER_ALIGNMENT == 0;
}

// Open Enclave resets rounding and exception masks at entry. Without that, predictions would depend on what
// the caller set, or some library of its process compiled with -ffast-math.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() : mxcsr_(_mm_getcsr()) {
    __asm__ volatile("fnstcw %0" : "=m"(x87_control_));
    set(kMxcsr, kX87Control);
  }
  ~DefaultFloatingPoint() { set(mxcsr_, x87_control_); }
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;

 private:
  static constexpr unsigned kMxcsr = 0x1F80;
  static constexpr uint16_t kX87Control = 0x037F;

  static void set(unsigned mxcsr, uint16_t x87_control) {
    _mm_setcsr(mxcsr);
    __asm__ volatile("fldcw %0" : : "m"(x87_control));
  }

  unsigned mxcsr_;
  uint16_t x87_control_ = 0;
};

// Open Enclave runs the destructors of thread-specific data when an ecall returns. Left to the thread's own
// end, libcrypto's would run while, or after, another thread unloads this image, and free twice.
struct ThreadState {
  ThreadState() = default;
  ~ThreadState() { OPENSSL_thread_stop(); }
  ThreadState(const ThreadState&) = delete;
  ThreadState& operator=(const ThreadState&) = delete;
};

// libcrypto's own clean-up would also run in a forked child, where a thread of the parent may have left a
// lock of it held for ever: it hung there at exit().
class Libcrypto {
 public:
  Libcrypto() : process_(getpid()) {
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr);
  }
  ~Libcrypto() {
    if (getpid() == process_) OPENSSL_cleanup();
  }
  Libcrypto(const Libcrypto&) = delete;
  Libcrypto& operator=(const Libcrypto&) = delete;

 private:
  const pid_t process_;
};
const Libcrypto kLibcrypto;

oe_result_t call(oe_ecall_func_t function, const uint8_t* input, size_t input_size, uint8_t* output,
                 size_t output_size, size_t* output_written) {
  try {
    function(input, input_size, output, output_size, output_written);
  } catch (...) {
    // Under Open Enclave an exception nobody catches ends the enclave for good.
    aborting = true;
    return OE_ENCLAVE_ABORTING;
  }
  oe_call_function_return_args_t returned;
  std::memcpy(&returned, output, sizeof(returned));
  return returned.result;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) oe_result_t confidential_ml_simulation_ecall(
    uint64_t function_id, const uint8_t* input, size_t input_size, uint8_t* output, size_t output_size,
    size_t* output_written) {
  if (aborting) return OE_ENCLAVE_ABORTING;
  if (!input || !output || !output_written || !valid_size(input_size) || !valid_size(output_size)) {
    return OE_INVALID_PARAMETER;
  }
  if (function_id >= oe_ecalls_table_size) return OE_NOT_FOUND;

  const Buffer trusted_input(static_cast<uint8_t*>(std::malloc(input_size)));
  const Buffer trusted_output(static_cast<uint8_t*>(std::calloc(1, output_size)));
  if (!trusted_input || !trusted_output) return OE_OUT_OF_MEMORY;
  std::memcpy(trusted_input.get(), input, input_size);

  size_t written = 0;
  const DefaultFloatingPoint environment;
  const ThreadState thread_state;
  const oe_result_t result = call(oe_ecalls_table[function_id], trusted_input.get(), input_size,
                                  trusted_output.get(), output_size, &written);
  if (result != OE_OK) return result;  // and nothing of the output leaves
  std::memcpy(output, trusted_output.get(), output_size);
  *output_written = written;
  return OE_OK;
}
