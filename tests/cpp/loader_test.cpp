// The simulated enclave seen from the host: what is loaded, what is refused, what crosses the boundary.
// The trusted side is loader_test_image.cpp, built from tests/edl/boundary_sample.edl.

#include "simulation/loader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openenclave/edger8r/host.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "boundary_sample_u.h"
#include "simulation/signed_image.h"

namespace {

using namespace confidential_ml::simulation;
using Bytes = std::vector<uint8_t>;

constexpr uint32_t kDebugSimulation = OE_ENCLAVE_FLAG_SIMULATE | OE_ENCLAVE_FLAG_DEBUG_AUTO;
constexpr uint32_t kTcs = 2;               // of loader_test.conf
constexpr size_t kHeapSize = 1024 * 4096;  // of loader_test.conf

oe_result_t create(const std::string& path, oe_enclave_t** enclave, uint32_t flags = kDebugSimulation) {
  return oe_create_boundary_sample_enclave(path.c_str(), OE_ENCLAVE_TYPE_SGX, flags, nullptr, 0, enclave);
}

class Enclave {
 public:
  explicit Enclave(const std::string& path = LOADER_TEST_IMAGE) {
    EXPECT_EQ(OE_OK, create(path, &handle_)) << confidential_ml_simulation_last_error();
  }
  Enclave(const Enclave&) = delete;
  Enclave& operator=(const Enclave&) = delete;
  ~Enclave() {
    if (handle_) {
      EXPECT_EQ(OE_OK, oe_terminate_enclave(handle_));
    }
  }
  oe_enclave_t* get() const { return handle_; }
  oe_enclave_t* release() { return std::exchange(handle_, nullptr); }

 private:
  oe_enclave_t* handle_ = nullptr;
};

class Directory {
 public:
  Directory() {
    std::string name = (std::filesystem::temp_directory_path() / "loader_test_XXXXXX").string();
    EXPECT_NE(nullptr, mkdtemp(name.data()));
    path_ = name;
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

void write_text(const std::string& path, const std::string& text) {
  write_file(path, Bytes(text.begin(), text.end()));
}

struct Outcome {
  int status;
  std::string output;
};

Outcome run(const std::string& command) {
  std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  Outcome result{-1, ""};
  std::array<char, 4096> block{};
  while (const size_t count = std::fread(block.data(), 1, block.size(), pipe)) {
    result.output.append(block.data(), count);
  }
  result.status = WEXITSTATUS(pclose(pipe));
  return result;
}

Key read_key(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "r");
  EXPECT_NE(nullptr, file);
  Key key(PEM_read_PrivateKey(file, nullptr, nullptr, nullptr));
  std::fclose(file);
  return key;
}

Bytes signed_bytes(const Bytes& image, const ImageProperties& properties) {
  const Key key = read_key(LOADER_TEST_KEY);
  const Trailer trailer = sign_image(image.data(), image.size(), properties, key.get());
  Bytes file = image;
  file.insert(file.end(), trailer.begin(), trailer.end());
  return file;
}

// OE_OK, or why the file is refused.
oe_result_t verify(const Bytes& file) {
  try {
    verify_signed_image(file.data(), file.size());
    return OE_OK;
  } catch (const ImageRefused& refused) {
    return refused.result();
  }
}

// A small file with a genuine trailer. Nothing of it needs to be loadable.
Bytes small_signed_file() {
  Bytes image(1000);
  std::iota(image.begin(), image.end(), uint8_t{0});
  return signed_bytes(image, {1, 2, 0, 3, 4});
}

// ---- what crosses the boundary ----

TEST(Boundary, HostBufferIsNotTheOneTheEnclaveWritesTo) {
  const Enclave enclave;
  const Bytes original(1001, 3);
  Bytes bytes = original;
  uint32_t sum = 0;
  ASSERT_EQ(OE_OK, sample_scribble(enclave.get(), &sum, bytes.data(), bytes.size()));
  EXPECT_EQ(3003u, sum);
  EXPECT_EQ(original, bytes);
}

TEST(Boundary, OutBufferIsZeroAtEntryAndFilledAtReturn) {
  const Enclave enclave;
  Bytes bytes(1001, 0xee);
  for (const uint8_t value : {uint8_t{5}, uint8_t{9}}) {
    uint32_t sum = 77;
    ASSERT_EQ(OE_OK, sample_fill(enclave.get(), &sum, bytes.data(), bytes.size() - 1, value));
    EXPECT_EQ(0u, sum);
    EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end() - 1, [&](uint8_t byte) { return byte == value; }));
    EXPECT_EQ(0xee, bytes.back());
  }
}

TEST(Boundary, ScalarsArriveAsSent) {
  const Enclave enclave;
  std::array<double, 5> all{};
  uint32_t count = 0;
  ASSERT_EQ(OE_OK, sample_scalars(enclave.get(), &count, true, -100, 65535, -2000000000, uint64_t{1} << 52,
                                  12345, 1.5f, 2.25, all.data()));
  EXPECT_EQ(5u, count);
  EXPECT_EQ((std::array<double, 5>{-100, 65535 - 2000000000.0, 4503599627370496.0, 12345, 3.75}), all);
}

TEST(Boundary, BuffersOfOddSizesDoNotOverlap) {
  const Enclave enclave;
  for (uint32_t first_size = 0; first_size < 40; ++first_size) {
    Bytes first(first_size + 1, 0xee);
    std::vector<float> second(first_size % 7 + 1);
    std::iota(second.begin(), second.end(), 0.5f);
    std::vector<float> third(first_size % 5 + 1, -1);
    const uint8_t fourth[] = {42, 0, 17};
    uint32_t result = 0;
    ASSERT_EQ(OE_OK,
              sample_mix(enclave.get(), &result, first.data(), first_size, second.data(),
                         second.size() * sizeof(float), third.data(), third.size() * sizeof(float), fourth));
    EXPECT_EQ(42u, result);
    EXPECT_EQ(static_cast<std::ptrdiff_t>(first_size), std::count(first.begin(), first.end(), 17));
    EXPECT_EQ(0xee, first.back());
    for (size_t i = 0; i < third.size(); ++i) EXPECT_EQ(2 * second[i % second.size()], third[i]);
  }
}

TEST(Boundary, NullStaysNullWhateverItsSize) {
  const Enclave enclave;
  uint32_t result = 0;
  ASSERT_EQ(OE_OK, sample_is_null(enclave.get(), &result, nullptr, 1000));
  EXPECT_EQ(1000u, result);
  const uint8_t byte = 1;
  ASSERT_EQ(OE_OK, sample_is_null(enclave.get(), &result, &byte, 0));
  EXPECT_EQ(0u, result);
}

TEST(Boundary, SizesThatOverflowAreRefused) {
  const Enclave enclave;
  uint8_t byte = 0;
  float number = 0;
  uint32_t result = 0;
  for (const size_t size : {SIZE_MAX, SIZE_MAX - 14, SIZE_MAX - 15, SIZE_MAX - 40}) {
    EXPECT_EQ(OE_INTEGER_OVERFLOW, sample_scribble(enclave.get(), &result, &byte, size)) << size;
    EXPECT_EQ(OE_INTEGER_OVERFLOW, sample_fill(enclave.get(), &result, &byte, size, 1)) << size;
  }
  EXPECT_EQ(OE_INTEGER_OVERFLOW, sample_mix(enclave.get(), &result, &byte, 1, &number, SIZE_MAX / 2, &number,
                                            SIZE_MAX / 2, &byte));
}

TEST(Boundary, CopiesComeOutOfTheEnclaveHeap) {
  const Enclave enclave;
  Bytes bytes(kHeapSize);
  uint32_t sum = 0;
  EXPECT_EQ(OE_OK, sample_scribble(enclave.get(), &sum, bytes.data(), kHeapSize - 4096));
  EXPECT_EQ(OE_OUT_OF_MEMORY, sample_scribble(enclave.get(), &sum, bytes.data(), kHeapSize));
}

// A host need not use the generated code. The head of sample_fill's arguments, as the generated code lays it
// out.
struct FillArguments {
  oe_call_function_return_args_t call;
  uint32_t oe_retval;
  uint8_t* bytes;
  size_t bytes_size;
  uint8_t value;
};
constexpr uint64_t kScribble = 0;
constexpr uint64_t kFill = 1;

oe_result_t raw_fill(const Enclave& enclave, size_t claimed_size, size_t input_size, size_t output_size,
                     Bytes* output) {
  uint8_t host_byte = 0;
  const FillArguments arguments{{OE_OK}, 0, &host_byte, claimed_size, 9};
  alignas(16) uint8_t input[64] = {};
  std::memcpy(input, &arguments, sizeof(arguments));
  output->assign(output_size, 0xee);
  size_t written = 0;
  return oe_call_enclave_function(enclave.get(), kFill, input, input_size, output->data(), output->size(),
                                  &written);
}

TEST(Boundary, EnclaveChecksWhatTheHostsGlueShouldHaveChecked) {
  const Enclave enclave;
  Bytes output;
  static_assert(sizeof(FillArguments) == 32);
  EXPECT_EQ(OE_OK, raw_fill(enclave, 16, 32, 48, &output));
  EXPECT_EQ(9, output.back());

  const auto refused = [&](oe_result_t expected, size_t claimed_size, size_t input_size, size_t output_size) {
    EXPECT_EQ(expected, raw_fill(enclave, claimed_size, input_size, output_size, &output));
    EXPECT_EQ(output, Bytes(output.size(), 0xee)) << "nothing may leave the enclave with a refusal";
  };
  refused(OE_BUFFER_TOO_SMALL, 17, 32, 48);
  refused(OE_BUFFER_TOO_SMALL, 16, 32, 32);
  refused(OE_BUFFER_TOO_SMALL, 16, 16, 48);
  refused(OE_BUFFER_TOO_SMALL, 16, 32, 16);
  refused(OE_INTEGER_OVERFLOW, SIZE_MAX, 32, 48);
  refused(OE_INTEGER_OVERFLOW, SIZE_MAX - 32, 32, 48);
  refused(OE_INVALID_PARAMETER, 16, 31, 48);
  refused(OE_INVALID_PARAMETER, 16, 32, 47);
  refused(OE_INVALID_PARAMETER, 16, 0, 48);
  refused(OE_INVALID_PARAMETER, 16, 32, 0);
}

TEST(Boundary, InputThatClaimsMoreThanThereIsIsRefused) {
  const Enclave enclave;
  uint8_t host_byte = 0;
  const FillArguments arguments{{OE_OK}, 0, &host_byte, 33, 0};  // sample_scribble's begin alike
  alignas(16) uint8_t input[64] = {};
  std::memcpy(input, &arguments, sizeof(arguments));
  alignas(16) uint8_t output[32] = {};
  size_t written = 0;
  const auto scribble = [&](size_t size) {
    return oe_call_enclave_function(enclave.get(), kScribble, input, size, output, sizeof(output), &written);
  };
  EXPECT_EQ(OE_BUFFER_TOO_SMALL, scribble(64));
  const size_t fitting = 32;
  std::memcpy(input + offsetof(FillArguments, bytes_size), &fitting, sizeof(fitting));
  EXPECT_EQ(OE_OK, scribble(64));
  EXPECT_EQ(OE_BUFFER_TOO_SMALL, scribble(48));
}

// The generated code's own copy must not hide that the enclave works on the host's.
TEST(Boundary, FlatInputOfTheHostIsNotTheOneTheEnclaveWritesTo) {
  const Enclave enclave;
  uint8_t host_byte = 0;
  const FillArguments arguments{{OE_OK}, 0, &host_byte, 32, 0};
  Bytes input(64, 5);
  std::memcpy(input.data(), &arguments, sizeof(arguments));
  const Bytes original = input;
  Bytes output(32);
  size_t written = 0;
  ASSERT_EQ(OE_OK, oe_call_enclave_function(enclave.get(), kScribble, input.data(), input.size(),
                                            output.data(), output.size(), &written));
  EXPECT_EQ(original, input);
  FillArguments returned;
  std::memcpy(&returned, output.data(), sizeof(returned));
  EXPECT_EQ(5u * 32, returned.oe_retval);
  EXPECT_EQ(nullptr, returned.bytes) << "no address of enclave memory leaves";
}

TEST(Boundary, UnknownFunctionIsNotFound) {
  const Enclave enclave;
  alignas(16) uint8_t buffer[64] = {};
  size_t written = 0;
  for (const uint64_t function : {uint64_t{9}, UINT64_MAX}) {
    EXPECT_EQ(OE_NOT_FOUND,
              oe_call_enclave_function(enclave.get(), function, buffer, 32, buffer + 32, 32, &written));
  }
}

TEST(Boundary, UncaughtExceptionEndsThisEnclaveOnly) {
  const Enclave enclave;
  const Enclave other;
  uint32_t result = 0;
  EXPECT_EQ(OE_ENCLAVE_ABORTING, sample_throw(enclave.get(), &result));
  EXPECT_EQ(OE_ENCLAVE_ABORTING, sample_count(enclave.get(), &result));
  EXPECT_EQ(OE_OK, sample_count(other.get(), &result));
}

// ---- instances and threads ----

TEST(Instances, HaveGlobalsOfTheirOwn) {
  const Enclave one;
  const Enclave other;
  uint32_t count = 0;
  for (uint32_t i = 1; i <= 3; ++i) {
    ASSERT_EQ(OE_OK, sample_count(one.get(), &count));
    EXPECT_EQ(2 * i, count);
  }
  ASSERT_EQ(OE_OK, sample_count(other.get(), &count));
  EXPECT_EQ(2u, count);
}

TEST(Instances, ImageShowsItsTwoEntryPointsOnly) {
  const Outcome nm = run("nm -D --defined-only --format=posix " LOADER_TEST_IMAGE);
  ASSERT_EQ(0, nm.status) << nm.output;
  std::multiset<std::string> names;
  std::istringstream lines(nm.output);
  for (std::string line; std::getline(lines, line);) names.insert(line.substr(0, line.find(' ')));
  EXPECT_EQ((std::multiset<std::string>{"confidential_ml_simulation_ecall",
                                        "confidential_ml_simulation_set_identity"}),
            names);
}

TEST(Instances, MoreCallsThanThreadsFailAtOnce) {
  const Enclave enclave;
  std::vector<std::future<oe_result_t>> waiting;
  for (uint32_t i = 0; i < kTcs; ++i) {
    waiting.push_back(std::async(std::launch::async, [&enclave] {
      oe_result_t result = OE_OUT_OF_THREADS;
      while (result == OE_OUT_OF_THREADS)
        result = sample_wait(enclave.get(), 1000);  // the count below may be in the way
      return result;
    }));
  }
  uint32_t count = 0;
  const auto start = std::chrono::steady_clock::now();
  oe_result_t result = OE_OK;
  const auto in_time = [&] {
    return std::chrono::steady_clock::now() - start < std::chrono::milliseconds(900);
  };
  while (result == OE_OK && in_time()) result = sample_count(enclave.get(), &count);  // until both are inside
  EXPECT_EQ(OE_OUT_OF_THREADS, result);
  EXPECT_TRUE(in_time()) << "the call waited";
  for (auto& each : waiting) EXPECT_EQ(OE_OK, each.get());
  EXPECT_EQ(OE_OK, sample_count(enclave.get(), &count));
}

TEST(Instances, TerminationWaitsForCallsUnderWay) {
  Enclave enclave;
  oe_enclave_t* handle = enclave.release();
  auto waiting = std::async(std::launch::async, [handle] { return sample_wait(handle, 1000); });
  auto late = std::async(std::launch::async, [handle] {
    oe_result_t result = OE_OK;
    uint32_t ignored = 0;
    while (result == OE_OK) result = sample_count(handle, &ignored);
    return result;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // until the first is inside
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(OE_OK, oe_terminate_enclave(handle));
  EXPECT_TRUE(std::chrono::steady_clock::now() - start > std::chrono::milliseconds(300)) << "did not wait";
  EXPECT_EQ(OE_OK, waiting.get());
  EXPECT_EQ(OE_ENCLAVE_ABORTING, late.get());

  uint32_t count = 0;
  EXPECT_EQ(OE_INVALID_PARAMETER, sample_count(handle, &count));
  EXPECT_EQ(OE_INVALID_PARAMETER, oe_terminate_enclave(handle));
  EXPECT_STRNE("", confidential_ml_simulation_last_error());
  const Enclave next;
  EXPECT_NE(handle, next.get()) << "a stale handle must not become somebody else's";
}

TEST(Instances, TerminationUnderFire) {
  for (int round = 0; round < 10; ++round) {
    oe_enclave_t* handle = Enclave().release();
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([handle] {
        uint32_t sum = 0;
        const Bytes bytes(100, 1);
        oe_result_t result = OE_OK;
        while (result == OE_OK || result == OE_OUT_OF_THREADS) {
          result = sample_scribble(handle, &sum, bytes.data(), bytes.size());
        }
        EXPECT_TRUE(result == OE_ENCLAVE_ABORTING || result == OE_INVALID_PARAMETER) << oe_result_str(result);
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(OE_OK, oe_terminate_enclave(handle));
    for (std::thread& caller : callers) caller.join();
  }
}

size_t open_descriptors() {
  const auto entries = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(entries), end(entries)));
}

// Threads that have been inside outlive the enclave, with its libcrypto's per-thread state and (if asked for)
// a thread_local object whose destructor is code of an image that was closed meanwhile.
void create_and_destroy(uint32_t with_destructor) {
  const size_t descriptors = open_descriptors();
  std::promise<void> end;
  const std::shared_future<void> ended = end.get_future().share();
  std::vector<std::thread> threads;
  for (int round = 0; round < 50; ++round) {
    Enclave enclave;
    std::promise<void> called;
    threads.emplace_back([&called, &enclave, with_destructor, ended] {
      uint32_t size = 0;
      EXPECT_EQ(OE_OK, sample_touch_thread_local(enclave.get(), &size, with_destructor));
      EXPECT_EQ(with_destructor ? 68u : 32u, size);
      called.set_value();
      ended.wait();
    });
    called.get_future().wait();
    uint32_t count = 0;
    ASSERT_EQ(OE_OK, sample_count(enclave.get(), &count));
    ASSERT_EQ(2u, count) << "round " << round << " runs in an image that was used before";
  }
  end.set_value();
  for (std::thread& thread : threads) thread.join();
  { const Enclave sweeps_up_what_the_threads_kept_loaded; }
  EXPECT_EQ(descriptors, open_descriptors());
}

TEST(Instances, FiftyInARowWithLibcryptoStateInLiveThreads) { create_and_destroy(0); }
TEST(Instances, FiftyInARowWithThreadLocalObjectsInLiveThreads) { create_and_destroy(1); }

// libcrypto's per-thread state is freed twice if a thread still has some when it ends just as the image goes.
TEST(Instances, TerminationWhileThreadsEndThatHaveUsedLibcrypto) {
  for (int round = 0; round < 200; ++round) {
    oe_enclave_t* handle = Enclave().release();
    std::atomic<int> called{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([handle, &called] {
        uint32_t size = 0;
        while (sample_touch_thread_local(handle, &size, 0) == OE_OUT_OF_THREADS) continue;
        EXPECT_EQ(32u, size);
        ++called;
        while (called < 5) continue;
      });
    }
    while (called < 4) continue;
    ++called;
    EXPECT_EQ(OE_OK, oe_terminate_enclave(handle));
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(Instances, GoOnWhenTheirFileChanges) {
  const Directory directory;
  const std::string path = directory / "image";
  std::filesystem::copy_file(LOADER_TEST_IMAGE, path);
  const Enclave enclave(path);
  write_file(path, Bytes(std::filesystem::file_size(path), 0));
  uint32_t size = 0;
  EXPECT_EQ(OE_OK, sample_touch_thread_local(enclave.get(), &size, 0));
  EXPECT_EQ(32u, size);
}

// ---- identity ----

Digest sha256(const Bytes& bytes) {
  Digest digest;
  SHA256(bytes.data(), bytes.size(), digest.data());
  return digest;
}

TEST(Identity, IsWhatTheSpecificationSays) {
  const Bytes file = read_file(LOADER_TEST_IMAGE);
  const uint8_t* trailer = file.data() + file.size() - kTrailerSize;
  Bytes measured;
  const std::string label = "confidential_ml simulated enclave v1";
  measured.insert(measured.end(), label.begin(), label.end());
  measured.insert(measured.end(),
                  {1, 0, 0, 0, 2, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0});  // Debug, NumTCS, NumHeapPages
  measured.insert(measured.end(), file.begin(), file.end() - kTrailerSize);
  const Digest mrenclave = sha256(measured);
  const Digest mrsigner = sha256(Bytes(trailer + 64, trailer + 64 + 384));

  const Enclave enclave;
  confidential_ml_simulated_identity identity{};
  ASSERT_EQ(OE_OK, confidential_ml_simulation_identity(enclave.get(), &identity));
  EXPECT_TRUE(std::equal(mrenclave.begin(), mrenclave.end(), identity.mrenclave));
  EXPECT_TRUE(std::equal(mrsigner.begin(), mrsigner.end(), identity.mrsigner));
  EXPECT_EQ(7, identity.isv_prod_id);
  EXPECT_EQ(3, identity.isv_svn);
  EXPECT_EQ(1, identity.platform);
  EXPECT_EQ(1u, identity.debug);
}

TEST(Identity, DebugFollowsOpenEnclavesRules) {
  const auto debug_with = [](const std::string& path, uint32_t flags) {
    oe_enclave_t* enclave = nullptr;
    const oe_result_t result = create(path, &enclave, flags);
    if (result != OE_OK) return -static_cast<int>(result);
    confidential_ml_simulated_identity identity{};
    EXPECT_EQ(OE_OK, confidential_ml_simulation_identity(enclave, &identity));
    EXPECT_EQ(OE_OK, oe_terminate_enclave(enclave));
    return static_cast<int>(identity.debug);
  };
  constexpr uint32_t kSimulate = OE_ENCLAVE_FLAG_SIMULATE;
  EXPECT_EQ(0, debug_with(LOADER_TEST_IMAGE, kSimulate));
  EXPECT_EQ(1, debug_with(LOADER_TEST_IMAGE, kSimulate | OE_ENCLAVE_FLAG_DEBUG));
  EXPECT_EQ(1, debug_with(LOADER_TEST_IMAGE, kSimulate | OE_ENCLAVE_FLAG_DEBUG_AUTO));

  const Directory directory;
  Bytes image = read_file(LOADER_TEST_IMAGE);
  image.resize(image.size() - kTrailerSize);
  write_file(directory / "production", signed_bytes(image, {7, 3, 0, kTcs, 1024}));
  EXPECT_EQ(0, debug_with(directory / "production", kSimulate));
  EXPECT_EQ(0, debug_with(directory / "production", kSimulate | OE_ENCLAVE_FLAG_DEBUG_AUTO));
  EXPECT_EQ(-OE_DEBUG_DOWNGRADE, debug_with(directory / "production", kSimulate | OE_ENCLAVE_FLAG_DEBUG));
}

// ---- refusals ----

TEST(SignedImage, EveryFlippedBitOfTheTrailerIsRefused) {
  Bytes file = small_signed_file();
  ASSERT_EQ(OE_OK, verify(file));
  for (size_t bit = 0; bit < kTrailerSize * 8; ++bit) {
    uint8_t& byte = file[file.size() - kTrailerSize + bit / 8];
    byte = static_cast<uint8_t>(byte ^ (1 << bit % 8));
    ASSERT_NE(OE_OK, verify(file)) << "bit " << bit % 8 << " of trailer byte " << bit / 8;
    byte = static_cast<uint8_t>(byte ^ (1 << bit % 8));
  }
  ASSERT_EQ(OE_OK, verify(file));
}

TEST(SignedImage, EveryFlippedBitOfTheImageIsRefused) {
  Bytes file = small_signed_file();
  for (size_t bit = 0; bit < 1000 * 8; bit += 7) {
    file[bit / 8] = static_cast<uint8_t>(file[bit / 8] ^ (1 << bit % 8));
    ASSERT_EQ(OE_VERIFY_FAILED, verify(file)) << "bit " << bit;
    file[bit / 8] = static_cast<uint8_t>(file[bit / 8] ^ (1 << bit % 8));
  }
}

TEST(SignedImage, OtherLengthsAreRefused) {
  const Bytes file = small_signed_file();
  for (size_t size = 0; size < file.size(); ++size) {
    ASSERT_NE(OE_OK, verify(Bytes(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size)))) << size;
    ASSERT_NE(OE_OK, verify(Bytes(file.end() - static_cast<std::ptrdiff_t>(size), file.end()))) << size;
  }
  Bytes longer = file;
  longer.push_back(0);
  EXPECT_EQ(OE_INVALID_IMAGE, verify(longer));
}

// Signed properly, but by somebody who does not keep to the ranges that sign_image keeps to.
TEST(SignedImage, ValuesOutOfRangeAreRefusedAlthoughSigned) {
  const Bytes genuine = small_signed_file();
  const Key key = read_key(LOADER_TEST_KEY);
  const auto with = [&](size_t offset, uint8_t value, size_t second_offset, uint8_t second_value) {
    Bytes file = genuine;
    uint8_t* trailer = file.data() + file.size() - kTrailerSize;
    trailer[offset] = value;
    trailer[second_offset] = second_value;
    uint8_t signature[384];
    size_t size = sizeof(signature);
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    EXPECT_EQ(1, EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key.get()));
    EXPECT_EQ(1, EVP_DigestSign(context, signature, &size, trailer, 448));
    EVP_MD_CTX_free(context);
    std::reverse_copy(signature, signature + sizeof(signature), trailer + 448);
    return verify(file);
  };
  EXPECT_EQ(OE_OK, with(20, 3, 21, 0));
  EXPECT_EQ(OE_INVALID_IMAGE, with(8, 2, 21, 0)) << "version";
  EXPECT_EQ(OE_INVALID_IMAGE, with(16, 2, 21, 0)) << "debug";
  EXPECT_EQ(OE_INVALID_IMAGE, with(20, 0, 21, 0)) << "no TCS";
  EXPECT_EQ(OE_INVALID_IMAGE, with(20, 1, 21, 4)) << "1025 TCS";
  EXPECT_EQ(OE_VERIFY_FAILED, with(20, 0, 21, 4)) << "1024 TCS, but measured with 3";
  EXPECT_EQ(OE_VERIFY_FAILED, with(24, 5, 21, 0)) << "heap measured as 4";
  EXPECT_EQ(OE_VERIFY_FAILED, with(16, 1, 21, 0)) << "debug measured as 0";
  EXPECT_EQ(OE_OK, with(12, 9, 14, 9)) << "product id and SVN are not part of the measurement";
}

TEST(SignedImage, AnotherKeysModulusOrAnotherImagesTrailerDoNotFit) {
  const Directory directory;
  ASSERT_EQ(0, run(SIMULATION_SIGN " keygen " + (directory / "other.pem")).status);
  const Key other = read_key(directory / "other.pem");
  const Bytes genuine = small_signed_file();
  const Bytes image(genuine.begin(), genuine.end() - kTrailerSize);
  const Trailer trailer = sign_image(image.data(), image.size(), {1, 2, 0, 3, 4}, other.get());

  Bytes modulus_swapped = genuine;
  std::copy(&trailer[64], &trailer[448], modulus_swapped.end() - kTrailerSize + 64);
  EXPECT_EQ(OE_VERIFY_FAILED, verify(modulus_swapped));

  Bytes signature_swapped = genuine;
  std::copy(&trailer[448], &trailer[832], signature_swapped.end() - kTrailerSize + 448);
  EXPECT_EQ(OE_VERIFY_FAILED, verify(signature_swapped));

  Bytes other_image(image.size() + 1, 1);
  other_image.insert(other_image.end(), genuine.end() - kTrailerSize, genuine.end());
  EXPECT_EQ(OE_VERIFY_FAILED, verify(other_image));
}

TEST(SignedImage, KeysThatSgxWouldNotTakeAreRefused) {
  const Bytes image(10);
  const auto sign_with = [&](unsigned bits) {
    const Key key(EVP_RSA_gen(bits));  // public exponent 65537
    EXPECT_THROW(sign_image(image.data(), image.size(), {1, 1, 0, 1, 1}, key.get()), ImageRefused);
  };
  sign_with(2048);
  sign_with(3072);
  const Key curve(EVP_EC_gen("P-256"));
  EXPECT_THROW(sign_image(image.data(), image.size(), {1, 1, 0, 1, 1}, curve.get()), ImageRefused);
}

class Refusal : public ::testing::Test {
 protected:
  void expect(oe_result_t expected, const std::string& reason, const std::string& path,
              uint32_t flags = kDebugSimulation) {
    auto* enclave = reinterpret_cast<oe_enclave_t*>(1);
    EXPECT_EQ(expected, create(path, &enclave, flags)) << path;
    EXPECT_EQ(nullptr, enclave);
    EXPECT_NE(std::string::npos, std::string(confidential_ml_simulation_last_error()).find(reason))
        << confidential_ml_simulation_last_error();
  }

  void expect(oe_result_t expected, const std::string& reason, const Bytes& file) {
    write_file(directory_ / "image", file);
    expect(expected, reason, directory_ / "image");
  }

  const Directory directory_;
};

TEST_F(Refusal, OfFilesThatAreNoSignedImage) {
  expect(OE_NOT_FOUND, "No such file", directory_ / "nothing");
  expect(OE_INVALID_IMAGE, "not a regular file", directory_ / "");
  ASSERT_EQ(0, mkfifo((directory_ / "pipe").c_str(), 0600));
  expect(OE_INVALID_IMAGE, "not a regular file", directory_ / "pipe");
  expect(OE_INVALID_IMAGE, "empty", Bytes{});
  expect(OE_INVALID_IMAGE, "not a signed simulation image", Bytes(2000, 1));
  write_file(directory_ / "huge", Bytes(1));
  std::filesystem::resize_file(directory_ / "huge", kMaxImageSize + 1);
  expect(OE_INVALID_IMAGE, "larger than 256 MiB", directory_ / "huge");
}

TEST_F(Refusal, OfRealImagesThatWereChanged) {
  const Bytes genuine = read_file(LOADER_TEST_IMAGE);
  Bytes changed = genuine;
  changed[changed.size() / 2] ^= 1;
  expect(OE_VERIFY_FAILED, "not the one that was signed", changed);
  changed = genuine;
  changed[changed.size() - 200] ^= 1;
  expect(OE_VERIFY_FAILED, "signature of the image does not verify", changed);
  changed = genuine;
  changed.pop_back();
  expect(OE_INVALID_IMAGE, "not a signed simulation image", changed);
  changed = genuine;
  changed.erase(changed.begin());
  expect(OE_VERIFY_FAILED, "not the one that was signed", changed);
}

TEST_F(Refusal, OfSignedFilesThatCannotBeLoaded) {
  expect(OE_INVALID_IMAGE, "cannot load the image", small_signed_file());
  ASSERT_EQ(0,
            run("printf 'int unrelated;' | gcc -shared -fPIC -x c - -o " + (directory_ / "other.so")).status);
  expect(OE_INVALID_IMAGE, "does not export confidential_ml_simulation_ecall",
         signed_bytes(read_file(directory_ / "other.so"), {1, 1, 0, 1, 1}));
}

TEST_F(Refusal, OfFlagsAndArguments) {
  const std::string image = LOADER_TEST_IMAGE;
  expect(OE_PLATFORM_ERROR, "OE_ENCLAVE_FLAG_SIMULATE", image, 0);
  expect(OE_INVALID_PARAMETER, "unknown enclave flags", image, OE_ENCLAVE_FLAG_SIMULATE | 0x100);
  oe_enclave_t* enclave = nullptr;
  const auto create_with = [&](const char* path, int type, uint32_t settings) {
    return oe_create_boundary_sample_enclave(path, static_cast<oe_enclave_type_t>(type),
                                             OE_ENCLAVE_FLAG_SIMULATE, nullptr, settings, &enclave);
  };
  EXPECT_EQ(OE_INVALID_PARAMETER, create_with(nullptr, OE_ENCLAVE_TYPE_SGX, 0));
  EXPECT_EQ(OE_INVALID_PARAMETER, create_with(image.c_str(), 3, 0));
  EXPECT_EQ(OE_INVALID_PARAMETER, create_with(image.c_str(), OE_ENCLAVE_TYPE_SGX, 1));
  EXPECT_EQ(OE_INVALID_PARAMETER, oe_terminate_enclave(nullptr));
  EXPECT_EQ(OE_INVALID_PARAMETER, oe_terminate_enclave(reinterpret_cast<oe_enclave_t*>(&enclave)));
  uint32_t count = 0;
  EXPECT_EQ(OE_INVALID_PARAMETER, sample_count(nullptr, &count));
}

// ---- the signing tool ----

const std::string kConf =
    "Debug=0\nNumHeapPages=1\nNumStackPages=1\nNumTCS=1\nProductID=1\nSecurityVersion=1\n";

class Tool : public ::testing::Test {
 protected:
  Outcome sign(const std::string& conf) {
    write_text(directory_ / "conf", conf);
    write_text(directory_ / "in", "an image");
    return run(SIMULATION_SIGN " sign --image " + (directory_ / "in") + " --conf " + (directory_ / "conf") +
               " --key " LOADER_TEST_KEY " --output " + (directory_ / "out"));
  }

  void expect_refused(const std::string& conf, const std::string& reason) {
    const Outcome result = sign(conf);
    EXPECT_EQ(1, result.status) << conf;
    EXPECT_NE(std::string::npos, result.output.find(reason)) << result.output;
    EXPECT_FALSE(std::filesystem::exists(directory_ / "out"));
  }

  const Directory directory_;
};

TEST_F(Tool, KeyIsPrivateAndNeverOverwritten) {
  const std::string path = directory_ / "key.pem";
  ASSERT_EQ(0, run("umask 0; " SIMULATION_SIGN " keygen " + path).status);
  struct stat status {};
  ASSERT_EQ(0, stat(path.c_str(), &status));
  EXPECT_EQ(0600u, status.st_mode & 07777);
  const Bytes before = read_file(path);
  EXPECT_EQ(1, run(SIMULATION_SIGN " keygen " + path).status);
  EXPECT_EQ(before, read_file(path));
}

TEST_F(Tool, DumpSaysWhatTheFileSays) {
  const Outcome dump = run(SIMULATION_SIGN " dump " LOADER_TEST_IMAGE);
  ASSERT_EQ(0, dump.status) << dump.output;
  const Bytes file = read_file(LOADER_TEST_IMAGE);
  std::string expected = "mrenclave=";
  const auto append_hex = [&](const uint8_t* bytes) {
    char text[3];
    for (size_t i = 0; i < 32; ++i) {
      std::snprintf(text, sizeof(text), "%02x", bytes[i]);
      expected += text;
    }
  };
  append_hex(file.data() + file.size() - kTrailerSize + 32);
  expected += "\nmrsigner=";
  append_hex(verify_signed_image(file.data(), file.size()).mrsigner.data());
  expected += "\nproduct_id=7\nsecurity_version=3\ndebug=1\nnum_heap_pages=1024\nnum_tcs=2\n";
  EXPECT_EQ(expected, dump.output);

  write_file(directory_ / "unsigned", Bytes(file.begin(), file.end() - kTrailerSize));
  EXPECT_EQ(1, run(SIMULATION_SIGN " dump " + (directory_ / "unsigned")).status);
}

TEST_F(Tool, ConfInEverySpellingOesignTakes) {
  const Outcome result = sign(
      "# comment\r\n\n \t\n  # indented comment\nDebug = 1\n\tNumHeapPages "
      "12\nNumStackPages\t=\t1\r\nNumTCS==1024 \n"
      "ProductID=65534\nSecurityVersion=007\nFamilyID=47183823-2574-4bfd-b411-"
      "99ed177d3e43\nExtendedProductID=0\n"
      "CapturePFGPExceptions=1\nCreateZeroBaseEnclave=0\nStartAddress=8192");
  ASSERT_EQ(0, result.status) << result.output;
  EXPECT_NE(
      std::string::npos,
      run(SIMULATION_SIGN " dump " + (directory_ / "out"))
          .output.find("product_id=65534\nsecurity_version=7\ndebug=1\nnum_heap_pages=12\nnum_tcs=1024\n"));
}

TEST_F(Tool, ConfRefusalsNameTheLine) {
  ASSERT_EQ(0, sign(kConf).status);
  std::filesystem::remove(directory_ / "out");
  expect_refused(kConf + "NumTcs=1\n", "conf:7: unknown setting 'NumTcs'");
  expect_refused(kConf + "\n#\nDebug=0\n", "conf:9: duplicate 'Debug'");
  for (const std::string line : {"Debug", "Debug=", "=1", "Debug ="}) {
    expect_refused(line + "\n" + kConf, "conf:1: syntax error");
  }
  for (const std::string line : {"Debug=2",
                                 "Debug=yes",
                                 "Debug=1 # on",
                                 "NumTCS=0",
                                 "NumTCS=1025",
                                 "NumTCS=-1",
                                 "NumTCS=+1",
                                 "NumTCS=0x1",
                                 "ProductID=65535",
                                 "ProductID=65537",
                                 "SecurityVersion=65535",
                                 "SecurityVersion=18446744073709551617",
                                 "NumHeapPages=18446744073709551615",
                                 "NumStackPages=99999999999999999999",
                                 "FamilyID=47183823",
                                 "ExtendedProductID=47183823-2574-4bfd-b411-99ed177d3eXX",
                                 "CapturePFGPExceptions=2",
                                 "CreateZeroBaseEnclave=-0",
                                 "StartAddress=0",
                                 "StartAddress=4097"}) {
    expect_refused("\n" + line + "\n" + kConf,
                   "conf:2: bad value for '" + line.substr(0, line.find('=')) + "'");
  }
  for (const std::string key :
       {"Debug", "NumHeapPages", "NumStackPages", "NumTCS", "ProductID", "SecurityVersion"}) {
    std::string conf = kConf;
    conf.erase(conf.find(key), key.size() + 3);
    expect_refused(conf, "'" + key + "' is missing");
  }
}

TEST_F(Tool, SignsOnlyOnce) {
  ASSERT_EQ(0, sign(kConf).status);
  const Outcome again =
      run(SIMULATION_SIGN " sign --image " + (directory_ / "out") + " --conf " + (directory_ / "conf") +
          " --key " LOADER_TEST_KEY " --output " + (directory_ / "twice"));
  EXPECT_EQ(1, again.status);
  EXPECT_NE(std::string::npos, again.output.find("already signed")) << again.output;
}

TEST_F(Tool, WrongUseIsExplained) {
  for (const std::string arguments : {"", "keygen", "dump", "dump a b", "sign --image x", "forge x"}) {
    const Outcome result = run(SIMULATION_SIGN " " + arguments);
    EXPECT_EQ(2, result.status);
    EXPECT_NE(std::string::npos, result.output.find("usage:"));
  }
}

}  // namespace
