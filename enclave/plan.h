// What the engine computes from: a model turned, once, into straight programs for 32 rows at a time.
//
// Every feature that a split asks about becomes *columns*: 32 signed bytes, one per row. A numeric column
// holds how many of (up to 255 of) the feature's thresholds are <= the row's value, minus 128; a feature with
// more thresholds has several such columns, each for a window of them. Then `x < threshold` is `column <
// limit`, whole and exact. Missing values are the smallest or the largest number, so each window has up to
// two columns, one for splits that send missing values left and one for the others. A categorical split has a
// column of its own, smallest for left and largest for right. So all splits look alike.
//
// Complete parts need not have bytes compared again and again: for 256 rows at a time each comparison that
// their nodes ask for is made once, with a bit for each row. These are *conditions*; a node is the number of
// one.
//
// Trees consist of *parts* with at most 256 exits, so that the exit taken fits a byte. Nearly complete ones
// are padded, all others keep their shape. A part's leaves stand in chunks of 16: the lowest bytes of the 16
// floats, then the next ones, ...
#pragma once

#include <cstddef>
#include <cstdint>

#include "enclave/model.h"
#include "enclave/row_plan.h"
#include "enclave/secret_memory.h"

namespace confidential_ml {

inline constexpr size_t kLanes = 32;   // rows in a vector
inline constexpr size_t kExits = 256;  // most exits of a part
inline constexpr size_t kAbreast = 4;  // vectors that go through a general part together
inline constexpr size_t kSlotWidth = kAbreast * kLanes;
// Where the slots of a general part's nodes begin: behind those of its exits, which overlap.
inline constexpr size_t kNodeSlots = (kExits + kAbreast) * kLanes;
inline constexpr uint32_t kWindow = 255;       // most thresholds of a column
inline constexpr uint32_t kCompleteDepth = 8;  // deepest complete part
inline constexpr size_t kChunkBytes = 16 * 4;  // of a leaf table
// A table may be read as if its chunks were 1, 2, 4, 8 or 16.
inline constexpr size_t kTableSlack = 8 * kChunkBytes;
inline constexpr size_t kLimitSlack = 16;  // 16 limits are read at a time
inline constexpr uint32_t kNoColumn = UINT32_MAX;
inline constexpr size_t kConditionBytes = 32;              // a bit for each row of kBitVectors vectors
inline constexpr size_t kBitVectors = 8;                   // vectors whose rows share a byte of bits
inline constexpr uint32_t kHalfBits = 4, kHalfCodes = 16;  // a code of 8 bits is two halves
inline constexpr uint32_t kConditionBatch = 16;            // conditions of a column that are made together
inline constexpr uint32_t kFewConditions = 6;              // so many take longer together than one by one
inline constexpr uint32_t kMaxConditions = 1u << 17;       // 4 MiB for each thread
inline constexpr uint32_t kNoCondition = UINT32_MAX;

// Columns and slots are named by their byte offset.
struct Window {
  uint32_t feature;
  uint32_t levels;                // of the search: below 2^levels thresholds
  uint32_t first_key, key_count;  // in Plan::keys
  uint32_t first_table;           // in Plan::key_tables
  uint32_t column[2];             // missing values go right, left
};

// Each level of the search is a table in chunks of 16 keys, as those of leaves; so many stand before a level.
constexpr size_t chunks_before(uint32_t level) { return level <= 5 ? level : 3 + (size_t{1} << (level - 4)); }

// A feature that categorical splits ask about: byte planes, standing where columns stand. If all its sets are
// of categories below 120, they take 15 bytes, and "missing" is made a member or not of a sixteenth.
struct CategoryFeature {
  static constexpr size_t kPlanes = 5, kShortPlanes = 2;
  uint32_t feature;
  uint32_t planes;
  uint32_t is_short;
  uint32_t first_split, split_count;
};
inline constexpr uint32_t kMissingByte = 15;  // of a short set

struct CategorySplit {
  uint32_t column;
  uint32_t condition;  // or kNoCondition
  uint32_t first_chunk, chunk_count;
  uint32_t missing_goes_right;
};

struct CategoryChunk {
  uint8_t bits[32];  // of categories 256 number, ...
  uint32_t number;
};

// The conditions `column < limit` that nodes ask of a numeric column, in an order that is drawn by lot when a
// model is loaded and that no address tells while they are made. So which condition a node asks for, which is
// an address, tells nothing of its limit. More than kFewConditions that are left after whole batches are
// padded to one.
struct ColumnConditions {
  uint32_t column;
  uint32_t first_condition;
  uint32_t count;
};

struct Part {
  uint32_t first_node;
  uint32_t first_general;  // in Plan::general_nodes; unless complete
  uint32_t first_link, link_count;
  size_t first_leaf;  // in Plan::leaves; leaf_size tables of chunk_count chunks
  uint16_t node_count;
  uint16_t lowest_count;  // nodes above two exits: the last ones; unless complete
  uint16_t chunk_count;
  uint32_t depth;  // of a complete part, else 0
};

// Where an exit leads into another part of the tree, which comes later.
struct Link {
  uint32_t part;  // of the tree
  uint32_t exit;
};

// A node of a part that is not complete: offsets of its column, and of its children's slots. Its own slot is
// the child's with the higher offset, which is no exit's; one above two exits has a slot by its number.
struct GeneralNode {
  uint32_t column;
  uint16_t left, right;
};

struct PlannedTree {
  uint32_t first_part, part_count;
  uint32_t group;
};

struct Plan {
  uint32_t leaf_size, feature_count, group_count;
  uint32_t column_bytes;     // of 32 rows
  uint32_t split_columns;    // where those of categorical splits begin, which are the last ones
  uint32_t condition_count;  // 0 if there are none, or too many
  uint32_t largest_tree;     // in parts
  SecretVector<Window> windows;
  SecretVector<int32_t> keys;  // the thresholds; while the plan is made
  SecretVector<uint8_t> key_tables;
  SecretVector<CategoryFeature> category_features;
  SecretVector<CategorySplit> category_splits;
  SecretVector<CategoryChunk> category_chunks;
  SecretVector<ColumnConditions> column_conditions;
  SecretVector<uint8_t> condition_limits;  // of each condition: a column's codes are below it
  SecretVector<PlannedTree> trees;
  SecretVector<Part> parts;
  SecretVector<Link> links;
  SecretVector<uint32_t> node_columns;
  SecretVector<int8_t> node_limits;
  SecretVector<uint32_t> node_conditions;  // of complete parts, as byte offsets; if there are conditions
  SecretVector<GeneralNode> general_nodes;
  SecretVector<uint8_t> leaves;
  RowPlan for_row;

  size_t size() const;  // bytes
};

// What of a plan is over kMaxPlanSize or kMaxColumnBytes.
class PlanLimitExceeded {};

// There were no random numbers to be had.
class RandomFailure {};

// May throw std::bad_alloc, PlanLimitExceeded and RandomFailure.
Plan make_plan(const Model& model);

}  // namespace confidential_ml
