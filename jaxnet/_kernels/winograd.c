// Correlation with windows of 3x3 and its weight gradient by Winograd's algorithm F(2x2, 3x3),
// as XLA FFI handlers: 16 multiplications for four outputs of a pair of channels, not 36.
// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015.)
//
//   y = A' ((G w G') * (B' x B)) A          dw = G' (sum over tiles of (A dy A') * (B' x B)) G
//
// for tiles x of 4x4 inputs and y of 2x2 outputs, a vector holding the same pixel of LANES
// images. A block is some tiles of LANES images, whose transforms stay in the second-level
// cache.

#include "kernel.h"

// Output channels of a register tile, which has two image tiles or two input channels.
#if defined(__AVX512F__)
#define OUTS 8
#else
#define OUTS 4
#endif

#define PLACES 16
#define CACHED (4096 * 16)    // floats that a block's transform of x should have: 256 KiB
#define MOST_SLICES 16        // into so many the weight gradient's blocks are cut

typedef struct {
  const float *x, *dy, *u;
  float *y, *sums;
  int64_t channels, height, width, batch;  // of x
  int64_t outputs, rows, cols;             // of y
  int64_t top, left;                       // zeros before x
  int64_t tile_cols, tiles;                // of an image
  int64_t block, blocks;                   // tiles in one, and how many an image has
  int64_t some;                            // channels whose transforms are held at once
  int64_t slices;
  int past_cache;                          // whether y is too large to stay in it
} Conv;

static int64_t groups(const Conv* s) { return parts(s->batch, LANES); }
static int64_t bands(const Conv* s) { return parts(s->outputs, OUTS); }

static Conv shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* y) {
  Conv s = {.x = x->data, .batch = x->dims[0], .channels = x->dims[1], .height = x->dims[2],
            .width = x->dims[3], .outputs = y->dims[1], .rows = y->dims[2], .cols = y->dims[3],
            .top = whole(frame, "top"), .left = whole(frame, "left")};
  s.tile_cols = parts(s.cols, 2);
  s.tiles = parts(s.rows, 2) * s.tile_cols;
  return s;
}

static int64_t even(int64_t n) { return parts(n, 2) * 2; }

// Blocks of about the same even number of tiles, at most `most`.
static void cut(Conv* s, int64_t most) {
  s->blocks = parts(s->tiles, most);
  s->block = even(parts(s->tiles, s->blocks));
  s->blocks = parts(s->tiles, s->block);
}

// A line more than it needs, so that the 16 places do not fall on the same lines of the cache.
static int64_t stride_of(int64_t count) { return (count + 1) * LANES; }

// ---------------------------------------------------------------------- transforms

// B' x B of channels [first, first + count) for tiles [tile, tile + tiles): (16, count, block).
static void transform_inputs(const Conv* s, float* v, int64_t first, int64_t count, int64_t tile,
                             int64_t tiles, int64_t image) {
  int64_t lanes = s->batch - image, stride = stride_of(count * s->block);
  for (int64_t c = 0; c < count; c++)
    for (int64_t t = 0; t < s->block; t++) {
      float* to = v + (c * s->block + t) * LANES;
      if (t >= tiles || first + c >= s->channels) {
        for (int k = 0; k < PLACES; k++) store(to + k * stride, (vec){0});
        continue;
      }
      int64_t row = (tile + t) / s->tile_cols * 2 - s->top;
      int64_t col = (tile + t) % s->tile_cols * 2 - s->left;
      const float* from =
          s->x + (((first + c) * s->height + row) * s->width + col) * s->batch + image;
      vec d[4][4];
      int inside = row >= 0 && col >= 0 && row + 4 <= s->height && col + 4 <= s->width;
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
          int there = inside || (row + i >= 0 && row + i < s->height && col + j >= 0 &&
                                 col + j < s->width);
          d[i][j] = there ? load_some(from + (i * s->width + j) * s->batch, lanes) : (vec){0};
        }
      for (int j = 0; j < 4; j++) {
        vec a = d[0][j] - d[2][j], b = d[1][j] + d[2][j];
        vec e = d[2][j] - d[1][j], f = d[1][j] - d[3][j];
        d[0][j] = a, d[1][j] = b, d[2][j] = e, d[3][j] = f;
      }
      for (int i = 0; i < 4; i++) {
        store(to + (i * 4 + 0) * stride, d[i][0] - d[i][2]);
        store(to + (i * 4 + 1) * stride, d[i][1] + d[i][2]);
        store(to + (i * 4 + 2) * stride, d[i][2] - d[i][1]);
        store(to + (i * 4 + 3) * stride, d[i][1] - d[i][3]);
      }
    }
}

// A dy A' of some output channels: (16, OUTS, block); their sums, the bias's gradient.
static void transform_slopes(const Conv* s, float* m, vec* totals, int64_t output, int64_t tile,
                             int64_t tiles, int64_t image) {
  int64_t lanes = s->batch - image, stride = stride_of(OUTS * s->block);
  for (int64_t o = 0; o < OUTS; o++)
    for (int64_t t = 0; t < s->block; t++) {
      float* to = m + (o * s->block + t) * LANES;
      vec d[4][2] = {{{0}}};
      if (t < tiles && output + o < s->outputs) {
        int64_t row = (tile + t) / s->tile_cols * 2, col = (tile + t) % s->tile_cols * 2;
        const float* from =
            s->dy + (((output + o) * s->rows + row) * s->cols + col) * s->batch + image;
        for (int j = 0; j < 2; j++) {
          if (col + j >= s->cols) continue;
          vec a = load_some(from + j * s->batch, lanes), b = {0};
          if (row + 1 < s->rows) b = load_some(from + (s->cols + j) * s->batch, lanes);
          d[0][j] = a, d[1][j] = a + b, d[2][j] = a - b, d[3][j] = -b;
        }
      }
      totals[o] += d[1][0] + d[1][1];
      for (int i = 0; i < 4; i++) {
        store(to + (i * 4 + 0) * stride, d[i][0]);
        store(to + (i * 4 + 1) * stride, d[i][0] + d[i][1]);
        store(to + (i * 4 + 2) * stride, d[i][0] - d[i][1]);
        store(to + (i * 4 + 3) * stride, -d[i][1]);
      }
    }
}

// A' m A into the outputs of some channels.
static void transform_outputs(const Conv* s, const float* m, int64_t output, int64_t tile,
                              int64_t tiles, int64_t image) {
  int64_t lanes = s->batch - image, stride = stride_of(OUTS * s->block);
  for (int64_t o = 0; o < smaller(OUTS, s->outputs - output); o++)
    for (int64_t t = 0; t < tiles; t++) {
      const float* from = m + (o * s->block + t) * LANES;
      int64_t row = (tile + t) / s->tile_cols * 2, col = (tile + t) % s->tile_cols * 2;
      float* to = s->y + (((output + o) * s->rows + row) * s->cols + col) * s->batch + image;
      vec d[2][4];
      for (int j = 0; j < 4; j++) {
        vec a = load(from + j * stride), b = load(from + (4 + j) * stride);
        vec c = load(from + (8 + j) * stride), e = load(from + (12 + j) * stride);
        d[0][j] = a + b + c, d[1][j] = b - c - e;
      }
      for (int i = 0; i < 2 && row + i < s->rows; i++) {
        float* line = to + i * s->cols * s->batch;
        stream(line, d[i][0] + d[i][1] + d[i][2], lanes, s->past_cache);
        if (col + 1 < s->cols)
          stream(line + s->batch, d[i][1] - d[i][2] - d[i][3], lanes, s->past_cache);
      }
    }
}

// G w G' as (16, bands, C, OUTS).
static float* transform_weights(const Conv* s, const float* w) {
  int64_t stride = bands(s) * s->channels * OUTS;
  float* u = allocate(PLACES * stride);
  if (!u) return NULL;
  memset(u, 0, PLACES * stride * sizeof(float));
  for (int64_t o = 0; o < s->outputs; o++)
    for (int64_t c = 0; c < s->channels; c++) {
      const float* g = w + (o * s->channels + c) * 9;
      float* to = u + (o / OUTS * s->channels + c) * OUTS + o % OUTS;
      float h[4][3];
      for (int j = 0; j < 3; j++) {
        h[0][j] = g[j], h[3][j] = g[6 + j];
        h[1][j] = 0.5f * (g[j] + g[3 + j] + g[6 + j]);
        h[2][j] = 0.5f * (g[j] - g[3 + j] + g[6 + j]);
      }
      for (int i = 0; i < 4; i++) {
        to[(i * 4 + 0) * stride] = h[i][0];
        to[(i * 4 + 1) * stride] = 0.5f * (h[i][0] + h[i][1] + h[i][2]);
        to[(i * 4 + 2) * stride] = 0.5f * (h[i][0] - h[i][1] + h[i][2]);
        to[(i * 4 + 3) * stride] = h[i][2];
      }
    }
  return u;
}

// -------------------------------------------------------------------- correlation

// m (OUTS, block) of one place: u (C, OUTS) times v (C, block), two tiles at a time.
static void multiply(const Conv* s, const float* u, const float* v, float* m) {
  for (int64_t t = 0; t < s->block; t += 2) {
    vec sum[OUTS][2];
    for (int o = 0; o < OUTS; o++) sum[o][0] = sum[o][1] = (vec){0};
    const float* from = v + t * LANES;
    for (int64_t c = 0; c < s->channels; c++, from += s->block * LANES) {
      vec a = load(from), b = load(from + LANES);
      for (int o = 0; o < OUTS; o++) {
        float weight = u[c * OUTS + o];
        sum[o][0] += a * weight;
        sum[o][1] += b * weight;
      }
    }
    for (int o = 0; o < OUTS; o++) {
      store(m + (o * s->block + t) * LANES, sum[o][0]);
      store(m + (o * s->block + t + 1) * LANES, sum[o][1]);
    }
  }
}

// The scratch of a task: the transforms of some input channels, and of OUTS output channels.
static int64_t transforms_of(const Conv* s, int64_t channels) {
  return PLACES * (stride_of(channels * s->block) + stride_of(OUTS * s->block));
}

static void correlate_block(void* shape, int64_t task, float* v) {
  const Conv* s = shape;
  int64_t image = task % groups(s) * LANES, tile = task / groups(s) * s->block;
  int64_t tiles = smaller(s->block, s->tiles - tile), window = s->channels * OUTS;
  int64_t v_stride = stride_of(s->channels * s->block), m_stride = stride_of(OUTS * s->block);
  float* m = v + PLACES * v_stride;
  transform_inputs(s, v, 0, s->channels, tile, tiles, image);
  for (int64_t band = 0; band < bands(s); band++) {
    for (int64_t k = 0; k < PLACES; k++)
      multiply(s, s->u + (k * bands(s) + band) * window, v + k * v_stride, m + k * m_stride);
    transform_outputs(s, m, band * OUTS, tile, tiles, image);
  }
}

// ---------------------------------------------------------------- weight gradient

#if LANES == 16 && OUTS == 8
// The totals of 16 vectors: [n] is that of v[n].
static inline vec totals_of(vec* v) {
  for (int n = 0; n < 8; n++)
    v[n] = MIXED(v[n], v[n + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           MIXED(v[n], v[n + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  for (int n = 0; n < 4; n++)
    v[n] = MIXED(v[n], v[n + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           MIXED(v[n], v[n + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int n = 0; n < 2; n++)
    v[n] = MIXED(v[n], v[n + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           MIXED(v[n], v[n + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  return MIXED(v[0], v[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
         MIXED(v[0], v[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}
#endif

// Adds to sums (OUTS * 2) of one place what m (OUTS, block) and two channels of v give.
static void accumulate(const Conv* s, const float* m, const float* v, float* sums) {
  vec sum[OUTS * 2];
  for (int n = 0; n < OUTS * 2; n++) sum[n] = (vec){0};
  for (int64_t t = 0; t < s->block; t++) {
    vec a = load(v + t * LANES), b = load(v + (s->block + t) * LANES);
    for (int o = 0; o < OUTS; o++) {
      vec slope = load(m + (o * s->block + t) * LANES);
      HELD(slope);
      sum[2 * o] += a * slope;
      sum[2 * o + 1] += b * slope;
    }
  }
#if LANES == 16 && OUTS == 8
  store(sums, load(sums) + totals_of(sum));
#else
  for (int n = 0; n < OUTS * 2; n++) sums[n] += total(sum[n]);
#endif
}

// The sums of a slice: (16, bands, pairs of channels, OUTS, 2), and one for each output.
static int64_t sums_of_places(const Conv* s) { return bands(s) * even(s->channels) * OUTS; }
static int64_t sums_of_slice(const Conv* s) {
  return PLACES * sums_of_places(s) + bands(s) * OUTS;
}

static void gradient_slice(void* shape, int64_t slice, float* v) {
  const Conv* s = shape;
  float* sums = s->sums + slice * sums_of_slice(s);
  memset(sums, 0, sums_of_slice(s) * sizeof(float));
  float* dbias = sums + PLACES * sums_of_places(s);
  int64_t v_stride = stride_of(s->some * s->block), m_stride = stride_of(OUTS * s->block);
  float* m = v + PLACES * v_stride;
  for (int64_t task = slice; task < groups(s) * s->blocks; task += s->slices) {
    int64_t image = task % groups(s) * LANES, tile = task / groups(s) * s->block;
    int64_t tiles = smaller(s->block, s->tiles - tile);
    for (int64_t first = 0; first < s->channels; first += s->some) {
      transform_inputs(s, v, first, s->some, tile, tiles, image);
      int64_t count = even(smaller(s->some, s->channels - first));
      for (int64_t band = 0; band < bands(s); band++) {
        vec totals[OUTS] = {{0}};
        transform_slopes(s, m, totals, band * OUTS, tile, tiles, image);
        if (!first)
          for (int o = 0; o < OUTS; o++) dbias[band * OUTS + o] += total(totals[o]);
        for (int64_t k = 0; k < PLACES; k++) {
          float* to = sums + k * sums_of_places(s) + (band * even(s->channels) + first) * OUTS;
          for (int64_t c = 0; c < count; c += 2)
            accumulate(s, m + k * m_stride, v + k * v_stride + c * s->block * LANES,
                       to + c * OUTS);
        }
      }
    }
  }
}

// G' sums G of every pair of channels.
static void weights_from_sums(const Conv* s, const float* sums, float* dw) {
  int64_t stride = sums_of_places(s);
  for (int64_t o = 0; o < s->outputs; o++)
    for (int64_t c = 0; c < s->channels; c++) {
      const float* from =
          sums + (o / OUTS * even(s->channels) + c / 2 * 2) * OUTS + o % OUTS * 2 + c % 2;
      float* to = dw + (o * s->channels + c) * 9;
      float h[3][4];
      for (int j = 0; j < 4; j++) {
        float a = from[j * stride], b = from[(4 + j) * stride];
        float e = from[(8 + j) * stride], f = from[(12 + j) * stride];
        h[0][j] = a + 0.5f * (b + e), h[1][j] = 0.5f * (b - e), h[2][j] = 0.5f * (b + e) + f;
      }
      for (int i = 0; i < 3; i++) {
        to[i * 3 + 0] = h[i][0] + 0.5f * (h[i][1] + h[i][2]);
        to[i * 3 + 1] = 0.5f * (h[i][1] - h[i][2]);
        to[i * 3 + 2] = 0.5f * (h[i][1] + h[i][2]) + h[i][3];
      }
    }
}

// ----------------------------------------------------------------------- handlers

// x (N, C, H, W) and w (O, C, 3, 3) give y (N, O, rows, cols).
XLA_FFI_Error* jaxnet_winograd(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NChw,OCII>NORS") || argument(frame, 1)->dims[2] != 3)
    return refused(frame, "accepted are x (N, C, H, W) and w (O, C, 3, 3)");
  Conv s = shapes(frame, argument(frame, 0), result(frame, 0));
  s.y = result(frame, 0)->data;
  s.past_cache = s.outputs * s.rows * s.cols * s.batch * 4 > STREAMED;
  cut(&s, larger(CACHED / (PLACES * LANES * s.channels) / 2 * 2, 2));
  float* u = transform_weights(&s, argument(frame, 1)->data);
  s.u = u;
  int64_t floats = transforms_of(&s, s.channels);
  int complete = u && run(frame, correlate_block, &s, groups(&s) * s.blocks, floats);
  free(u);
  return finished(frame, complete);
}

// x (N, C, H, W) and dy (N, O, rows, cols) give dw (O, C, 3, 3) and db (O,).
XLA_FFI_Error* jaxnet_winograd_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "NChw,NORS>OCII,O") || result(frame, 0)->dims[2] != 3)
    return refused(frame, "accepted are x (N, C, H, W) and dy (N, O, H', W'), for w (O, C, 3, 3)");
  Conv s = shapes(frame, argument(frame, 0), argument(frame, 1));
  s.dy = argument(frame, 1)->data;
  // Long blocks have fewer totals to take.
  int64_t room = 2 * CACHED / (PLACES * LANES);
  cut(&s, smaller(larger(room / s.channels / 2 * 2, 16), 32));
  s.some = smaller(even(s.channels), larger(room / s.block / 2 * 2, 2));
  s.slices = smaller(groups(&s) * s.blocks, MOST_SLICES);
  int64_t all = sums_of_slice(&s);
  s.sums = allocate(s.slices * all);
  if (!s.sums || !run(frame, gradient_slice, &s, s.slices, transforms_of(&s, s.some))) {
    free(s.sums);
    return finished(frame, 0);
  }
  for (int64_t slice = 1; slice < s.slices; slice++)
    for (int64_t i = 0; i < all; i++) s.sums[i] += s.sums[slice * all + i];
  weights_from_sums(&s, s.sums, result(frame, 0)->data);
  memcpy(result(frame, 1)->data, s.sums + PLACES * sums_of_places(&s),
         s.outputs * sizeof(float));
  free(s.sums);
  return NULL;
}
