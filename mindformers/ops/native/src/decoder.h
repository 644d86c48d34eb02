// A whole network for inference: weights where they lie, the cache, and the buffers of a step.
#pragma once

#include "cache.h"
#include "types.h"

namespace mf {

struct Layer {
  const float* input_norm;       // (hidden,)
  const float* mlp_norm;         // (hidden,)
  const float* after_attention;  // (hidden,) norm of what attention returns, or null
  const float* after_mlp;        // (hidden,) norm of what the MLP returns, or null
  Weight qkv, dense, gate_up, down;
  CacheLayer cache;
};

struct Network {
  Shape shape;
  const Layer* layers;
  const float* final_norm;  // (hidden,)
  const float* angles;      // (positions, rotary_dim / 2, 2): cos, sin
  Weight embedding, head;
};

}  // namespace mf
