#include "enclave/confidential_request.h"

#include <algorithm>
#include <cstring>

#include "common/bytes.h"
#include "common/limits.h"
#include "enclave/guarded.h"
#include "enclave/model.h"
#include "enclave/plan.h"
#include "enclave/platform.h"
#include "enclave/prediction.h"
#include "enclave/receipt.h"
#include "enclave/sealing.h"

namespace confidential_ml {
namespace {

constexpr size_t kProvisionFieldsSize = 128;

struct PredictFields {
  static constexpr size_t kSize = 40;
  static constexpr uint32_t kOutputMargin = 1, kReceipt = 2;
  uint32_t flags, round_begin, round_end, feature_count;
  uint64_t row_count, base_margin_size, time;
};
static_assert(sizeof(PredictFields) == PredictFields::kSize, "read in one piece");

struct AnswerFields {
  uint32_t status, receipt_size;
  uint64_t content_size;
};
constexpr size_t kBlindOffset = sizeof(AnswerFields);
constexpr size_t kAnswerFieldsSize = kBlindOffset + kBlindSize;
static_assert(kAnswerFieldsSize == 48, "the fields are written in one piece");

// Zeros to the end of the smallest bucket. Looks at all of the padding, whatever is in it.
bool is_padding(ByteView plaintext, uint64_t content_size) {
  if (content_size > plaintext.size || bucket_size(content_size) != plaintext.size) return false;
  uint8_t bits = 0;
  for (size_t i = static_cast<size_t>(content_size); i < plaintext.size; ++i) bits |= plaintext.data[i];
  return bits == 0;
}

// The answer's plaintext: an error until content is there.
class Answer {
 public:
  explicit Answer(uint32_t size) : words_(size / sizeof(float)) {}

  // Room for content and, if wanted, a receipt; nullptr if that is more than the request asked for.
  float* content(uint64_t size, bool with_receipt) {
    const uint64_t needed = kAnswerFieldsSize + size + (with_receipt ? kReceiptSize : 0);
    if (size > kMaxAnswerContent || needed > words_.size() * sizeof(float)) return nullptr;
    fields_.content_size = size;
    return words_.data() + kAnswerFieldsSize / sizeof(float);
  }
  ByteView content() const {
    return {bytes() + kAnswerFieldsSize, static_cast<size_t>(fields_.content_size)};
  }
  uint8_t* receipt() {
    fields_.receipt_size = kReceiptSize;
    return bytes() + kAnswerFieldsSize + fields_.content_size;
  }
  uint8_t* blind() { return bytes() + kBlindOffset; }

  // What has been written of an answer that failed is taken back.
  ByteView finish(Status status) {
    if (status != Status::kOk) {
      wipe(words_.data(), words_.size() * sizeof(float));
      fields_ = {};
    }
    fields_.status = static_cast<uint32_t>(status);
    std::memcpy(words_.data(), &fields_, sizeof fields_);
    return {bytes(), words_.size() * sizeof(float)};
  }

 private:
  uint8_t* bytes() { return reinterpret_cast<uint8_t*>(words_.data()); }
  const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(words_.data()); }

  SecretVector<float> words_;  // zeros; of floats because predictions are written in place
  AnswerFields fields_{};
};

Status add_receipt(Channel* channel, const OpenedRequest& opened, const SealedDescription& model,
                   uint16_t policy, uint64_t time, const uint8_t content_digest[kSha256Size],
                   Answer* answer) {
  uint8_t request_digest[kSha256Size];
  const Status status = sha256({opened.request}, request_digest);
  if (status != Status::kOk) return status;
  const ReceiptFields fields{static_cast<uint16_t>(opened.kind),
                             policy,
                             channel->next_receipt(),
                             time,
                             channel->instance(),
                             opened.epoch_digest,
                             request_digest,
                             content_digest,
                             &model};
  return write_receipt(channel->receipt_key(), fields, answer->receipt());
}

Status blind_content(Answer* answer, uint8_t digest[kSha256Size]) {
  const Status status = platform_random(answer->blind(), kBlindSize);
  return status == Status::kOk ? blinded_digest(answer->blind(), answer->content(), digest) : status;
}

Status answer_prediction(Channel* channel, const Registry& registry, const OpenedRequest& opened,
                         Answer* answer) {
  const ByteView plaintext = opened.bytes();
  PredictFields fields;
  std::memcpy(&fields, plaintext.data, sizeof fields);
  // No overflow: the sizes below cannot be right if one of these is larger.
  if (fields.row_count > kMaxRequestContent || fields.base_margin_size > kMaxRequestContent ||
      (fields.flags & ~(PredictFields::kOutputMargin | PredictFields::kReceipt)) != 0) {
    return Status::kRequestInvalid;
  }
  const uint64_t rows_size = fields.row_count * fields.feature_count * sizeof(float);
  if (!is_padding(plaintext, sizeof fields + rows_size + fields.base_margin_size)) {
    return Status::kRequestInvalid;
  }
  const auto loaded = registry.find_by_digest(opened.model_digest);
  if (loaded == nullptr) return Status::kUnknownModel;
  const Model& model = loaded->forest.model();
  if (fields.feature_count != model.feature_count) return Status::kRowsSizeWrong;
  const bool output_margin = (fields.flags & PredictFields::kOutputMargin) != 0;
  const bool with_receipt = (fields.flags & PredictFields::kReceipt) != 0;
  const uint64_t size = fields.row_count * prediction_columns(model, output_margin) * sizeof(float);
  float* predictions = answer->content(size, with_receipt);
  if (predictions == nullptr) return Status::kAnswerTooSmall;
  const float* rows = opened.plaintext.data() + sizeof fields / sizeof(float);
  Status status = predict(*loaded, {output_margin,
                                    {fields.round_begin, fields.round_end},
                                    fields.row_count,
                                    rows,
                                    rows_size,
                                    rows + rows_size / sizeof(float),
                                    fields.base_margin_size,
                                    predictions,
                                    size});
  if (status != Status::kOk || !with_receipt) return status;
  uint8_t digest[kSha256Size];
  status = blind_content(answer, digest);
  if (status != Status::kOk) return status;
  return add_receipt(channel, opened, loaded->description, 0, fields.time, digest, answer);
}

// What a provisioning request says, and where its model is.
struct Provision {
  SealingRequest request;
  uint64_t time;
  ByteView flat_model;
};

Status read_provision(ByteView plaintext, Provision* provision) {
  Reader reader(plaintext.data, plaintext.size);
  Ownership& ownership = provision->request.ownership;
  provision->request.policy = reader.read<uint32_t>();
  const auto reserved = reader.read<uint16_t>();
  const auto id_size = reader.read<uint16_t>();
  ownership.model_version = reader.read<uint64_t>();
  provision->time = reader.read<uint64_t>();
  const auto model_size = reader.read<uint64_t>();
  reader.copy_to(ownership.owner, sizeof ownership.owner);
  reader.copy_to(ownership.signature, sizeof ownership.signature);
  if (reader.failed() || reserved != 0 || model_size > kMaxFlatModelSize ||
      !is_padding(plaintext, kProvisionFieldsSize + id_size + model_size)) {
    return Status::kRequestInvalid;
  }
  provision->request.model_id = {reader.take(id_size), id_size};
  provision->flat_model = {reader.take(static_cast<size_t>(model_size)), static_cast<size_t>(model_size)};
  return reader.failed() ? Status::kRequestInvalid : Status::kOk;
}

Status seal_provision(Channel* channel, const OpenedRequest& opened, OutputBuffer* sealed, Answer* answer) {
  Provision provision{};
  SealedDescription description{};
  Status status = read_provision(opened.bytes(), &provision);
  if (status != Status::kOk) return status;
  if (answer->content(0, true) == nullptr) return Status::kAnswerTooSmall;
  status = check_and_seal(provision.flat_model, provision.request, sealed, &description);
  uint8_t digest[kSha256Size];
  if (status == Status::kOk) status = sha256({{sealed->data, static_cast<size_t>(sealed->size)}}, digest);
  if (status != Status::kOk) return status;
  return add_receipt(channel, opened, description, static_cast<uint16_t>(description.policy), provision.time,
                     digest, answer);
}

// The longest answer that a request of this size can need. Of a model that is not loaded (any more) a row is
// taken to have as many values as features.
uint64_t longest_answer(const Registry& registry, const RequestHeader& header, uint64_t request_size) {
  uint64_t features = 1, columns = 1;
  if (const auto loaded = registry.find_by_digest(header.model_digest)) {
    const Model& model = loaded->forest.model();
    features = model.feature_count;
    columns = std::max(prediction_columns(model, true), prediction_columns(model, false));
  }
  const uint64_t rows =
      (request_size - kRequestOverhead - sizeof(PredictFields)) / (features * sizeof(float));
  return bucket_size(kAnswerFieldsSize + kReceiptSize + rows * columns * sizeof(float));
}

// What can be said of a request by its header: anybody can write one that asks for a lot of memory.
Status check_header(const Registry& registry, ByteView bytes, uint64_t request_size, RequestHeader* header) {
  if (read_request_header(bytes, request_size, header) != Status::kOk) return Status::kRequestUnreadable;
  if (header->answer_size <= kSmallAnswerContent) return Status::kOk;
  const bool is_needed = header->kind == RequestKind::kPredict &&
                         header->answer_size <= longest_answer(registry, *header, request_size);
  return is_needed ? Status::kOk : Status::kRequestUnreadable;
}

// Opens, lets `body` fill the answer and seals it.
template <typename Body>
Status open_and_answer(Channel* channel, const RequestHeader& header, ByteView request, OutputBuffer* output,
                       Body body) {
  // Room and memory before the request is open, which it is only once.
  const uint32_t answer_size = header.answer_size;
  if (output->capacity < kAnswerOverhead + answer_size) return Status::kBufferTooSmall;
  Answer answer(answer_size);
  OpenedRequest opened;
  const Status status = channel->open(request, header.kind, &opened);
  if (status != Status::kOk) return status;
  const ByteView plaintext = answer.finish(guarded([&] { return body(opened, &answer); }));
  output->size = kAnswerOverhead + answer_size;
  return channel->seal_answer(opened, plaintext, output->data);
}

}  // namespace

Status check_request(const Channel& channel, const Registry& registry, ByteView header,
                     uint64_t request_size) {
  RequestHeader found;
  const bool can_be_opened =
      check_header(registry, header, request_size, &found) == Status::kOk && channel.has_key(found.key_id);
  return can_be_opened ? Status::kOk : Status::kRequestUnreadable;
}

Status answer_request(Channel* channel, const Registry& registry, ByteView request, OutputBuffer* answer) {
  RequestHeader header;
  const Status checked = check_header(registry, request, request.size, &header);
  if (checked != Status::kOk || header.kind != RequestKind::kPredict) return Status::kRequestUnreadable;
  return open_and_answer(channel, header, request, answer, [&](const OpenedRequest& opened, Answer* plain) {
    return answer_prediction(channel, registry, opened, plain);
  });
}

Status import_model(Channel* channel, const Registry& registry, ByteView request, OutputBuffer* sealed,
                    OutputBuffer* answer) {
  sealed->size = 0;
  RequestHeader header;
  const Status checked = check_header(registry, request, request.size, &header);
  if (checked != Status::kOk || header.kind != RequestKind::kProvision) return Status::kRequestUnreadable;
  bool is_sealed = false;
  const Status status =
      open_and_answer(channel, header, request, answer, [&](const OpenedRequest& opened, Answer* plain) {
        const Status provisioned = seal_provision(channel, opened, sealed, plain);
        is_sealed = provisioned == Status::kOk;
        return provisioned;
      });
  // Whatever failed, also after the sealing: the host gets no model that the client gets no receipt for.
  if (status != Status::kOk || !is_sealed) {
    std::memset(sealed->data, 0, sealed->capacity);
    sealed->size = 0;
  }
  return status;
}

Status check_and_seal(ByteView flat_model, const SealingRequest& request, OutputBuffer* sealed,
                      SealedDescription* description) {
  if (flat_model.size > kMaxFlatModelSize) return Status::kModelLimitExceeded;
  {
    Model parsed{};
    const Status status = parse_model(flat_model.data, flat_model.size, &parsed);
    if (status != Status::kOk) return status;
    // A model that could not be loaded again is not sealed.
    static_cast<void>(make_plan(parsed));
  }
  return seal(flat_model, request, sealed->data, sealed->capacity, &sealed->size, description);
}

}  // namespace confidential_ml
