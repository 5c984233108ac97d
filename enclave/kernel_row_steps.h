// The algorithm of kernel.h for a single row, included after kernel_steps.h by the file that defines the
// vectors. Besides those of kernel_steps.h it asks for
//
//   load_unaligned            32 bytes from anywhere
//   add                       byte by byte
//   lane_numbers              0, 1, 2 ...
//   any                       whether a byte is not zero, as a mask
//   shuffle                   within each half, by a control that is no secret; 0x80 gives 0
//   mask_of_bit               of each byte, for blend
//   take_leaf                 entry `exit % 16` of a chunk
//   store_floats              four byte planes, as 32 floats
//   rank_row                  of eight windows: keys that are <= the row's value; whether it is missing
//
// No #pragma once, as kernel_steps.h.
// NOLINTBEGIN(cert-dcl59-cpp,misc-definitions-in-headers): for the same reason.

#include <cstring>

namespace confidential_ml {
namespace {

// ---- from the row to codes ----

size_t whole_vectors(size_t bytes) { return (bytes + kLanes - 1) / kLanes * kLanes; }

void encode_windows_of_row(const RowPlan& plan, const RowWindows& windows, const float* row, uint8_t* codes) {
  alignas(kLanes) uint32_t ranks[kEight], missing[kEight];
  rank_row(row, windows, plan.keys.data() + windows.first_key, ranks, missing);
  for (size_t w = 0; w < kEight; ++w) {
    codes[windows.column[0][w]] = static_cast<uint8_t>((ranks[w] | missing[w]) ^ 0x80);
    codes[windows.column[1][w]] = static_cast<uint8_t>(ranks[w] ^ 0x80);
  }
}

uint8_t code_of_split(const Plan& plan, const CategorySplit& split, const Category& category,
                      uint32_t missing) {
  const Bytes only = equal_bytes(lane_numbers(), broadcast(category.byte & 31)) & broadcast(category.bit);
  Bytes found = broadcast(missing & (split.missing_goes_right != 0 ? 1 : 0));
  for (uint32_t c = 0; c < split.chunk_count; ++c) {
    const CategoryChunk& chunk = plan.category_chunks[split.first_chunk + c];
    found = found | (load_unaligned(chunk.bits) & only & broadcast(equal(chunk.number, category.byte >> 5)));
  }
  return static_cast<uint8_t>(0x7f ^ ~any(found));  // as to_column()
}

// All splits of a feature, one by one.
void encode_splits_of_row(const Plan& plan, const RowSplits& splits, const float* row, uint8_t* codes) {
  const CategoryFeature& feature = plan.category_features[splits.category_feature];
  const float x = row[feature.feature];
  const Category category = feature.is_short != 0 ? short_category_of(x) : category_of(x);
  const uint32_t missing = feature.is_short != 0 ? 0 : is_nan(x);
  for (uint32_t s = 0; s < feature.split_count; ++s) {
    const CategorySplit& split = plan.category_splits[feature.first_split + s];
    codes[splits.first_column + s] = code_of_split(plan, split, category, missing);
  }
}

// Of a bit in a set of RowCategoryFeature: the number of its byte, then the bit in it. Greater for later
// bits.
CML_INLINE uint32_t place_of_bit(uint32_t number) { return (number >> 3) << 8 | 1u << (number & 7); }

CML_INLINE uint32_t place_of_category(const RowCategoryFeature& feature, float x) {
  const Category category = category_of(x);
  const uint32_t place = category.byte << 8 | category.bit, missing = place_of_bit(feature.known);
  const uint32_t is_known = ~equal(category.bit, 0) & below(place, missing);
  return select(is_nan(x), missing, select(is_known, place, place_of_bit(feature.known + 1)));
}

// fetch() looks at 256 codes. One more than there are is nobody's.
size_t column_code_bytes(const RowPlan& plan) { return plan.column_count / 256 * 256 + 256; }
size_t feature_lanes(const RowPlan& plan) { return whole_vectors(plan.category_features.size()); }

// What is computed of a row: a code for each column; and for each byte of a set the bit that every category
// feature has there, if any. Padding has none.
struct RowCodes {
  const uint8_t *codes, *members;
  size_t stride;

  RowCodes(const RowPlan& plan, const uint8_t* memory)
      : codes(memory), members(memory + column_code_bytes(plan)), stride(feature_lanes(plan)) {}
};

void encode_categories_of_row(const RowPlan& plan, const float* row, uint8_t* members) {
  const size_t stride = feature_lanes(plan);
  uint8_t *numbers = members + plan.set_bytes * stride, *bits = numbers + stride;
  for (size_t i = 0; i < 2 * stride; i += kLanes) store(numbers + i, broadcast(0));
  for (size_t f = 0; f < plan.category_features.size(); ++f) {
    const RowCategoryFeature& feature = plan.category_features[f];
    const uint32_t place = place_of_category(feature, row[feature.feature]);
    numbers[f] = static_cast<uint8_t>(place >> 8);
    bits[f] = static_cast<uint8_t>(place);
  }
  for (uint32_t byte = 0; byte < plan.set_bytes; ++byte) {
    for (size_t i = 0; i < stride; i += kLanes, members += kLanes) {
      store(members, equal_bytes(load(numbers + i), broadcast(byte)) & load(bits + i));
    }
  }
}

// ---- from codes to decisions ----

// codes[column] for 32 columns, which the row may have led to and are secret then: look-ups in 16 codes each,
// then choices by the upper bits of the column.
template <int kChunks, int kUpperBit>
CML_INLINE Bytes fetch(const uint8_t* codes, Bytes column, Bytes position) {
  if constexpr (kChunks == 1) {
    return look_up(codes, position);
  } else {
    const Bytes low = fetch<kChunks / 2, kUpperBit - 1>(codes, column, position);
    const Bytes high = fetch<kChunks / 2, kUpperBit - 1>(codes + kChunks / 2 * 16, column, position);
    return blend(mask_of_bit<kUpperBit>(column), high, low);
  }
}

// Of up to 256 columns.
CML_INLINE Bytes fetch_narrow(uint32_t column_count, const uint8_t* codes, Bytes column) {
  const Bytes position = column & broadcast(15);
  if (column_count <= 16) return fetch<1, 3>(codes, column, position);
  if (column_count <= 32) return fetch<2, 4>(codes, column, position);
  if (column_count <= 64) return fetch<4, 5>(codes, column, position);
  if (column_count <= 128) return fetch<8, 6>(codes, column, position);
  return fetch<16, 7>(codes, column, position);
}

// Of more columns, by the lower and the upper byte of their numbers.
Bytes fetch_wide(uint32_t column_count, const uint8_t* codes, Bytes low, Bytes high) {
  const Bytes position = low & broadcast(15);
  Bytes code = broadcast(0);
  for (uint32_t first = 0; first < column_count; first += 256) {
    code = code | (fetch<16, 7>(codes + first, low, position) & equal_bytes(high, broadcast(first >> 8)));
  }
  return code;
}

// Whether the row goes left, for all nodes of a block, 32 at a time.
void decide(uint32_t column_count, const uint8_t* node_columns, const uint8_t* limits, size_t vector_count,
            const uint8_t* codes, uint8_t* left) {
  for (size_t i = 0; i < vector_count * kLanes; i += kLanes) {
    const Bytes code = fetch_narrow(column_count, codes, load_unaligned(node_columns + i));
    store(left + i, greater(load_unaligned(limits + i), code));
  }
}

// With more than 256 columns. The addresses are the model's. Eight bytes are stored at once, since storing
// each takes longer than loading it.
void decide_wide(const uint32_t* node_columns, const uint8_t* limits, size_t vector_count,
                 const uint8_t* codes, uint8_t* left) {
  for (size_t i = 0; i < vector_count * kLanes; i += 8) {
    const auto code = [&](size_t k) { return uint64_t{codes[node_columns[i + k]]} << (8 * k); };
    const uint64_t low = (code(0) | code(1)) | (code(2) | code(3));
    const uint64_t high = (code(4) | code(5)) | (code(6) | code(7));
    const uint64_t eight = low | high;
    std::memcpy(left + i, &eight, sizeof eight);
  }
  for (size_t i = 0; i < vector_count * kLanes; i += kLanes) {
    store(left + i, greater(load_unaligned(limits + i), load(left + i)));
  }
}

// Whether the row's category is in the set, for 32 nodes: `feature` says which one they ask about.
CML_INLINE Bytes in_sets(const RowPlan& plan, const RowCodes& codes, Bytes feature, const Bytes* sets,
                         uint32_t set_bytes) {
  Bytes found = broadcast(0);
  for (uint32_t chunk = 0; 16 * chunk < plan.category_features.size(); ++chunk) {
    const Bytes position = position_in_chunk(feature, chunk);
    for (uint32_t byte = 0; byte < set_bytes; ++byte) {
      found =
          found | (sets[byte] & look_up(codes.members + byte * codes.stride + size_t{16} * chunk, position));
    }
  }
  return equal_bytes(equal_bytes(found, broadcast(0)), broadcast(0));
}

void decide_by_sets(const RowPlan& plan, const RowBlock& block, const RowCodes& codes, uint8_t* left) {
  const uint8_t* planes = plan.node_sets.data() + block.first_set;
  for (size_t v = 0; v < block.vector_count; ++v) {
    const Bytes feature = load_unaligned(planes);
    Bytes sets[kRowSetBytes];
    for (uint32_t byte = 0; byte < block.set_bytes; ++byte) sets[byte] = load_unaligned(planes += kLanes);
    planes += kLanes;
    store(left + v * kLanes, load(left + v * kLanes) | in_sets(plan, codes, feature, sets, block.set_bytes));
  }
}

void decide_block(const RowPlan& plan, const RowBlock& block, const RowCodes& codes, uint8_t* left) {
  const size_t count = block.vector_count;
  const uint8_t* limits = plan.node_limits.data() + block.first_limit;
  if (plan.is_wide()) {
    decide_wide(plan.wide_node_columns.data() + block.first_column, limits, count, codes.codes, left);
  } else {
    decide(plan.column_count, plan.node_columns.data() + block.first_column, limits, count, codes.codes,
           left);
  }
  if (block.set_bytes != 0) decide_by_sets(plan, block, codes, left);
}

// ---- to the exits of 32 parts ----

// What is kept of parts: of all, or if no tree has several, of a block at a time.
struct PartValues {
  uint32_t leaf_size;
  size_t stride;
  bool of_all;
  uint8_t* exits;
  float* values;  // `stride` for each value of a leaf

  size_t place_of(uint32_t part) const { return of_all ? part : part % kLanes; }
  float* of(uint32_t group) const { return values + group * stride; }
};

// How 32 complete parts decide: by columns whose numbers take a byte or two, or all nodes have been decided
// upon.
enum class Decision { kNarrow, kWide, kDone };

// Of 32 complete parts: of a table that differ() has made, what is at the place that each has come to.
template <int kLevel, int kChosen = kLevel, size_t kPlace = 0, int kDepth, typename OfPlace>
CML_INLINE Bytes found_at(const Way<kDepth, 1>& way, const OfPlace& of_place) {
  if constexpr (kChosen == 0) {
    return of_place(kPlace);
  } else {
    constexpr size_t kLeft = kPlace + (size_t{1} << (kLevel - kChosen));
    const Bytes difference = found_at<kLevel, kChosen - 1, kLeft>(way, of_place);
    return found_at<kLevel, kChosen - 1, kPlace>(way, of_place) ^ (way.left[kChosen - 1].of[0] & difference);
  }
}

// The same in a plane: of a level, `planes` of them for the nodes above it.
template <int kLevel, int kDepth>
CML_INLINE Bytes found_in_plane(const Way<kDepth, 1>& way, const uint8_t* first, size_t planes,
                                size_t plane) {
  constexpr size_t kAbove = (size_t{1} << kLevel) - 1, kWidth = size_t{1} << kLevel;
  const uint8_t* vectors = first + (kAbove * planes + kWidth * plane) * kLanes;
  return found_at<kLevel>(way, [&](size_t place) { return load_unaligned(vectors + place * kLanes); });
}

template <int kLevel, int kDepth>
CML_INLINE Bytes found_in_sets(const RowPlan& plan, const RowBlock& block, const RowCodes& codes,
                               const Way<kDepth, 1>& way) {
  const uint8_t* planes = plan.node_sets.data() + block.first_set;
  const size_t count = 1 + block.set_bytes;
  const Bytes feature = found_in_plane<kLevel>(way, planes, count, 0);
  Bytes sets[kRowSetBytes];
  for (size_t byte = 0; byte < block.set_bytes; ++byte) {
    sets[byte] = found_in_plane<kLevel>(way, planes, count, 1 + byte);
  }
  return in_sets(plan, codes, feature, sets, block.set_bytes);
}

// They go down a level as in a batch, but what is chosen is the number of the column, since every part has
// one of its own there, and the set; or the decision itself.
template <Decision kDecision, int kLevel, int kDepth>
CML_INLINE void go_down_in_parts(const RowPlan& plan, const RowBlock& block, const RowCodes& codes,
                                 const uint8_t* left, Way<kDepth, 1>* way) {
  if constexpr (kDecision == Decision::kDone) {
    const auto of_node = [&](size_t node) { return Abreast<1>{{load(left + node * kLanes)}}; };
    take_way<kLevel>(chosen_at<kLevel>(*way, of_node), way);
  } else {
    const uint8_t* columns = plan.node_columns.data() + block.first_column;
    const uint8_t* limits = plan.node_limits.data() + block.first_limit;
    Bytes code;
    if constexpr (kDecision == Decision::kWide) {
      const Bytes low = found_in_plane<kLevel>(*way, columns, 2, 0);
      code = fetch_wide(plan.column_count, codes.codes, low, found_in_plane<kLevel>(*way, columns, 2, 1));
    } else {
      code = fetch_narrow(plan.column_count, codes.codes, found_in_plane<kLevel>(*way, columns, 1, 0));
    }
    Bytes is_left = greater(found_in_plane<kLevel>(*way, limits, 1, 0), code);
    if (block.set_bytes != 0) is_left = is_left | found_in_sets<kLevel>(plan, block, codes, *way);
    take_way<kLevel>(Abreast<1>{{is_left}}, way);
  }
}

template <Decision kDecision, int... kLevel>
CML_INLINE auto way_in_parts(const RowPlan& plan, const RowBlock& block, const RowCodes& codes,
                             const uint8_t* left, std::integer_sequence<int, kLevel...>) {
  Way<sizeof...(kLevel), 1> way;
  way.place.of[0] = broadcast(0);
  (go_down_in_parts<kDecision, kLevel>(plan, block, codes, left, &way), ...);
  return way;
}

// The values of the exits that 32 complete parts have come to.
template <int kDepth>
CML_INLINE void store_complete_values(const RowPlan& plan, const RowBlock& block, const Way<kDepth, 1>& way,
                                      const PartValues& values) {
  const uint8_t* table = plan.leaves.data() + block.first_leaf;
  for (uint32_t g = 0; g < values.leaf_size; ++g) {
    Bytes planes[4];
    for (Bytes& plane : planes) {
      plane = found_at<kDepth>(way, [&](size_t exit) { return load_unaligned(table + exit * kLanes); });
      table += kLanes << kDepth;
    }
    store_floats(planes, values.of(g) + values.place_of(block.first_part));
  }
}

template <Decision kDecision, int kDepth>
[[gnu::noinline]] void complete_values(const RowPlan& plan, const RowBlock& block, const RowCodes& codes,
                                       const uint8_t* left, const PartValues& values) {
  constexpr std::make_integer_sequence<int, kDepth> kLevels;
  const auto way = way_in_parts<kDecision>(plan, block, codes, left, kLevels);
  store_complete_values(plan, block, way, values);
}

// `left` of a block that is decided upon.
template <int kDepth>
void complete_values_of(const RowPlan& plan, const RowBlock& block, const RowCodes& codes,
                        const uint8_t* left, const PartValues& values) {
  if constexpr (kDepth < kCompleteDepth) {
    if (block.depth > kDepth) return complete_values_of<kDepth + 1>(plan, block, codes, left, values);
  }
  if (block.is_decided) return complete_values<Decision::kDone, kDepth>(plan, block, codes, left, values);
  if (plan.is_wide()) return complete_values<Decision::kWide, kDepth>(plan, block, codes, left, values);
  complete_values<Decision::kNarrow, kDepth>(plan, block, codes, left, values);
}

Bytes general_exits(const RowPlan& plan, const RowBlock& block, const uint8_t* left, uint8_t* results,
                    uint8_t* next_results) {
  const RowChildren* children = plan.children.data() + block.first_children;
  for (uint32_t level = 0; level < block.level_count; ++level) {
    const uint32_t vector_count = plan.levels[block.first_level + level];
    for (size_t v = 0; v < vector_count; ++v, ++children, left += kLanes) {
      const RowChildren& c = *children;
      const Bytes lefts = load_halves(results + c.left_start[0], results + c.left_start[1]);
      const Bytes rights = load_halves(results + c.right_start[0], results + c.right_start[1]);
      const Bytes if_left =
          add(shuffle(lefts, load_unaligned(c.left_control)), load_unaligned(c.right_exits));
      const Bytes if_right = shuffle(rights, load_unaligned(c.right_control));
      store(next_results + v * kLanes, blend(load(left), if_left, if_right));
    }
    std::swap(results, next_results);
  }
  return load(results);
}

// ---- from exits to values ----

// The chunk that an exit is in: its four planes of 16 bytes, as two vectors.
template <int kChunks, int kUpperBit>
CML_INLINE void select_chunk(const uint8_t* table, Bytes exit, Bytes* chunk) {
  if constexpr (kChunks == 1) {
    chunk[0] = load_unaligned(table);
    chunk[1] = load_unaligned(table + kLanes);
  } else {
    Bytes low[2], high[2];
    select_chunk<kChunks / 2, kUpperBit - 1>(table, exit, low);
    select_chunk<kChunks / 2, kUpperBit - 1>(table + kChunks / 2 * kChunkBytes, exit, high);
    for (int i = 0; i < 2; ++i) chunk[i] = blend(mask_of_bit<kUpperBit>(exit), high[i], low[i]);
  }
}

template <int kChunks, int kUpperBit>
CML_INLINE float select_leaf(const uint8_t* table, Bytes exit) {
  Bytes chunk[2];
  select_chunk<kChunks, kUpperBit>(table, exit, chunk);
  return take_leaf(chunk, exit);
}

// Every entry of the table is read.
CML_INLINE float leaf_at(const uint8_t* table, uint32_t chunk_count, uint32_t exit_number) {
  const Bytes exit = broadcast(exit_number);
  if (chunk_count <= 1) return select_leaf<1, 3>(table, exit);
  if (chunk_count <= 2) return select_leaf<2, 4>(table, exit);
  if (chunk_count <= 4) return select_leaf<4, 5>(table, exit);
  if (chunk_count <= 8) return select_leaf<8, 6>(table, exit);
  return select_leaf<16, 7>(table, exit);
}

void store_general_values(const Plan& plan, const RowBlock& block, const PartValues& values) {
  const size_t place = values.place_of(block.first_part);
  for (uint32_t p = 0; p < block.part_count; ++p) {
    const Part& part = plan.parts[block.first_part + p];
    const uint8_t* table = plan.leaves.data() + part.first_leaf;
    for (uint32_t g = 0; g < plan.leaf_size; ++g, table += part.chunk_count * kChunkBytes) {
      values.of(g)[place + p] = leaf_at(table, part.chunk_count, values.exits[place + p]);
    }
  }
}

// The value of a tree becomes that of its first part, once the parts that its exits lead to have theirs.
void follow_links(const Plan& plan, const PlannedTree& tree, const uint8_t* exits, float* values) {
  for (uint32_t p = tree.part_count; p-- > 0;) {
    const Part& part = plan.parts[tree.first_part + p];
    for (uint32_t l = 0; l < part.link_count; ++l) {
      const Link& link = plan.links[part.first_link + l];
      values[p] = select(equal(exits[p], link.exit), values[link.part], values[p]);
    }
  }
}

// Trees [begin, end), whose parts have values. If they are of one group, the sum stays in a register: stored,
// it would be waited for.
void add_values(const Plan& plan, size_t begin, size_t end, const PartValues& values, uint32_t group,
                float* sums) {
  const PlannedTree* trees = plan.trees.data();
  float* of_parts = values.of(group);
  for (size_t t = begin; t < end && values.of_all; ++t) {
    if (trees[t].part_count == 1) continue;
    follow_links(plan, trees[t], values.exits + trees[t].first_part, of_parts + trees[t].first_part);
  }
  const auto value = [&](size_t t) { return of_parts[values.place_of(trees[t].first_part)]; };
  if (plan.group_count != plan.leaf_size) {
    for (size_t t = begin; t < end; ++t) sums[trees[t].group + group] += value(t);
    return;
  }
  float sum = sums[group];
  for (size_t t = begin; t < end; ++t) sum += value(t);
  sums[group] = sum;
}

// What lies in the scratch memory. The first results that a shuffle reads are nobody's.
struct RowScratch {
  size_t left, results, exits, values, end;

  explicit RowScratch(const Plan& plan) {
    const size_t parts = plan.largest_tree > 1 ? whole_vectors(plan.parts.size()) : kLanes;
    left = 0;
    results = left + plan.for_row.widest_block * kLanes;
    exits = results + 2 * results_bytes(plan);
    values = exits + parts;
    end = values + parts * plan.leaf_size * sizeof(float);
  }
  static size_t results_bytes(const Plan& plan) { return (plan.for_row.widest_level + 1) * kLanes; }
};

}  // namespace

size_t row_code_bytes(const Plan& plan) {
  const RowPlan& row_plan = plan.for_row;
  return column_code_bytes(row_plan) + (row_plan.set_bytes + 2) * feature_lanes(row_plan);
}

size_t row_scratch_bytes(const Plan& plan) { return RowScratch(plan).end; }

void encode_row(const Plan& plan, const float* row, uint8_t* codes) {
  for (const RowWindows& windows : plan.for_row.windows) {
    encode_windows_of_row(plan.for_row, windows, row, codes);
  }
  for (const RowSplits& splits : plan.for_row.splits) encode_splits_of_row(plan, splits, row, codes);
  encode_categories_of_row(plan.for_row, row, codes + column_code_bytes(plan.for_row));
}

void add_trees_to_row(const Plan& plan, size_t begin, size_t end, const uint8_t* codes, uint8_t* scratch,
                      float* sums) {
  if (begin == end) return;
  const RowPlan& row_plan = plan.for_row;
  const RowCodes row(row_plan, codes);
  const RowScratch own(plan);
  const size_t stride = own.values - own.exits;
  uint8_t *left = scratch + own.left, *results = scratch + own.results;
  const PartValues values{plan.leaf_size, stride, plan.largest_tree > 1, scratch + own.exits,
                          reinterpret_cast<float*>(scratch + own.values)};
  // Values are added block by block: one addition waits for the other, and the next block need not.
  size_t next = begin;
  for (size_t b = plan.trees[begin].first_part / kLanes; next < end; ++b) {
    const RowBlock& block = row_plan.blocks[b];
    if (block.is_decided) decide_block(row_plan, block, row, left);
    if (block.depth != 0) {
      complete_values_of<1>(row_plan, block, row, left, values);
    } else {
      store(values.exits + values.place_of(block.first_part),
            general_exits(row_plan, block, left, results, results + RowScratch::results_bytes(plan)));
      store_general_values(plan, block, values);
    }
    const size_t end_tree = std::min<size_t>(end, block.end_tree);
    for (uint32_t g = 0; g < plan.leaf_size && next < end_tree; ++g) {
      add_values(plan, next, end_tree, values, g, sums);
    }
    next = std::max(next, end_tree);
  }
}

}  // namespace confidential_ml
// NOLINTEND(cert-dcl59-cpp,misc-definitions-in-headers)
