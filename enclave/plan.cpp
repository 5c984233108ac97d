#include "enclave/plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/limits.h"
#include "enclave/kernel.h"
#include "enclave/masks.h"
#include "enclave/platform.h"

namespace confidential_ml {
namespace {

// A complete part costs about four instructions per node, any other about eight.
constexpr uint32_t kPaddingWorth = 2;
// Up to here the loop of the other form costs more than the padding.
constexpr uint32_t kSmallDepth = 3;
constexpr size_t kCodes = 256;  // of a column

// A threshold of a feature, ordered by both.
using Threshold = uint64_t;
Threshold threshold_of(uint32_t feature, float value) {
  return uint64_t{feature} << 32 | (static_cast<uint32_t>(order_key(value)) ^ 0x80000000u);
}
uint32_t feature_of(Threshold threshold) { return static_cast<uint32_t>(threshold >> 32); }
int32_t key_of(Threshold threshold) {
  return static_cast<int32_t>(static_cast<uint32_t>(threshold) ^ 0x80000000u);
}

class Planner {
 public:
  Planner(const Model& model, Plan* plan) : model_(model), plan_(*plan) {}

  void run() {
    plan_.leaf_size = model_.leaf_size;
    plan_.feature_count = model_.feature_count;
    plan_.group_count = model_.group_count;
    collect_splits();
    make_windows();
    make_categories();
    if (plan_.column_bytes > kMaxColumnBytes) throw PlanLimitExceeded();
    choose_shapes();
    for (size_t t = 0; t < model_.trees.size(); ++t) make_tree(t);
    make_conditions();
    plan_.leaves.resize(plan_.leaves.size() + kTableSlack);
    plan_.node_limits.resize(plan_.node_limits.size() + kLimitSlack);
  }

 private:
  // ---- columns ----

  void collect_splits() {
    size_t numeric = 0;
    for (const Node& node : model_.nodes) numeric += !node.is_leaf() && !node.is_categorical();
    thresholds_.reserve(numeric);
    for (uint32_t i = 0; i < model_.nodes.size(); ++i) {
      const Node& node = model_.nodes[i];
      if (node.is_leaf()) continue;
      if (node.is_categorical()) {
        categorical_.push_back(i);
      } else {
        thresholds_.push_back(threshold_of(node.feature(), node.value));
      }
    }
    std::sort(thresholds_.begin(), thresholds_.end());
    thresholds_.erase(std::unique(thresholds_.begin(), thresholds_.end()), thresholds_.end());
  }

  uint32_t new_column() {
    const uint32_t column = plan_.column_bytes;
    plan_.column_bytes += kLanes;
    return column;
  }

  // One window after the other; a new one begins with a feature and when one is full.
  void make_windows() {
    features_.assign(size_t{model_.feature_count} + 1, {});
    for (size_t begin = 0, end = 0; begin < thresholds_.size(); begin = end) {
      const uint32_t feature = feature_of(thresholds_[begin]);
      while (end < thresholds_.size() && end - begin < kWindow && feature_of(thresholds_[end]) == feature)
        ++end;
      if (begin == 0 || feature_of(thresholds_[begin - 1]) != feature) {
        features_[feature] = {static_cast<uint32_t>(begin), static_cast<uint32_t>(plan_.windows.size()), 0};
      }
      features_[feature].end_threshold = static_cast<uint32_t>(end);
      add_window(feature, begin, static_cast<uint32_t>(end - begin));
    }
    for (const Node& node : model_.nodes) {
      if (node.is_leaf() || node.is_categorical()) continue;
      const size_t window = find(node).first;
      uint32_t& column = plan_.windows[window].column[node.missing_goes_left()];
      if (column == kNoColumn) column = new_column();
    }
  }

  // The tables as the search asks for them, padded with keys that nothing exceeds.
  void add_window(uint32_t feature, size_t begin, uint32_t count) {
    uint32_t levels = 1;
    while (count >= 1u << levels) ++levels;
    const auto first_key = static_cast<uint32_t>(plan_.keys.size());
    const auto first_table = static_cast<uint32_t>(plan_.key_tables.size());
    plan_.windows.push_back({feature, levels, first_key, count, first_table, {kNoColumn, kNoColumn}});
    for (uint32_t rank = 0; rank < count; ++rank) plan_.keys.push_back(key_of(thresholds_[begin + rank]));
    plan_.key_tables.resize(first_table + chunks_before(levels) * kChunkBytes);
    for (uint32_t level = 0; level < levels; ++level) {
      const size_t table = first_table + chunks_before(level) * kChunkBytes;
      const uint32_t step = 1u << (levels - level);
      for (uint32_t j = 0; j < 1u << level; ++j) {
        const uint32_t rank = j * step + step / 2 - 1;
        set_key(table, j, rank < count ? plan_.keys[first_key + rank] : INT32_MAX);
      }
    }
  }

  // The order of keys is that of their bytes, if all but the highest are compared as if they were signed.
  void set_key(size_t table, uint32_t number, int32_t key) {
    uint8_t* entry = plan_.key_tables.data() + table + number / 16 * kChunkBytes + number % 16;
    const uint32_t bytes = static_cast<uint32_t>(key) ^ 0x808080u;
    for (uint32_t p = 0; p < 4; ++p) entry[16 * p] = static_cast<uint8_t>(bytes >> (8 * p));
  }

  // Window and rank in it of a numeric split.
  std::pair<size_t, uint32_t> find(const Node& node) const {
    const NumericFeature& feature = features_[node.feature()];
    const auto begin = thresholds_.begin() + feature.first_threshold;
    const auto end = thresholds_.begin() + feature.end_threshold;
    const Threshold threshold = threshold_of(node.feature(), node.value);
    const auto position = static_cast<uint32_t>(std::lower_bound(begin, end, threshold) - begin);
    return {feature.first_window + position / kWindow, position % kWindow};
  }

  // Equal splits, wherever they are, share a column. -1, 0 or 1.
  int compare_splits(uint32_t a, uint32_t b) const {
    const Node &x = model_.nodes[a], &y = model_.nodes[b];
    if (x.word != y.word) return x.word < y.word ? -1 : 1;
    const CategorySet &s = model_.category_sets[x.category_set], &t = model_.category_sets[y.category_set];
    if (s.word_count != t.word_count) return s.word_count < t.word_count ? -1 : 1;
    const uint32_t* words = model_.category_words.data();
    return std::memcmp(words + s.first_word, words + t.first_word, s.word_count * sizeof(uint32_t));
  }

  void make_categories() {
    SecretVector<uint32_t> sorted = categorical_;
    // Then the splits of a feature are one or two runs: missing left, missing right.
    std::sort(sorted.begin(), sorted.end(), [&](uint32_t a, uint32_t b) { return compare_splits(a, b) < 0; });
    split_of_.resize(model_.category_sets.size());
    for (size_t begin = 0, end = 0; begin < sorted.size(); begin = end) {
      const uint32_t word = model_.nodes[sorted[begin]].word;
      bool is_short = true;
      for (; end < sorted.size() && model_.nodes[sorted[end]].word == word; ++end) {
        is_short = is_short && is_short_set(model_.category_sets[model_.nodes[sorted[end]].category_set]);
      }
      add_category_feature(sorted.data() + begin, end - begin, is_short);
    }
    plan_.split_columns = plan_.column_bytes;
    for (CategorySplit& split : plan_.category_splits) split.column = new_column();
  }

  bool is_short_set(const CategorySet& set) const {
    constexpr uint32_t kLast = kMissingByte / 4;  // the word with the byte that is not to be used
    for (uint32_t i = kLast; i < set.word_count; ++i) {
      const uint32_t word = model_.category_words[set.first_word + i];
      if ((i == kLast ? word >> 24 : word) != 0) return false;
    }
    return true;
  }

  // Of nodes that agree in feature and in where missing values go, equal ones side by side.
  void add_category_feature(const uint32_t* nodes, size_t count, bool is_short) {
    const uint32_t planes = plan_.column_bytes;
    const size_t plane_count = is_short ? CategoryFeature::kShortPlanes : CategoryFeature::kPlanes;
    plan_.column_bytes += static_cast<uint32_t>(plane_count * kLanes);
    const auto first_split = static_cast<uint32_t>(plan_.category_splits.size());
    for (size_t i = 0; i < count; ++i) {
      if (i == 0 || compare_splits(nodes[i - 1], nodes[i]) != 0) add_split(model_.nodes[nodes[i]], is_short);
      split_of_[model_.nodes[nodes[i]].category_set] =
          static_cast<uint32_t>(plan_.category_splits.size() - 1);
    }
    const auto split_count = static_cast<uint32_t>(plan_.category_splits.size()) - first_split;
    plan_.category_features.push_back(
        {model_.nodes[nodes[0]].feature(), planes, is_short, first_split, split_count});
  }

  void add_split(const Node& node, bool is_short) {
    const CategorySet& set = model_.category_sets[node.category_set];
    CategorySplit split{};
    split.condition = kNoCondition;
    split.first_chunk = static_cast<uint32_t>(plan_.category_chunks.size());
    split.missing_goes_right = !node.missing_goes_left();
    constexpr uint32_t kWords = sizeof CategoryChunk::bits / sizeof(uint32_t);
    for (uint32_t first = 0; first < set.word_count; first += kWords) {
      const uint32_t* words = model_.category_words.data() + set.first_word + first;
      const uint32_t count = std::min(kWords, set.word_count - first);
      const bool is_zero = std::all_of(words, words + count, [](uint32_t word) { return word == 0; });
      if (is_zero && !(is_short && first == 0)) continue;
      CategoryChunk chunk{{}, first / kWords};
      std::memcpy(chunk.bits, words, count * sizeof(uint32_t));
      if (is_short) chunk.bits[kMissingByte] = split.missing_goes_right != 0 ? 0xff : 0;
      plan_.category_chunks.push_back(chunk);
      ++split.chunk_count;
    }
    plan_.category_splits.push_back(split);
  }

  void add_node(const Node* node) {
    uint32_t column = 0;
    int8_t limit = INT8_MIN;  // for padding, whose two sides are the same
    if (node != nullptr && node->is_categorical()) {
      column = plan_.category_splits[split_of_[node->category_set]].column;
      limit = 0;
    } else if (node != nullptr) {
      const auto [window, rank] = find(*node);
      column = plan_.windows[window].column[node->missing_goes_left()];
      limit = static_cast<int8_t>(static_cast<int>(rank) + 1 - 128);
    }
    plan_.node_columns.push_back(column);
    plan_.node_limits.push_back(limit);
  }

  // ---- trees ----

  void take_tree(size_t t) {
    root_ = model_.trees[t].root;
    const bool is_last = t + 1 == model_.trees.size();
    size_ = (is_last ? static_cast<uint32_t>(model_.nodes.size()) : model_.trees[t + 1].root) - root_;
    nodes_ = model_.nodes.data() + root_;
  }

  // Which trees are padded; and room for what they need, or a refusal before anything is allocated.
  void choose_shapes() {
    uint64_t nodes = 0, chunks = 0;
    depths_.resize(model_.trees.size());
    for (size_t t = 0; t < model_.trees.size(); ++t) {
      take_tree(t);
      const uint32_t depth = depth_of_tree(), internal = size_ / 2, leaves = size_ - internal;
      const uint32_t most_padded = std::max(kPaddingWorth * internal, (1u << kSmallDepth) - 1);
      const bool padded = depth >= 1 && depth <= kCompleteDepth && (1u << depth) - 1 <= most_padded;
      depths_[t] = static_cast<uint8_t>(padded ? depth : 0);
      nodes += padded ? (1u << depth) - 1 : internal;
      // Parts but the first have 128 exits or more; each has one chunk that need not be full.
      const uint32_t most_parts = 1 + leaves / static_cast<uint32_t>(kExits / 2 - 1);
      chunks += padded ? std::max(1u, (1u << depth) / 16) : (leaves + most_parts) / 16 + most_parts;
    }
    const uint64_t leaf_bytes = chunks * kChunkBytes * model_.leaf_size + kTableSlack;
    if (leaf_bytes + nodes * (sizeof(uint32_t) + sizeof(int8_t)) > kMaxPlanSize) throw PlanLimitExceeded();
    plan_.leaves.reserve(leaf_bytes);
    plan_.node_columns.reserve(nodes);
    plan_.node_limits.reserve(nodes + kLimitSlack);
    plan_.trees.reserve(model_.trees.size());
  }

  void make_tree(size_t t) {
    const uint32_t first_part = static_cast<uint32_t>(plan_.parts.size());
    take_tree(t);
    weight_ = model_.trees[t].weight;
    if (depths_[t] != 0) {
      add_complete(depths_[t]);
    } else {
      add_general();
    }
    const uint32_t part_count = static_cast<uint32_t>(plan_.parts.size()) - first_part;
    plan_.largest_tree = std::max(plan_.largest_tree, part_count);
    plan_.trees.push_back({first_part, part_count, model_.trees[t].group});
  }

  uint32_t left_of(uint32_t node) const { return nodes_[node].left - root_; }

  // Breadth-first order: a level ends where the children of the level above end.
  uint32_t depth_of_tree() const {
    uint32_t depth = 0, level_end = 1, next_end = 1;
    for (uint32_t i = 0; i < size_; ++i) {
      if (i == level_end) {
        ++depth;
        level_end = next_end;
      }
      if (!nodes_[i].is_leaf()) next_end = left_of(i) + 2;
    }
    return depth;
  }

  Part new_part(uint32_t exits) {
    Part part{};
    part.first_node = static_cast<uint32_t>(plan_.node_columns.size());
    part.first_general = static_cast<uint32_t>(plan_.general_nodes.size());
    part.first_link = static_cast<uint32_t>(plan_.links.size());
    part.first_leaf = plan_.leaves.size();
    part.chunk_count = static_cast<uint16_t>((exits + 15) / 16);
    plan_.leaves.resize(plan_.leaves.size() + part.chunk_count * kChunkBytes * model_.leaf_size);
    return part;
  }

  // leaf x weight is rounded to float32 here as XGBoost rounds it before it adds.
  void set_leaf(const Part& part, uint32_t exit, const Node& leaf) {
    uint8_t* entry = plan_.leaves.data() + part.first_leaf + exit / 16 * kChunkBytes + exit % 16;
    for (uint32_t g = 0; g < model_.leaf_size; ++g) {
      const float value = model_.leaf_size == 1 ? leaf.value : model_.leaf_values[leaf.leaf_vector + g];
      const uint32_t bits = bits_of(value * weight_);
      for (uint32_t p = 0; p < 4; ++p) entry[16 * p] = static_cast<uint8_t>(bits >> (8 * p));
      entry += part.chunk_count * kChunkBytes;
    }
  }

  // Padded below leaves that are not at the bottom. The order of places is that of kernel_steps.h.
  void add_complete(uint32_t depth) {
    Part part = new_part(1u << depth);
    part.depth = depth;
    part.node_count = static_cast<uint16_t>((1u << depth) - 1);
    SecretVector<uint32_t> place(2 * size_t{part.node_count} + 1);
    for (size_t i = 0; i < part.node_count; ++i) {
      const Node& node = nodes_[place[i]];
      add_node(node.is_leaf() ? nullptr : &node);
      place[2 * i + 1] = node.is_leaf() ? place[i] : left_of(place[i]) + 1;
      place[2 * i + 2] = node.is_leaf() ? place[i] : left_of(place[i]);
    }
    for (uint32_t i = 0; i <= part.node_count; ++i) set_leaf(part, i, nodes_[place[part.node_count + i]]);
    plan_.parts.push_back(part);
  }

  // Cuts off the larger child wherever two together have too many exits, and the other if one exit in its
  // place is still too many: all parts but the first have at least half as many as fit.
  void cut() {
    exits_.assign(size_, 1);
    part_of_.assign(size_, 0);
    cut_.assign(size_, 0);
    for (uint32_t i = size_; i-- > 0;) {
      if (nodes_[i].is_leaf()) continue;
      const uint32_t left = left_of(i);
      const uint32_t larger = exits_[left] >= exits_[left + 1] ? left : left + 1;
      const uint32_t other = 2 * left + 1 - larger;
      cut_[larger] = exits_[larger] + exits_[other] > kExits;
      cut_[other] = exits_[other] == kExits;
      exits_[i] = (cut_[larger] ? 1 : exits_[larger]) + (cut_[other] ? 1 : exits_[other]);
    }
  }

  void add_general() {
    cut();
    // Parts get their numbers from the root down, and so do their nodes, but those above two exits come last.
    SecretVector<SecretVector<uint32_t>> members(1), lowest(1);
    SecretVector<uint32_t> place(size_);
    SecretVector<uint32_t> roots(1, 0);
    for (uint32_t i = 0; i < size_; ++i) {
      if (cut_[i]) {
        part_of_[i] = static_cast<uint32_t>(members.size());
        members.emplace_back();
        lowest.emplace_back();
        roots.push_back(i);
      }
      if (nodes_[i].is_leaf()) continue;
      const bool is_lowest = is_exit(left_of(i)) && is_exit(left_of(i) + 1);
      (is_lowest ? lowest : members)[part_of_[i]].push_back(i);
      part_of_[left_of(i)] = part_of_[left_of(i) + 1] = part_of_[i];
    }
    for (size_t p = 0; p < members.size(); ++p) {
      members[p].insert(members[p].end(), lowest[p].begin(), lowest[p].end());
      for (uint32_t i = 0; i < members[p].size(); ++i) place[members[p][i]] = i;
      add_part(members[p], static_cast<uint16_t>(lowest[p].size()), roots[p], place);
    }
  }

  bool is_exit(uint32_t node) const { return nodes_[node].is_leaf() || cut_[node]; }

  // An exit's number is how many exits lie to its right, as in a complete part.
  void add_part(const SecretVector<uint32_t>& members, uint16_t lowest_count, uint32_t root,
                const SecretVector<uint32_t>& place) {
    Part part = new_part(exits_[root]);
    part.lowest_count = lowest_count;
    part.node_count = static_cast<uint16_t>(members.size());
    first_exit_.resize(size_);
    first_exit_[root] = 0;
    const auto slot_of = [&](uint32_t child, uint32_t exit) {
      if (!is_exit(child)) {
        first_exit_[child] = exit;
        return static_cast<uint16_t>(kNodeSlots + place[child] * kSlotWidth);
      }
      if (cut_[child]) {
        plan_.links.push_back({part_of_[child], exit});
      } else {
        set_leaf(part, exit, nodes_[child]);
      }
      return static_cast<uint16_t>(exit * kLanes);
    };
    for (const uint32_t node : members) {
      add_node(nodes_ + node);
      const uint32_t left = left_of(node), right = left + 1;
      const uint32_t right_exits = cut_[right] ? 1 : exits_[right];
      const uint16_t left_slot = slot_of(left, first_exit_[node] + right_exits);
      const uint16_t right_slot = slot_of(right, first_exit_[node]);
      plan_.general_nodes.push_back({plan_.node_columns.back(), left_slot, right_slot});
    }
    if (members.empty()) set_leaf(part, 0, nodes_[root]);
    part.link_count = static_cast<uint32_t>(plan_.links.size()) - part.first_link;
    plan_.parts.push_back(part);
  }

  // ---- conditions ----

  static size_t number_of(uint32_t column) { return column / kLanes; }
  // The limits of a column, counted from its smallest code on.
  static uint32_t code_of(int8_t limit) { return static_cast<uint8_t>(limit) ^ 0x80u; }

  template <typename Act>
  void each_complete_node(const Act& act) const {
    for (const Part& part : plan_.parts) {
      if (part.depth == 0) continue;
      for (size_t n = part.first_node; n < size_t{part.first_node} + part.node_count; ++n) {
        if (plan_.node_limits[n] != INT8_MIN) act(n);
      }
    }
  }

  // For each limit that nodes ask of a column a condition, where the lots say. Too many: none at all.
  void make_conditions() {
    SecretVector<uint32_t> entry_of_column(number_of(plan_.column_bytes), kNoColumn);
    SecretVector<ColumnConditions> columns;
    const auto entry_of = [&](uint32_t column) -> uint32_t& { return entry_of_column[number_of(column)]; };
    each_complete_node([&](size_t n) {
      uint32_t& entry = entry_of(plan_.node_columns[n]);
      if (entry != kNoColumn) return;
      entry = static_cast<uint32_t>(columns.size());
      columns.push_back({plan_.node_columns[n], 0, 0});
    });
    if (columns.size() > kMaxConditions) return;
    SecretVector<uint8_t> asked(columns.size() * kCodes);  // by entry and limit
    const auto asked_by = [&](size_t n) -> uint8_t& {
      return asked[entry_of(plan_.node_columns[n]) * kCodes + code_of(plan_.node_limits[n])];
    };
    each_complete_node([&](size_t n) { asked_by(n) = 1; });
    for (size_t c = 0; c < columns.size(); ++c) draw_order(asked.data() + c * kCodes, &columns[c]);
    if (plan_.condition_limits.size() > kMaxConditions) return plan_.condition_limits.clear();
    plan_.condition_count = static_cast<uint32_t>(plan_.condition_limits.size());
    plan_.node_conditions.resize(plan_.node_limits.size());
    each_complete_node([&](size_t n) {
      const ColumnConditions& own = columns[entry_of(plan_.node_columns[n])];
      plan_.node_conditions[n] = (own.first_condition + asked_by(n)) * uint32_t{kConditionBytes};
    });
    for (CategorySplit& split : plan_.category_splits) {
      const uint32_t entry = entry_of(split.column);
      if (entry != kNoColumn) split.condition = columns[entry].first_condition;
    }
    for (const ColumnConditions& own : columns) {
      if (own.column < plan_.split_columns) plan_.column_conditions.push_back(own);
    }
  }

  // `asked`: the limits that are; and then their places.
  void draw_order(uint8_t* asked, ColumnConditions* conditions) {
    SecretVector<uint8_t>& limits = plan_.condition_limits;
    const auto first = static_cast<uint32_t>(limits.size());
    for (uint32_t limit = 0; limit < kCodes; ++limit) {
      if (asked[limit] != 0) limits.push_back(static_cast<uint8_t>(limit));
    }
    const size_t count = limits.size() - first;
    SecretVector<uint32_t> lots(count);
    const Status status =
        platform_random(reinterpret_cast<uint8_t*>(lots.data()), lots.size() * sizeof(uint32_t));
    if (status != Status::kOk) throw RandomFailure();
    for (size_t i = count; i-- > 1;) std::swap(limits[first + i], limits[first + (lots[i] * (i + 1) >> 32)]);
    for (size_t i = 0; i < count; ++i) asked[limits[first + i]] = static_cast<uint8_t>(i);
    conditions->first_condition = first;
    conditions->count = static_cast<uint32_t>(count);
    if (count % kConditionBatch > kFewConditions)
      limits.resize(limits.size() + kConditionBatch - count % kConditionBatch);
  }

  const Model& model_;
  Plan& plan_;
  SecretVector<Threshold> thresholds_;
  struct NumericFeature {
    uint32_t first_threshold, first_window, end_threshold;
  };
  SecretVector<NumericFeature> features_;
  SecretVector<uint32_t> categorical_;  // nodes
  SecretVector<uint32_t> split_of_;     // by category set
  SecretVector<uint8_t> depths_;        // of the trees that are padded, else 0

  // Of the tree in hand; nodes are counted from its root.
  const Node* nodes_ = nullptr;
  uint32_t root_ = 0, size_ = 0;
  float weight_ = 1.0f;
  SecretVector<uint32_t> exits_;       // of the part below a node
  SecretVector<uint32_t> part_of_;     // the part a node belongs to
  SecretVector<uint32_t> first_exit_;  // of the exits below a node, the rightmost
  SecretVector<uint8_t> cut_;          // whether a node is the root of a part of its own
};

// From slots by the number of the node to few: results that are used up make room, and less leaves the cache.
void reuse_slots(const Part& part, GeneralNode* nodes) {
  uint16_t slots[kExits];
  const size_t others = part.node_count - size_t{part.lowest_count};
  for (size_t i = part.node_count; i-- > 0;) {
    if (i >= others) {
      slots[i] = static_cast<uint16_t>(kNodeSlots + (i - others) * kSlotWidth);
      continue;
    }
    for (uint16_t* slot : {&nodes[i].left, &nodes[i].right}) {
      if (*slot >= kNodeSlots) *slot = slots[(*slot - kNodeSlots) / kSlotWidth];
    }
    slots[i] = std::max(nodes[i].left, nodes[i].right);
  }
}

}  // namespace

size_t Plan::size() const {
  return bytes_of(windows) + bytes_of(keys) + bytes_of(key_tables) + bytes_of(category_features) +
         bytes_of(category_splits) + bytes_of(category_chunks) + bytes_of(column_conditions) +
         bytes_of(condition_limits) + bytes_of(trees) + bytes_of(parts) + bytes_of(links) +
         bytes_of(node_columns) + bytes_of(node_limits) + bytes_of(node_conditions) +
         bytes_of(general_nodes) + bytes_of(leaves) + for_row.size();
}

Plan make_plan(const Model& model) {
  Plan plan{};
  Planner(model, &plan).run();
  plan.general_nodes.shrink_to_fit();
  plan.for_row = make_row_plan(plan);
  plan.keys = {};
  for (const Part& part : plan.parts) {
    if (part.depth == 0) reuse_slots(part, plan.general_nodes.data() + part.first_general);
  }
  if (plan.size() > kMaxPlanSize) throw PlanLimitExceeded();
  return plan;
}

}  // namespace confidential_ml
