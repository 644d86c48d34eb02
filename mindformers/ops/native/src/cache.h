// A layer's share of the paged key/value cache, and the sequences of a step.
#pragma once

#include <cstdint>

#include "types.h"

namespace mf {

// keys, values: (blocks, block_size, groups, head_dim) in dtype F32, BF16 or I8.
// key_scale, value_scale: (blocks, block_size, groups) float, for I8; value = q * scale.
struct CacheLayer {
  void* keys;
  void* values;
  float* key_scale;
  float* value_scale;
};

// What is computed in one call. Tokens of a sequence stand side by side; a sequence's last token is its newest.
struct Step {
  int64_t tokens, sequences, table_width, outputs, keeps;
  const int32_t* ids;        // (tokens,)
  const int32_t* positions;  // (tokens,)
  const int32_t* slots;      // (tokens,) block * block_size + offset
  const int32_t* starts;     // (sequences + 1,) first token of each
  const int32_t* lengths;    // (sequences,) cached tokens once this step is written
  const int32_t* tables;     // (sequences, table_width) blocks in order
  const int32_t* picked;     // (outputs,) tokens whose logits are wanted
  const int32_t* kept;       // (keeps,) tokens whose hidden states after the final norm are wanted
};

struct Shape {
  int64_t layers, hidden, heads, groups, head_dim, rotary_dim, ffn, vocab, block_size, positions;
  float eps;
  int32_t cache_dtype;
  int32_t compute;  // F32; BF16: queries and weights of a softmax may be rounded, see Weight
};

}  // namespace mf
