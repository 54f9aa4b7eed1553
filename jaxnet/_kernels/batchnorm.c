// The sums of batch normalisation in training on the CPU, as XLA FFI handlers. With the
// batch innermost a channel is one run of numbers: a task reads it from memory once and goes
// over it again in the cache. Sums are kept in double precision from block to block.

#include <math.h>

#include "kernel.h"

#define BLOCK (64 * LANES)

typedef struct {
  const float *x, *dy, *weight, *mean, *var;
  float *dx, *dweight, *dbias, *to_mean, *to_var;
  int64_t size;  // numbers of a channel
  float eps;
  int past_cache;  // whether dx is too large to stay in it
} Norm;

// Of the numbers from x on: sums of dy (x where there is none) and of dy * (x - mean).
// Inlined, so that a caller pays only for the sum that it uses.
static inline __attribute__((always_inline)) void sums(const float* x, const float* dy, float mean,
                                                       int64_t size, double* plain,
                                                       double* product) {
  *plain = *product = 0;
  for (int64_t start = 0; start < size; start += BLOCK) {
    vec a[4] = {{0}}, b[4] = {{0}};
    int64_t end = smaller(start + BLOCK, size), i = start;
    for (; i + 4 * LANES <= end; i += 4 * LANES)
      for (int k = 0; k < 4; k++) {
        vec at = load(x + i + k * LANES) - mean, slope = load(dy + i + k * LANES);
        a[k] += slope;
        b[k] += slope * at;
      }
    for (; i < end; i += LANES) {
      int64_t lanes = end - i;
      vec slope = load_some(dy + i, lanes);  // zero behind the end, and so the product
      a[0] += slope;
      b[0] += slope * (load_some(x + i, lanes) - mean);
    }
    *plain += total((a[0] + a[1]) + (a[2] + a[3]));
    *product += total((b[0] + b[1]) + (b[2] + b[3]));
  }
}

static void measure(void* shape, int64_t c, float* scratch) {
  (void)scratch;
  const Norm* s = shape;
  const float* x = s->x + c * s->size;
  double sum, square, rest, unused;
  sums(x, x, 0, s->size, &sum, &unused);
  float mean = sum / s->size;
  square = rest = 0;
  for (int64_t start = 0; start < s->size; start += BLOCK) {
    vec a[4] = {{0}};
    int64_t end = smaller(start + BLOCK, s->size), i = start;
    for (; i + 4 * LANES <= end; i += 4 * LANES)
      for (int k = 0; k < 4; k++) {
        vec at = load(x + i + k * LANES) - mean;
        a[k] += at * at;
      }
    for (; i < end; i++) rest += (double)(x[i] - mean) * (x[i] - mean);
    square += total((a[0] + a[1]) + (a[2] + a[3]));
  }
  s->to_mean[c] = mean;
  s->to_var[c] = (square + rest) / s->size;
}

static void differentiate(void* shape, int64_t c, float* scratch) {
  (void)scratch;
  const Norm* s = shape;
  const float *x = s->x + c * s->size, *dy = s->dy + c * s->size;
  float *dx = s->dx + c * s->size, mean = s->mean[c];
  double slopes, products, inverse = 1 / sqrt((double)s->var[c] + s->eps);
  sums(x, dy, mean, s->size, &slopes, &products);
  s->dbias[c] = slopes;
  s->dweight[c] = products * inverse;
  float scale = s->weight[c] * inverse, even = slopes / s->size;
  float along = products * inverse * inverse / s->size;
  int64_t i = 0;
  for (; i + LANES <= s->size; i += LANES)
    stream(dx + i, (load(dy + i) - even - (load(x + i) - mean) * along) * scale, LANES,
           s->past_cache);
  for (; i < s->size; i++) dx[i] = (dy[i] - even - (x[i] - mean) * along) * scale;
}

static Norm shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x) {
  int64_t size = x->dims[0] * x->dims[2] * x->dims[3];
  return (Norm){.x = x->data, .size = size, .past_cache = x->dims[1] * size * 4 > STREAMED,
                .eps = *(const float*)attribute(frame, "eps", XLA_FFI_DataType_F32)};
}

// x (N, C, H, W) gives mean (C,) and biased variance (C,).
XLA_FFI_Error* jaxnet_batch_moments(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NCHW>C,C")) return refused(frame, "accepted is x (N, C, H, W)");
  Norm s = shapes(frame, argument(frame, 0));
  s.to_mean = result(frame, 0)->data, s.to_var = result(frame, 1)->data;
  return finished(frame, run(frame, measure, &s, argument(frame, 0)->dims[1], 0));
}

// x, dy like it, weight, mean and variance give dx like x, dweight (C,) and dbias (C,).
XLA_FFI_Error* jaxnet_batch_norm_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NCHW,NCHW,C,C,C>NCHW,C,C"))
    return refused(frame, "accepted are x and dy (N, C, H, W), weight, mean and variance (C,)");
  Norm s = shapes(frame, argument(frame, 0));
  s.dy = argument(frame, 1)->data, s.weight = argument(frame, 2)->data;
  s.mean = argument(frame, 3)->data, s.var = argument(frame, 4)->data;
  s.dx = result(frame, 0)->data;
  s.dweight = result(frame, 1)->data, s.dbias = result(frame, 2)->data;
  return finished(frame, run(frame, differentiate, &s, argument(frame, 0)->dims[1], 0));
}
