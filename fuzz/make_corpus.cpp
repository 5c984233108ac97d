// Writes inputs for ecalls_fuzz to start from into the directory named: every kind of model, sealed, loaded
// and predicted with, and loaded again with a few bytes changed.

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "fuzz/steps.h"
#include "tests/cpp/flat_model_builder.h"

namespace {

using namespace confidential_ml;
using test::Bytes;

class Input {
 public:
  template <typename Step>
  void add(fuzz::Code code, const Step& step) {
    bytes_.push_back(code);
    append(&step, sizeof step);
  }
  void append(const void* data, size_t size) {
    const size_t start = bytes_.size();
    bytes_.resize(start + size);
    if (size > 0) std::memcpy(bytes_.data() + start, data, size);
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

void add_seal(const Bytes& flat, uint8_t fix, Input* input) {
  fuzz::SealStep seal{};
  seal.fix = fix;
  seal.policy = 1;
  seal.id_size = 3;
  seal.model_size = static_cast<uint16_t>(flat.size());
  input->add(fuzz::kSeal, seal);
  input->append(flat.data(), flat.size());
}

void add_predict(uint8_t output_margin, uint8_t has_base_margin, uint8_t row_count, Input* input) {
  const float pattern[] = {0.5f, -1.0f, 3.0f, 31.0f, -0.0f, 1e-40f, 3e38f};
  fuzz::PredictStep predict{};
  predict.output_margin = output_margin;
  predict.has_base_margin = has_base_margin;
  predict.row_count = row_count;
  predict.float_count = sizeof pattern / sizeof pattern[0];
  input->add(fuzz::kPredict, predict);
  input->append(pattern, sizeof pattern);
}

void add_load_patched(const std::vector<uint16_t>& offsets, int8_t size_change, Input* input) {
  fuzz::LoadPatchedStep load{};
  load.fix = fuzz::kFixDigest;
  load.patch_count = static_cast<uint8_t>(offsets.size());
  load.size_change = size_change;
  input->add(fuzz::kLoadPatched, load);
  for (const uint16_t offset : offsets) {
    const fuzz::Patch patch{offset, 0, 1};
    input->append(&patch, sizeof patch);
  }
}

// The bytes of a plaintext of either kind are put right by kFixFields.
void add_request(uint8_t kind, uint8_t fix, const Bytes& plaintext, Input* input,
                 fuzz::SealedRequestStep step = {}) {
  step.kind = kind;
  step.fix = static_cast<uint8_t>(fix | fuzz::kFixHeader | fuzz::kFixPadding);
  step.answer_size = 1000;
  step.size = static_cast<uint16_t>(plaintext.size());
  input->add(fuzz::kSealedRequest, step);
  input->append(plaintext.data(), plaintext.size());
}

Bytes predict_plaintext(uint8_t flags, bool with_base_margin) {
  Bytes plaintext(40 + 50 * 4, 0x3f);
  std::fill_n(plaintext.begin(), 40, uint8_t{0});
  plaintext[0] = flags;
  plaintext[24] = with_base_margin;
  return plaintext;
}

Input requests(const Bytes& flat) {
  Input input;
  Bytes provision(128 + 3);
  provision[0] = provision[6] = 3;  // MRSIGNER, an id of 3 characters
  provision.insert(provision.end(), flat.begin(), flat.end());
  add_request(2, fuzz::kFixFields | fuzz::kFixFlat, provision, &input);
  add_request(2, fuzz::kFixFields | fuzz::kFixOwner, provision, &input);
  for (const uint8_t flags : {uint8_t{0}, uint8_t{1}, uint8_t{2}, uint8_t{3}}) {
    add_request(1, fuzz::kFixFields, predict_plaintext(flags, flags % 2 == 1), &input);
  }
  input.add(fuzz::kEvidence, fuzz::EvidenceStep{3, 0, 2000});
  input.append("abc", 3);
  const Bytes plaintext = predict_plaintext(0, false);
  fuzz::SealedRequestStep step{};
  step.times = 1;
  add_request(1, fuzz::kFixFields, plaintext, &input, step);
  step = {};
  step.capacity_short = 1;
  add_request(1, fuzz::kFixFields, plaintext, &input, step);
  for (const uint16_t offset : {uint16_t{9}, uint16_t{60}, uint16_t{95}}) {
    step = {};
    step.patch = {offset, 0, 1};
    add_request(1, fuzz::kFixFields, plaintext, &input, step);
    step.patch = {0, 0, 0};
    step.header_offset = static_cast<uint8_t>(offset);
    step.header_xor = 1;
    add_request(1, fuzz::kFixFields, plaintext, &input, step);
  }
  step = {};
  for (int i = 0; i < 3; ++i) add_request(1, fuzz::kFixFields | fuzz::kFixSender, plaintext, &input, step);
  for (const uint16_t offset : {uint16_t{60}, uint16_t{87}, uint16_t{95}, uint16_t{120}}) {
    step.patch = {offset, 0, 1};
    add_request(1, fuzz::kFixFields | fuzz::kFixSender, plaintext, &input, step);
  }
  const uint8_t codes[] = {fuzz::kNewEpoch, fuzz::kNewEpoch, fuzz::kEndFormerEpoch};
  for (const uint8_t code : codes) {
    input.append(&code, 1);
    for (const uint8_t epoch : {uint8_t{0}, uint8_t{1}, uint8_t{2}}) {
      step = {};
      step.epoch = epoch;
      add_request(1, fuzz::kFixFields, plaintext, &input, step);
      add_request(1, fuzz::kFixFields | fuzz::kFixSender, plaintext, &input, step);
    }
  }
  input.add(fuzz::kRawRequest, fuzz::RawRequestStep{1, fuzz::kFixHeader | fuzz::kFixPadding, 0, 0, 100});
  input.append(plaintext.data(), 100);
  return input;
}

Input one_of_everything(const Bytes& flat, uint8_t fix) {
  Input input;
  add_seal(flat, fix, &input);
  add_predict(0, 0, 33, &input);
  add_predict(1, 1, 5, &input);
  add_load_patched({}, 0, &input);
  for (const uint16_t offset : {uint16_t{8}, uint16_t{48}, uint16_t{50}, uint16_t{54}, uint16_t{120},
                                uint16_t{184}, uint16_t{216}, uint16_t{300}, uint16_t{900}}) {
    add_load_patched({offset}, 0, &input);
  }
  add_load_patched({}, 1, &input);
  const uint8_t tail[] = {fuzz::kDescribe, 0, 192, fuzz::kIdentity, 72, fuzz::kStart, 0, fuzz::kUnload, 0};
  input.append(tail, sizeof tail);
  return input;
}

bool write(const Input& input, const std::filesystem::path& path) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(input.bytes().data()),
             static_cast<std::streamsize>(input.bytes().size()));
  return file.good();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path directory = argv[1];
  std::filesystem::create_directories(directory);
  for (const test::Kind kind : test::kAllKinds) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      test::BuiltModel model = test::random_model(kind, seed);
      model.objective = static_cast<uint32_t>(1 + (seed * 7 + model.booster) % 20);
      model.base_score.assign(model.group_count, 0.5f);
      const Bytes flat = test::flat_bytes(model);
      if (flat.size() > 8000) continue;
      const std::string name = test::name_of(kind) + std::to_string(seed);
      const auto fix = static_cast<uint8_t>(seed % 2 == 0 ? 0 : fuzz::kFixMagic | fuzz::kFixSize);
      if (!write(one_of_everything(flat, fix), directory / name)) return 1;
      if (!write(requests(flat), directory / (name + "Requests"))) return 1;
    }
  }
  return 0;
}
