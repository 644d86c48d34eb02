// The C interface of the training kernels; the Python side has checked what it is given.

#include "guard.h"
#include "kernels.h"
#include "kernels_train.h"

using namespace mf;

extern "C" {

int mf_train_linear(const float* x, int64_t tokens, const Weight* w, float* y, int64_t ldy) {
  return guarded([&] { active().train->linear_forward(x, tokens, *w, y, ldy); });
}

int mf_linear_backward(const float* x, const float* dy, int64_t tokens, const Weight* w, float* dx, float* dw,
                        float* db) {
  return guarded([&] { active().train->linear_backward(x, dy, tokens, *w, dx, dw, db); });
}

int mf_rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* out) {
  return guarded([&] { active().train->rms_norm_forward(x, weight, eps, rows, width, out); });
}

int mf_rms_norm_backward(const float* x, const float* weight, float eps, const float* dout, int64_t rows,
                          int64_t width, float* dx, float* dweight) {
  return guarded([&] { active().train->rms_norm_backward(x, weight, eps, dout, rows, width, dx, dweight); });
}

int mf_swiglu(const float* gate, const float* up, int64_t step, int64_t rows, int64_t width, float* out) {
  return guarded([&] { active().train->swiglu_forward(gate, up, step, rows, width, out); });
}

int mf_swiglu_backward(const float* gate, const float* up, int64_t step, const float* dout, int64_t rows,
                        int64_t width, float* dgate, float* dup) {
  return guarded([&] { active().train->swiglu_backward(gate, up, step, dout, rows, width, dgate, dup); });
}

int mf_rotate(const RotateCall* call) { return guarded([&] { active().train->rotate(*call); }); }

int mf_embedding(const Weight* table, const int32_t* ids, int64_t tokens, float* out) {
  return guarded([&] { active().train->embedding_forward(*table, ids, tokens, out); });
}

int mf_embedding_backward(const float* dout, const int32_t* ids, int64_t tokens, int64_t rows, int64_t width,
                           float* dtable) {
  return guarded([&] { active().train->embedding_backward(dout, ids, tokens, rows, width, dtable); });
}

int mf_train_attention(const TrainAttentionCall* call) {
  return guarded([&] { active().train->attention_forward(*call); });
}

int mf_train_attention_backward(const TrainAttentionCall* call) {
  return guarded([&] { active().train->attention_backward(*call); });
}

int mf_head_loss(const HeadCall* call) { return guarded([&] { active().train->head_loss(*call); }); }
int mf_adam_update(const AdamCall* call) { return guarded([&] { active().train->adam_update(*call); }); }
int mf_moment_update(const MomentCall* call) { return guarded([&] { active().train->moment_update(*call); }); }
int mf_square_sum(const FloatSpan* spans, int64_t count, double* out) {
  return guarded([&] { *out = active().train->square_sum(spans, count); });
}
int mf_scale(float* data, int64_t count, float factor) {
  return guarded([&] { active().train->scale_all(FloatSpan{data, count}, factor); });
}
}
