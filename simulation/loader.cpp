// Host side of the simulation build: loads a signed image as a shared library and calls into it.
//
// What runs is what was measured: the file is read once into a sealed memfd, checked there and loaded from
// there.

#include "simulation/loader.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <openenclave/edger8r/host.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "simulation/enclave_runtime.h"
#include "simulation/signed_image.h"

namespace confidential_ml::simulation {
namespace {

constexpr uint64_t kPageSize = 4096;
constexpr uint16_t kPlatformSimulation = 1;
constexpr uint32_t kKnownFlags =
    OE_ENCLAVE_FLAG_DEBUG | OE_ENCLAVE_FLAG_DEBUG_AUTO | OE_ENCLAVE_FLAG_SIMULATE;

thread_local char last_error[256] = "";  // no destructor, so readable while the thread ends

void set_last_error(const char* reason) { std::snprintf(last_error, sizeof(last_error), "%s", reason); }

std::string system_error(const std::string& what) {
  char text[128] = "";
  return what + ": " + strerror_r(errno, text, sizeof(text));
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (number_ >= 0) close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

// A read-only view of a whole file.
class Mapping {
 public:
  Mapping(int file, size_t size)
      : size_(size), address_(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0)) {
    if (address_ == MAP_FAILED) throw ImageRefused(OE_OUT_OF_MEMORY, system_error("cannot map the image"));
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(address_, size_); }
  const uint8_t* data() const { return static_cast<const uint8_t*>(address_); }
  size_t size() const { return size_; }

 private:
  size_t size_;
  void* address_;
};

void write_all(int file, const uint8_t* bytes, size_t size) {
  while (size > 0) {
    const ssize_t written = write(file, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw ImageRefused(OE_OUT_OF_MEMORY, system_error("cannot copy the image to memory"));
    bytes += written;
    size -= static_cast<size_t>(written);
  }
}

size_t copy_file(int from, int to) {
  std::vector<uint8_t> block(size_t{1} << 16);
  size_t total = 0;
  for (;;) {
    const ssize_t count = read(from, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw ImageRefused(OE_READ_FAILED, system_error("cannot read the image"));
    if (count == 0) return total;
    total += static_cast<size_t>(count);
    if (total > kMaxImageSize) throw ImageRefused(OE_INVALID_IMAGE, "the image is larger than 256 MiB");
    write_all(to, block.data(), static_cast<size_t>(count));
  }
}

FileDescriptor open_regular_file(const char* path) {
  FileDescriptor file(
      open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // O_NONBLOCK: do not wait for a pipe's writer
  struct stat status;
  if (file.number() < 0 || fstat(file.number(), &status) != 0) {
    throw ImageRefused(OE_NOT_FOUND, system_error("cannot open the image"));
  }
  if (!S_ISREG(status.st_mode)) throw ImageRefused(OE_INVALID_IMAGE, "the image is not a regular file");
  return file;
}

// EBUSY means that the kernel still holds a page for a moment; seen on a busy machine.
bool add_seals(int descriptor) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0)
      return true;
    if (errno != EBUSY) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// A copy of the file that nobody can change any more, neither through the file's name nor through the
// descriptor.
std::pair<FileDescriptor, size_t> sealed_copy(const char* path) {
  const FileDescriptor file = open_regular_file(path);
  FileDescriptor copy(memfd_create("confidential_ml_simulation", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (copy.number() < 0) throw ImageRefused(OE_OUT_OF_MEMORY, system_error("cannot create a memory file"));
  const size_t size = copy_file(file.number(), copy.number());
  if (!add_seals(copy.number())) {
    throw ImageRefused(OE_UNEXPECTED, system_error("cannot seal the copy of the image"));
  }
  if (size == 0)
    throw ImageRefused(OE_INVALID_IMAGE, "the image is empty");  // and an empty file cannot be mapped
  return {std::move(copy), size};
}

// The T of this process. A forked child gets a new one: the old one's mutex may be held there by a thread
// that exists only in the parent. None is ever destroyed, as threads may still call while the process ends.
template <typename T>
T& of_this_process() {
  static std::atomic<T*> current{new T};
  static auto* inherited = new std::vector<T*>;
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    inherited->push_back(current.load());
    current.store(new T);
  });
  static_cast<void>(registered);
  return *current.load();
}

// Held while the dynamic linker or libcrypto works for the loader. They have locks of their own: one that a
// thread of the parent holds during fork() would stay locked in the child. So fork() waits for this one.
std::mutex loading;

__attribute__((constructor)) void let_forks_wait_for_loading() {
  pthread_atfork([] { loading.lock(); }, [] { loading.unlock(); }, [] { loading.unlock(); });
}

// A name of /proc/self/fd/N that no library was loaded by before. dlopen compares names first, and would give
// the old library, with its globals, to whoever gets its N again: after the program has closed all
// descriptors, as daemons do. A bit of the serial number is written as "/." or "/", which paths pass over.
std::string unused_name(int descriptor) {
  static uint64_t last = 0;
  std::string name = "/proc/self/fd";
  for (uint64_t serial = ++last; serial != 0; serial >>= 1) name += (serial & 1) != 0 ? "/." : "/";
  return name + "/" + std::to_string(descriptor);
}

// A shared library loaded from a descriptor; whoever makes or destroys one holds `loading`. dlclose leaves a
// library loaded while some live thread still has a thread_local destructor of it to run. So one that did not
// go is kept with its descriptor, by which it is found again, and closed once more later.
class LoadedImage {
 public:
  explicit LoadedImage(FileDescriptor file) : file_(std::move(file)), name_(unused_name(file_.number())) {
    retire_leftovers();
    handle_ = dlopen(name_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle_) {
      const char* reason = dlerror();
      throw ImageRefused(OE_INVALID_IMAGE,
                         std::string("cannot load the image: ") + (reason ? reason : "unknown"));
    }
  }
  LoadedImage(const LoadedImage&) = delete;
  LoadedImage& operator=(const LoadedImage&) = delete;

  ~LoadedImage() {
    dlclose(handle_);
    if (still_loaded(name_)) {
      auto& leftovers = of_this_process<Leftovers>();
      const std::lock_guard<std::mutex> lock(leftovers.mutex);
      leftovers.images.emplace_back(std::move(name_), std::move(file_));
    }
  }

  template <typename Function>
  Function* symbol(const char* name) const {
    void* address = dlsym(handle_, name);
    if (!address) throw ImageRefused(OE_INVALID_IMAGE, std::string("the image does not export ") + name);
    return reinterpret_cast<Function*>(address);
  }

 private:
  static bool still_loaded(const std::string& name) {
    void* handle = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) return false;
    dlclose(handle);
    // The dlclose above may have been the one that let it go.
    handle = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (handle) dlclose(handle);
    return handle != nullptr;
  }

  static void retire_leftovers() {
    auto& leftovers = of_this_process<Leftovers>();
    const std::lock_guard<std::mutex> lock(leftovers.mutex);
    auto& images = leftovers.images;
    images.erase(std::remove_if(images.begin(), images.end(),
                                [](const auto& image) { return !still_loaded(image.first); }),
                 images.end());
  }

  struct Leftovers {
    std::mutex mutex;
    std::vector<std::pair<std::string, FileDescriptor>> images;
  };

  FileDescriptor file_;
  std::string name_;
  void* handle_ = nullptr;
};

class Instance {
 public:
  Instance(FileDescriptor file, const SignedImage& image, bool debug)
      : properties_(image.properties), image_(std::in_place, std::move(file)) {
    std::copy(image.mrenclave.begin(), image.mrenclave.end(), identity_.mrenclave);
    std::copy(image.mrsigner.begin(), image.mrsigner.end(), identity_.mrsigner);
    identity_.isv_prod_id = properties_.isv_prod_id;
    identity_.isv_svn = properties_.isv_svn;
    identity_.platform = kPlatformSimulation;
    identity_.debug = debug ? 1 : 0;
    ecall_ = image_->symbol<decltype(confidential_ml_simulation_ecall)>("confidential_ml_simulation_ecall");
    image_->symbol<decltype(confidential_ml_simulation_set_identity)>(
        "confidential_ml_simulation_set_identity")(&identity_);
  }

  const confidential_ml_simulated_identity& identity() const { return identity_; }

  oe_result_t call(uint64_t function_id, const uint8_t* input, size_t input_size, uint8_t* output,
                   size_t output_size, size_t* output_written) {
    // As on SGX the copies come out of the enclave's heap. What the enclave allocates itself is not counted.
    size_t copies = 0;
    if (__builtin_add_overflow(input_size, output_size, &copies)) return OE_INTEGER_OVERFLOW;
    if (copies / kPageSize >= properties_.num_heap_pages) return OE_OUT_OF_MEMORY;
    const oe_result_t entered = enter();
    if (entered != OE_OK) return entered;
    const oe_result_t result = ecall_(function_id, input, input_size, output, output_size, output_written);
    leave();
    return result;
  }

  // Waits for the calls under way and unloads the image. False if somebody else already does.
  bool terminate() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (terminating_) return false;
    terminating_ = true;
    idle_.wait(lock, [this] { return active_ == 0; });
    const std::lock_guard<std::mutex> unloading(loading);
    image_.reset();
    return true;
  }

 private:
  oe_result_t enter() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (terminating_) return OE_ENCLAVE_ABORTING;
    if (active_ >= properties_.num_tcs)
      return OE_OUT_OF_THREADS;  // at once: Open Enclave does not wait either
    ++active_;
    return OE_OK;
  }

  void leave() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--active_ == 0) idle_.notify_all();
  }

  const ImageProperties properties_;
  confidential_ml_simulated_identity identity_{};
  std::optional<LoadedImage> image_;
  decltype(confidential_ml_simulation_ecall)* ecall_ = nullptr;
  std::mutex mutex_;
  std::condition_variable idle_;
  uint32_t active_ = 0;
  bool terminating_ = false;
};

// All live instances. Handles are numbers dressed as pointers and never used twice, so that a stale one is
// found out.
class Instances {
 public:
  oe_enclave_t* add(std::shared_ptr<Instance> instance) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto* handle = reinterpret_cast<oe_enclave_t*>(++last_);
    instances_.emplace(handle, std::move(instance));
    return handle;
  }

  std::shared_ptr<Instance> find(oe_enclave_t* handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = instances_.find(handle);
    return found == instances_.end() ? nullptr : found->second;
  }

  void remove(oe_enclave_t* handle) {
    const std::lock_guard<std::mutex> lock(mutex_);
    instances_.erase(handle);
  }

 private:
  std::mutex mutex_;
  std::map<oe_enclave_t*, std::shared_ptr<Instance>> instances_;
  uintptr_t last_ = 0;
};

Instances& instances() { return of_this_process<Instances>(); }

void check_arguments(oe_enclave_type_t type, uint32_t flags, bool settings) {
  if (type != OE_ENCLAVE_TYPE_SGX && type != OE_ENCLAVE_TYPE_AUTO) {
    throw ImageRefused(OE_INVALID_PARAMETER, "the enclave type is not SGX");
  }
  if (flags & ~kKnownFlags) throw ImageRefused(OE_INVALID_PARAMETER, "unknown enclave flags");
  if (settings) throw ImageRefused(OE_INVALID_PARAMETER, "the simulation knows no enclave settings");
  if (!(flags & OE_ENCLAVE_FLAG_SIMULATE)) {
    throw ImageRefused(OE_PLATFORM_ERROR,
                       "this is the simulation build: OE_ENCLAVE_FLAG_SIMULATE must be given");
  }
}

// The rules of Open Enclave: asking for less than the image allows is fine, for more is not.
bool runs_as_debug(const ImageProperties& properties, uint32_t flags) {
  if ((flags & OE_ENCLAVE_FLAG_DEBUG) && !properties.debug) {
    throw ImageRefused(OE_DEBUG_DOWNGRADE, "the image was signed without Debug and cannot be run with it");
  }
  return properties.debug && (flags & (OE_ENCLAVE_FLAG_DEBUG | OE_ENCLAVE_FLAG_DEBUG_AUTO));
}

oe_enclave_t* create(const char* path, uint32_t flags) {
  auto [file, size] = sealed_copy(path);
  const std::lock_guard<std::mutex> lock(loading);
  const Mapping mapping(file.number(), size);
  const SignedImage image = verify_signed_image(mapping.data(), mapping.size());
  const bool debug = runs_as_debug(image.properties, flags);
  return instances().add(std::make_shared<Instance>(std::move(file), image, debug));
}

oe_result_t fail(oe_result_t result, const char* reason) {
  set_last_error(reason);
  return result;
}

}  // namespace
}  // namespace confidential_ml::simulation

using namespace confidential_ml::simulation;  // NOLINT(google-build-using-namespace): the names below are the
                                              // SDK's

oe_result_t oe_create_enclave(const char* path, oe_enclave_type_t type, uint32_t flags,
                              const oe_enclave_setting_t* settings, uint32_t setting_count,
                              const oe_ocall_func_t* ocall_table, uint32_t ocall_count,
                              const oe_ecall_info_t* ecall_name_table, uint32_t ecall_count,
                              oe_enclave_t** enclave) {
  set_last_error("");
  if (!path || !enclave || ocall_table || ocall_count || !ecall_name_table || !ecall_count) {
    return fail(OE_INVALID_PARAMETER, "an argument of oe_create_enclave is missing or not supported");
  }
  *enclave = nullptr;
  try {
    check_arguments(type, flags, settings || setting_count);
    *enclave = create(path, flags);
    return OE_OK;
  } catch (const ImageRefused& refused) {
    return fail(refused.result(), refused.what());
  } catch (const std::bad_alloc&) {
    return fail(OE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(OE_UNEXPECTED, error.what());
  }
}

oe_result_t oe_terminate_enclave(oe_enclave_t* enclave) {
  set_last_error("");
  const std::shared_ptr<Instance> instance = instances().find(enclave);
  if (!instance || !instance->terminate()) return fail(OE_INVALID_PARAMETER, "there is no such enclave");
  instances().remove(enclave);
  return OE_OK;
}

oe_result_t oe_call_enclave_function(oe_enclave_t* enclave, uint64_t function_id, const uint8_t* input_buffer,
                                     size_t input_buffer_size, uint8_t* output_buffer,
                                     size_t output_buffer_size, size_t* output_bytes_written) {
  const std::shared_ptr<Instance> instance = instances().find(enclave);
  if (!instance) return OE_INVALID_PARAMETER;
  return instance->call(function_id, input_buffer, input_buffer_size, output_buffer, output_buffer_size,
                        output_bytes_written);
}

oe_result_t confidential_ml_simulation_identity(oe_enclave_t* enclave,
                                                confidential_ml_simulated_identity* identity) {
  const std::shared_ptr<Instance> instance = instances().find(enclave);
  if (!instance || !identity) return OE_INVALID_PARAMETER;
  *identity = instance->identity();
  return OE_OK;
}

const char* confidential_ml_simulation_last_error(void) { return last_error; }

const char* oe_result_str(oe_result_t result) {
  static const std::map<oe_result_t, const char*>* names = new std::map<oe_result_t, const char*>{
      {OE_OK, "OE_OK"},
      {OE_FAILURE, "OE_FAILURE"},
      {OE_BUFFER_TOO_SMALL, "OE_BUFFER_TOO_SMALL"},
      {OE_INVALID_PARAMETER, "OE_INVALID_PARAMETER"},
      {OE_OUT_OF_MEMORY, "OE_OUT_OF_MEMORY"},
      {OE_OUT_OF_THREADS, "OE_OUT_OF_THREADS"},
      {OE_UNEXPECTED, "OE_UNEXPECTED"},
      {OE_VERIFY_FAILED, "OE_VERIFY_FAILED"},
      {OE_NOT_FOUND, "OE_NOT_FOUND"},
      {OE_INTEGER_OVERFLOW, "OE_INTEGER_OVERFLOW"},
      {OE_UNSUPPORTED, "OE_UNSUPPORTED"},
      {OE_READ_FAILED, "OE_READ_FAILED"},
      {OE_ENCLAVE_ABORTING, "OE_ENCLAVE_ABORTING"},
      {OE_ENCLAVE_ABORTED, "OE_ENCLAVE_ABORTED"},
      {OE_PLATFORM_ERROR, "OE_PLATFORM_ERROR"},
      {OE_DEBUG_DOWNGRADE, "OE_DEBUG_DOWNGRADE"},
      {OE_INVALID_IMAGE, "OE_INVALID_IMAGE"},
  };
  const auto found = names->find(result);
  return found == names->end() ? "unknown result" : found->second;
}
