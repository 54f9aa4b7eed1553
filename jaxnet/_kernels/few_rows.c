// A few rows times a large matrix on the CPU, as an XLA FFI handler. The time goes into
// reading the matrix, so each task reads some of its rows once, for all rows of x.

#include "kernel.h"

#define MOST_ROWS 8
#define TILE 4      // rows of the matrix that are read side by side
#define BLOCK 32    // of them a task

typedef struct {
  const float *x, *w;
  float* y;
  int64_t rows, inputs, outputs;
} Product;

static inline __attribute__((always_inline)) void multiply_tile(const Product* s, int64_t first,
                                                                int outs, int rows) {
  vec sum[TILE][MOST_ROWS];
  for (int o = 0; o < outs; o++)
    for (int n = 0; n < rows; n++) sum[o][n] = (vec){0};
  const float *x = s->x, *w = s->w + first * s->inputs;
  int64_t i = 0;
  for (; i + LANES <= s->inputs; i += LANES)
    for (int n = 0; n < rows; n++) {
      vec v = load(x + n * s->inputs + i);
      for (int o = 0; o < outs; o++) sum[o][n] += v * load(w + o * s->inputs + i);
    }
  for (int o = 0; o < outs; o++)
    for (int n = 0; n < rows; n++) {
      float rest = 0;
      for (int64_t k = i; k < s->inputs; k++) rest += x[n * s->inputs + k] * w[o * s->inputs + k];
      s->y[n * s->outputs + first + o] = total(sum[o][n]) + rest;
    }
}

static inline __attribute__((always_inline)) void multiply_rows(const Product* s, int64_t first,
                                                                int64_t end, int rows) {
  const int side = rows > 6 ? TILE / 2 : TILE;  // more sums than registers would be slow
  for (; first + side <= end; first += side) multiply_tile(s, first, side, rows);
  for (; first < end; first++) multiply_tile(s, first, 1, rows);
}

static void multiply_block(void* shape, int64_t task, float* scratch) {
  (void)scratch;
  const Product* s = shape;
  int64_t first = task * BLOCK, end = smaller(first + BLOCK, s->outputs);
#define CASE(n) \
  case n:       \
    return multiply_rows(s, first, end, n)
  switch (s->rows) {
    CASE(1);
    CASE(2);
    CASE(3);
    CASE(4);
    CASE(5);
    CASE(6);
    CASE(7);
    CASE(8);
  }
#undef CASE
}

// x (N, I), N at most 8, and w (O, I) give y (N, O).
XLA_FFI_Error* jaxnet_few_rows(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "ni,oi>no")) return refused(frame, "accepted are x (N, I) and w (O, I)");
  XLA_FFI_Buffer *x = argument(frame, 0), *w = argument(frame, 1);
  if (x->dims[0] > MOST_ROWS) return refused(frame, "accepted are 8 rows at most");
  Product s = {.x = x->data, .w = w->data, .y = result(frame, 0)->data,
               .rows = x->dims[0], .inputs = x->dims[1], .outputs = w->dims[0]};
  return finished(frame, run(frame, multiply_block, &s, parts(s.outputs, BLOCK), 0));
}
