// The algorithm of kernel.h for batches, from columns and conditions on; included after kernel_encode_steps.h
// by the file that defines the vectors. Besides those it asks for
//
//   blend
//   keep_order     of what is computed before and after
//   look_up_low    selection from 16 bytes by the low four bits of what is below 128
//   add_planes     four byte planes, as 32 floats, onto sums
//
// No #pragma once, as there.
// NOLINTBEGIN(cert-dcl59-cpp,misc-definitions-in-headers): for the same reason.

#include <algorithm>
#include <type_traits>
#include <utility>

namespace confidential_ml {
namespace {

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
template <int kLevel, int kChosen = kLevel, size_t kPlace = 0, typename AnyWay, typename OfNode>
CML_INLINE auto chosen_at(const AnyWay& way, const OfNode& of_node) {
  if constexpr (kChosen == 0) {
    return of_node((size_t{1} << kLevel) - 1 + kPlace);
  } else {
    constexpr size_t kLeft = kPlace + (size_t{1} << (kLevel - kChosen));
    const auto if_left = chosen_at<kLevel, kChosen - 1, kLeft>(way, of_node);
    const auto if_right = chosen_at<kLevel, kChosen - 1, kPlace>(way, of_node);
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
CML_INLINE void general_exits(const Plan& plan, const Part& part, const uint8_t* columns, size_t column_bytes,
                              uint8_t* slots, Bytes* exits) {
  const int8_t* limits = plan.node_limits.data() + part.first_node;
  const GeneralNode* nodes = plan.general_nodes.data() + part.first_general;
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

// Leaves of several vectors' exits: what is not in a chunk is 0 there. The four planes are written out: in a
// loop gcc keeps them in memory.
template <size_t kVectors>
CML_INLINE void select_leaves(const uint8_t* table, uint32_t chunk_count, const Abreast<kVectors>& exits,
                              Abreast<kVectors>* planes) {
  Abreast<kVectors> plane0, plane1, plane2, plane3;
  for (size_t v = 0; v < kVectors; ++v)
    plane0.of[v] = plane1.of[v] = plane2.of[v] = plane3.of[v] = broadcast(0);
  for (uint32_t c = 0; c < chunk_count; ++c, table += kChunkBytes) {
    for (size_t v = 0; v < kVectors; ++v) {
      const Bytes position = position_in_chunk(exits.of[v], c);
      plane0.of[v] = keep_order(plane0.of[v] | look_up(table, position));
      plane1.of[v] = keep_order(plane1.of[v] | look_up(table + 16, position));
      plane2.of[v] = keep_order(plane2.of[v] | look_up(table + 32, position));
      plane3.of[v] = keep_order(plane3.of[v] | look_up(table + 48, position));
    }
  }
  planes[0] = plane0;
  planes[1] = plane1;
  planes[2] = plane2;
  planes[3] = plane3;
}

// What is the same for all trees.
struct Run {
  const Plan& plan;
  const EncodedRows& rows;
  uint8_t* scratch;
  float* sums;

  const uint8_t* columns_of(size_t vector) const { return rows.columns + vector * rows.column_bytes; }
  float* sums_of(size_t vector, size_t group) const {
    return sums + (vector * plan.group_count + group) * kLanes;
  }
};

template <size_t kVectors>
CML_INLINE void add_leaves(const Run& run, const PlannedTree& tree, const Part& part, uint32_t chunk_count,
                           size_t first_vector, const Abreast<kVectors>& exits) {
  const uint8_t* table = run.plan.leaves.data() + part.first_leaf;
  for (uint32_t g = 0; g < run.plan.leaf_size; ++g, table += chunk_count * kChunkBytes) {
    Abreast<kVectors> planes[4];
    select_leaves(table, chunk_count, exits, planes);
    for (size_t v = 0; v < kVectors; ++v) {
      const Bytes of_vector[4] = {planes[0].of[v], planes[1].of[v], planes[2].of[v], planes[3].of[v]};
      add_planes(of_vector, run.sums_of(first_vector + v, tree.group + g));
    }
  }
}

constexpr uint32_t chunks_of(int depth) { return depth <= 4 ? 1 : 1u << (depth - 4); }

// Not inlined: clang finds fewer registers for all depths in one function.
template <int kDepth>
[[gnu::noinline]] void add_complete_by_columns(const Run& run, const PlannedTree& tree, const Part& part) {
  const Plan& plan = run.plan;
  for_vectors<kPair>(0, run.rows.vector_count, [&](size_t first, auto count) {
    Nodes<count> nodes{
        plan.node_columns.data() + part.first_node, plan.node_limits.data() + part.first_node, {}};
    for (size_t v = 0; v < count; ++v) nodes.columns[v] = run.columns_of(first + v);
    const auto way = way_down<kDepth>(nodes, std::make_integer_sequence<int, kDepth>{});
    add_leaves(run, tree, part, chunks_of(kDepth), first, way.place);
  });
}

// ---- a bit for each row ----

// Of 256 rows, bit v of a byte being that of a row of vector v.
struct Bits {
  Bytes of;
};

CML_INLINE Bits blend(Bits mask, Bits if_set, Bits if_clear) {
  return {(mask.of & if_set.of) | and_not(mask.of, if_clear.of)};
}

// As Way, but with a bit for each of all rows, and the places are only known when all levels are.
template <int kDepth>
struct WayInBits {
  Bits left[kDepth];
};

// The exits of the rows of 8 vectors.
template <int kDepth, int... kLevel>
CML_INLINE void exits_by_conditions(const uint32_t* node_conditions, const uint8_t* conditions, Bytes* exits,
                                    std::integer_sequence<int, kLevel...>) {
  WayInBits<kDepth> way{};
  const auto condition = [&](size_t node) { return Bits{load(conditions + node_conditions[node])}; };
  ((way.left[kLevel] = chosen_at<kLevel>(way, condition)), ...);
  for (size_t bit = 0; bit < kBitVectors; ++bit) {
    exits[bit] = bit < kDepth ? way.left[kDepth - 1 - bit].of : broadcast(0);
  }
  transpose_bits(exits);
}

template <int kDepth>
[[gnu::noinline]] void add_complete_by_conditions(const Run& run, const PlannedTree& tree, const Part& part) {
  Bytes exits[kBitVectors];
  exits_by_conditions<kDepth>(run.plan.node_conditions.data() + part.first_node, run.rows.conditions, exits,
                              std::make_integer_sequence<int, kDepth>{});
  for_vectors<kPair>(0, run.rows.vector_count, [&](size_t first, auto count) {
    Abreast<count> own;
    for (size_t v = 0; v < count; ++v) own.of[v] = exits[first + v];
    add_leaves(run, tree, part, chunks_of(kDepth), first, own);
  });
}

template <int kDepth>
void add_complete_of(const Run& run, const PlannedTree& tree, const Part& part) {
  if constexpr (kDepth < kCompleteDepth) {
    if (part.depth > kDepth) return add_complete_of<kDepth + 1>(run, tree, part);
  }
  if (run.rows.conditions == nullptr) return add_complete_by_columns<kDepth>(run, tree, part);
  add_complete_by_conditions<kDepth>(run, tree, part);
}

void add_general(const Run& run, const PlannedTree& tree, const Part& part) {
  for_vectors(0, run.rows.vector_count, [&](size_t first, auto count) {
    Bytes exits[count];
    general_exits<count>(run.plan, part, run.columns_of(first), run.rows.column_bytes, run.scratch, exits);
    for (size_t v = 0; v < count; ++v) {
      add_leaves(run, tree, part, part.chunk_count, first + v, Abreast<1>{{exits[v]}});
    }
  });
}

// The four value planes of a part, from its own leaves or from the parts that its exits lead to.
void select_values(const Plan& plan, const Part& part, uint32_t group, Bytes exit, const uint8_t* values,
                   Bytes* planes) {
  const uint8_t* table = plan.leaves.data() + part.first_leaf + group * part.chunk_count * kChunkBytes;
  Abreast<1> own[4];
  select_leaves(table, part.chunk_count, Abreast<1>{{exit}}, own);
  for (size_t i = 0; i < 4; ++i) planes[i] = own[i].of[0];
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
  for_vectors(0, run.rows.vector_count, [&](size_t first, auto count) {
    for (size_t p = 0; p < tree.part_count; ++p) {
      Bytes found[count];
      general_exits<count>(run.plan, parts[p], run.columns_of(first), run.rows.column_bytes, run.scratch,
                           found);
      for (size_t v = 0; v < count; ++v) store(exits + p * kSlotWidth + v * kLanes, found[v]);
    }
    for (size_t v = 0; v < count; ++v) add_values(run, tree, first + v, exits + v * kLanes, values);
  });
}

void add_tree(const Run& run, const PlannedTree& tree) {
  const Part& part = run.plan.parts[tree.first_part];
  if (tree.part_count > 1) return add_parts(run, tree);
  if (part.depth == 0) return add_general(run, tree, part);
  add_complete_of<1>(run, tree, part);
}

}  // namespace

size_t scratch_bytes(const Plan& plan) {
  return slot_bytes(plan) + plan.largest_tree * (kAbreast + 4) * kLanes;
}

void add_trees(const Plan& plan, size_t begin, size_t end, const EncodedRows& encoded, uint8_t* scratch,
               float* sums) {
  if (!plan.general_nodes.empty()) fill_exit_slots(scratch);
  const Run run{plan, encoded, scratch, sums};
  for (size_t t = begin; t < end; ++t) add_tree(run, plan.trees[t]);
}

}  // namespace confidential_ml
// NOLINTEND(cert-dcl59-cpp,misc-definitions-in-headers)
