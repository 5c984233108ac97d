#include "enclave/model.h"

#include <cstring>

#include "common/bytes.h"
#include "common/limits.h"

namespace confidential_ml {
namespace {

constexpr uint8_t kMagic[8] = {'C', 'M', 'L', 'F', 'L', 'A', 'T', 0};
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderSize = 64;

struct Header {
  uint32_t booster, objective, leaf_size, feature_count, group_count, round_count, tree_count, node_count;
  uint32_t leaf_value_count, categorical_count, category_word_count;
  uint64_t total_size;
};

// Everything below is a step of one parse; the first that does not hold decides the status.
#define CML_REQUIRE(condition, status) \
  do {                                 \
    if (!(condition)) return (status); \
  } while (false)
#define CML_TRY(step)                           \
  do {                                          \
    const Status status_ = (step);              \
    if (status_ != Status::kOk) return status_; \
  } while (false)

Status read_header(Reader& reader, Header* header) {
  uint8_t magic[sizeof kMagic] = {};
  reader.copy_to(magic, sizeof magic);
  CML_REQUIRE(!reader.failed() && std::memcmp(magic, kMagic, sizeof kMagic) == 0, Status::kModelNotFlat);
  const auto version = reader.read<uint32_t>();
  CML_REQUIRE(!reader.failed(), Status::kModelSizeWrong);
  CML_REQUIRE(version == kVersion, Status::kModelVersionUnsupported);
  for (uint32_t* field :
       {&header->booster, &header->objective, &header->leaf_size, &header->feature_count,
        &header->group_count, &header->round_count, &header->tree_count, &header->node_count,
        &header->leaf_value_count, &header->categorical_count, &header->category_word_count}) {
    *field = reader.read<uint32_t>();
  }
  header->total_size = reader.read<uint64_t>();
  return reader.failed() ? Status::kModelSizeWrong : Status::kOk;
}

bool is_linear(const Header& h) { return h.booster == static_cast<uint32_t>(Booster::kGblinear); }

// With these bounds no product or sum below leaves 64 bits.
Status check_limits(const Header& h) {
  CML_REQUIRE(h.booster >= 1 && h.booster <= 3, Status::kModelBoosterUnknown);
  CML_REQUIRE(is_objective(h.objective), Status::kModelObjectiveUnknown);
  CML_REQUIRE(h.feature_count >= 1 && h.feature_count <= kMaxFeatures, Status::kModelLimitExceeded);
  CML_REQUIRE(h.group_count >= 1 && h.group_count <= kMaxGroups, Status::kModelLimitExceeded);
  CML_REQUIRE(h.objective != static_cast<uint32_t>(Objective::kQuantile) || h.group_count <= kMaxQuantiles,
              Status::kModelLimitExceeded);
  CML_REQUIRE(h.round_count <= kMaxRounds && h.tree_count <= kMaxTrees, Status::kModelLimitExceeded);
  CML_REQUIRE(h.node_count <= kMaxNodes && h.total_size <= kMaxFlatModelSize, Status::kModelLimitExceeded);
  if (is_linear(h)) {
    CML_REQUIRE(h.leaf_size == 0, Status::kModelLeafSizeWrong);
    CML_REQUIRE(h.tree_count == 0 && h.node_count == 0, Status::kModelTreeWrong);
    CML_REQUIRE(h.leaf_value_count == 0, Status::kModelLeafSizeWrong);
    CML_REQUIRE(h.categorical_count == 0 && h.category_word_count == 0, Status::kModelCategoriesWrong);
  } else {
    CML_REQUIRE(h.leaf_size == 1 || (h.leaf_size > 1 && h.leaf_size == h.group_count),
                Status::kModelLeafSizeWrong);
    CML_REQUIRE(h.node_count >= h.tree_count, Status::kModelTreeWrong);
  }
  return Status::kOk;
}

uint64_t expected_size(const Header& h) {
  const uint64_t words = is_linear(h) ? (uint64_t{h.feature_count} + 2) * h.group_count
                                      : uint64_t{h.group_count} + h.round_count + 1 +
                                            uint64_t{h.tree_count} * 3 + uint64_t{h.node_count} * 2 +
                                            h.leaf_value_count + h.categorical_count + h.category_word_count;
  return kHeaderSize + words * 4;
}

// The bits, not the value: no floating-point exception and the same answer under every compiler flag.
bool all_finite(const SecretVector<float>& values) {
  uint32_t found = 0;
  for (const float& value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    found |= static_cast<uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
  }
  return found == 0;
}

template <typename T>
void read_words(Reader& reader, size_t count, SecretVector<T>* words) {
  static_assert(sizeof(T) == 4, "every section holds four-byte fields");
  words->resize(count);
  reader.copy_to(words->data(), count * sizeof(T));
}

Status read_floats(Reader& reader, size_t count, SecretVector<float>* values) {
  read_words(reader, count, values);
  return all_finite(*values) ? Status::kOk : Status::kModelNotFinite;
}

Status read_rounds(Reader& reader, const Header& h, Model* model) {
  read_words(reader, size_t{h.round_count} + 1, &model->round_begin);
  CML_REQUIRE(model->round_begin.front() == 0 && model->round_begin.back() == h.tree_count,
              Status::kModelRoundsWrong);
  for (size_t i = 1; i < model->round_begin.size(); ++i) {
    CML_REQUIRE(model->round_begin[i - 1] <= model->round_begin[i], Status::kModelRoundsWrong);
  }
  return Status::kOk;
}

Status read_trees(Reader& reader, const Header& h, SecretVector<uint32_t>* tree_sizes, Model* model) {
  SecretVector<uint32_t> groups;
  SecretVector<float> weights;
  read_words(reader, h.tree_count, tree_sizes);
  read_words(reader, h.tree_count, &groups);
  CML_TRY(read_floats(reader, h.tree_count, &weights));
  const uint32_t group_bound = h.leaf_size > 1 ? 1 : h.group_count;
  uint64_t root = 0;
  model->trees.resize(h.tree_count);
  for (size_t t = 0; t < h.tree_count; ++t) {
    CML_REQUIRE((*tree_sizes)[t] % 2 == 1 && groups[t] < group_bound, Status::kModelTreeWrong);
    CML_REQUIRE(h.booster == static_cast<uint32_t>(Booster::kDart) || weights[t] == 1.0f,
                Status::kModelTreeWrong);
    model->trees[t] = {static_cast<uint32_t>(root), groups[t], weights[t]};
    root += (*tree_sizes)[t];
    CML_REQUIRE(root <= h.node_count, Status::kModelTreeWrong);
  }
  CML_REQUIRE(root == h.node_count, Status::kModelTreeWrong);
  return Status::kOk;
}

// What is counted while the nodes of all trees go by.
struct Counts {
  uint32_t leaves = 0;
  uint32_t categorical_splits = 0;
};

Status check_node(const Header& h, bool value_is_zero, Counts* counts, Node* node) {
  if (node->is_leaf()) {
    CML_REQUIRE(node->word == Node::kLeaf, Status::kModelTreeWrong);
    if (h.leaf_size > 1) {
      CML_REQUIRE(value_is_zero, Status::kModelTreeWrong);
      // May pass the table's end only if the counts disagree, which read_nodes finds before anyone looks
      // there.
      node->leaf_vector = static_cast<uint32_t>(uint64_t{counts->leaves} * h.leaf_size);
    }
    ++counts->leaves;
    return Status::kOk;
  }
  CML_REQUIRE(node->feature() < h.feature_count, Status::kModelTreeWrong);
  if (node->is_categorical()) {
    CML_REQUIRE(value_is_zero, Status::kModelTreeWrong);
    node->category_set = counts->categorical_splits++;
  }
  return Status::kOk;
}

// One tree in breadth-first order: its k-th internal node has its children at 2k + 1 and 2k + 2
// (formats.md 1.3).
Status link_tree(const Header& h, uint32_t root, uint32_t size, Counts* counts, Model* model) {
  uint32_t internal = 0, depth = 0, level_end = 1;
  for (uint32_t i = 0; i < size; ++i) {
    if (i == level_end) {
      ++depth;
      level_end = 2 * internal + 1;
    }
    Node& node = model->nodes[root + i];
    uint32_t bits;
    std::memcpy(&bits, &node.value, sizeof bits);
    CML_TRY(check_node(h, bits == 0, counts, &node));
    if (node.is_leaf()) continue;
    const uint32_t left = 2 * internal + 1;
    CML_REQUIRE(left > i && left + 1 < size, Status::kModelTreeWrong);
    node.left = root + left;
    ++internal;
  }
  CML_REQUIRE(size == 2 * internal + 1, Status::kModelTreeWrong);
  CML_REQUIRE(depth <= kMaxDepth, Status::kModelTooDeep);
  if (depth > model->depth) model->depth = depth;
  return Status::kOk;
}

Status read_nodes(Reader& reader, const Header& h, const SecretVector<uint32_t>& tree_sizes, Model* model) {
  const uint8_t* words = reader.take(size_t{h.node_count} * 4);
  const uint8_t* values = reader.take(size_t{h.node_count} * 4);
  CML_REQUIRE(!reader.failed(), Status::kModelSizeWrong);
  model->nodes.resize(h.node_count);
  for (size_t i = 0; i < h.node_count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + 4 * i, sizeof bits);
    CML_REQUIRE((bits & 0x7f800000u) != 0x7f800000u, Status::kModelNotFinite);
    std::memcpy(&model->nodes[i].word, words + 4 * i, sizeof(uint32_t));
    std::memcpy(&model->nodes[i].value, &bits, sizeof bits);
    model->nodes[i].left = 0;
  }
  Counts counts;
  for (size_t t = 0; t < tree_sizes.size(); ++t) {
    CML_TRY(link_tree(h, model->trees[t].root, tree_sizes[t], &counts, model));
  }
  CML_REQUIRE(counts.categorical_splits == h.categorical_count, Status::kModelCategoriesWrong);
  const uint64_t leaf_values = h.leaf_size > 1 ? uint64_t{counts.leaves} * h.leaf_size : 0;
  CML_REQUIRE(leaf_values == h.leaf_value_count, Status::kModelLeafSizeWrong);
  return Status::kOk;
}

Status read_categories(Reader& reader, const Header& h, Model* model) {
  SecretVector<uint32_t> word_counts;
  read_words(reader, h.categorical_count, &word_counts);
  read_words(reader, h.category_word_count, &model->category_words);
  model->category_sets.resize(h.categorical_count);
  uint64_t first = 0;
  for (size_t s = 0; s < h.categorical_count; ++s) {
    CML_REQUIRE(word_counts[s] >= 1 && word_counts[s] <= kMaxCategoryWords, Status::kModelCategoriesWrong);
    model->category_sets[s] = {static_cast<uint32_t>(first), word_counts[s]};
    first += word_counts[s];
    CML_REQUIRE(first <= h.category_word_count, Status::kModelCategoriesWrong);
    CML_REQUIRE(model->category_words[first - 1] != 0, Status::kModelCategoriesWrong);
  }
  CML_REQUIRE(first == h.category_word_count, Status::kModelCategoriesWrong);
  return Status::kOk;
}

Status read_sections(Reader& reader, const Header& h, Model* model) {
  CML_TRY(read_floats(reader, h.group_count, &model->base_margin));
  CML_TRY(link(model->objective, model->base_margin.data(), h.group_count));
  if (is_linear(h)) {
    return read_floats(reader, (size_t{h.feature_count} + 1) * h.group_count, &model->linear_weights);
  }
  SecretVector<uint32_t> tree_sizes;
  CML_TRY(read_rounds(reader, h, model));
  CML_TRY(read_trees(reader, h, &tree_sizes, model));
  CML_TRY(read_nodes(reader, h, tree_sizes, model));
  CML_TRY(read_floats(reader, h.leaf_value_count, &model->leaf_values));
  return read_categories(reader, h, model);
}

}  // namespace

Status parse_model(const uint8_t* data, size_t size, Model* model) {
  Reader reader(data, size);
  Header header{};
  CML_TRY(read_header(reader, &header));
  CML_TRY(check_limits(header));
  CML_REQUIRE(header.total_size == size && expected_size(header) == size, Status::kModelSizeWrong);
  model->booster = static_cast<Booster>(header.booster);
  model->objective = static_cast<Objective>(header.objective);
  model->leaf_size = header.leaf_size;
  model->feature_count = header.feature_count;
  model->group_count = header.group_count;
  model->round_count = header.round_count;
  model->depth = 0;
  model->node_count = header.node_count;
  CML_TRY(read_sections(reader, header, model));
  return reader.finished() ? Status::kOk : Status::kModelSizeWrong;
}

}  // namespace confidential_ml
