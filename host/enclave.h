// One enclave, owned: created, called, closed. Safe to use from any number of threads.
#pragma once

#include <openenclave/host.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace confidential_ml::host {

struct ByteView {
  const uint8_t* data;
  size_t size;
};

struct Identity {
  uint16_t platform;
  uint16_t isv_prod_id;
  uint16_t isv_svn;
  bool debug;
  std::string mrenclave;  // 32 bytes
  std::string mrsigner;   // 32 bytes
};

struct ModelDescription {
  uint32_t booster, objective, feature_count, group_count, value_columns, round_count, tree_count, node_count;
  uint32_t depth, leaf_size, policy;
  uint64_t plan_size;  // bytes
  std::string digest;  // 32 bytes
  std::string owner;   // 32 bytes, zeros if none
  uint64_t model_version;
  std::string model_id;
};

struct SealingRequest {
  std::string model_id;
  uint32_t policy;
  uint64_t model_version;
  ByteView owner;  // public key and signature, or empty
};

struct ImportedModel {
  std::string sealed;  // empty if the answer, which only the client can read, carries an error
  std::string answer;
};

struct PredictRequest {
  uint64_t handle;
  bool output_margin;
  uint32_t round_begin, round_end;
  size_t row_count, feature_count, group_count, columns;
  size_t node_count;         // of the model: tells what a row costs
  const float* rows;         // row_count x feature_count
  const float* base_margin;  // row_count x group_count, or nullptr
  float* predictions;        // row_count x columns
  size_t thread_count;       // at most; 0: as many as there are processors
  // Asked now and then between blocks, on the calling thread; if it says so, Interrupted is thrown.
  bool (*interrupted)();
};

class Interrupted {};

class Enclave {
 public:
  // Throws EnclaveException; so does every call below.
  Enclave(const std::string& image, ByteView platform_input);
  ~Enclave();
  Enclave(const Enclave&) = delete;
  Enclave& operator=(const Enclave&) = delete;

  Identity identity();
  std::string seal_model(ByteView model, const SealingRequest& request);
  uint64_t load_model(ByteView sealed);
  // After the predictions under way; later, when the last of them is done, if a signal handler asks for it
  // that interrupts one of them in this thread. So does close().
  void unload_model(uint64_t handle);
  ModelDescription describe_model(uint64_t handle);
  void predict(const PredictRequest& request);
  // Does so if that is done sooner than another thread could be let in, and waits for nobody.
  bool predict_if_short(const PredictRequest& request);

  // docs/protocol.md; in simulation a report body stands where the quote belongs.
  std::string evidence(ByteView nonce);
  void new_epoch();
  void end_former_epoch();
  // Throws kRequestUnreadable if a request of this size with this header (56 bytes) cannot be opened; cheap.
  void check_request(ByteView header, uint64_t request_size);
  std::string answer_request(ByteView request);
  ImportedModel import_model(ByteView request);

  // Waits for calls and predictions under way, then ends the enclave; later calls throw. Does nothing the
  // second time, and nothing in a forked child, where the enclave belongs to the parent.
  void close();
  bool is_open() const;
  void check_open() const;  // throws what a call would

 private:
  class Call;
  class Prediction;
  class Blocks;
  template <typename Body>
  void then_finish_deferred(const Body& body);
  void predict_all(const PredictRequest& request);
  void predict_blocks(const Prediction& prediction, const PredictRequest& request, Blocks* blocks);
  void predict_block(const Prediction& prediction, const PredictRequest& request, size_t first_row,
                     size_t row_count);
  void finish(const Call& call, oe_result_t result, uint32_t status) const;
  std::string answer_buffer(ByteView request, size_t max_content);

  bool is_forked() const;
  bool is_interrupted() const;  // this thread is in a signal handler, on top of a prediction of this enclave
  void wait_and_unload(std::unique_lock<std::mutex>* lock, uint64_t handle);
  void wait_and_end(std::unique_lock<std::mutex>* lock);
  void finish_deferred();

  struct LoadedModel {
    size_t predictions = 0;  // under way; one may be many calls
    bool unloading = false, deferred = false;
  };
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    size_t calls = 0;        // inside the enclave, at most one per TCS
    size_t predictions = 0;  // under way, of all models
    std::map<uint64_t, LoadedModel> models;
    std::atomic<bool> closing{false};  // written under the mutex
    std::atomic<bool> any_deferred{false};
    bool close_deferred = false;
    oe_enclave_t* enclave = nullptr;
    Shared* next_inherited = nullptr;
  };

  const uint64_t process_generation_;
  // Not to be touched in a forked child, not even destroyed: the mutex may be held, and the condition waited
  // for, by threads that do not exist there.
  std::unique_ptr<Shared> shared_;
};

}  // namespace confidential_ml::host
