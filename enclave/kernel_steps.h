// The algorithm of kernel.h for batches, included by the file that defines the vectors:
//
//   Bytes, load, store, broadcast, greater, equal_bytes, blend, add, subtract, &, |, ^
//   position_in_chunk, look_up    selection from 16 bytes
//   look_up_low                   the same by the low four bits of what is below 128
//   add_planes                    four byte planes, as 32 floats, onto sums
//   rank                          rows to column
//   lane_of                       where a row stands in a vector
//
// No #pragma once: it is part of one source file, not an interface.
// NOLINTBEGIN(cert-dcl59-cpp,misc-definitions-in-headers): for the same reason.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "enclave/masks.h"

namespace confidential_ml {
namespace {

#define CML_INLINE [[gnu::always_inline]] inline

// ---- from rows to columns ----

void encode_window(const Plan& plan, const Window& window, const float* const* rows, uint8_t* columns) {
  Bytes missing{};
  const Bytes low = rank(rows, window, plan.keys.data() + window.first_key, &missing);
  const Bytes to_signed = broadcast(0x80);
  if (window.column[0] != kNoColumn) store(columns + window.column[0], (low | missing) ^ to_signed);
  if (window.column[1] != kNoColumn) store(columns + window.column[1], low ^ to_signed);
}

// Where a value stands in a set of categories: its byte, and the bit in it or 0 if it is no category.
struct Category {
  uint32_t byte, bit;
};

CML_INLINE Category category_of(float x) {
  const uint32_t bits = bits_of(x), exponent = bits >> 23 & 0xff;
  const uint32_t is_zero = equal(bits << 1, 0);
  const uint32_t valid = below(exponent, 127 + 24) & (~negative(bits) | is_zero);  // 0 <= x < 2^24
  const uint32_t whole = valid & ~below(exponent, 127);                            // 1 <= x < 2^24
  const uint32_t category = whole & (((bits & 0x7fffff) | 0x800000) >> ((150 - exponent) & 31));
  return {category >> 3, valid & 1u << (category & 7)};
}

// Planes: the byte of the category, its lowest 5 bits; the bit; bits 5 to 12 of the byte; bits 13 to 20;
// whether the value is missing.
void encode_category(const CategoryFeature& feature, const float* const* rows, uint8_t* planes) {
  for (size_t i = 0; i < kLanes; ++i) {
    const float x = rows[i][feature.feature];
    const Category category = category_of(x);
    uint8_t* lane = planes + lane_of(i);
    lane[0] = static_cast<uint8_t>(category.byte & 31);
    lane[kLanes] = static_cast<uint8_t>(category.bit);
    lane[2 * kLanes] = static_cast<uint8_t>(category.byte >> 5);
    lane[3 * kLanes] = static_cast<uint8_t>(category.byte >> 13);
    lane[4 * kLanes] = static_cast<uint8_t>(is_nan(x));
  }
}

// Of a feature whose sets are short: categories that are in none, and missing ones, have bytes of their own.
CML_INLINE Category short_category_of(float x) {
  const Category category = category_of(x);
  const uint32_t known = below(category.byte, kMissingByte), missing = is_nan(x);
  return {select(missing, kMissingByte, category.byte & 31),
          select(missing, uint32_t{0xff}, known & category.bit)};
}

// Planes: the byte; the bit, or 0 if no set has it.
void encode_short_category(const CategoryFeature& feature, const float* const* rows, uint8_t* planes) {
  for (size_t i = 0; i < kLanes; ++i) {
    const Category category = short_category_of(rows[i][feature.feature]);
    planes[lane_of(i)] = static_cast<uint8_t>(category.byte);
    planes[kLanes + lane_of(i)] = static_cast<uint8_t>(category.bit);
  }
}

// Smallest for left, largest for right.
CML_INLINE Bytes to_column(Bytes goes_right) {
  return equal_bytes(goes_right, broadcast(0)) ^ broadcast(0x7f);
}

void encode_split(const Plan& plan, const CategorySplit& split, const uint8_t* planes, uint8_t* columns) {
  const Bytes byte_in_chunk = load(planes), bit = load(planes + kLanes);
  const Bytes number_low = load(planes + 2 * kLanes), number_high = load(planes + 3 * kLanes);
  const Bytes first_half = position_in_chunk(byte_in_chunk, 0),
              second_half = position_in_chunk(byte_in_chunk, 1);
  Bytes found = broadcast(0);
  for (uint32_t c = 0; c < split.chunk_count; ++c) {
    const CategoryChunk& chunk = plan.category_chunks[split.first_chunk + c];
    const Bytes members = look_up(chunk.bits, first_half) | look_up(chunk.bits + 16, second_half);
    const Bytes here = equal_bytes(number_low, broadcast(chunk.number & 0xff)) &
                       equal_bytes(number_high, broadcast(chunk.number >> 8));
    found = found | (members & bit & here);
  }
  const Bytes missing = load(planes + 4 * kLanes) & broadcast(split.missing_goes_right ? 0xff : 0);
  store(columns + split.column, to_column(found | missing));
}

void encode_splits(const Plan& plan, const CategoryFeature& feature, const float* const* rows,
                   uint8_t* columns) {
  uint8_t* planes = columns + feature.planes;
  const CategorySplit* splits = plan.category_splits.data() + feature.first_split;
  if (feature.is_short == 0) {
    encode_category(feature, rows, planes);
    for (uint32_t s = 0; s < feature.split_count; ++s) encode_split(plan, splits[s], planes, columns);
    return;
  }
  encode_short_category(feature, rows, planes);
  const Bytes byte = position_in_chunk(load(planes), 0), bit = load(planes + kLanes);
  for (uint32_t s = 0; s < feature.split_count; ++s) {
    const Bytes members = look_up(plan.category_chunks[splits[s].first_chunk].bits, byte);
    store(columns + splits[s].column, to_column(members & bit));
  }
}

// ---- from columns to the exit of a part ----

// Vectors that go through a complete part together: fetching a node takes as long as using it for one. More
// than two would need more registers than there are.
constexpr size_t kPair = 2;

template <size_t kVectors>
struct Abreast {
  Bytes of[kVectors];
};

// A complete part: its nodes by levels, the right and the left child of node n at 2n + 1 and 2n + 2. So a
// node's place in its level is the number whose bits, the root's first, are 1 for each step to the left.
template <size_t kVectors>
struct Nodes {
  const uint32_t* node_columns;
  const int8_t* limits;
  const uint8_t* columns[kVectors];
};

// Which way each lane went at the levels so far, as masks and as the place that it has come to.
template <int kDepth, size_t kVectors>
struct Way {
  Abreast<kVectors> left[kDepth];
  Abreast<kVectors> place;
};

template <size_t kVectors>
CML_INLINE Abreast<kVectors> blend(const Abreast<kVectors>& mask, const Abreast<kVectors>& if_set,
                                   const Abreast<kVectors>& if_clear) {
  Abreast<kVectors> chosen;
  for (size_t v = 0; v < kVectors; ++v) chosen.of[v] = blend(mask.of[v], if_set.of[v], if_clear.of[v]);
  return chosen;
}

// Of what `of_node` gives for the nodes of a level that of the one that has been come to. kChosen levels have
// been decided on: what differs in their bits alone has become one. The root's is first, so that the rest
// need not wait for the level above.
template <int kLevel, int kChosen = kLevel, size_t kPlace = 0, int kDepth, size_t kVectors, typename OfNode>
CML_INLINE Abreast<kVectors> chosen_at(const Way<kDepth, kVectors>& way, const OfNode& of_node) {
  if constexpr (kChosen == 0) {
    return of_node((size_t{1} << kLevel) - 1 + kPlace);
  } else {
    constexpr size_t kLeft = kPlace + (size_t{1} << (kLevel - kChosen));
    const Abreast<kVectors> if_left = chosen_at<kLevel, kChosen - 1, kLeft>(way, of_node);
    const Abreast<kVectors> if_right = chosen_at<kLevel, kChosen - 1, kPlace>(way, of_node);
    return blend(way.left[kChosen - 1], if_left, if_right);
  }
}

template <int kLevel, int kDepth, size_t kVectors>
CML_INLINE void take_way(const Abreast<kVectors>& left, Way<kDepth, kVectors>* way) {
  way->left[kLevel] = left;
  for (size_t v = 0; v < kVectors; ++v) {
    Bytes* place = &way->place.of[v];
    *place = subtract(add(*place, *place), left.of[v]);  // minus a mask is plus one
  }
}

constexpr int chunk_bits(int place_bits) { return place_bits <= 4 ? 0 : place_bits - 4; }

// Of a table the byte with the number of each row's place, of whose bits the first kChunkBits say the chunk
// of 16: they begin kStride bytes apart.
template <int kChunkBits, size_t kStride, int kDepth, size_t kVectors>
CML_INLINE Abreast<kVectors> entry_at(const uint8_t* chunks, const Way<kDepth, kVectors>& way) {
  if constexpr (kChunkBits == 0) {
    Abreast<kVectors> entry;
    for (size_t v = 0; v < kVectors; ++v) entry.of[v] = look_up_low(chunks, way.place.of[v]);
    return entry;
  } else {
    const Abreast<kVectors> if_right = entry_at<kChunkBits - 1, 2 * kStride>(chunks, way);
    const Abreast<kVectors> if_left = entry_at<kChunkBits - 1, 2 * kStride>(chunks + kStride, way);
    return blend(way.left[kChunkBits - 1], if_left, if_right);
  }
}

// One comparison a level, of what has been chosen for each row.
template <int kLevel, int kDepth, size_t kVectors>
CML_INLINE void go_down(const Nodes<kVectors>& nodes, Way<kDepth, kVectors>* way) {
  const auto* limits = reinterpret_cast<const uint8_t*>(nodes.limits + (size_t{1} << kLevel) - 1);
  const Abreast<kVectors> limit = entry_at<chunk_bits(kLevel), 16>(limits, *way);
  const Abreast<kVectors> column = chosen_at<kLevel>(*way, [&](size_t node) {
    Abreast<kVectors> bytes;
    const uint32_t at = nodes.node_columns[node];
    for (size_t v = 0; v < kVectors; ++v) bytes.of[v] = load(nodes.columns[v] + at);
    return bytes;
  });
  Abreast<kVectors> left;
  for (size_t v = 0; v < kVectors; ++v) left.of[v] = greater(limit.of[v], column.of[v]);
  take_way<kLevel>(left, way);
}

// To the exits, which are the places below the last level.
template <int kDepth, size_t kVectors, int... kLevel>
CML_INLINE Way<kDepth, kVectors> way_down(const Nodes<kVectors>& nodes,
                                          std::integer_sequence<int, kLevel...>) {
  Way<kDepth, kVectors> way;
  for (size_t v = 0; v < kVectors; ++v) way.place.of[v] = broadcast(0);
  (go_down<kLevel>(nodes, &way), ...);
  return way;
}

// Of all exits of a part, then of its nodes; none if every part is complete.
size_t slot_bytes(const Plan& plan) {
  return plan.general_nodes.empty() ? 0 : kNodeSlots + kExits / 2 * kSlotWidth;
}

// Vector v counts exits from v on. So all vectors read the same constants: exit e of vector v is at e + v.
void fill_exit_slots(uint8_t* slots) {
  for (uint32_t i = 0; i < kExits + kAbreast; ++i) store(slots + i * kLanes, broadcast(i & 0xff));
}

// Any other part: its nodes from the last to the first, children before their parent. A slot holds the exit
// that is reached from a node; those of the exits themselves are constant. Several vectors go together, since
// fetching a node costs as much as evaluating it for one.
template <size_t kVectors>
CML_INLINE void general_exits(const Plan& plan, const Part& part, const uint8_t* columns, uint8_t* slots,
                              Bytes* exits) {
  const int8_t* limits = plan.node_limits.data() + part.first_node;
  const GeneralNode* nodes = plan.general_nodes.data() + part.first_general;
  const size_t column_bytes = plan.column_bytes;
  for (size_t v = 0; v < kVectors; ++v) exits[v] = broadcast(static_cast<uint32_t>(v));
  const size_t others = part.node_count - part.lowest_count;
  for (size_t i = part.node_count; i-- > others;) {
    const GeneralNode node = nodes[i];
    const Bytes limit = broadcast(static_cast<uint8_t>(limits[i]));
    uint8_t* result = slots + kNodeSlots + (i - others) * kSlotWidth;
    for (size_t v = 0; v < kVectors; ++v) {
      // Of two exits the left one has the next number: minus a mask is plus one.
      exits[v] = subtract(load(slots + node.right + v * kLanes),
                          greater(limit, load(columns + v * column_bytes + node.column)));
      store(result + v * kLanes, exits[v]);
    }
  }
  for (size_t i = others; i-- > 0;) {
    const GeneralNode node = nodes[i];
    const Bytes limit = broadcast(static_cast<uint8_t>(limits[i]));
    uint8_t* result = slots + std::max(node.left, node.right);  // of a child, which nobody asks for again
    for (size_t v = 0; v < kVectors; ++v) {
      const uint8_t *left = slots + node.left + v * kLanes, *right = slots + node.right + v * kLanes;
      exits[v] =
          blend(greater(limit, load(columns + v * column_bytes + node.column)), load(left), load(right));
      store(result + v * kLanes, exits[v]);
    }
  }
  for (size_t v = 0; v < kVectors; ++v) exits[v] = subtract(exits[v], broadcast(static_cast<uint32_t>(v)));
}

// act(v, std::integral_constant<size_t, n>) for vectors v to v + n, as many at a time as may go abreast.
template <size_t kVectors = kAbreast, typename Act>
CML_INLINE void for_vectors(size_t first, size_t end, const Act& act) {
  for (; first + kVectors <= end; first += kVectors) act(first, std::integral_constant<size_t, kVectors>{});
  if constexpr (kVectors > 1) for_vectors<kVectors / 2>(first, end, act);
}

// ---- from exits to values ----

// The four planes are written out: in a loop gcc keeps them in memory.
CML_INLINE void select_leaves(const uint8_t* table, uint32_t chunk_count, Bytes exit, Bytes* planes) {
  Bytes plane0 = broadcast(0), plane1 = plane0, plane2 = plane0, plane3 = plane0;
  for (uint32_t c = 0; c < chunk_count; ++c, table += kChunkBytes) {
    const Bytes position = position_in_chunk(exit, c);
    plane0 = plane0 | look_up(table, position);
    plane1 = plane1 | look_up(table + 16, position);
    plane2 = plane2 | look_up(table + 32, position);
    plane3 = plane3 | look_up(table + 48, position);
  }
  planes[0] = plane0;
  planes[1] = plane1;
  planes[2] = plane2;
  planes[3] = plane3;
}

// What is the same for all trees.
struct Run {
  const Plan& plan;
  const uint8_t* columns;
  size_t vector_count;
  uint8_t* scratch;
  float* sums;

  const uint8_t* columns_of(size_t vector) const { return columns + vector * plan.column_bytes; }
  float* sums_of(size_t vector, size_t group) const {
    return sums + (vector * plan.group_count + group) * kLanes;
  }
};

CML_INLINE void add_leaves(const Run& run, const PlannedTree& tree, const Part& part, uint32_t chunk_count,
                           size_t vector, Bytes exit) {
  const uint8_t* table = run.plan.leaves.data() + part.first_leaf;
  for (uint32_t g = 0; g < run.plan.leaf_size; ++g, table += chunk_count * kChunkBytes) {
    Bytes planes[4];
    select_leaves(table, chunk_count, exit, planes);
    add_planes(planes, run.sums_of(vector, tree.group + g));
  }
}

template <int kDepth, size_t kVectors>
CML_INLINE void add_complete_leaves(const Run& run, const PlannedTree& tree, const Part& part,
                                    size_t first_vector, Way<kDepth, kVectors> way) {
  constexpr int kChunkBits = chunk_bits(kDepth);
  // look_up_low() takes no more than seven bits.
  if (kDepth > 7) {
    for (size_t v = 0; v < kVectors; ++v) way.place.of[v] = way.place.of[v] & broadcast(15);
  }
  const uint8_t* table = run.plan.leaves.data() + part.first_leaf;
  for (uint32_t g = 0; g < run.plan.leaf_size; ++g, table += kChunkBytes << kChunkBits) {
    Abreast<kVectors> planes[4];
    for (size_t p = 0; p < 4; ++p) planes[p] = entry_at<kChunkBits, kChunkBytes>(table + 16 * p, way);
    for (size_t v = 0; v < kVectors; ++v) {
      const Bytes of_vector[4] = {planes[0].of[v], planes[1].of[v], planes[2].of[v], planes[3].of[v]};
      add_planes(of_vector, run.sums_of(first_vector + v, tree.group + g));
    }
  }
}

// Not inlined: clang finds fewer registers for all depths in one function.
template <int kDepth>
[[gnu::noinline]] void add_complete(const Run& run, const PlannedTree& tree, const Part& part) {
  const Plan& plan = run.plan;
  for_vectors<kPair>(0, run.vector_count, [&](size_t first, auto count) {
    Nodes<count> nodes{
        plan.node_columns.data() + part.first_node, plan.node_limits.data() + part.first_node, {}};
    for (size_t v = 0; v < count; ++v) nodes.columns[v] = run.columns_of(first + v);
    add_complete_leaves(run, tree, part, first,
                        way_down<kDepth>(nodes, std::make_integer_sequence<int, kDepth>{}));
  });
}

void add_general(const Run& run, const PlannedTree& tree, const Part& part) {
  for_vectors(0, run.vector_count, [&](size_t first, auto count) {
    Bytes exits[count];
    general_exits<count>(run.plan, part, run.columns_of(first), run.scratch, exits);
    for (size_t v = 0; v < count; ++v) {
      add_leaves(run, tree, part, part.chunk_count, first + v, exits[v]);
    }
  });
}

// The four value planes of a part, from its own leaves or from the parts that its exits lead to.
void select_values(const Plan& plan, const Part& part, uint32_t group, Bytes exit, const uint8_t* values,
                   Bytes* planes) {
  const uint8_t* table = plan.leaves.data() + part.first_leaf + group * part.chunk_count * kChunkBytes;
  select_leaves(table, part.chunk_count, exit, planes);
  for (uint32_t l = 0; l < part.link_count; ++l) {
    const Link& link = plan.links[part.first_link + l];
    const Bytes taken = equal_bytes(exit, broadcast(link.exit));
    const uint8_t* linked = values + size_t{link.part} * 4 * kLanes;
    for (size_t i = 0; i < 4; ++i) planes[i] = blend(taken, load(linked + i * kLanes), planes[i]);
  }
}

// A tree of several parts: per group, their values from the last part to the first. `exits` of all parts.
CML_INLINE void add_values(const Run& run, const PlannedTree& tree, size_t vector, const uint8_t* exits,
                           uint8_t* values) {
  const Part* parts = run.plan.parts.data() + tree.first_part;
  for (uint32_t g = 0; g < run.plan.leaf_size; ++g) {
    Bytes planes[4] = {};
    for (size_t p = tree.part_count; p-- > 0;) {
      select_values(run.plan, parts[p], g, load(exits + p * kSlotWidth), values, planes);
      for (size_t i = 0; i < 4; ++i) store(values + (p * 4 + i) * kLanes, planes[i]);
    }
    add_planes(planes, run.sums_of(vector, tree.group + g));
  }
}

void add_parts(const Run& run, const PlannedTree& tree) {
  const Part* parts = run.plan.parts.data() + tree.first_part;
  uint8_t* exits = run.scratch + slot_bytes(run.plan);
  uint8_t* values = exits + tree.part_count * kSlotWidth;
  for_vectors(0, run.vector_count, [&](size_t first, auto count) {
    for (size_t p = 0; p < tree.part_count; ++p) {
      Bytes found[count];
      general_exits<count>(run.plan, parts[p], run.columns_of(first), run.scratch, found);
      for (size_t v = 0; v < count; ++v) store(exits + p * kSlotWidth + v * kLanes, found[v]);
    }
    for (size_t v = 0; v < count; ++v) add_values(run, tree, first + v, exits + v * kLanes, values);
  });
}

void add_tree(const Run& run, const PlannedTree& tree) {
  const Part& part = run.plan.parts[tree.first_part];
  if (tree.part_count > 1) return add_parts(run, tree);
  switch (part.depth) {
    case 1:
      return add_complete<1>(run, tree, part);
    case 2:
      return add_complete<2>(run, tree, part);
    case 3:
      return add_complete<3>(run, tree, part);
    case 4:
      return add_complete<4>(run, tree, part);
    case 5:
      return add_complete<5>(run, tree, part);
    case 6:
      return add_complete<6>(run, tree, part);
    case 7:
      return add_complete<7>(run, tree, part);
    case 8:
      return add_complete<8>(run, tree, part);
    default:
      return add_general(run, tree, part);
  }
}

}  // namespace

size_t scratch_bytes(const Plan& plan) {
  return slot_bytes(plan) + plan.largest_tree * (kAbreast + 4) * kLanes;
}

void encode_rows(const Plan& plan, const float* rows, size_t row_count, uint8_t* columns) {
  const float* row[kLanes];
  // Lanes without a row repeat the last one, for nobody to read.
  for (size_t i = 0; i < kLanes; ++i) {
    row[i] = rows + (i < row_count ? i : row_count - 1) * plan.feature_count;
  }
  for (const Window& window : plan.windows) encode_window(plan, window, row, columns);
  for (const CategoryFeature& feature : plan.category_features) encode_splits(plan, feature, row, columns);
}

void add_trees(const Plan& plan, size_t begin, size_t end, const uint8_t* columns, size_t vector_count,
               uint8_t* scratch, float* sums) {
  if (!plan.general_nodes.empty()) fill_exit_slots(scratch);
  const Run run{plan, columns, vector_count, scratch, sums};
  for (size_t t = begin; t < end; ++t) add_tree(run, plan.trees[t]);
}

}  // namespace confidential_ml
// NOLINTEND(cert-dcl59-cpp,misc-definitions-in-headers)
