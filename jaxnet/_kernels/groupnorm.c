// The sums of group normalisation of images on the CPU, as XLA FFI handlers. A vector holds the
// same pixel of LANES images, and a task is a group of channels of so many: it reads them from
// memory once and goes over them again in the cache. Sums are kept in double precision from
// block to block.

#include <math.h>

#include "kernel.h"

#define BLOCK 64  // vectors

typedef double wide __attribute__((vector_size(8 * LANES)));

typedef struct {
  const float *x, *dy, *weight, *mean, *var;
  float *dx, *to_mean, *to_rest, *to_var, *partial;
  int64_t batch, channels, pixels, groups;  // all channels
  float eps;
  int past_cache;  // whether dx is too large to stay in it
} Norm;

static int64_t images_of(const Norm* s) { return parts(s->batch, LANES); }
static int64_t in_group(const Norm* s) { return s->channels / s->groups; }

// Of `count` pixels from x on: sums of dy (x where there is none) and of dy * (x - mean).
// Inlined, so that a caller pays only for the sum that it uses.
static inline __attribute__((always_inline)) void sums(const Norm* s, const float* x,
                                                       const float* dy, vec mean, int64_t count,
                                                       int64_t lanes, wide* plain, wide* product) {
  for (int64_t start = 0; start < count; start += BLOCK) {
    vec a[4] = {{0}}, b[4] = {{0}};
    int64_t end = smaller(start + BLOCK, count);
    for (int64_t i = start; i < end; i += 4)
      for (int64_t k = 0; k < smaller(4, end - i); k++) {
        vec slope = load_some(dy + (i + k) * s->batch, lanes);
        a[k] += slope;
        b[k] += slope * (load_some(x + (i + k) * s->batch, lanes) - mean);
      }
    *plain += __builtin_convertvector((a[0] + a[1]) + (a[2] + a[3]), wide);
    *product += __builtin_convertvector((b[0] + b[1]) + (b[2] + b[3]), wide);
  }
}

static inline __attribute__((always_inline)) void squares(const Norm* s, const float* x, vec mean,
                                                          int64_t count, int64_t lanes,
                                                          wide* square, wide* rest) {
  for (int64_t start = 0; start < count; start += BLOCK) {
    vec a[4] = {{0}}, b[4] = {{0}};
    int64_t end = smaller(start + BLOCK, count);
    for (int64_t i = start; i < end; i += 4)
      for (int64_t k = 0; k < smaller(4, end - i); k++) {
        vec at = load_some(x + (i + k) * s->batch, lanes) - mean;
        a[k] += at * at;
        b[k] += at;
      }
    *rest += __builtin_convertvector((b[0] + b[1]) + (b[2] + b[3]), wide);
    *square += __builtin_convertvector((a[0] + a[1]) + (a[2] + a[3]), wide);
  }
}

static void measure(void* shape, int64_t task, float* scratch) {
  (void)scratch;
  const Norm* s = shape;
  int64_t image = task % images_of(s) * LANES, group = task / images_of(s);
  int64_t lanes = smaller(LANES, s->batch - image), count = in_group(s) * s->pixels;
  const float* x = s->x + group * count * s->batch + image;
  wide sum = {0}, square = {0}, rest = {0}, unused = {0};
  sums(s, x, x, (vec){0}, count, lanes, &sum, &unused);
  vec mean = __builtin_convertvector(sum / (double)count, vec);
  squares(s, x, mean, count, lanes, &square, &rest);
  rest /= (double)count;
  vec var = __builtin_convertvector(square / (double)count - rest * rest, vec);
  vec left = __builtin_convertvector(rest, vec);
  for (int64_t n = 0; n < lanes; n++) {
    s->to_mean[(image + n) * s->groups + group] = mean[n];
    s->to_rest[(image + n) * s->groups + group] = left[n];
    s->to_var[(image + n) * s->groups + group] = var[n];
  }
}

// dx, and what the images give for the slopes of weight and bias of the group.
static void differentiate(void* shape, int64_t task, float* scratch) {
  (void)scratch;
  const Norm* s = shape;
  int64_t images = images_of(s), image = task % images * LANES, group = task / images;
  int64_t lanes = smaller(LANES, s->batch - image), channel = group * in_group(s);
  int64_t count = in_group(s) * s->pixels, size = s->pixels * s->batch;
  int64_t start = channel * size + image;
  vec mean = {0};
  wide inverse = {0}, slopes = {0}, products = {0};
  for (int64_t n = 0; n < lanes; n++) {
    mean[n] = s->mean[(image + n) * s->groups + group];
    inverse[n] = 1 / sqrt((double)s->var[(image + n) * s->groups + group] + s->eps);
  }
  float* partial = s->partial + task % images * 2 * s->channels + channel;
  for (int64_t c = 0; c < in_group(s); c++) {
    wide plain = {0}, product = {0};
    int64_t at = start + c * size;
    sums(s, s->x + at, s->dy + at, mean, s->pixels, lanes, &plain, &product);
    double weight = s->weight[channel + c];
    slopes += plain * weight;
    products += product * weight;
    partial[c] = total(__builtin_convertvector(product * inverse, vec));
    partial[s->channels + c] = total(__builtin_convertvector(plain, vec));
  }
  vec scale = __builtin_convertvector(inverse, vec);
  vec even = __builtin_convertvector(slopes * inverse / (double)count, vec);
  wide cubed = inverse * inverse * inverse;
  vec along = __builtin_convertvector(products * cubed / (double)count, vec);
  for (int64_t c = 0; c < in_group(s); c++) {
    vec factor = scale * s->weight[channel + c];
    for (int64_t i = 0, at = start + c * size; i < s->pixels; i++, at += s->batch) {
      vec distance = load_some(s->x + at, lanes) - mean;
      vec slope = load_some(s->dy + at, lanes) * factor - even - distance * along;
      stream(s->dx + at, slope, lanes, s->past_cache);
    }
  }
}

static Norm shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* mean) {
  int64_t pixels = x->dims[2] * x->dims[3];
  return (Norm){.x = x->data, .batch = x->dims[0], .channels = x->dims[1], .pixels = pixels,
                .groups = mean->dims[1],
                .past_cache = x->dims[0] * x->dims[1] * pixels * 4 > STREAMED,
                .eps = *(const float*)attribute(frame, "eps", XLA_FFI_DataType_F32)};
}

// x (N, C, H, W) gives mean (N, G) and biased variance (N, G).
XLA_FFI_Error* jaxnet_group_moments(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NCHW>NG,NG,NG") || argument(frame, 0)->dims[1] % result(frame, 0)->dims[1])
    return refused(frame, "accepted is x (N, C, H, W), for groups that divide C");
  Norm s = shapes(frame, argument(frame, 0), result(frame, 0));
  s.to_mean = result(frame, 0)->data, s.to_rest = result(frame, 1)->data;
  s.to_var = result(frame, 2)->data;
  return finished(frame, run(frame, measure, &s, s.groups * images_of(&s), 0));
}

// x, dy like it, weight (C,), mean and variance (N, G) give dx like x, dweight and dbias (C,).
XLA_FFI_Error* jaxnet_group_norm_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NCHW,NCHW,C,NG,NG>NCHW,C,C") ||
      argument(frame, 0)->dims[1] % argument(frame, 3)->dims[1])
    return refused(frame, "accepted are x and dy (N, C, H, W), weight (C,), mean and variance");
  Norm s = shapes(frame, argument(frame, 0), argument(frame, 3));
  s.dy = argument(frame, 1)->data, s.weight = argument(frame, 2)->data;
  s.mean = argument(frame, 3)->data, s.var = argument(frame, 4)->data;
  s.dx = result(frame, 0)->data;
  int64_t images = images_of(&s), all = 2 * s.channels;
  s.partial = allocate(images * all);
  if (!s.partial || !run(frame, differentiate, &s, s.groups * images, 0)) {
    free(s.partial);
    return finished(frame, 0);
  }
  for (int64_t n = 1; n < images; n++)
    for (int64_t c = 0; c < all; c++) s.partial[c] += s.partial[n * all + c];
  memcpy(result(frame, 1)->data, s.partial, s.channels * sizeof(float));
  memcpy(result(frame, 2)->data, s.partial + s.channels, s.channels * sizeof(float));
  free(s.partial);
  return NULL;
}
