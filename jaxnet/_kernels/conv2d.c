// Two-dimensional correlation, its transpose and its weight gradient on the CPU, as XLA FFI
// handlers, with any stride, dilation and groups.
//
// One vector register holds the same pixel of LANES images and a weight is one number for
// all of them: every inner operation is a multiply-add without shuffles.
//
// A task is a band of output rows of LANES images, of some groups of channels. Group by group
// it copies what it sees of the input into a small padded slab that stays in the second-level
// cache, and works from there. Tasks that follow one another take the same rows of other
// images, which lie beside them.
//
// With a stride, the transpose has for each place of an output pixel between two windows
// another part of the window: a phase. Each is a correlation of stride 1.

#include "kernel.h"

// A register tile of the correlation has up to OUT_TILE output channels and MOST_COLS pixels,
// one of the weight gradient GRAD_OUT output channels and GRAD_COLS columns of the window, or
// where there is one output channel GRAD_COLS rows of it.
#define MOST_COLS 8
#define GRAD_COLS 3
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
#define OUT_TILE 8
#define GRAD_OUT 8
#define NARROW 4  // output channels, of which a tile has more columns
#else
#define OUT_TILE 6
#define GRAD_OUT 4
#define NARROW 2
#endif
#define SUMS 16   // at most, of a tile

#define SLAB_FLOATS (96 * 1024)  // 384 KiB, of the second-level cache
#define SLOPE_FLOATS (4 * 1024)  // 16 KiB, of the first-level cache
#define NEAR_FLOATS (4 * 1024)
#define MOST_STRIDE 4
#define MOST_DILATION 4096
#define FEWEST_TASKS 16          // groups are tasks of their own until there are so many

// ------------------------------------------------------------------------- shapes

// A part of the window, (kh, kw) of its weights, and the outputs that it is for: rows, cols.
typedef struct {
  int64_t kh, kw, rows, cols;
  int64_t last_row, last_col;  // the last of them in the window; of the transpose
  int64_t row, col;            // where in the slab its first window lies
  int64_t to_row, to_col;      // its first output in y
  const float* w;              // packed
} Phase;

typedef struct {
  const float *x, *w, *dy;
  float *y, *partial;
  int64_t channels, height, width, batch;  // of a group of x
  int64_t outputs, rows, cols;             // of a group of y, or of a phase of it
  int64_t groups, some, chunks;            // of channels: all, in a task, and such tasks
  int64_t kh, kw, top, left;               // the window, and the zeros before x
  int64_t down, right;                     // from one window to the next
  int64_t step_down, step_right;           // inside a window
  int64_t y_rows, y_cols, apart_down, apart_right;  // all of y, and between outputs of a phase
  int64_t w_step_down, w_step_right;       // between the weights of a phase
  int64_t band;                            // output rows of a task
  int64_t slab_rows, slab_cols, slab_plane;  // the last in floats, of a channel
  int64_t near;                            // channels whose windows stay near
  int64_t few_rows;                        // whose slopes fit the first-level cache
  int64_t strips;                          // of at most GRAD_COLS columns of the window
  int64_t pitch;                           // floats between the slopes of two pixels
  int past_cache;                          // whether y is too large to stay in it
  int plain;                               // whether x lies image after image
  int64_t count;                           // of phases
  Phase phases[MOST_STRIDE * MOST_STRIDE];
} Conv;

// The product, or so large a number that there is no memory for it.
static int64_t times(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) || product > INT64_MAX / 64 ? INT64_MAX / 64
                                                                            : product;
}

// What a task reads besides the slab: whole tiles beyond the last column.
static int64_t tail_of(const Conv* s) { return MOST_COLS * s->right * LANES; }

// The slab of a group, given the rows and columns that all windows of one pixel see.
static void plan(Conv* s, int64_t high, int64_t wide) {
  s->slab_cols = (s->cols - 1) * s->right + wide;
  int64_t row = times(times(s->channels, s->slab_cols), LANES);
  int64_t band = (SLAB_FLOATS / row - high) / s->down + 1;
  if (band < parts(4, s->down)) band = parts(4, s->down);
  int64_t bands = parts(s->rows, band);
  s->band = parts(s->rows, bands);
  s->slab_rows = (s->band - 1) * s->down + high;
  // An odd number of lines, so that the channels do not fall on the same lines of the cache.
  s->slab_plane = times(parts(times(s->slab_rows, s->slab_cols * LANES), 16) | 1, 16);
  s->near = larger(NEAR_FLOATS / times(high, (wide + MOST_COLS / 2 * s->right) * LANES), 1);
  int64_t images = parts(s->batch, LANES) * parts(s->rows, s->band);
  s->some = smaller(parts(times(s->groups, images), FEWEST_TASKS), s->groups);
  s->chunks = parts(s->groups, s->some);
  s->strips = parts(s->kw, GRAD_COLS);
  s->pitch = smaller(GRAD_OUT, s->outputs) * LANES;
  s->few_rows = larger(SLOPE_FLOATS / times(s->cols, s->pitch), 1);
}

// The parts of the batch and of the rows, each of which has a weight gradient of its own.
static int64_t slices_of(const Conv* s) {
  return parts(s->batch, LANES) * parts(s->rows, s->band);
}

static int64_t tasks_of(const Conv* s) { return s->chunks * slices_of(s); }

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
  int64_t all = s->groups * s->channels;
  const float* first = s->x + (image * all + channel) * plane;
  for (int64_t r = 0; r < s->slab_rows; r++) {
    float* line = out + r * s->slab_cols * LANES;
    int64_t from = r - top;
    memset(line, 0, s->slab_cols * LANES * sizeof(float));
    if (from < 0 || from >= s->height) continue;
    for (int64_t at = 0; at < s->width; at += LANES) {
      vec v[LANES];
      for (int64_t n = 0; n < LANES; n++) {
        const float* pixels = first + n * all * plane + from * s->width + at;
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

// The channels of a group, and zeros behind them.
static void pack_inputs(const Conv* s, float* slab, int64_t group, int64_t first_row,
                        int64_t image) {
  int64_t channel = group * s->channels, top = s->top - first_row * s->down;
  for (int64_t c = 0; c < s->channels; c++, slab += s->slab_plane) {
    if (s->plain)
      pack_images(s, slab, channel + c, top, image);
    else
      pack(slab, s->x + (channel + c) * s->height * s->width * s->batch, s->height, s->width,
           s->batch, s->slab_rows, s->slab_cols, top, s->left, image);
  }
  memset(slab, 0, tail_of(s) * sizeof(float));
}

static int64_t slab_of(const Conv* s) {
  return times(s->channels, s->slab_plane) + tail_of(s);
}

// -------------------------------------------------------------------- correlation

// Weights as (phase, group, tile, channel, kh, kw, OUT_TILE): a tile is read from front to
// back. w is (all outputs, channels, kh, kw), or of the transpose (all channels, outputs, kh,
// kw) and read backwards.
static float* pack_weights(Conv* s, int transposed) {
  int64_t window = s->kh * s->kw, tiles = parts(s->outputs, OUT_TILE);
  float* packed = allocate(times(times(s->groups * tiles, OUT_TILE), times(s->channels, window)));
  float* to = packed;
  if (!packed) return NULL;
  for (Phase* p = s->phases; p < s->phases + s->count; p++) {
    p->w = to;
    for (int64_t t = 0; t < s->groups * tiles; t++)
      for (int64_t c = 0; c < s->channels; c++)
        for (int64_t k = 0; k < p->kh * p->kw; k++, to += OUT_TILE)
          for (int64_t n = 0; n < OUT_TILE; n++) {
            int64_t group = t / tiles, o = t % tiles * OUT_TILE + n;
            int64_t i = p->last_row + k / p->kw * s->w_step_down;
            int64_t j = p->last_col + k % p->kw * s->w_step_right;
            int64_t matrix = transposed ? (group * s->channels + c) * s->outputs + o
                                        : (group * s->outputs + o) * s->channels + c;
            to[n] = o < s->outputs ? s->w[matrix * window + i * s->kw + j] : 0;
          }
  }
  return packed;
}

// Of `cols` pixels of `outs` channels, of which `inside` are there, what the channels from
// `first` on give. What those before gave is in `kept`, and what all gave goes to y.
static inline __attribute__((always_inline)) void correlate_tile(
    const Conv* s, const Phase* p, const float* slab, const float* w, float* y, float* kept,
    int64_t first, int outs, int cols, int64_t inside, int64_t lanes) {
  vec sum[OUT_TILE][MOST_COLS];
  for (int o = 0; o < outs; o++)
    for (int b = 0; b < cols; b++)
      sum[o][b] = first ? load(kept + (o * cols + b) * LANES) : (vec){0};
  int64_t next = s->right * LANES, end = smaller(first + s->near, s->channels);
  // Three loops, over channels, rows and columns of the window, of which the last is no loop
  // over a single one.
  int64_t loops[3] = {end - first, p->kh, p->kw};
  int64_t steps[3] = {s->slab_plane, s->step_down * s->slab_cols * LANES, s->step_right * LANES};
  for (int k = 0; k < 2 && loops[2] == 1; k++) {
    loops[2] = loops[1], steps[2] = steps[1];
    loops[1] = loops[0], steps[1] = steps[0];
    loops[0] = 1;
  }
  slab += first * s->slab_plane, w += first * p->kh * p->kw * OUT_TILE;
  for (int64_t c = 0; c < loops[0]; c++)
    for (int64_t i = 0; i < loops[1]; i++) {
      const float* line = slab + c * steps[0] + i * steps[1];
      for (int64_t j = 0; j < loops[2]; j++, line += steps[2], w += OUT_TILE) {
        vec x[MOST_COLS];
        for (int b = 0; b < cols; b++) {
          x[b] = load(line + b * next);
          HELD(x[b]);
        }
        for (int o = 0; o < outs; o++)
          for (int b = 0; b < cols; b++) sum[o][b] += x[b] * w[o];
      }
    }
  if (end < s->channels) {
    for (int o = 0; o < outs; o++)
      for (int b = 0; b < cols; b++) store(kept + (o * cols + b) * LANES, sum[o][b]);
    return;
  }
  int64_t plane = s->y_rows * s->y_cols * s->batch, apart = s->apart_right * s->batch;
  for (int o = 0; o < outs; o++)
    for (int b = 0; b < cols; b++)
      if (b < inside) stream(y + o * plane + b * apart, sum[o][b], lanes, s->past_cache);
}

// Fewer channels have more pixels beside one another, so that the sums do not wait.
#define COLS_OF(outs) ((outs) == 1 ? 8 : (outs) <= NARROW ? 4 : 2)

// A row of outputs of the channels of a group, as far as they have the same tile: the pixels
// of a tile stay in the first-level cache while the weights of all channels pass by.
static inline __attribute__((always_inline)) void correlate_row(
    const Conv* s, const Phase* p, const float* slab, const float* w, float* y, float* kept,
    int64_t tiles, int outs, int cols, int64_t lanes) {
  int64_t weights = s->channels * p->kh * p->kw * OUT_TILE;
  int64_t plane = OUT_TILE * s->y_rows * s->y_cols * s->batch;
  for (int64_t c = 0; c < p->cols; c += cols)
    for (int64_t first = 0; first < s->channels; first += s->near)
      for (int64_t t = 0; t < tiles; t++)
        correlate_tile(s, p, slab + c * s->right * LANES, w + t * weights,
                       y + t * plane + c * s->apart_right * s->batch, kept + t * SUMS * LANES,
                       first, outs, cols, p->cols - c, lanes);
}

static void correlate_rows(const Conv* s, const Phase* p, const float* slab, const float* w,
                           float* y, float* kept, int64_t tiles, int64_t outs, int64_t lanes) {
#define CASE(n) \
  case n:       \
    return correlate_row(s, p, slab, w, y, kept, tiles, n, COLS_OF(n), lanes)
  switch (outs) {
    CASE(1);
    CASE(2);
    CASE(3);
    CASE(4);
    CASE(5);
    CASE(6);
#if OUT_TILE > 6
    CASE(7);
    CASE(8);
#endif
  }
#undef CASE
}

// Which part of the work a task is.
typedef struct {
  int64_t image, lanes, first, last, slice, group, some;
} Part;

static Part part_of(const Conv* s, int64_t task) {
  int64_t images = parts(s->batch, LANES), slices = slices_of(s);
  Part part = {.slice = task % slices, .group = task / slices * s->some};
  part.image = part.slice % images * LANES, part.lanes = smaller(LANES, s->batch - part.image);
  part.first = part.slice / images * s->band, part.last = smaller(part.first + s->band, s->rows);
  part.some = smaller(s->some, s->groups - part.group);
  return part;
}

static int64_t kept_of(const Conv* s) { return parts(s->outputs, OUT_TILE) * SUMS * LANES; }

static void correlate_band(void* shape, int64_t task, float* slab) {
  const Conv* s = shape;
  Part part = part_of(s, task);
  int64_t tiles = parts(s->outputs, OUT_TILE), whole_tiles = s->outputs / OUT_TILE;
  int64_t plane = s->y_rows * s->y_cols;
  float* kept = slab + slab_of(s);
  for (int64_t g = part.group; g < part.group + part.some; g++) {
    pack_inputs(s, slab, g, part.first, part.image);
    for (int64_t r = part.first; r < part.last; r++)
      for (const Phase* p = s->phases; p < s->phases + s->count; p++) {
        if (r >= p->rows) continue;
        const float* from =
            slab + (((r - part.first) * s->down + p->row) * s->slab_cols + p->col) * LANES;
        const float* w = p->w + g * tiles * s->channels * p->kh * p->kw * OUT_TILE;
        int64_t at = (p->to_row + r * s->apart_down) * s->y_cols + p->to_col;
        float* y = s->y + (g * s->outputs * plane + at) * s->batch + part.image;
        if (whole_tiles)
          correlate_rows(s, p, from, w, y, kept, whole_tiles, OUT_TILE, part.lanes);
        int64_t rest = s->outputs - whole_tiles * OUT_TILE;
        w += whole_tiles * s->channels * p->kh * p->kw * OUT_TILE;
        y += whole_tiles * OUT_TILE * plane * s->batch;
        if (rest) correlate_rows(s, p, from, w, y, kept, 1, rest, part.lanes);
      }
  }
}

// ---------------------------------------------------------------- weight gradient

#define STRIP (GRAD_OUT * GRAD_COLS * LANES)  // the sums of a tile

// Adds to sums (GRAD_OUT, GRAD_COLS) what some rows of slopes give for one row of the window.
static inline __attribute__((always_inline)) void gradient_tile(
    const Conv* s, const float* slab, const float* slopes, int64_t rows, float* sums, int outs,
    int cols) {
  vec sum[GRAD_OUT][GRAD_COLS];
  int64_t next = s->right * LANES, step = s->step_right * LANES;
  for (int o = 0; o < outs; o++)
    for (int j = 0; j < cols; j++) sum[o][j] = load(sums + (o * GRAD_COLS + j) * LANES);
  for (int64_t r = 0; r < rows; r++) {
    const float* line = slab + r * s->down * s->slab_cols * LANES;
    for (int64_t c = 0; c < s->cols; c++, line += next, slopes += s->pitch) {
      vec x[GRAD_COLS];
      for (int j = 0; j < cols; j++) {
        x[j] = load(line + j * step);
        HELD(x[j]);
      }
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
  switch (4 * outs + cols) {  // of one output channel it is window_tile_of
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

// The same of one output channel for some rows and columns of the window.
static inline __attribute__((always_inline)) void window_tile(const Conv* s, const float* slab,
                                                              const float* slopes, int64_t rows,
                                                              float* sums, int high, int wide) {
  vec sum[GRAD_COLS][GRAD_COLS];
  int64_t next = s->right * LANES, step = s->step_right * LANES;
  int64_t line = s->slab_cols * LANES, to = s->strips * STRIP;
  for (int i = 0; i < high; i++)
    for (int j = 0; j < wide; j++) sum[i][j] = load(sums + i * to + j * LANES);
  for (int64_t r = 0; r < rows; r++) {
    const float* from = slab + r * s->down * line;
    for (int64_t c = 0; c < s->cols; c++, from += next, slopes += s->pitch) {
      vec slope = load(slopes);
      for (int i = 0; i < high; i++)
        for (int j = 0; j < wide; j++)
          sum[i][j] += load(from + i * s->step_down * line + j * step) * slope;
    }
  }
  for (int i = 0; i < high; i++)
    for (int j = 0; j < wide; j++) store(sums + i * to + j * LANES, sum[i][j]);
}

static void window_tile_of(const Conv* s, const float* slab, const float* slopes, int64_t rows,
                           float* sums, int64_t high, int64_t wide) {
#define CASE(i, j) \
  case 4 * i + j:  \
    return window_tile(s, slab, slopes, rows, sums, i, j)
#define ROW(i)  \
  CASE(i, 1);   \
  CASE(i, 2);   \
  CASE(i, 3)
  switch (4 * high + wide) {
    ROW(1);
    ROW(2);
    ROW(3);
  }
#undef ROW
#undef CASE
}

// Some rows of the slopes of a tile of output channels as (pixel, tile, LANES), and
// their sums, which is the bias's gradient.
static void pack_slopes(const Conv* s, float* out, vec* sums, int64_t output, int64_t outs,
                        int64_t row, int64_t rows, int64_t image) {
  int64_t lanes = smaller(LANES, s->batch - image), plane = s->rows * s->cols * s->batch;
  for (int64_t o = 0; o < outs; o++) {
    const float* from = s->dy + (output + o) * plane + row * s->cols * s->batch + image;
    float* to = out + o * LANES;
    vec sum = {0};
    for (int64_t c = 0; c < rows * s->cols; c++, from += s->batch, to += s->pitch) {
      vec slope = load_some(from, lanes);
      store(to, slope);
      sum += slope;
    }
    sums[o] += sum;
  }
}

// The columns of a window are cut into strips of about the same size.
static int64_t strip_at(const Conv* s, int64_t strip) { return s->kw * strip / s->strips; }

// The sums of a tile of output channels, over all input channels and the whole window.
static int64_t strip_sums(const Conv* s) {
  return times(times(s->channels, s->kh), s->strips * STRIP);
}

static int64_t slopes_of(const Conv* s) { return times(times(s->few_rows, s->cols), s->pitch); }

// Adds what some rows of slopes give for the whole window of all channels.
static void add_gradient(const Conv* s, const float* slab, const float* slopes, int64_t rows,
                         float* sum, int64_t outs) {
  int64_t lines = s->slab_cols * LANES, high = outs == 1 ? GRAD_COLS : 1;
  int64_t wide = s->strips * STRIP;
  for (int64_t c = 0; c < s->channels; c++)
    for (int64_t i = 0; i < s->kh; i += high, sum += high * wide) {
      const float* line = slab + c * s->slab_plane + i * s->step_down * lines;
      int64_t some = smaller(high, s->kh - i);
      for (int64_t k = 0; k < s->strips; k++) {
        int64_t j = strip_at(s, k), cols = strip_at(s, k + 1) - j;
        const float* from = line + j * s->step_right * LANES;
        float* to = sum + k * STRIP;
        if (outs == 1)
          window_tile_of(s, from, slopes, rows, to, some, cols);
        else
          gradient_tile_of(s, from, slopes, rows, to, outs, cols);
      }
      if (some < high) sum -= (high - some) * wide;
    }
}

static void gradient_band(void* shape, int64_t task, float* slab) {
  const Conv* s = shape;
  Part part = part_of(s, task);
  int64_t sizes = strip_sums(s), window = s->channels * s->kh * s->kw;
  int64_t outputs = s->groups * s->outputs;  // of all groups
  float *sums = slab + slab_of(s), *slopes = sums + sizes;
  float* partial = s->partial + part.slice * outputs * (window + 1);
  for (int64_t g = part.group; g < part.group + part.some; g++) {
    pack_inputs(s, slab, g, part.first, part.image);
    for (int64_t o = 0; o < s->outputs; o += GRAD_OUT) {
      int64_t outs = smaller(GRAD_OUT, s->outputs - o), output = g * s->outputs + o;
      vec slope_sums[GRAD_OUT] = {0};
      memset(sums, 0, sizes * sizeof(float));
      for (int64_t r = part.first; r < part.last; r += s->few_rows) {
        int64_t rows = smaller(s->few_rows, part.last - r);
        pack_slopes(s, slopes, slope_sums, output, outs, r, rows, part.image);
        const float* seen = slab + (r - part.first) * s->down * s->slab_cols * LANES;
        add_gradient(s, seen, slopes, rows, sums, outs);
      }
      float *dw = partial + output * window, *db = partial + outputs * window + output;
      for (int64_t n = 0; n < outs; n++) db[n] = total(slope_sums[n]);
      const float* sum = sums;
      for (int64_t k = 0; k < s->channels * s->kh; k++)
        for (int64_t strip = 0; strip < s->strips; strip++, sum += STRIP)
          for (int64_t j = strip_at(s, strip), m = 0; j + m < strip_at(s, strip + 1); m++)
            for (int64_t n = 0; n < outs; n++)
              dw[n * window + k * s->kw + j + m] = total(load(sum + (n * GRAD_COLS + m) * LANES));
    }
  }
}

// ----------------------------------------------------------------------- handlers

// Whether the call's numbers are in range: 0 for none given, which is 1.
static int positive(XLA_FFI_CallFrame* frame) {
  int64_t groups = whole(frame, "groups");
  return groups >= 0 && whole(frame, "down") >= 0 && whole(frame, "down") <= MOST_STRIDE &&
         whole(frame, "right") >= 0 && whole(frame, "right") <= MOST_STRIDE &&
         whole(frame, "step_down") >= 0 && whole(frame, "step_down") <= MOST_DILATION &&
         whole(frame, "step_right") >= 0 && whole(frame, "step_right") <= MOST_DILATION;
}

// x (N, groups C, H, W) and w (O, C, kh, kw) belong to y (N, O, rows, cols). What is read are
// the channels of `from`, and the outputs are those of `to`.
static Conv shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* from, XLA_FFI_Buffer* w,
                   XLA_FFI_Buffer* to) {
  Conv s = {.x = from->data, .batch = from->dims[0], .channels = from->dims[1],
            .height = from->dims[2], .width = from->dims[3], .outputs = to->dims[1],
            .y_rows = to->dims[2], .y_cols = to->dims[3], .kh = w->dims[2], .kw = w->dims[3],
            .top = whole(frame, "top"), .left = whole(frame, "left"),
            .down = larger(whole(frame, "down"), 1), .right = larger(whole(frame, "right"), 1),
            .step_down = larger(whole(frame, "step_down"), 1),
            .step_right = larger(whole(frame, "step_right"), 1),
            .groups = larger(whole(frame, "groups"), 1), .plain = whole(frame, "plain")};
  s.rows = s.y_rows, s.cols = s.y_cols;
  s.past_cache = s.outputs * s.y_rows * s.y_cols * s.batch * 4 > STREAMED;
  s.channels /= s.groups, s.outputs /= s.groups;
  return s;
}

// Whether the channels of x belong to the weight (O, C, kh, kw).
static int grouped(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* w) {
  int64_t groups = larger(whole(frame, "groups"), 1);
  return positive(frame) && w->dims[0] % groups == 0 && x->dims[1] % groups == 0 &&
         x->dims[1] / groups == w->dims[1];
}

static void plan_correlation(Conv* s) {
  s->apart_down = s->apart_right = s->w_step_down = s->w_step_right = 1;
  s->count = 1;
  s->phases[0] = (Phase){.kh = s->kh, .kw = s->kw, .rows = s->rows, .cols = s->cols};
  plan(s, (s->kh - 1) * s->step_down + 1, (s->kw - 1) * s->step_right + 1);
}

static int64_t common_divisor(int64_t a, int64_t b) { return b ? common_divisor(b, a % b) : a; }

// The weights along one axis for outputs number phase, phase + stride, ...: `count` of them,
// from `last` on backwards, and how far the first number that they see lies after the output's
// own.
typedef struct {
  int64_t count, last, first;
} Taps;

static Taps taps_of(int64_t phase, int64_t size, int64_t stride, int64_t dilation, int64_t before) {
  Taps taps = {0, 0, 0};
  int64_t apart = stride / common_divisor(stride, dilation);
  for (int64_t k = 0; k < smaller(size, apart); k++) {
    if ((phase + before - k * dilation) % stride) continue;
    taps.count = parts(size - k, apart);
    taps.last = k + (taps.count - 1) * apart;
    taps.first = (phase + before - taps.last * dilation) / stride;
  }
  return taps;
}

// The transpose: s is that of the correlation, but x and y have changed places.
static void plan_phases(Conv* s) {
  int64_t down = s->down, right = s->right, top = s->top, left = s->left;
  int64_t low = INT64_MAX, near = INT64_MAX, high = INT64_MIN, far = INT64_MIN;
  int64_t by_down = common_divisor(down, s->step_down);
  int64_t by_right = common_divisor(right, s->step_right);
  for (int64_t i = 0; i < down; i++)
    for (int64_t j = 0; j < right; j++) {
      Taps rows = taps_of(i, s->kh, down, s->step_down, top);
      Taps cols = taps_of(j, s->kw, right, s->step_right, left);
      Phase* p = &s->phases[s->count++];
      *p = (Phase){.kh = rows.count, .kw = cols.count, .rows = parts(s->y_rows - i, down),
                   .cols = parts(s->y_cols - j, right), .last_row = rows.last,
                   .last_col = cols.last, .row = rows.first, .col = cols.first, .to_row = i,
                   .to_col = j};
      if (!p->kh || !p->kw) {  // nothing but zeros
        p->kh = p->kw = p->row = p->col = 0;
        continue;
      }
      low = smaller(low, p->row), near = smaller(near, p->col);
      high = larger(high, p->row + (p->kh - 1) * (s->step_down / by_down));
      far = larger(far, p->col + (p->kw - 1) * (s->step_right / by_right));
    }
  for (Phase* p = s->phases; p < s->phases + s->count; p++)
    if (p->kh) p->row -= low, p->col -= near;
  s->top = -low, s->left = -near;
  s->w_step_down = -(down / by_down), s->w_step_right = -(right / by_right);
  s->step_down /= by_down, s->step_right /= by_right;
  s->apart_down = down, s->apart_right = right;
  s->rows = parts(s->y_rows, down), s->cols = parts(s->y_cols, right);
  s->past_cache &= right == 1;
  s->down = s->right = 1;
  plan(s, high - low + 1, far - near + 1);
}

// x (N, groups C, H, W) and w (O, C, kh, kw) give y (N, O, rows, cols).
XLA_FFI_Error* jaxnet_correlate2d(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NChw,ODIJ>NORS") || !grouped(frame, argument(frame, 0), argument(frame, 1)))
    return refused(frame, "accepted are x (N, groups * C, H, W) and w (O, C, kh, kw)");
  XLA_FFI_Buffer *x = argument(frame, 0), *w = argument(frame, 1), *y = result(frame, 0);
  Conv s = shapes(frame, x, w, y);
  plan_correlation(&s);
  s.w = w->data, s.y = y->data;
  float* packed = pack_weights(&s, 0);
  int complete = packed && run(frame, correlate_band, &s, tasks_of(&s), slab_of(&s) + kept_of(&s));
  free(packed);
  return finished(frame, complete);
}

// y (N, O, rows, cols) and w (O, C, kh, kw) give x (N, groups C, H, W): the transpose.
XLA_FFI_Error* jaxnet_spread2d(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NORS,ODIJ>NCHW") || !grouped(frame, result(frame, 0), argument(frame, 1)))
    return refused(frame, "accepted are y (N, O, H', W') and w (O, C, kh, kw)");
  XLA_FFI_Buffer *y = argument(frame, 0), *w = argument(frame, 1), *x = result(frame, 0);
  Conv s = shapes(frame, y, w, x);
  plan_phases(&s);
  s.w = w->data, s.y = x->data;
  float* packed = pack_weights(&s, 1);
  int complete = packed && run(frame, correlate_band, &s, tasks_of(&s), slab_of(&s) + kept_of(&s));
  free(packed);
  return finished(frame, complete);
}

// x (N, groups C, H, W) and dy (N, O, rows, cols) give dw (O, C, kh, kw) and db (O,).
XLA_FFI_Error* jaxnet_correlate2d_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NChw,NORS>ODIJ,O") || !grouped(frame, argument(frame, 0), result(frame, 0)))
    return refused(frame, "accepted are x (N, groups * C, H, W) and dy (N, O, H', W')");
  XLA_FFI_Buffer *x = argument(frame, 0), *dy = argument(frame, 1);
  XLA_FFI_Buffer *dw = result(frame, 0), *db = result(frame, 1);
  Conv s = shapes(frame, x, dw, dy);
  plan_correlation(&s);
  s.dy = dy->data;
  int64_t outputs = s.groups * s.outputs, size = outputs * s.channels * s.kh * s.kw;
  int64_t all = size + outputs, slices = slices_of(&s);
  s.partial = allocate(times(slices, all));
  int64_t floats = slab_of(&s) + strip_sums(&s) + slopes_of(&s);
  if (!s.partial || !run(frame, gradient_band, &s, tasks_of(&s), floats)) {
    free(s.partial);
    return finished(frame, 0);
  }
  for (int64_t t = 1; t < slices; t++)
    for (int64_t i = 0; i < all; i++) s.partial[i] += s.partial[t * all + i];
  memcpy(dw->data, s.partial, size * sizeof(float));
  memcpy(db->data, s.partial + size, outputs * sizeof(float));
  free(s.partial);
  return NULL;
}
