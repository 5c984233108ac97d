#include "enclave/row_plan.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"
#include "enclave/plan.h"

namespace confidential_ml {
namespace {

constexpr uint32_t kHalf = 16;  // a shuffle's reach
constexpr uint8_t kExitControl = 0x80;
// In vectors of a complete block: what the search for the children of a vector costs more.
constexpr size_t kChildrenCost = 2;
// For each node of a complete block, the columns that are worth looking at in all its levels together.
constexpr size_t kColumnsWorth = 400;
static_assert(kColumnsWorth * ((1u << kCompleteDepth) - 1) / kCompleteDepth <= 1u << 16,
              "two bytes say which");

uint32_t vectors_of(size_t nodes) { return static_cast<uint32_t>((nodes + kLanes - 1) / kLanes); }

class RowPlanner {
 public:
  RowPlanner(const Plan& plan, RowPlan* row_plan) : plan_(plan), row_plan_(*row_plan) {}

  void run() {
    add_columns();
    for (uint32_t first = 0; first < plan_.parts.size(); first += kLanes) {
      const auto count = static_cast<uint32_t>(std::min(kLanes, plan_.parts.size() - first));
      add_block(first, count);
      if (row_plan_.size() > kMaxPlanSize) throw PlanLimitExceeded();
    }
    align();
  }

 private:
  // A node of the level in hand: `index` in its part, or none where a part is a single leaf.
  struct Place {
    uint32_t part;
    uint32_t index;
  };
  static constexpr uint32_t kNoNode = UINT32_MAX;

  // ---- columns ----

  // Where a categorical split has gone: into a column, or into nodes as a set of a RowCategoryFeature.
  struct SplitPlace {
    const CategorySplit* split = nullptr;
    uint32_t column = 0;
    uint8_t feature = RowPlan::kNoFeature;  // unless in nodes
  };

  // The columns of the plan, of which numeric ones come first; those of category features are left out.
  void add_columns() {
    const auto& features = plan_.category_features;
    numeric_columns_ = (features.empty() ? plan_.column_bytes : features[0].planes) / uint32_t{kLanes};
    row_plan_.column_count = numeric_columns_;
    split_places_.resize(plan_.column_bytes / kLanes - numeric_columns_);
    for (uint32_t i = 0; i < features.size(); ++i) {
      uint32_t column = row_plan_.column_count;
      const uint8_t number =
          features[i].is_short != 0 ? add_category_feature(features[i]) : RowPlan::kNoFeature;
      for (uint32_t s = features[i].first_split; s < features[i].first_split + features[i].split_count; ++s) {
        const CategorySplit& split = plan_.category_splits[s];
        split_places_[split.column / kLanes - numeric_columns_] = {&split, column++, number};
      }
      if (number != RowPlan::kNoFeature) continue;
      row_plan_.splits.push_back({i, row_plan_.column_count});
      row_plan_.column_count = column;
    }
    add_windows(row_plan_.column_count);
    for (const RowCategoryFeature& feature : row_plan_.category_features) {
      row_plan_.set_bytes = std::max(row_plan_.set_bytes, feature.set_bytes());
    }
  }

  // Those with about as many keys together.
  void add_windows(uint32_t no_column) {
    SecretVector<Window> order = plan_.windows;
    std::stable_sort(order.begin(), order.end(),
                     [](const Window& a, const Window& b) { return a.key_count < b.key_count; });
    for (size_t begin = 0; begin < order.size(); begin += kEight) {
      RowWindows eight{};
      eight.first_key = static_cast<uint32_t>(row_plan_.keys.size());
      Window own[kEight] = {};
      for (size_t i = 0; i < kEight; ++i) {
        const bool exists = begin + i < order.size();
        const Window& window = order[exists ? begin + i : begin];
        eight.feature[i] = window.feature;
        for (size_t side = 0; side < 2; ++side) {
          const uint32_t column = exists ? window.column[side] : kNoColumn;
          eight.column[side][i] = column == kNoColumn ? no_column : column / uint32_t{kLanes};
        }
        if (exists) own[i] = window;
      }
      for (size_t half = 0; half < 2; ++half) eight.steps[half] = add_keys(own + half * kFour);
      row_plan_.windows.push_back(eight);
    }
  }

  // Of four windows; returns the number of steps.
  uint32_t add_keys(const Window* four) {
    size_t most = 0;
    for (size_t w = 0; w < kFour; ++w) most = std::max<size_t>(most, four[w].key_count);
    const size_t steps = (most + 7) / 8;
    for (size_t i = 0; i < steps * 8; i += 8) {
      for (size_t w = 0; w < kFour; ++w) {
        for (size_t k = i; k < i + 8; ++k) {
          row_plan_.keys.push_back(k < four[w].key_count ? plan_.keys[four[w].first_key + k] : INT32_MAX);
        }
      }
    }
    return static_cast<uint32_t>(steps);
  }

  // Its number, or kNoFeature if there are too many.
  uint8_t add_category_feature(const CategoryFeature& feature) {
    auto& features = row_plan_.category_features;
    const auto is_same = [&](const RowCategoryFeature& other) { return other.feature == feature.feature; };
    auto place = std::find_if(features.begin(), features.end(), is_same);
    if (place == features.end() && features.size() == kRowCategoryFeatures) return RowPlan::kNoFeature;
    if (place == features.end()) place = features.insert(place, {feature.feature, 0});
    for (uint32_t s = feature.first_split; s < feature.first_split + feature.split_count; ++s) {
      place->known = std::max(place->known, known_categories(plan_.category_splits[s]));
    }
    return static_cast<uint8_t>(place - features.begin());
  }

  // Of a short set: one more than the last category.
  uint32_t known_categories(const CategorySplit& split) const {
    uint32_t known = 8 * kMissingByte;
    while (known > 0 && !has_category(split, known - 1)) --known;
    return known;
  }
  bool has_category(const CategorySplit& split, uint32_t category) const {
    return (plan_.category_chunks[split.first_chunk].bits[category / 8] >> (category % 8) & 1) != 0;
  }

  // ---- nodes ----

  size_t node_of(const Place& place) const {
    return size_t{plan_.parts[place.part].first_node} + place.index;
  }
  // Of a categorical node, else null. Padding names the first column, whatever that is.
  const SplitPlace* split_of(const Place& place) const {
    if (place.index == kNoNode) return nullptr;
    const uint32_t column = plan_.node_columns[node_of(place)] / uint32_t{kLanes};
    if (column < numeric_columns_ || split_places_[column - numeric_columns_].split == nullptr)
      return nullptr;
    return &split_places_[column - numeric_columns_];
  }
  static bool has_set(const SplitPlace* split) {
    return split != nullptr && split->feature != RowPlan::kNoFeature;
  }

  uint32_t column_of(const Place& place) const {
    const SplitPlace* split = split_of(place);
    if (place.index == kNoNode || has_set(split)) return 0;
    return split != nullptr ? split->column : plan_.node_columns[node_of(place)] / uint32_t{kLanes};
  }

  // A node with a set has the smallest one, which no code is below.
  uint8_t limit_of(const Place& place) const {
    if (place.index == kNoNode) return 0;
    return has_set(split_of(place)) ? uint8_t{0x80} : static_cast<uint8_t>(plan_.node_limits[node_of(place)]);
  }

  uint32_t set_bytes_of(const Place& place) const {
    const SplitPlace* split = split_of(place);
    return has_set(split) ? row_plan_.category_features[split->feature].set_bytes() : 0;
  }

  // The number of the category feature, then the bytes of the set.
  uint8_t set_plane_of(const Place& place, uint32_t plane) const {
    const SplitPlace* split = split_of(place);
    if (!has_set(split)) return plane == 0 ? RowPlan::kNoFeature : uint8_t{0};
    if (plane == 0) return split->feature;
    const uint32_t known = row_plan_.category_features[split->feature].known;
    uint32_t byte = 0;
    for (uint32_t bit = 0; bit < 8; ++bit) {
      const uint32_t number = 8 * (plane - 1) + bit;
      const bool goes_left = number < known    ? !has_category(*split->split, number)
                             : number == known ? split->split->missing_goes_right == 0
                                               : number == known + 1;
      byte |= uint32_t{goes_left} << bit;
    }
    return static_cast<uint8_t>(byte);
  }

  // Index of a child in its part, or kNoNode for an exit.
  uint32_t child_of(const Place& place, bool left) const {
    if (place.index == kNoNode) return kNoNode;
    const Part& part = plan_.parts[place.part];
    if (part.depth != 0) {
      const uint32_t child = 2 * place.index + (left ? 2 : 1);
      return child < part.node_count ? child : kNoNode;
    }
    const GeneralNode& node = plan_.general_nodes[part.first_general + place.index];
    const size_t slot = left ? node.left : node.right;
    return slot >= kNodeSlots ? static_cast<uint32_t>((slot - kNodeSlots) / kSlotWidth) : kNoNode;
  }

  // A vector doubles when it is full; a large one shall not.
  template <typename T>
  static void reserve_gently(size_t more, SecretVector<T>* values) {
    const size_t size = values->size();
    if (size + more > values->capacity()) values->reserve(size + std::max(more, size / 4));
  }

  // The levels of parts [first, first + count), the uppermost first. Every 16 nodes' left children stand
  // together in the next level, then their right ones.
  void find_levels(uint32_t first, uint32_t count) {
    levels_.assign(1, {});
    for (uint32_t part = first; part < first + count; ++part) {
      levels_[0].push_back({part, plan_.parts[part].node_count == 0 ? kNoNode : 0});
    }
    while (true) {
      SecretVector<Place> next;
      const SecretVector<Place>& level = levels_.back();
      for (size_t half = 0; half < level.size(); half += kHalf) {
        const size_t end = std::min<size_t>(level.size(), half + kHalf);
        for (const bool left : {true, false}) {
          for (size_t i = half; i < end; ++i) {
            const uint32_t child = child_of(level[i], left);
            if (child != kNoNode) next.push_back({level[i].part, child});
          }
        }
      }
      if (next.empty()) return;
      levels_.push_back(std::move(next));
    }
  }

  // The depth of parts that are all complete and equally deep, where that layout is the cheaper one, else 0.
  uint32_t complete_depth(uint32_t first, uint32_t count) const {
    const uint32_t depth = plan_.parts[first].depth;
    for (uint32_t part = first; part < first + count; ++part) {
      if (plan_.parts[part].depth != depth) return 0;
    }
    size_t general = 0;
    for (const auto& level : levels_) general += vectors_of(level.size());
    return plan_.parts[first].node_count <= kChildrenCost * general ? depth : 0;
  }

  // Of the general parts of a block: a child comes after its parent.
  void count_exits(uint32_t first, uint32_t count) {
    first_node_ = plan_.parts[first].first_node;
    const Part& last = plan_.parts[first + count - 1];
    exits_.assign(last.first_node + last.node_count - first_node_, 0);
    for (uint32_t part = first; part < first + count; ++part) {
      if (plan_.parts[part].depth != 0) continue;
      for (uint32_t i = plan_.parts[part].node_count; i-- > 0;) {
        exits_[plan_.parts[part].first_node - first_node_ + i] = static_cast<uint16_t>(
            exits_below({part, child_of({part, i}, true)}) + exits_below({part, child_of({part, i}, false)}));
      }
    }
  }

  uint32_t exits_below(const Place& place) const {
    if (place.index == kNoNode) return 1;
    return exits_[plan_.parts[place.part].first_node - first_node_ + place.index];
  }

  uint32_t exits_below_right(const Place& place, size_t level) const {
    if (place.index == kNoNode) return 0;
    const Part& part = plan_.parts[place.part];
    if (part.depth != 0) return 1u << (part.depth - 1 - level);
    return exits_below({place.part, child_of(place, false)});
  }

  void add_block(uint32_t first, uint32_t count) {
    find_levels(first, count);
    count_exits(first, count);
    RowBlock block{};
    block.first_part = first;
    block.part_count = count;
    for (; end_tree_ < plan_.trees.size(); ++end_tree_) {
      const PlannedTree& tree = plan_.trees[end_tree_];
      if (tree.first_part + tree.part_count > first + count) break;
    }
    block.end_tree = end_tree_;
    block.first_level = static_cast<uint32_t>(row_plan_.levels.size());
    block.first_children = static_cast<uint32_t>(row_plan_.children.size());
    block.depth = complete_depth(first, count);
    const uint32_t node_count = (1u << block.depth) - 1;
    const bool is_worth_it = size_t{row_plan_.column_count} * block.depth <= kColumnsWorth * node_count;
    block.is_decided = block.depth == 0 || (row_plan_.is_wide() && !is_worth_it);
    places_.clear();
    if (block.depth == 0) {
      block.level_count = static_cast<uint32_t>(levels_.size());
      for (size_t l = levels_.size(); l-- > 0;) add_general_level(l);
    } else {
      for (uint32_t node = 0; node < node_count; ++node) {
        for (uint32_t part = first; part < first + count; ++part) places_.push_back({part, node});
        fill_vector();
      }
    }
    add_nodes(&block);
    add_sets(&block);
    block.first_leaf = row_plan_.leaves.size();
    if (block.depth != 0) add_leaves(first, count, node_count + 1);
    if (block.is_decided) row_plan_.widest_block = std::max(row_plan_.widest_block, block.vector_count);
    row_plan_.blocks.push_back(block);
  }

  void fill_vector() {
    while (places_.size() % kLanes != 0) places_.push_back({0, kNoNode});
  }

  // act(first, width) for vectors that are chosen from together: those of a level, or each alone.
  template <typename Act>
  static void for_choices(const RowBlock& block, const Act& act) {
    uint32_t width = 1;
    for (uint32_t first = 0; first < block.vector_count; first += width) {
      width = block.is_decided ? 1 : first + 1;
      act(first, width);
    }
  }

  // byte_of(place) of `width` vectors of the block.
  template <typename ByteOf>
  void add_plane(uint32_t first, uint32_t width, const ByteOf& byte_of, SecretVector<uint8_t>* plane) {
    const size_t begin = first * kLanes, count = width * kLanes;
    for (size_t i = begin; i < begin + count; ++i) plane->push_back(byte_of(places_[i]));
    differ(plane->data() + plane->size() - count, width);
  }

  void add_nodes(RowBlock* block) {
    block->vector_count = vectors_of(places_.size());
    block->first_limit = row_plan_.node_limits.size();
    reserve_gently(places_.size(), &row_plan_.node_limits);
    for_choices(*block, [&](uint32_t first, uint32_t width) {
      add_plane(
          first, width, [&](const Place& place) { return limit_of(place); }, &row_plan_.node_limits);
    });
    if (block->is_decided && row_plan_.is_wide()) {
      block->first_column = row_plan_.wide_node_columns.size();
      reserve_gently(places_.size(), &row_plan_.wide_node_columns);
      for (const Place& place : places_) row_plan_.wide_node_columns.push_back(column_of(place));
      return;
    }
    const uint32_t planes = row_plan_.is_wide() ? 2 : 1;
    block->first_column = row_plan_.node_columns.size();
    reserve_gently(places_.size() * planes, &row_plan_.node_columns);
    for_choices(*block, [&](uint32_t first, uint32_t width) {
      for (uint32_t plane = 0; plane < planes; ++plane) {
        const auto byte_of = [&](const Place& place) {
          return static_cast<uint8_t>(column_of(place) >> (8 * plane));
        };
        add_plane(first, width, byte_of, &row_plan_.node_columns);
      }
    });
  }

  void add_sets(RowBlock* block) {
    for (const Place& place : places_) block->set_bytes = std::max(block->set_bytes, set_bytes_of(place));
    block->first_set = row_plan_.node_sets.size();
    if (block->set_bytes == 0) return;
    reserve_gently(places_.size() * (1 + block->set_bytes), &row_plan_.node_sets);
    for_choices(*block, [&](uint32_t first, uint32_t width) {
      for (uint32_t plane = 0; plane <= block->set_bytes; ++plane) {
        const auto byte_of = [&](const Place& place) { return set_plane_of(place, plane); };
        add_plane(first, width, byte_of, &row_plan_.node_sets);
      }
    });
  }

  // Of parts that are complete and equally deep.
  void add_leaves(uint32_t first, uint32_t count, uint32_t exit_count) {
    reserve_gently(size_t{plan_.leaf_size} * 4 * exit_count * kLanes, &row_plan_.leaves);
    for (uint32_t g = 0; g < plan_.leaf_size; ++g) {
      for (uint32_t plane = 0; plane < 4; ++plane) {
        for (uint32_t exit = 0; exit < exit_count; ++exit) {
          for (uint32_t lane = 0; lane < kLanes; ++lane) {
            row_plan_.leaves.push_back(lane < count ? leaf_byte(first + lane, g, plane, exit) : uint8_t{0});
          }
        }
        differ(row_plan_.leaves.data() + row_plan_.leaves.size() - exit_count * kLanes, exit_count);
      }
    }
  }

  uint8_t leaf_byte(uint32_t number, uint32_t group, uint32_t plane, uint32_t exit) const {
    const Part& part = plan_.parts[number];
    const size_t chunk = size_t{group} * part.chunk_count + exit / 16;
    return plan_.leaves[part.first_leaf + chunk * kChunkBytes + size_t{plane} * 16 + exit % 16];
  }

  void add_general_level(size_t number) {
    const SecretVector<Place>& level = levels_[number];
    reserve_gently(vectors_of(level.size()), &row_plan_.children);
    row_plan_.levels.push_back(vectors_of(level.size()));
    row_plan_.widest_level = std::max(row_plan_.widest_level, vectors_of(level.size()));
    uint32_t next = 0;  // in the level below
    for (size_t begin = 0; begin < level.size(); begin += kLanes) {
      const size_t end = std::min(level.size(), begin + kLanes);
      RowChildren children{};
      std::fill_n(children.left_control, kLanes, kExitControl);
      std::fill_n(children.right_control, kLanes, kExitControl);
      for (uint32_t half = 0; half < 2; ++half) {
        // As find_levels() has laid them out.
        const size_t half_begin = begin + half * kHalf, half_end = std::min(end, half_begin + kHalf);
        children.left_start[half] = next;
        for (size_t i = half_begin; i < half_end; ++i) {
          if (child_of(level[i], true) == kNoNode) continue;
          children.left_control[i - begin] = static_cast<uint8_t>(next++ - children.left_start[half]);
        }
        children.right_start[half] = next;
        for (size_t i = half_begin; i < half_end; ++i) {
          if (child_of(level[i], false) == kNoNode) continue;
          children.right_control[i - begin] = static_cast<uint8_t>(next++ - children.right_start[half]);
        }
      }
      for (size_t i = begin; i < end; ++i) {
        children.right_exits[i - begin] = static_cast<uint8_t>(exits_below_right(level[i], number));
        places_.push_back(level[i]);
      }
      fill_vector();
      row_plan_.children.push_back(children);
    }
  }

  // Moves a table to where a cache line begins, and returns where in it that is: memory that is asked for
  // begins at 16 bytes, and every other vector would lie in two lines.
  template <typename T>
  static size_t aligned(SecretVector<T>* values) {
    constexpr size_t kLine = 64;
    SecretVector<T> moved;
    moved.reserve(values->size() + kLine / sizeof(T));
    const size_t start = (0 - reinterpret_cast<uintptr_t>(moved.data())) % kLine / sizeof(T);
    moved.resize(start);
    moved.insert(moved.end(), values->begin(), values->end());
    *values = std::move(moved);
    return start;
  }

  void align() {
    const size_t keys = aligned(&row_plan_.keys), limits = aligned(&row_plan_.node_limits);
    const size_t columns = aligned(&row_plan_.node_columns), sets = aligned(&row_plan_.node_sets);
    const size_t leaves = aligned(&row_plan_.leaves);
    for (RowWindows& windows : row_plan_.windows) windows.first_key += static_cast<uint32_t>(keys);
    for (RowBlock& block : row_plan_.blocks) {
      block.first_limit += limits;
      if (!block.is_decided || !row_plan_.is_wide()) block.first_column += columns;
      block.first_set += sets;
      block.first_leaf += leaves;
    }
  }

  const Plan& plan_;
  RowPlan& row_plan_;

  uint32_t numeric_columns_ = 0;
  SecretVector<SplitPlace> split_places_;  // by the number of the plan's column, after the numeric ones

  uint32_t end_tree_ = 0;

  // Of the block in hand.
  SecretVector<Place> places_;  // in each lane of its vectors
  SecretVector<SecretVector<Place>> levels_;
  uint32_t first_node_ = 0;
  SecretVector<uint16_t> exits_;  // below each node from first_node_ on
};

}  // namespace

size_t RowPlan::size() const {
  return bytes_of(windows) + bytes_of(keys) + bytes_of(category_features) + bytes_of(splits) +
         bytes_of(blocks) + bytes_of(levels) + bytes_of(children) + bytes_of(node_columns) +
         bytes_of(wide_node_columns) + bytes_of(node_limits) + bytes_of(node_sets) + bytes_of(leaves);
}

void differ(uint8_t* vectors, size_t count) {
  for (size_t bit = 1; bit < count; bit *= 2) {
    for (size_t place = 0; place < count; ++place) {
      if ((place & bit) == 0) continue;
      uint8_t* vector = vectors + place * kLanes;
      for (size_t i = 0; i < kLanes; ++i) vector[i] ^= (vector - bit * kLanes)[i];
    }
  }
}

RowPlan make_row_plan(const Plan& plan) {
  RowPlan row_plan{};
  RowPlanner(plan, &row_plan).run();
  row_plan.children.shrink_to_fit();
  row_plan.wide_node_columns.shrink_to_fit();
  return row_plan;
}

}  // namespace confidential_ml
