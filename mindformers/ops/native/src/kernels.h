// What every instruction set offers. All matrices are row-major; sizes count elements.
#pragma once

#include <cstdint>

#include "cache.h"
#include "types.h"

namespace mf {

struct Network;
struct TrainKernels;

// Attention of the step's tokens in one layer. query: (tokens, query_step), rotated, heads first in a row;
// out: (tokens, heads * head_dim). Keys and values of these tokens are in the cache already.
struct AttentionCall {
  const Shape* shape;
  const Step* step;
  const CacheLayer* layer;
  const float* query;
  int64_t query_step;
  float* out;
};

// An operand of a product. is_transposed: stored with the product's inner axis along rows for B (n, k) and
// along columns for A (k, m); step: elements from one stored row to the next.
struct Matrix {
  const void* data;
  int64_t step;
  DType dtype;
  bool is_transposed;
};

#ifdef ISA
namespace ISA {
// C (m, n) = or += A (m, k) B (k, n). A is F32; B is F32, BF16 or F16.
void gemm(const Matrix& a, const Matrix& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc,
          bool accumulate);
// y (tokens, rows) = x (tokens, cols) W^T + bias; ldy: elements from one row of y to the next.
void linear(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy);
// What that is made of. As a large product:
void linear_large(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy);
// For int8 and int4 weights and any number of tokens, with activations rounded to int8.
// is_integer_product: whether that is the way for so many.
bool is_integer_product(const Weight& w, int64_t tokens);
void linear_quantized(const float* x, int64_t tokens, const Weight& w, float* y, int64_t ldy);
void attention(const AttentionCall& call);
// Runs the network on the step's tokens; logits: (outputs, vocab), states: (keeps, hidden).
void run_step(const Network& network, const Step& step, float* logits, float* states);
// Divides n scores by the temperature and sets those that cannot be drawn to -inf: all but the top_k largest (0: all
// stay), then all but the likeliest whose probability together reaches top_p.
void sharpen(float* scores, int64_t n, float temperature, int64_t top_k, double top_p);
extern const TrainKernels train_kernels;
}  // namespace ISA
#endif

// The same as a table, filled in per instruction set by table.cpp.
struct Kernels {
  const char* name;
  void (*gemm)(const Matrix&, const Matrix&, int64_t, int64_t, int64_t, float*, int64_t, bool);
  void (*linear)(const float*, int64_t, const Weight&, float*, int64_t);
  void (*run_step)(const Network&, const Step&, float*, float*);
  void (*sharpen)(float*, int64_t, float, int64_t, double);
  const TrainKernels* train;
};

// The table of the instruction set in use.
const Kernels& active();

}  // namespace mf
