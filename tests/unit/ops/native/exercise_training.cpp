// The training part of the exercise: every pass forward and back, with tiles, pieces and vectors that are not whole.

#include "exercise.h"
#include "kernels.h"
#include "kernels_train.h"

using namespace mf;

extern "C" {
int mf_linear_backward(const float*, const float*, int64_t, const Weight*, float*, float*, float*);
int mf_rms_norm(const float*, const float*, float, int64_t, int64_t, float*);
int mf_rms_norm_backward(const float*, const float*, float, const float*, int64_t, int64_t, float*, float*);
int mf_swiglu(const float*, const float*, int64_t, int64_t, int64_t, float*);
int mf_swiglu_backward(const float*, const float*, int64_t, const float*, int64_t, int64_t, float*, float*);
int mf_rotate(const RotateCall*);
int mf_embedding(const Weight*, const int32_t*, int64_t, float*);
int mf_embedding_backward(const float*, const int32_t*, int64_t, int64_t, int64_t, float*);
int mf_train_attention(const TrainAttentionCall*);
int mf_train_attention_backward(const TrainAttentionCall*);
int mf_head_loss(const HeadCall*);
int mf_adam_update(const AdamCall*);
int mf_moment_update(const MomentCall*);
int mf_square_sum(const FloatSpan*, int64_t, double*);
int mf_scale(float*, int64_t, float);
}

namespace exercise {
namespace {

using Floats = std::vector<float>;

Floats room(int64_t count) { return Floats(static_cast<size_t>(count), -7.0f); }  // every element must be written
void computed(int code) { require(code == 0, "a training kernel ran out of memory"); }

void linear(Source& source, Floats& results) {
  const int64_t tokens = 70, rows = 37, cols = 52;
  for (DType dtype : {F32, BF16, F16}) {
    const Stored stored(source, rows, cols, dtype, false);
    const Floats x = source.floats(tokens * cols), dy = source.floats(tokens * rows);
    Floats dx = room(tokens * cols), dw = room(rows * cols), db = room(rows);
    computed(mf_linear_backward(x.data(), dy.data(), tokens, &stored.weight, dx.data(), dw.data(), db.data()));
    computed(mf_linear_backward(x.data(), dy.data(), tokens, &stored.weight, nullptr, nullptr, nullptr));
    for (const Floats& each : {dx, dw, db}) keep(results, each);
  }
}

void norms(Source& source, Floats& results) {
  const int64_t rows = 67, width = 45;
  const Floats x = source.floats(rows * width), weight = source.floats(width), dout = source.floats(rows * width);
  Floats out = room(rows * width), dx = room(rows * width), dweight = room(width);
  computed(mf_rms_norm(x.data(), weight.data(), 1e-5f, rows, width, out.data()));
  computed(mf_rms_norm_backward(x.data(), weight.data(), 1e-5f, dout.data(), rows, width, dx.data(), dweight.data()));
  for (const Floats& each : {out, dx, dweight}) keep(results, each);
}

void activations(Source& source, Floats& results) {
  const int64_t rows = 35, width = 29, step = 2 * width;
  const Floats both = source.floats(rows * step, 4.0f), dout = source.floats(rows * width);
  Floats out = room(rows * width), dboth = room(rows * step);
  computed(mf_swiglu(both.data(), both.data() + width, step, rows, width, out.data()));
  computed(mf_swiglu_backward(both.data(), both.data() + width, step, dout.data(), rows, width, dboth.data(),
                              dboth.data() + width));
  keep(results, out);
  keep(results, dboth);
}

void rotations(Source& source, Floats& results) {
  const int64_t rows = 66, heads = 3, dim = 20;
  Floats data = source.floats(rows * heads * dim);
  const Floats cosine = source.floats(33 * dim), sine = source.floats(33 * dim);
  for (int32_t is_inverse : {0, 1}) {
    const RotateCall call{data.data(), cosine.data(), sine.data(), rows, heads * dim, heads, dim, 5, 33, is_inverse};
    computed(mf_rotate(&call));
    keep(results, data);
  }
}

void embeddings(Source& source, Floats& results) {
  const int64_t tokens = 41, vocab = 97, width = 32;
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) ids.push_back(int32_t(t * t % vocab));
  const Floats dout = source.floats(tokens * width);
  for (DType dtype : {F32, BF16, F16}) {
    const Stored table(source, vocab, width, dtype, false);
    Floats out = room(tokens * width);
    computed(mf_embedding(&table.weight, ids.data(), tokens, out.data()));
    keep(results, out);
  }
  Floats dtable = room(vocab * width);
  computed(mf_embedding_backward(dout.data(), ids.data(), tokens, vocab, width, dtable.data()));
  keep(results, dtable);
}

void attention(Source& source, Floats& results, int64_t heads, int64_t groups, bool is_masked, bool is_packed) {
  const int64_t batch = 2, tokens = 150, dim = 20, wide = heads * dim, narrow = groups * dim;
  const int64_t count = batch * tokens;
  const Floats query = source.floats(count * wide), key = source.floats(count * narrow),
               value = source.floats(count * narrow), dout = source.floats(count * wide);
  std::vector<uint8_t> visible(size_t(count), 1);
  for (size_t i = 0; i < visible.size(); i += 5) visible[i] = 0;
  std::vector<int32_t> starts;
  for (int64_t i = 0; i < count; ++i) starts.push_back(int32_t(i % tokens / 53 * 53));
  Floats out = room(count * wide), lse = room(batch * heads * tokens), dquery = room(count * wide),
         dkey = room(count * narrow), dvalue = room(count * narrow);
  const TrainAttentionCall call{query.data(), key.data(), value.data(), wide, narrow, narrow,
                                is_masked ? visible.data() : nullptr, is_packed ? starts.data() : nullptr, batch, tokens, heads, groups, dim, out.data(),
                                lse.data(), dout.data(), dquery.data(), dkey.data(), dvalue.data()};
  computed(mf_train_attention(&call));
  computed(mf_train_attention_backward(&call));
  for (const Floats& each : {out, dquery, dkey, dvalue}) keep(results, each);
}

void losses(Source& source, Floats& results) {
  const int64_t tokens = 70, vocab = 97, cols = 52;
  std::vector<int32_t> labels;
  Floats weights;
  for (int64_t t = 0; t < tokens; ++t) {
    labels.push_back(int32_t(t * 11 % vocab));
    weights.push_back(t % 4 == 0 ? 0.0f : 1.0f / 52.0f);
  }
  for (DType dtype : {F32, BF16}) {
    const Stored head(source, vocab, cols, dtype, false);
    const Floats hidden = source.floats(tokens * cols);
    Floats dhidden = room(tokens * cols), dhead = room(vocab * cols);
    double loss = -1;
    const HeadCall call{hidden.data(), &head.weight, labels.data(), weights.data(), tokens, &loss, dhidden.data(),
                        dhead.data()};
    computed(mf_head_loss(&call));
    keep(results, dhidden);
    keep(results, dhead);
    results.push_back(float(loss));
  }
}

void updates(Source& source, Floats& results) {
  const int64_t count = 40001;  // more than a task takes
  Floats weight = source.floats(count), master = source.floats(count), first = source.floats(2 * count),
         gradient = source.floats(2 * count);
  Floats second(first.size(), 0.25f);
  std::vector<bf16> lower(static_cast<size_t>(count));
  const AdamTarget targets[] = {
      {weight.data(), nullptr, first.data(), second.data(), gradient.data(), count, 0.01f, F32},
      {lower.data(), master.data(), first.data() + count, second.data() + count, gradient.data() + count, count, 0.0f,
       BF16}};
  const AdamCall call{targets, 2, 1e-2f, 0.9f, 0.95f, 1e-8f, 0.5f};
  computed(mf_adam_update(&call));
  for (const Floats& each : {weight, master, first, second}) keep(results, each);
  for (int64_t i = 0; i < count; ++i) results.push_back(to_float(lower[size_t(i)]));
  Floats few = source.floats(3);
  for (MomentRule rule : {SGD, LION, AVERAGE})
    for (int32_t is_ahead : {0, 1}) {
      const float* slope = rule == AVERAGE ? nullptr : gradient.data();
      const MomentTarget moments[] = {
          {weight.data(), nullptr, first.data(), slope, count, 1e-2f, 0.1f, F32},
          {lower.data(), master.data(), first.data() + count, slope, count, 1e-3f, 0.0f, BF16},
          {few.data(), nullptr, rule == SGD ? nullptr : second.data(), slope, 3, 1e-2f, 0.0f, F32}};
      const MomentCall moment_call{moments, is_ahead ? 1 : 3, 0.9f, 0.5f, 0.5f, rule, is_ahead};
      computed(mf_moment_update(&moment_call));
      for (const Floats& each : {weight, master, first, few}) keep(results, each);
    }
  const FloatSpan spans[] = {{gradient.data(), count}, {gradient.data() + count, 3}};
  double squares = -1;
  computed(mf_square_sum(spans, 2, &squares));
  results.push_back(float(squares / double(count)));
  computed(mf_scale(gradient.data(), count, 0.5f));
  keep(results, gradient);
}

}  // namespace

void training(Source& source, std::vector<float>& results) {
  linear(source, results);
  norms(source, results);
  activations(source, results);
  rotations(source, results);
  embeddings(source, results);
  attention(source, results, 4, 2, true, false);
  attention(source, results, 2, 2, false, true);
  losses(source, results);
  updates(source, results);
}

}  // namespace exercise
