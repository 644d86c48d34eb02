// One step of a network: any mix of prompts, later pieces of prompts and single tokens, one call.

#include <algorithm>

#include "cache_rows.h"
#include "carver.h"
#include "decoder.h"
#include "kernels.h"
#include "quant.h"
#include "threads.h"

namespace mf {
namespace ISA {
namespace {

// body(token) for all tokens; a few are done at once, without waking anyone.
template <class Body>
void each_token(int64_t tokens, const Body& body) {
  if (tokens <= 2) {
    for (int64_t t = 0; t < tokens; ++t) body(t);
    return;
  }
  const int64_t chunk = std::max<int64_t>(1, tokens / (4 * thread_count()));
  parallel(ceil_div(tokens, chunk), [&](int64_t index) {
    for (int64_t t = index * chunk; t < std::min(tokens, (index + 1) * chunk); ++t) body(t);
  });
}

struct Buffers {
  float *hidden, *normed, *wide, *mixed, *added;
};

Buffers carve(Carver& carver, int64_t tokens, const Shape& s) {
  const int64_t heads = s.heads * s.head_dim, qkv = (s.heads + 2 * s.groups) * s.head_dim;
  Buffers b;
  b.hidden = carver.take(tokens * s.hidden);
  b.normed = carver.take(tokens * s.hidden);
  b.wide = carver.take(tokens * std::max(qkv, 2 * s.ffn));
  b.mixed = carver.take(tokens * std::max(heads, s.ffn));
  b.added = carver.take(tokens * s.hidden);
  return b;
}

void embed_row(const Weight& w, int64_t id, float* out) {
  int p = 0;
  while (id >= w.part[p].rows) id -= w.part[p++].rows;
  const void* data = w.part[p].data;
  switch (w.dtype) {
    case F32: return copy_row(static_cast<const float*>(data) + id * w.cols, w.cols, out);
    case BF16: return copy_row(static_cast<const bf16*>(data) + id * w.cols, w.cols, out);
    case F16: return copy_row(static_cast<const f16*>(data) + id * w.cols, w.cols, out);
    default:
      for (int64_t k = 0; k < w.cols; k += 32) dequantize_32(w, w.part[p], id, k, out + k);
  }
}

template <class T>
void rotate_and_write(const Network& n, const CacheLayer& layer, const Step& step, float* qkv, int64_t t) {
  const Shape& s = n.shape;
  const int64_t dim = s.head_dim, pairs = s.rotary_dim / 2;
  const float* angles = n.angles + int64_t(step.positions[t]) * pairs * 2;
  float* row = qkv + t * (s.heads + 2 * s.groups) * dim;
  for (int64_t h = 0; h < s.heads + s.groups; ++h) rotate_head(row + h * dim, angles, pairs);
  const float *key = row + s.heads * dim, *value = key + s.groups * dim;
  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t at = int64_t(step.slots[t]) * s.groups + g;
    write_row(static_cast<T*>(layer.keys) + at * dim, layer.key_scale + at, key + g * dim, dim);
    write_row(static_cast<T*>(layer.values) + at * dim, layer.value_scale + at, value + g * dim, dim);
  }
}

void write_cache(const Network& n, const CacheLayer& layer, const Step& step, float* qkv, int64_t t) {
  switch (n.shape.cache_dtype) {
    case BF16: return rotate_and_write<bf16>(n, layer, step, qkv, t);
    case I8: return rotate_and_write<int8_t>(n, layer, step, qkv, t);
    default: return rotate_and_write<float>(n, layer, step, qkv, t);
  }
}

void run_layer(const Network& n, const Layer& layer, const Step& step, const Buffers& b, bool is_first) {
  const Shape& s = n.shape;
  const int64_t tokens = step.tokens, hidden = s.hidden, qkv = (s.heads + 2 * s.groups) * s.head_dim;
  auto norm_added = [&](int64_t t, const float* weight) {
    if (weight) rms_norm_row(b.added + t * hidden, nullptr, weight, s.eps, hidden, b.added + t * hidden);
  };
  each_token(tokens, [&](int64_t t) {
    rms_norm_row(b.hidden + t * hidden, is_first ? nullptr : b.added + t * hidden, layer.input_norm, s.eps, hidden,
                 b.normed + t * hidden);
  });
  linear(b.normed, tokens, layer.qkv, b.wide, qkv);
  each_token(tokens, [&](int64_t t) { write_cache(n, layer.cache, step, b.wide, t); });
  attention(AttentionCall{&s, &step, &layer.cache, b.wide, qkv, b.mixed});
  linear(b.mixed, tokens, layer.dense, b.added, hidden);
  each_token(tokens, [&](int64_t t) {
    norm_added(t, layer.after_attention);
    rms_norm_row(b.hidden + t * hidden, b.added + t * hidden, layer.mlp_norm, s.eps, hidden, b.normed + t * hidden);
  });
  linear(b.normed, tokens, layer.gate_up, b.wide, 2 * s.ffn);
  each_token(tokens, [&](int64_t t) {
    const float* gate = b.wide + t * 2 * s.ffn;
    swiglu_row(gate, gate + s.ffn, s.ffn, b.mixed + t * s.ffn);
  });
  linear(b.mixed, tokens, layer.down, b.added, hidden);
  if (layer.after_mlp) each_token(tokens, [&](int64_t t) { norm_added(t, layer.after_mlp); });
}

}  // namespace

void run_step(const Network& n, const Step& step, float* logits, float* states) {
  const Shape& s = n.shape;
  const Buffers b = carved(Slot::STEP, [&](Carver& carver) { return carve(carver, step.tokens, s); });
  each_token(step.tokens, [&](int64_t t) { embed_row(n.embedding, step.ids[t], b.hidden + t * s.hidden); });
  for (int64_t i = 0; i < s.layers; ++i) run_layer(n, n.layers[i], step, b, i == 0);
  auto final_norm = [&](int64_t t, float* out) {
    float* added = b.added + t * s.hidden;
    rms_norm_row(b.hidden + t * s.hidden, added, n.final_norm, s.eps, s.hidden, out);
    std::fill_n(added, s.hidden, 0.0f);  // a token may be both kept and picked
  };
  each_token(step.keeps, [&](int64_t i) { final_norm(step.kept[i], states + i * s.hidden); });
  for (int64_t i = 0; i < step.outputs; ++i) final_norm(step.picked[i], b.normed + i * s.hidden);
  linear(b.normed, step.outputs, n.head, logits, s.vocab);
}

}  // namespace ISA
}  // namespace mf
