// Build-time tool that does for the simulation build what oesign does for Open Enclave: signs an enclave
// image with the properties of an enclave.conf, and shows what a signed image says.

#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "simulation/signed_image.h"

namespace confidential_ml::simulation {
namespace {

constexpr char kUsage[] =
    "usage: simulation_sign keygen OUT.pem\n"
    "       simulation_sign sign --image IN --conf ENCLAVE.conf --key KEY.pem --output OUT\n"
    "       simulation_sign identity --image IN --conf ENCLAVE.conf --key KEY.pem --output OUT.inc\n"
    "       simulation_sign dump IMAGE\n";

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

struct FreeKeyContext {
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};

// ---- enclave.conf, in the syntax of oesign ----

enum class Form { kNumber, kUuid };

struct Setting {
  Form form;
  uint64_t minimum;
  uint64_t maximum;
  uint64_t multiple_of;
  bool required;
};

// The bounds are oesign's, but for NumTCS: an enclave without a thread cannot be called. oesign takes what
// the file does not say from the image; a simulated image holds no properties, so here the file must say it.
const std::map<std::string, Setting>& settings() {
  constexpr uint64_t kMax16 = std::numeric_limits<uint16_t>::max() - 1;
  constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max() - 1;
  static const std::map<std::string, Setting> all = {
      {"Debug", {Form::kNumber, 0, 1, 1, true}},
      {"NumHeapPages", {Form::kNumber, 0, kMax64, 1, true}},
      {"NumStackPages", {Form::kNumber, 0, kMax64, 1, true}},
      {"NumTCS", {Form::kNumber, 1, kMaxTcs, 1, true}},
      {"ProductID", {Form::kNumber, 0, kMax16, 1, true}},
      {"SecurityVersion", {Form::kNumber, 0, kMax16, 1, true}},
      {"FamilyID", {Form::kUuid, 0, 0, 1, false}},
      {"ExtendedProductID", {Form::kUuid, 0, 0, 1, false}},
      {"CapturePFGPExceptions", {Form::kNumber, 0, 1, 1, false}},
      {"CreateZeroBaseEnclave", {Form::kNumber, 0, 1, 1, false}},
      {"StartAddress", {Form::kNumber, 1, kMax64, 4096, false}},
  };
  return all;
}

std::string trimmed(const std::string& line) {
  const size_t begin = line.find_first_not_of(" \t");
  const size_t end = line.find_last_not_of(" \t\r\n");
  return begin == std::string::npos || end == std::string::npos ? "" : line.substr(begin, end + 1 - begin);
}

std::optional<uint64_t> decimal(const std::string& text) {
  uint64_t value = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '9' || __builtin_mul_overflow(value, 10u, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(digit - '0'), &value)) {
      return std::nullopt;
    }
  }
  return value;
}

bool is_uuid(const std::string& text) {
  constexpr char kPattern[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  if (text.size() <= 1) return true;  // oesign reads this as "none"
  if (text.size() != sizeof(kPattern) - 1) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool hexadecimal = std::string("0123456789abcdefABCDEF").find(text[i]) != std::string::npos;
    if (kPattern[i] == '-' ? text[i] != '-' : !hexadecimal) return false;
  }
  return true;
}

uint64_t setting_value(const std::string& where, const std::string& key, const std::string& text) {
  const auto setting = settings().find(key);
  if (setting == settings().end()) throw Failure(where + "unknown setting '" + key + "'");
  if (setting->second.form == Form::kUuid) {
    if (!is_uuid(text)) throw Failure(where + "bad value for '" + key + "': " + text);
    return 0;
  }
  const std::optional<uint64_t> value = decimal(text);
  if (!value || *value < setting->second.minimum || *value > setting->second.maximum ||
      *value % setting->second.multiple_of != 0) {
    throw Failure(where + "bad value for '" + key + "': " + text);
  }
  return *value;
}

std::map<std::string, uint64_t> read_settings(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Failure("cannot open " + path);
  std::map<std::string, uint64_t> values;
  std::string line;
  for (size_t number = 1; std::getline(file, line); ++number) {
    const std::string where = path + ":" + std::to_string(number) + ": ";
    line = trimmed(line);
    if (line.empty() || line[0] == '#') continue;
    const size_t key_end = line.find_first_of(" \t=");
    const size_t value_begin = line.find_first_not_of(" \t=", key_end);
    if (key_end == 0 || key_end == std::string::npos || value_begin == std::string::npos) {
      throw Failure(where + "syntax error, expected Name=Value");
    }
    const std::string key = line.substr(0, key_end);
    if (!values.emplace(key, setting_value(where, key, line.substr(value_begin))).second) {
      throw Failure(where + "duplicate '" + key + "'");
    }
  }
  for (const auto& [key, setting] : settings()) {
    if (setting.required && !values.count(key)) throw Failure(path + ": '" + key + "' is missing");
  }
  return values;
}

ImageProperties read_properties(const std::string& path) {
  const std::map<std::string, uint64_t> values = read_settings(path);
  ImageProperties properties;
  properties.debug = static_cast<uint32_t>(values.at("Debug"));
  properties.num_heap_pages = values.at("NumHeapPages");
  properties.num_tcs = static_cast<uint32_t>(values.at("NumTCS"));
  properties.isv_prod_id = static_cast<uint16_t>(values.at("ProductID"));
  properties.isv_svn = static_cast<uint16_t>(values.at("SecurityVersion"));
  return properties;
}

// ---- files ----

std::vector<uint8_t> read_image(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("cannot open " + path);
  std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw Failure("cannot read " + path);
  return bytes;
}

// Under another name first: a build that is interrupted here leaves no half-written image behind.
void write_image(const std::string& path, const std::vector<uint8_t>& image, const Trailer& trailer) {
  const std::string unfinished = path + ".unfinished";
  std::ofstream file(unfinished, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
  file.write(reinterpret_cast<const char*>(trailer.data()), static_cast<std::streamsize>(trailer.size()));
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    std::remove(unfinished.c_str());
    throw Failure("cannot write " + path);
  }
}

Key read_key(const std::string& path) {
  const File file(std::fopen(path.c_str(), "r"));
  if (!file) throw Failure("cannot open " + path);
  // An empty passphrase instead of a question on the terminal: this runs in builds.
  Key key(PEM_read_PrivateKey(file.get(), nullptr, nullptr, const_cast<char*>("")));
  if (!key) throw Failure(path + " holds no private key that can be read without a passphrase");
  return key;
}

// ---- subcommands ----

Key generate_key() {
  const std::unique_ptr<EVP_PKEY_CTX, FreeKeyContext> context(
      EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr));
  unsigned bits = kKeyBits;
  uint8_t exponent = 3;
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_uint(OSSL_PKEY_PARAM_RSA_BITS, &bits),
      OSSL_PARAM_construct_BN(OSSL_PKEY_PARAM_RSA_E, &exponent, sizeof(exponent)),
      OSSL_PARAM_construct_end(),
  };
  EVP_PKEY* key = nullptr;
  if (!context || EVP_PKEY_keygen_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_params(context.get(), parameters) != 1 ||
      EVP_PKEY_generate(context.get(), &key) != 1) {
    throw Failure("cannot generate a key");
  }
  return Key(key);
}

void keygen(const std::string& path) {
  // O_EXCL: replacing a key would change MRSIGNER and lock everything sealed to it.
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) throw Failure("cannot create " + path + " (an existing file is never overwritten)");
  File file(fdopen(descriptor, "w"));
  try {
    const Key key = generate_key();
    if (!file || PEM_write_PrivateKey(file.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1 ||
        std::fclose(file.release()) != 0) {
      throw Failure("cannot write " + path);
    }
  } catch (...) {
    unlink(path.c_str());
    throw;
  }
}

void sign(const std::map<std::string, std::string>& options) {
  const ImageProperties properties = read_properties(options.at("--conf"));
  const Key key = read_key(options.at("--key"));
  const std::vector<uint8_t> image = read_image(options.at("--image"));
  write_image(options.at("--output"), image, sign_image(image.data(), image.size(), properties, key.get()));
}

void write_digest(std::ofstream& file, const Digest& digest) {
  for (const uint8_t byte : digest) file << static_cast<unsigned>(byte) << ",";
}

// The identity that `sign` would give the image, as the initialiser that compiled_identity.cpp includes: for
// images that run where no loader of ours measures them.
void write_identity(const std::map<std::string, std::string>& options) {
  constexpr int kOpenEnclaveSimulation = 2;
  std::vector<uint8_t> image = read_image(options.at("--image"));
  const ImageProperties properties = read_properties(options.at("--conf"));
  const Key key = read_key(options.at("--key"));
  const Trailer trailer = sign_image(image.data(), image.size(), properties, key.get());
  image.insert(image.end(), trailer.begin(), trailer.end());
  const SignedImage measured = verify_signed_image(image.data(), image.size());
  std::ofstream file(options.at("--output"), std::ios::trunc);
  file << "{{";
  write_digest(file, measured.mrenclave);
  file << "},{";
  write_digest(file, measured.mrsigner);
  file << "}," << properties.isv_prod_id << "," << properties.isv_svn << "," << kOpenEnclaveSimulation << ","
       << properties.debug << "}\n";
  file.close();
  if (!file) throw Failure("cannot write " + options.at("--output"));
}

void print_digest(const char* name, const Digest& digest) {
  std::printf("%s=", name);
  for (const uint8_t byte : digest) std::printf("%02x", byte);
  std::printf("\n");
}

void dump(const std::string& path) {
  const std::vector<uint8_t> file = read_image(path);
  const SignedImage image = verify_signed_image(file.data(), file.size());
  print_digest("mrenclave", image.mrenclave);
  print_digest("mrsigner", image.mrsigner);
  std::printf("product_id=%u\nsecurity_version=%u\ndebug=%" PRIu32 "\n", image.properties.isv_prod_id,
              image.properties.isv_svn, image.properties.debug);
  std::printf("num_heap_pages=%" PRIu64 "\nnum_tcs=%" PRIu32 "\n", image.properties.num_heap_pages,
              image.properties.num_tcs);
}

std::optional<std::map<std::string, std::string>> sign_options(const std::vector<std::string>& arguments) {
  std::map<std::string, std::string> options;
  for (size_t i = 1; i + 1 < arguments.size(); i += 2) options[arguments[i]] = arguments[i + 1];
  const bool complete = options.count("--image") && options.count("--conf") && options.count("--key") &&
                        options.count("--output") && options.size() == 4 && arguments.size() == 9;
  return complete ? std::optional(options) : std::nullopt;
}

int run(const std::vector<std::string>& arguments) {
  const std::string command = arguments.empty() ? "" : arguments[0];
  const auto options = sign_options(arguments);
  if (command == "keygen" && arguments.size() == 2) {
    keygen(arguments[1]);
  } else if (command == "sign" && options) {
    sign(*options);
  } else if (command == "identity" && options) {
    write_identity(*options);
  } else if (command == "dump" && arguments.size() == 2) {
    dump(arguments[1]);
  } else {
    std::fputs(kUsage, stderr);
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace confidential_ml::simulation

int main(int argc, char** argv) {
  try {
    return confidential_ml::simulation::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "simulation_sign: %s\n", error.what());
    return 1;
  }
}
