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
                                                                int64_t outs, int rows) {
  vec sum[TILE][MOST_ROWS];
  for (int o = 0; o < TILE; o++)
    for (int n = 0; n < rows; n++) sum[o][n] = (vec){0};
  for (int64_t i = 0; i < s->inputs; i += LANES) {
    int64_t lanes = s->inputs - i;
    vec w[TILE];
    for (int o = 0; o < TILE; o++)
      w[o] = o < outs ? load_some(s->w + (first + o) * s->inputs + i, lanes) : (vec){0};
    for (int n = 0; n < rows; n++) {
      vec x = load_some(s->x + n * s->inputs + i, lanes);
      for (int o = 0; o < TILE; o++) sum[o][n] += w[o] * x;
    }
  }
  for (int o = 0; o < outs; o++)
    for (int n = 0; n < rows; n++) s->y[n * s->outputs + first + o] = total(sum[o][n]);
}

static void multiply_block(void* shape, int64_t task) {
  const Product* s = shape;
  int64_t end = smaller((task + 1) * BLOCK, s->outputs);
  for (int64_t first = task * BLOCK; first < end; first += TILE) {
    int64_t outs = smaller(TILE, end - first);
#define CASE(n) \
  case n:       \
    multiply_tile(s, first, outs, n); \
    break
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
}

// x (N, I), N at most 8, and w (O, I) give y (N, O).
XLA_FFI_Error* jaxnet_few_rows(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, 2, 1, "222")) return refused(frame, "accepted are 2 float32 matrices");
  XLA_FFI_Buffer *x = argument(frame, 0), *w = argument(frame, 1);
  if (x->dims[0] > MOST_ROWS) return refused(frame, "accepted are 8 rows at most");
  Product s = {.x = x->data, .w = w->data, .y = result(frame, 0)->data,
               .rows = x->dims[0], .inputs = x->dims[1], .outputs = w->dims[0]};
  run(frame, multiply_block, &s, parts(s.outputs, BLOCK));
  return NULL;
}
