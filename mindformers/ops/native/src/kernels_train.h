// What training adds to the kernels: forward passes that keep little, and the gradients.
//
// Activations and gradients are float; weights F32, BF16 or F16. Sums run in an order that depends on the shapes
// alone, so the bits are the same for any number of threads.
#pragma once

#include <cstdint>

#include "types.h"

namespace mf {

// Heads rotated in place: `heads` heads of `dim` channels side by side in rows `step` apart.
// cosine, sine: (angle_rows, dim) with the pair's value at channel 2j; row t takes angle t % angle_rows.
struct RotateCall {
  float* data;
  const float *cosine, *sine;
  int64_t rows, step, heads, dim, pairs, angle_rows;
  int32_t is_inverse;
};

// Causal attention of `batch` sequences of `tokens` tokens; head h of token t of sequence b starts at
// (b * tokens + t) * step + h * dim. The gradients have the layout of what they are of.
struct TrainAttentionCall {
  const float *query, *key, *value;
  int64_t query_step, key_step, value_step;
  const uint8_t* visible;  // (batch, tokens), 0 where a key is hidden, or null
  const int32_t* starts;   // (batch, tokens) first key each query sees, never falling within a row, or null: 0
  int64_t batch, tokens, heads, groups, dim;
  float* out;  // (batch, tokens, heads * dim)
  float* lse;  // (batch, heads, tokens) logarithm of the sum of exponentials of a row's scores
  const float* dout;
  float *dquery, *dkey, *dvalue;
};

// Head and cross entropy: weights (tokens,) multiply each token's loss, 0 leaves it out.
// dhidden, dhead: gradients of the sum, or null.
struct HeadCall {
  const float* hidden;  // (tokens, cols)
  const Weight* head;
  const int32_t* labels;
  const float* weights;
  int64_t tokens;
  double* loss;
  float *dhidden, *dhead;
};

// A parameter as the optimizer sees it; master is null where the parameter itself is float.
struct AdamTarget {
  void* parameter;
  float *master, *first, *second;
  const float* gradient;
  int64_t count;
  float decay;
  int32_t dtype;
};
struct AdamCall {
  const AdamTarget* targets;
  int64_t count;
  float lr, beta1, beta2, eps, scale;
};

// A parameter with one moment, or none (null); gradient is null where an average is all that moves.
struct MomentTarget {
  void* parameter;
  float *master, *moment;
  const float* gradient;
  int64_t count;
  float lr, decay;
  int32_t dtype;
};
// SGD: the moment becomes keep * moment + take * slope; is_ahead: Nesterov.
// LION: keep and take are what the direction and the moment keep of the moment.
// AVERAGE: the moment moves `take` of its way to the weight.
enum MomentRule : int32_t { SGD = 0, LION = 1, AVERAGE = 2 };
struct MomentCall {
  const MomentTarget* targets;
  int64_t count;
  float keep, take, scale;
  int32_t rule, is_ahead;
};

struct FloatSpan {
  float* data;
  int64_t count;
};

#ifdef ISA
namespace ISA {
void linear_backward(const float* x, const float* dy, int64_t tokens, const Weight& w, float* dx, float* dw, float* db);
void rms_norm_forward(const float* x, const float* weight, float eps, int64_t rows, int64_t width, float* out);
void rms_norm_backward(const float* x, const float* weight, float eps, const float* dout, int64_t rows, int64_t width,
                       float* dx, float* dweight);
void swiglu_forward(const float* gate, const float* up, int64_t step, int64_t rows, int64_t width, float* out);
void swiglu_backward(const float* gate, const float* up, int64_t step, const float* dout, int64_t rows, int64_t width,
                     float* dgate, float* dup);
void rotate(const RotateCall& call);
void embedding_forward(const Weight& table, const int32_t* ids, int64_t tokens, float* out);
void embedding_backward(const float* dout, const int32_t* ids, int64_t tokens, int64_t rows, int64_t width,
                        float* dtable);
void train_attention_forward(const TrainAttentionCall& call);
void train_attention_backward(const TrainAttentionCall& call);
void head_loss(const HeadCall& call);
void adam_update(const AdamCall& call);
void moment_update(const MomentCall& call);
double square_sum(const FloatSpan* spans, int64_t count);
void scale_all(const FloatSpan& span, float factor);
}  // namespace ISA
#endif

struct TrainKernels {
  void (*linear_forward)(const float*, int64_t, const Weight&, float*, int64_t);
  void (*linear_backward)(const float*, const float*, int64_t, const Weight&, float*, float*, float*);
  void (*rms_norm_forward)(const float*, const float*, float, int64_t, int64_t, float*);
  void (*rms_norm_backward)(const float*, const float*, float, const float*, int64_t, int64_t, float*, float*);
  void (*swiglu_forward)(const float*, const float*, int64_t, int64_t, int64_t, float*);
  void (*swiglu_backward)(const float*, const float*, int64_t, const float*, int64_t, int64_t, float*, float*);
  void (*rotate)(const RotateCall&);
  void (*embedding_forward)(const Weight&, const int32_t*, int64_t, float*);
  void (*embedding_backward)(const float*, const int32_t*, int64_t, int64_t, int64_t, float*);
  void (*attention_forward)(const TrainAttentionCall&);
  void (*attention_backward)(const TrainAttentionCall&);
  void (*head_loss)(const HeadCall&);
  void (*adam_update)(const AdamCall&);
  void (*moment_update)(const MomentCall&);
  double (*square_sum)(const FloatSpan*, int64_t);
  void (*scale_all)(const FloatSpan&, float);
};

}  // namespace mf
