// Two-dimensional correlation and its weight gradient on the CPU, as XLA FFI handlers.
//
// One vector register holds the same pixel of LANES images and a weight is one number for
// all of them: every inner operation is a multiply-add without shuffles.
//
// A task is a band of output rows of LANES images. It copies what it sees of the input
// into a small padded slab that stays in the second-level cache, and works from there.
// Tasks that follow one another take the same rows of other images, which lie beside them.

#include "kernel.h"

// A register tile of the correlation has OUT_TILE output channels and COL_TILE pixels, one
// of the weight gradient GRAD_OUT output channels and GRAD_COLS columns of the window.
#define COL_TILE 2
#define GRAD_COLS 3
#if defined(__AVX512F__)
#define OUT_TILE 8
#define GRAD_OUT 8
#else
#define OUT_TILE 4
#define GRAD_OUT 4
#endif

#define SLAB_FLOATS (96 * 1024)  // 384 KiB, of the second-level cache
#define SLOPE_FLOATS (8 * 1024)  // 32 KiB, of the first-level cache

// ------------------------------------------------------------------------- shapes

typedef struct {
  const float *x, *w, *dy;
  float *y, *partial;
  int64_t channels, height, width, batch;  // of x
  int64_t outputs, rows, cols;             // of y
  int64_t kh, kw, top, left;               // the window, and the zeros before x
  int64_t band;                            // output rows of a task
  int64_t slab_rows, slab_cols;
  int64_t few_rows;                        // whose slopes fit the first-level cache
  int past_cache;                          // whether y is too large to stay in it
  int plain;                               // whether x lies image after image
} Conv;

static void plan(Conv* s) {
  s->slab_cols = parts(s->cols, COL_TILE) * COL_TILE + s->kw - 1;
  int64_t row = s->channels * s->slab_cols * LANES;
  int64_t band = SLAB_FLOATS / row - s->kh + 1;
  if (band < 4) band = 4;
  int64_t bands = parts(s->rows, band);
  s->band = parts(s->rows, bands);
  s->slab_rows = s->band + s->kh - 1;
  s->few_rows = SLOPE_FLOATS / (s->cols * GRAD_OUT * LANES);
  if (s->few_rows < 1) s->few_rows = 1;
  s->past_cache = s->outputs * s->rows * s->cols * s->batch * 4 > STREAMED;
}

static int64_t tasks_of(const Conv* s) {
  return parts(s->batch, LANES) * parts(s->rows, s->band);
}

// LANES images of a (height, width, batch) plane into (rows, cols, LANES), zeros outside.
static void pack(float* out, const float* plane, int64_t height, int64_t width, int64_t batch,
                 int64_t rows, int64_t cols, int64_t top, int64_t left, int64_t image) {
  int64_t lanes = smaller(LANES, batch - image);
  for (int64_t r = 0; r < rows; r++) {
    float* line = out + r * cols * LANES;
    int64_t from = r - top;
    if (from < 0 || from >= height) {
      memset(line, 0, cols * LANES * sizeof(float));
      continue;
    }
    const float* pixels = plane + from * width * batch + image;
    for (int64_t c = 0; c < cols; c++) {
      int64_t at = c - left;
      if (at < 0 || at >= width) {
        store(line + c * LANES, (vec){0});
      } else {
        store(line + c * LANES, load_some(pixels + at * batch, lanes));
      }
    }
  }
}

// The same of a channel of images that lie one after another.
static void pack_images(const Conv* s, float* out, int64_t channel, int64_t top, int64_t image) {
  int64_t lanes = s->batch - image, plane = s->height * s->width;
  const float* first = s->x + (image * s->channels + channel) * plane;
  for (int64_t r = 0; r < s->slab_rows; r++) {
    float* line = out + r * s->slab_cols * LANES;
    int64_t from = r - top;
    memset(line, 0, s->slab_cols * LANES * sizeof(float));
    if (from < 0 || from >= s->height) continue;
    for (int64_t at = 0; at < s->width; at += LANES) {
      vec v[LANES];
      for (int64_t n = 0; n < LANES; n++) {
        const float* pixels = first + n * s->channels * plane + from * s->width + at;
        v[n] = n < lanes ? load_some(pixels, s->width - at) : (vec){0};
      }
      transpose(v);
      for (int64_t j = 0; j < smaller(LANES, s->width - at); j++) {
        int64_t col = at + j + s->left;
        if (col >= 0 && col < s->slab_cols) store(line + col * LANES, v[j]);
      }
    }
  }
}

static void pack_inputs(const Conv* s, float* slab, int64_t first_row, int64_t image) {
  for (int64_t c = 0; c < s->channels; c++) {
    float* to = slab + c * s->slab_rows * s->slab_cols * LANES;
    if (s->plain)
      pack_images(s, to, c, s->top - first_row, image);
    else
      pack(to, s->x + c * s->height * s->width * s->batch, s->height, s->width, s->batch,
           s->slab_rows, s->slab_cols, s->top - first_row, s->left, image);
  }
}

// -------------------------------------------------------------------- correlation

// Weights as (tile, channel, kh, kw, OUT_TILE): a tile is read from front to back.
static float* pack_weights(const Conv* s) {
  int64_t window = s->channels * s->kh * s->kw, tiles = parts(s->outputs, OUT_TILE);
  float* packed = allocate(tiles * window * OUT_TILE);
  if (!packed) return NULL;
  for (int64_t t = 0; t < tiles; t++)
    for (int64_t k = 0; k < window; k++)
      for (int64_t o = 0; o < OUT_TILE; o++) {
        int64_t output = t * OUT_TILE + o;
        packed[(t * window + k) * OUT_TILE + o] =
            output < s->outputs ? s->w[output * window + k] : 0;
      }
  return packed;
}

static inline __attribute__((always_inline)) void correlate_tile(
    const Conv* s, const float* slab, const float* w, float* y, int outs, int64_t cols,
    int64_t lanes) {
  vec sum[OUT_TILE][COL_TILE];
  for (int o = 0; o < outs; o++)
    for (int b = 0; b < COL_TILE; b++) sum[o][b] = (vec){0};
  for (int64_t c = 0; c < s->channels; c++)
    for (int64_t i = 0; i < s->kh; i++) {
      const float* line = slab + (c * s->slab_rows + i) * s->slab_cols * LANES;
      for (int64_t j = 0; j < s->kw; j++, w += OUT_TILE) {
        vec x[COL_TILE];
        for (int b = 0; b < COL_TILE; b++) x[b] = load(line + (j + b) * LANES);
        for (int o = 0; o < outs; o++)
          for (int b = 0; b < COL_TILE; b++) sum[o][b] += x[b] * w[o];
      }
    }
  int64_t plane = s->rows * s->cols * s->batch;
  for (int o = 0; o < outs; o++)
    for (int b = 0; b < COL_TILE; b++)
      if (b < cols) stream(y + o * plane + b * s->batch, sum[o][b], lanes, s->past_cache);
}

static void correlate_tile_of(const Conv* s, const float* slab, const float* w, float* y,
                              int64_t outs, int64_t cols, int64_t lanes) {
#define CASE(n) \
  case n:       \
    return correlate_tile(s, slab, w, y, n, cols, lanes)
  switch (outs) {
    CASE(1);
    CASE(2);
    CASE(3);
    CASE(4);
#if OUT_TILE > 4
    CASE(5);
    CASE(6);
    CASE(7);
    CASE(8);
#endif
  }
#undef CASE
}

static int64_t slab_of(const Conv* s) {
  return s->channels * s->slab_rows * s->slab_cols * LANES;
}

static void correlate_band(void* shape, int64_t task, float* slab) {
  const Conv* s = shape;
  int64_t groups = parts(s->batch, LANES);
  int64_t image = task % groups * LANES, first = task / groups * s->band;
  int64_t last = smaller(first + s->band, s->rows), lanes = smaller(LANES, s->batch - image);
  pack_inputs(s, slab, first, image);
  int64_t window = s->channels * s->kh * s->kw;
  for (int64_t r = first; r < last; r++)
    for (int64_t o = 0; o < s->outputs; o += OUT_TILE)
      for (int64_t c = 0; c < s->cols; c += COL_TILE)
        correlate_tile_of(s, slab + ((r - first) * s->slab_cols + c) * LANES, s->w + o * window,
                          s->y + ((o * s->rows + r) * s->cols + c) * s->batch + image,
                          smaller(OUT_TILE, s->outputs - o), s->cols - c, lanes);
}

// ---------------------------------------------------------------- weight gradient

// Adds to sums (GRAD_OUT, GRAD_COLS) what some rows of slopes give for one row of the window.
static inline __attribute__((always_inline)) void gradient_tile(
    const Conv* s, const float* slab, const float* slopes, int64_t rows, float* sums, int outs,
    int cols) {
  vec sum[GRAD_OUT][GRAD_COLS];
  for (int o = 0; o < outs; o++)
    for (int j = 0; j < cols; j++) sum[o][j] = load(sums + (o * GRAD_COLS + j) * LANES);
  for (int64_t r = 0; r < rows; r++) {
    const float* line = slab + r * s->slab_cols * LANES;
    for (int64_t c = 0; c < s->cols; c++, slopes += GRAD_OUT * LANES) {
      vec x[GRAD_COLS];
      for (int j = 0; j < cols; j++) x[j] = load(line + (c + j) * LANES);
      for (int o = 0; o < outs; o++) {
        vec slope = load(slopes + o * LANES);
        HELD(slope);
        for (int j = 0; j < cols; j++) sum[o][j] += x[j] * slope;
      }
    }
  }
  for (int o = 0; o < outs; o++)
    for (int j = 0; j < cols; j++) store(sums + (o * GRAD_COLS + j) * LANES, sum[o][j]);
}

static void gradient_tile_of(const Conv* s, const float* slab, const float* slopes, int64_t rows,
                             float* sums, int64_t outs, int64_t cols) {
#define CASE(o, j) \
  case 4 * o + j:  \
    return gradient_tile(s, slab, slopes, rows, sums, o, j)
#define ROW(o)  \
  CASE(o, 1);   \
  CASE(o, 2);   \
  CASE(o, 3)
  switch (4 * outs + cols) {
    ROW(1);
    ROW(2);
    ROW(3);
    ROW(4);
#if GRAD_OUT > 4
    ROW(5);
    ROW(6);
    ROW(7);
    ROW(8);
#endif
  }
#undef ROW
#undef CASE
}

// Some rows of the slopes of a tile of output channels as (pixel, GRAD_OUT, LANES), and
// their sums, which is the bias's gradient.
static void pack_slopes(const Conv* s, float* out, vec* sums, int64_t output, int64_t outs,
                        int64_t row, int64_t rows, int64_t image) {
  int64_t lanes = smaller(LANES, s->batch - image), plane = s->rows * s->cols * s->batch;
  for (int64_t o = 0; o < outs; o++) {
    const float* from = s->dy + (output + o) * plane + row * s->cols * s->batch + image;
    float* to = out + o * LANES;
    vec sum = {0};
    for (int64_t c = 0; c < rows * s->cols; c++, from += s->batch, to += GRAD_OUT * LANES) {
      vec slope = load_some(from, lanes);
      store(to, slope);
      sum += slope;
    }
    sums[o] += sum;
  }
}

// The sums of a tile of output channels, over all input channels and the whole window.
static int64_t strip_sums(const Conv* s) {
  return s->channels * s->kh * parts(s->kw, GRAD_COLS) * GRAD_OUT * GRAD_COLS * LANES;
}

static int64_t slopes_of(const Conv* s) { return s->few_rows * s->cols * GRAD_OUT * LANES; }

static void gradient_band(void* shape, int64_t task, float* slab) {
  const Conv* s = shape;
  int64_t groups = parts(s->batch, LANES);
  int64_t image = task % groups * LANES, first = task / groups * s->band;
  int64_t last = smaller(first + s->band, s->rows);
  int64_t strip = GRAD_OUT * GRAD_COLS * LANES, sizes = strip_sums(s);
  float *sums = slab + slab_of(s), *slopes = sums + sizes;
  pack_inputs(s, slab, first, image);
  int64_t window = s->channels * s->kh * s->kw;
  for (int64_t o = 0; o < s->outputs; o += GRAD_OUT) {
    int64_t outs = smaller(GRAD_OUT, s->outputs - o);
    vec slope_sums[GRAD_OUT] = {0};
    memset(sums, 0, sizes * sizeof(float));
    for (int64_t r = first; r < last; r += s->few_rows) {
      int64_t rows = smaller(s->few_rows, last - r);
      pack_slopes(s, slopes, slope_sums, o, outs, r, rows, image);
      float* sum = sums;
      for (int64_t c = 0; c < s->channels; c++)
        for (int64_t i = 0; i < s->kh; i++) {
          const float* line = slab + (c * s->slab_rows + r - first + i) * s->slab_cols * LANES;
          for (int64_t j = 0; j < s->kw; j += GRAD_COLS, sum += strip)
            gradient_tile_of(s, line + j * LANES, slopes, rows, sum, outs,
                             smaller(GRAD_COLS, s->kw - j));
        }
    }
    float* dw = s->partial + task * s->outputs * (window + 1) + o * window;
    float* db = s->partial + (task + 1) * s->outputs * (window + 1) - s->outputs + o;
    for (int64_t n = 0; n < outs; n++) db[n] = total(slope_sums[n]);
    const float* sum = sums;
    for (int64_t k = 0; k < s->channels * s->kh; k++)
      for (int64_t j = 0; j < s->kw; j += GRAD_COLS, sum += strip)
        for (int64_t n = 0; n < outs; n++)
          for (int64_t m = 0; m < smaller(GRAD_COLS, s->kw - j); m++)
            dw[n * window + k * s->kw + j + m] = total(load(sum + (n * GRAD_COLS + m) * LANES));
  }
}

// ----------------------------------------------------------------------- handlers

static Conv shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* w,
                   XLA_FFI_Buffer* y) {
  Conv s = {.x = x->data, .batch = x->dims[0], .channels = x->dims[1], .height = x->dims[2],
            .width = x->dims[3], .outputs = y->dims[1], .rows = y->dims[2], .cols = y->dims[3],
            .kh = w->dims[2], .kw = w->dims[3],
            .top = whole(frame, "top"), .left = whole(frame, "left"),
            .plain = whole(frame, "plain")};
  plan(&s);
  return s;
}

// x (N, C, H, W) and w (O, C, kh, kw) give y (N, O, rows, cols).
XLA_FFI_Error* jaxnet_correlate2d(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NChw,OCIJ>NORS"))
    return refused(frame, "accepted are x (N, C, H, W) and w (O, C, kh, kw)");
  XLA_FFI_Buffer *w = argument(frame, 1), *y = result(frame, 0);
  Conv s = shapes(frame, argument(frame, 0), w, y);
  s.w = w->data, s.y = y->data;
  float* packed = pack_weights(&s);
  s.w = packed;
  int complete = packed && run(frame, correlate_band, &s, tasks_of(&s), slab_of(&s));
  free(packed);
  return finished(frame, complete);
}

// x (N, C, H, W) and dy (N, O, rows, cols) give dw (O, C, kh, kw) and db (O,).
XLA_FFI_Error* jaxnet_correlate2d_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NChw,NORS>OCIJ,O"))
    return refused(frame, "accepted are x (N, C, H, W) and dy (N, O, H', W')");
  XLA_FFI_Buffer *dy = argument(frame, 1), *dw = result(frame, 0), *db = result(frame, 1);
  Conv s = shapes(frame, argument(frame, 0), dw, dy);
  s.dy = dy->data;
  int64_t tasks = tasks_of(&s), size = s.outputs * s.channels * s.kh * s.kw;
  int64_t all = size + s.outputs;
  s.partial = allocate(tasks * all);
  int64_t floats = slab_of(&s) + strip_sums(&s) + slopes_of(&s);
  if (!s.partial || !run(frame, gradient_band, &s, tasks, floats)) {
    free(s.partial);
    return finished(frame, 0);
  }
  for (int64_t t = 1; t < tasks; t++)
    for (int64_t i = 0; i < all; i++) s.partial[i] += s.partial[t * all + i];
  memcpy(dw->data, s.partial, size * sizeof(float));
  memcpy(db->data, s.partial + size, s.outputs * sizeof(float));
  free(s.partial);
  return NULL;
}
