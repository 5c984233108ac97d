// The plan of kernel.h's path for a single row: not 32 rows at a node, but 32 nodes at a time.
//
// Parts are taken in blocks of 32. A block's nodes are laid out in vectors, by levels. If its parts are
// complete and of equal depth, a vector holds the same node of all of them, the root first. Otherwise the
// deepest level is first, a level holds whatever nodes there are, and for each vector it says where in the
// level below its 32 left and 32 right children are.
//
// An exit's number is how many exits lie to its right. So a node's result is its right child's, or its left
// child's plus the count of exits below its right child.
#pragma once

#include <cstddef>
#include <cstdint>

#include "enclave/secret_memory.h"

namespace confidential_ml {

struct Plan;

struct RowBlock {
  uint32_t first_part, part_count;
  uint32_t end_tree;  // the first that has a part in a later block
  uint32_t depth;     // of a block of complete parts, else 0: then it has
  uint32_t first_level, level_count;
  uint32_t first_children;  // in RowPlan::children, one for each of its vectors
  uint32_t vector_count;
  // All nodes are decided upon: of a general block, and of one with too many columns to look through.
  bool is_decided;
  size_t first_limit;
  size_t first_column;  // in wide_node_columns if it is decided and the plan is wide, else in node_columns
  size_t first_leaf;    // in RowPlan::leaves; unless general
  uint32_t set_bytes;   // of the longest set that a node of it has
  size_t first_set;     // in RowPlan::node_sets
};

// The children of 32 nodes, 16 and 16: 16 consecutive results of the level below, from `*_start` on, hold
// those of 16 nodes' left children; the control says which, or 0x80 for an exit.
struct RowChildren {
  uint32_t left_start[2], right_start[2];
  uint8_t left_control[32], right_control[32];
  uint8_t right_exits[32];
};

// Eight windows of plan.h, in two fours with about as many keys each: `steps` times eight keys of the first
// window of a four, eight of the second ... The code of a window that lacks a column goes
// where nobody reads it, to column_count.
inline constexpr size_t kEight = 8, kFour = 4;
struct RowWindows {
  uint32_t feature[kEight];
  uint32_t column[2][kEight];  // missing values go right, left
  uint32_t first_key, steps[2];
};

// A feature whose sets of categories are short (CategoryFeature in plan.h). Its sets stand in the nodes: a
// bit, set for left, for each category below `known`, one for missing ones and one for all others.
struct RowCategoryFeature {
  uint32_t feature;
  uint32_t known;

  uint32_t set_bytes() const { return (known + 2 + 7) / 8; }
};
inline constexpr size_t kRowSetBytes = 16;           // at most
inline constexpr size_t kRowCategoryFeatures = 255;  // at most; of more, all splits become columns

// Categorical splits that become columns, from `first_column` on: all of a CategoryFeature.
struct RowSplits {
  uint32_t category_feature;
  uint32_t first_column;
};

struct RowPlan {
  uint32_t column_count;
  uint32_t widest_block;  // in vectors, of those that are decided
  uint32_t widest_level;  // in vectors
  uint32_t set_bytes;     // of the longest set
  SecretVector<RowWindows> windows;
  SecretVector<int32_t> keys;  // in any order, padded with keys that nothing exceeds
  SecretVector<RowCategoryFeature> category_features;
  SecretVector<RowSplits> splits;
  SecretVector<RowBlock> blocks;
  SecretVector<uint32_t> levels;  // of general blocks: count of vectors
  SecretVector<RowChildren> children;
  // If they fit a byte; else only of blocks that are not decided, of each level lower bytes and then upper
  // ones.
  SecretVector<uint8_t> node_columns;
  SecretVector<uint32_t> wide_node_columns;  // of the others
  SecretVector<uint8_t> node_limits;         // signed
  // Of blocks with sets, for each vector of nodes, or if they are not decided for all of a level: 32 numbers
  // of category features or kNoFeature, then 32 first bytes of sets, ...
  SecretVector<uint8_t> node_sets;
  // Of blocks that are not general: 32 lanes for each exit, as differ() makes them; so for each of the four
  // bytes of a leaf, the lowest first; so for each value of a leaf.
  SecretVector<uint8_t> leaves;

  static constexpr uint8_t kNoFeature = kRowCategoryFeatures;
  bool is_wide() const { return column_count > 256; }
  size_t size() const;  // bytes
};

// Of `count` vectors that are chosen from by the bits of a number, a power of two: wherever a bit is set,
// what is there becomes what it differs by from where that bit is not. Then a choice is an "and" and a "xor",
// which cost some processors less than half of a blend.
void differ(uint8_t* vectors, size_t count);

// May throw std::bad_alloc and PlanLimitExceeded.
RowPlan make_row_plan(const Plan& plan);

}  // namespace confidential_ml
