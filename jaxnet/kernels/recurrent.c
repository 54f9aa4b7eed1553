// One recurrent layer in one direction on the CPU, as XLA FFI handlers: the whole sequence
// forward, and backward to the input, the weights, the bias and the first state.
//
// A vector register holds LANES hidden units of one element of the batch. What a cell needs
// of a unit is a slot: an LSTM has the gates i, f, g, o, a GRU n_x, r, z, n_h (what the
// input and the state give to n apart), an RNN one. The columns of all products stand in
// vectors of units, the slots of a vector behind one another, and WIDE vectors are a panel:
// behind a product the slots of a unit lie together.
//
// The rows of the batch are independent until the weights' gradient, so a task takes some
// of them through all steps; then a task takes a part of the weights through all rows.

#include "kernel.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE 6  // rows of a register tile, which has WIDE vectors in each
#else
#define TILE 3
#endif
#define WIDE 4
#define PANEL (WIDE * LANES)

#define TASK_ROWS 16  // rows of the batch in a task
#define BLOCK 128     // rows of the sequences whose slopes stay near
#define FEW_PANELS 8  // with fewer, the gradients of the two weights are tasks apart

// Hidden units are filled up to a multiple of this with zeros, whatever LANES is.
#define UNITS 16

enum { TANH, RELU, LSTM, GRU };
static const int64_t SLOTS[] = {1, 1, 4, 4};

// ---------------------------------------------------------------- matrix products

// The left factor, a[m * row + k * step] for k < count, `repeat` times, `jump` apart.
typedef struct {
  const float* a;
  int64_t row, step, count, repeat, jump;
} Factor;

// c = from + a b for a few rows and vectors; b has its vectors beside each other.
static inline __attribute__((always_inline)) void product_tile(
    Factor f, const float* b, int64_t b_row, const float* from, int64_t from_row, float* c,
    int64_t c_row, int rows, int vecs) {
  vec sum[TILE][WIDE];
  for (int m = 0; m < rows; m++)
    for (int j = 0; j < vecs; j++) sum[m][j] = load(from + m * from_row + j * LANES);
  for (int64_t i = 0; i < f.repeat; i++, f.a += f.jump) {
    const float* a = f.a;
    for (int64_t k = 0; k < f.count; k++, a += f.step, b += b_row) {
      vec column[WIDE];
      for (int j = 0; j < vecs; j++) column[j] = load(b + j * LANES);
      for (int m = 0; m < rows; m++)
        for (int j = 0; j < vecs; j++) sum[m][j] += column[j] * a[m * f.row];
    }
  }
  for (int m = 0; m < rows; m++)
    for (int j = 0; j < vecs; j++) store(c + m * c_row + j * LANES, sum[m][j]);
}

static void product(Factor f, const float* b, int64_t b_row, const float* from, int64_t from_row,
                    float* c, int64_t c_row, int64_t rows, int64_t vecs) {
  int64_t tiles = parts(rows, TILE);
  const float* a = f.a;
  for (int64_t i = 0; i < tiles; i++) {
    int64_t first = rows * i / tiles, count = rows * (i + 1) / tiles - first;
    const float* start = from + first * from_row;
    float* to = c + first * c_row;
    f.a = a + first * f.row;
#define CASE(m, j)                                                   \
  case WIDE * m + j:                                                 \
    product_tile(f, b, b_row, start, from_row, to, c_row, m, j); \
    break
#define ROW(m)  \
  CASE(m, 1);   \
  CASE(m, 2);   \
  CASE(m, 3);   \
  CASE(m, 4)
    switch (WIDE * count + vecs) {
      ROW(1);
      ROW(2);
      ROW(3);
#if TILE > 3
      ROW(4);
      ROW(5);
      ROW(6);
#endif
    }
#undef ROW
#undef CASE
  }
}

// -------------------------------------------------------------- sigmoid and tanh

static inline vec all(float value) { return (vec){0} + value; }

// Within low and high; nan stays nan.
static inline vec within(vec v, float low, float high) {
#if defined(__AVX512F__)
  return (vec)_mm512_max_ps((__m512)all(low), _mm512_min_ps((__m512)all(high), (__m512)v));
#elif defined(__AVX__)
  return (vec)_mm256_max_ps((__m256)all(low), _mm256_min_ps((__m256)all(high), (__m256)v));
#else
  v = choose(v > high, all(high), v);
  return choose(v < low, all(low), v);
#endif
}

// e^x - 1, with the relative accuracy of x near 0. For x from -87 to 88.
// x = n ln 2 + r; the polynomial is the best one for e^r - 1 - r over r^2.
static inline vec expm1_of(vec x) {
  const float shift = 0x1.8p23f;  // adding it leaves n in the lowest bits
  vec shifted = x * 0x1.715476p0f + shift;
  vec n = shifted - shift;
  vec r = x - n * 0x1.62e4p-1f;
  r = r - n * 0x1.7f7d1cp-20f;
  vec q = r * 0x1.6a23cep-10f + 0x1.123a2p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  vec power = (vec)(((ivec)shifted << 23) + 0x3f800000);
  return power * (q * (r * r) + r) + (power - 1.0f);
}

static inline vec sigmoid_of(vec x) { return 1.0f / (expm1_of(within(-x, -87, 88)) + 2.0f); }

static inline vec tanh_of(vec x) {
  vec e = expm1_of(within(x + x, -40, 40));
  return e / (e + 2.0f);
}

// ------------------------------------------------------------------------- shapes

typedef struct {
  int64_t kind, slots;
  int64_t steps, batch, inputs, hidden;
  int64_t units;                // hidden, filled up
  int64_t vectors, panels;      // columns of the products
  int64_t rows;                 // steps * batch
  int64_t x_step, x_row;        // a row of x stands at t * x_step + n * x_row
  int64_t y_step, y_row;        // and so on; of what is kept at t * batch + n
  int64_t x_first, x_count;     // the vectors of a panel that the input gives something to
  int64_t h_first, h_count;     // and the state
  int reverse;
  const float *x, *w_ih, *w_hh, *bias, *h0, *c0, *lengths, *dy, *dh_n, *dc_n;
  float *y, *h_n, *c_n, *dx, *dw_ih, *dw_hh, *d_bias, *dh0, *dc0;
  float *slots_kept;  // (panels, rows, PANEL): the gates of an LSTM, n, r, z and n_h of a GRU,
                      // h of an RNN; the backward pass writes the slopes of the sums over them
  float *before;      // (rows, units): h before each step
  float *cells;       // (rows, units): c after each step
  float *packed_x, *packed_h, *packed_bias;
  int64_t tasks;
} Layer;

static inline int64_t x_at(const Layer* s, int64_t t, int64_t n) {
  return t * s->x_step + n * s->x_row;
}

static inline int64_t y_at(const Layer* s, int64_t t, int64_t n) {
  return t * s->y_step + n * s->y_row;
}

static inline int64_t kept_at(const Layer* s, int64_t t, int64_t n) { return t * s->batch + n; }

static inline int64_t step_at(const Layer* s, int64_t i) {
  return s->reverse ? s->steps - 1 - i : i;
}

static inline int64_t vectors_of(const Layer* s, int64_t panel) {
  return smaller(WIDE, s->vectors - panel * WIDE);
}

static inline int64_t x_vectors(const Layer* s, int64_t panel) {
  return smaller(s->x_count, vectors_of(s, panel));
}

static inline int64_t h_vectors(const Layer* s, int64_t panel) {
  return smaller(s->h_count, vectors_of(s, panel));
}

static inline float* slots_at(const Layer* s, int64_t panel, int64_t row) {
  return s->slots_kept + panel * PANEL * s->rows + row * vectors_of(s, panel) * LANES;
}

// The row of a weight that a column of the products belongs to; -1 for none.
static int64_t weight_row(const Layer* s, int64_t column, int of_input) {
  int64_t vector = column / LANES, slot = vector % s->slots;
  int64_t unit = vector / s->slots * LANES + column % LANES;
  if (unit >= s->hidden) return -1;
  if (s->kind == GRU) {
    static const int64_t input[] = {2, 0, 1, -1}, state[] = {-1, 0, 1, 2};
    slot = of_input ? input[slot] : state[slot];
    if (slot < 0) return -1;
  }
  return slot * s->hidden + unit;
}

static void copy_rows(float* to, int64_t to_row, const float* from, int64_t from_row,
                      int64_t rows, int64_t count, int64_t filled) {
  for (int64_t m = 0; m < rows; m++) {
    memcpy(to + m * to_row, from + m * from_row, count * sizeof(float));
    memset(to + m * to_row + count, 0, (filled - count) * sizeof(float));
  }
}

// -------------------------------------------------------------------- the weights

// w (rows, count) as (panel, count, vectors from `first` on): the right factor of x or h.
static void pack_forward(const Layer* s, float* to, const float* w, int64_t count, int of_input) {
  for (int64_t p = 0; p < s->panels; p++) {
    int64_t first = p * PANEL + (of_input ? s->x_first : s->h_first) * LANES;
    int64_t width = (of_input ? x_vectors(s, p) : h_vectors(s, p)) * LANES;
    for (int64_t c = 0; c < width; c++) {
      int64_t row = weight_row(s, first + c, of_input);
      for (int64_t k = 0; k < count; k++) to[k * width + c] = row < 0 ? 0 : w[row * count + k];
    }
    to += count * width;
  }
}

static void pack_bias(const Layer* s) {
  for (int64_t c = 0; c < s->vectors * LANES; c++) {
    int64_t vector = c / LANES, unit = vector / s->slots * LANES + c % LANES;
    s->packed_bias[c] =
        unit < s->hidden ? s->bias[vector % s->slots * s->hidden + unit] : 0;
  }
}

// How many slopes of a row, in the order of the columns, go to the input or to the state.
static int64_t slopes_of(const Layer* s, int of_input) {
  return s->kind == GRU ? s->panels * (of_input ? s->x_count : s->h_count) * LANES
                        : s->vectors * LANES;
}

// w (rows, count) as (PANEL columns of count, slopes): the right factor of the slopes.
static void pack_backward(const Layer* s, float* to, const float* w, int64_t count, int of_input) {
  int64_t first = of_input ? s->x_first : s->h_first;
  for (int64_t q = 0; q < count; q += PANEL) {
    int64_t real = smaller(PANEL, count - q), width = parts(real, LANES) * LANES;
    for (int64_t p = 0; p < s->panels; p++) {
      int64_t vecs = of_input ? x_vectors(s, p) : h_vectors(s, p);
      for (int64_t c = 0; c < vecs * LANES; c++, to += width) {
        int64_t row = weight_row(s, p * PANEL + first * LANES + c, of_input);
        if (row < 0)
          memset(to, 0, width * sizeof(float));
        else
          copy_rows(to, 0, w + row * count + q, 0, 1, real, width);
      }
    }
  }
}

// ------------------------------------------------------------------------ forward

// Some rows of the batch at one step; unit and panel say which part of their states.
typedef struct {
  int64_t t, first, rows, unit, panel;
  int64_t before;  // the step before, -1 at the first
  float *sums;     // (rows, PANEL)
  float *h, *h_new, *c, *slopes;
} Now;

static inline __attribute__((always_inline)) void cells_forward(const Layer* s, const Now* now,
                                                                int kind) {
  int64_t slots = SLOTS[kind], vector = now->unit / LANES * slots, lanes = s->hidden - now->unit;
  // An LSTM's tanh(c) waits for all else; by itself it does not hold up the next row.
  if (kind == LSTM)
    for (int64_t m = 0; m < now->rows; m++) {
      float *sums = now->sums + m * PANEL, *c = now->c + m * s->units + now->unit;
      vec i = sigmoid_of(load(sums)), f = sigmoid_of(load(sums + LANES));
      vec g = tanh_of(load(sums + 2 * LANES)), o = sigmoid_of(load(sums + 3 * LANES));
      store(sums, i), store(sums + LANES, f), store(sums + 2 * LANES, g);
      store(sums + 3 * LANES, o);
      if (now->t < s->lengths[now->first + m]) store(c, f * load(c) + i * g);
    }
  for (int64_t m = 0; m < now->rows; m++) {
    int64_t n = now->first + m, row = kept_at(s, now->t, n), at = m * s->units + now->unit;
    float* y = s->y + y_at(s, now->t, n) * s->hidden + now->unit;
    const float* sums = now->sums + m * PANEL;
    vec old = load(now->h + at), h, kept[4];
    if (kind == LSTM) {
      for (int i = 0; i < 4; i++) kept[i] = load(sums + i * LANES);
      h = kept[3] * tanh_of(load(now->c + at));
    } else if (kind == GRU) {
      vec r = sigmoid_of(load(sums + LANES)), z = sigmoid_of(load(sums + 2 * LANES));
      vec n_h = load(sums + 3 * LANES), value = tanh_of(load(sums) + r * n_h);
      h = (old - value) * z + value;
      kept[0] = value, kept[1] = r, kept[2] = z, kept[3] = n_h;
    } else {
      vec sum = load(sums);
      h = kept[0] = kind == TANH ? tanh_of(sum) : choose(sum <= 0, (vec){0}, sum);
    }
    int ended = now->t >= s->lengths[n];
    store(now->h_new + at, ended ? old : h);
    if (lanes > 0) store_some(y, ended ? (vec){0} : h, lanes);
    if (!s->before) continue;
    float* to = slots_at(s, vector / WIDE, row) + vector % WIDE * LANES;
    for (int64_t i = 0; i < slots; i++) store(to + i * LANES, kept[i]);
    store(s->before + row * s->units + now->unit, old);
    if (kind == LSTM) store(s->cells + row * s->units + now->unit, load(now->c + at));
  }
}

static void lstm_forward(const Layer* s, const Now* now) { cells_forward(s, now, LSTM); }
static void gru_forward(const Layer* s, const Now* now) { cells_forward(s, now, GRU); }
static void tanh_forward(const Layer* s, const Now* now) { cells_forward(s, now, TANH); }
static void relu_forward(const Layer* s, const Now* now) { cells_forward(s, now, RELU); }

static void forward_rows(void* shape, int64_t task) {
  const Layer* s = shape;
  static void (*const CELLS[])(const Layer*, const Now*) = {tanh_forward, relu_forward,
                                                            lstm_forward, gru_forward};
  int64_t first = s->batch * task / s->tasks, units = s->units;
  int64_t rows = s->batch * (task + 1) / s->tasks - first, state = rows * units;
  float* h = scratch(3 * state + rows * PANEL);
  Now now = {.first = first, .rows = rows, .h = h, .h_new = h + state, .c = h + 2 * state,
             .sums = h + 3 * state};
  copy_rows(now.h, units, s->h0 + first * s->hidden, s->hidden, rows, s->hidden, units);
  if (s->kind == LSTM)
    copy_rows(now.c, units, s->c0 + first * s->hidden, s->hidden, rows, s->hidden, units);
  for (int64_t i = 0; i < s->steps; i++) {
    now.t = step_at(s, i);
    const float *w_x = s->packed_x, *w_h = s->packed_h;
    for (int64_t p = 0; p < s->panels; p++) {
      const float* bias = s->packed_bias + p * PANEL;
      int64_t from_x = x_vectors(s, p), from_h = h_vectors(s, p);
      for (int64_t j = s->x_first + from_x; j < vectors_of(s, p); j++)
        for (int64_t m = 0; m < rows; m++)
          store(now.sums + m * PANEL + j * LANES, load(bias + j * LANES));
      product((Factor){s->x + x_at(s, now.t, first) * s->inputs, s->x_row * s->inputs, 1,
                       s->inputs, 1, 0},
              w_x, from_x * LANES, bias + s->x_first * LANES, 0, now.sums + s->x_first * LANES,
              PANEL, rows, from_x);
      float* sums = now.sums + s->h_first * LANES;
      product((Factor){now.h, units, 1, s->hidden, 1, 0}, w_h, from_h * LANES, sums, PANEL, sums,
              PANEL, rows, from_h);
      w_x += s->inputs * from_x * LANES;
      w_h += s->hidden * from_h * LANES;
      int64_t per_panel = WIDE / s->slots;
      float* all_sums = now.sums;
      for (int64_t u = 0; u < per_panel; u++, now.sums += LANES) {
        now.unit = (p * per_panel + u) * LANES;
        if (now.unit >= units) break;
        CELLS[s->kind](s, &now);
      }
      now.sums = all_sums;
    }
    float* swapped = now.h;
    now.h = now.h_new;
    now.h_new = swapped;
  }
  copy_rows(s->h_n + first * s->hidden, s->hidden, now.h, units, rows, s->hidden, s->hidden);
  if (s->kind == LSTM)
    copy_rows(s->c_n + first * s->hidden, s->hidden, now.c, units, rows, s->hidden, s->hidden);
}

// ----------------------------------------------------------------------- backward

// Makes the slopes of the sums; of h and c it leaves what passes by without the weights.
static inline __attribute__((always_inline)) void cells_backward(const Layer* s, const Now* now,
                                                                 int kind) {
  int64_t slots = SLOTS[kind], vector = now->unit / LANES * slots, lanes = s->hidden - now->unit;
  for (int64_t m = 0; m < now->rows; m++) {
    int64_t n = now->first + m, row = kept_at(s, now->t, n), at = m * s->units + now->unit;
    float* local = now->slopes + (m * s->vectors + vector) * LANES;
    float* kept = slots_at(s, vector / WIDE, row) + vector % WIDE * LANES;
    if (now->t >= s->lengths[n]) {
      for (int64_t i = 0; i < slots; i++) {
        store(local + i * LANES, (vec){0});
        store(kept + i * LANES, (vec){0});
      }
      continue;
    }
    vec dh = load(now->h + at), slopes[4], past = {0};
    if (lanes > 0) dh += load_some(s->dy + y_at(s, now->t, n) * s->hidden + now->unit, lanes);
    if (kind == LSTM) {
      vec i = load(kept), f = load(kept + LANES), g = load(kept + 2 * LANES);
      vec o = load(kept + 3 * LANES), c = {0};
      vec bent = tanh_of(load(s->cells + row * s->units + now->unit));
      if (now->before >= 0)
        c = load(s->cells + kept_at(s, now->before, n) * s->units + now->unit);
      else if (lanes > 0)
        c = load_some(s->c0 + n * s->hidden + now->unit, lanes);
      vec dc = load(now->c + at) + dh * o * (1.0f - bent * bent);
      slopes[0] = dc * g * (i * (1.0f - i));
      slopes[1] = dc * c * (f * (1.0f - f));
      slopes[2] = dc * i * (1.0f - g * g);
      slopes[3] = dh * bent * (o * (1.0f - o));
      store(now->c + at, dc * f);
    } else if (kind == GRU) {
      vec value = load(kept), r = load(kept + LANES), z = load(kept + 2 * LANES);
      vec h = load(s->before + row * s->units + now->unit);
      slopes[0] = dh * (1.0f - z) * (1.0f - value * value);
      slopes[1] = slopes[0] * load(kept + 3 * LANES) * (r * (1.0f - r));
      slopes[2] = dh * (h - value) * (z * (1.0f - z));
      slopes[3] = slopes[0] * r;
      past = dh * z;
    } else {
      vec h = load(kept);
      slopes[0] = kind == TANH ? dh * (1.0f - h * h) : choose(h > 0, dh, (vec){0});
    }
    store(now->h + at, past);
    for (int64_t i = 0; i < slots; i++) {
      store(local + i * LANES, slopes[i]);
      store(kept + i * LANES, slopes[i]);
    }
  }
}

static void lstm_backward(const Layer* s, const Now* now) { cells_backward(s, now, LSTM); }
static void gru_backward(const Layer* s, const Now* now) { cells_backward(s, now, GRU); }
static void tanh_backward(const Layer* s, const Now* now) { cells_backward(s, now, TANH); }
static void relu_backward(const Layer* s, const Now* now) { cells_backward(s, now, RELU); }

static Factor slopes_factor(const Layer* s, const float* slopes, int of_input) {
  int64_t row = s->vectors * LANES;
  if (s->kind != GRU) return (Factor){slopes, row, 1, row, 1, 0};
  int64_t first = of_input ? s->x_first : s->h_first;
  int64_t count = of_input ? s->x_count : s->h_count;
  return (Factor){slopes + first * LANES, row, 1, count * LANES, s->panels, PANEL};
}

static void backward_rows(void* shape, int64_t task) {
  const Layer* s = shape;
  static void (*const CELLS[])(const Layer*, const Now*) = {tanh_backward, relu_backward,
                                                            lstm_backward, gru_backward};
  static const float zeros[PANEL];
  int64_t first = s->batch * task / s->tasks, units = s->units, hidden = s->hidden;
  int64_t rows = s->batch * (task + 1) / s->tasks - first, state = rows * units;
  float* h = scratch(2 * state + rows * (s->vectors * LANES + PANEL));
  Now now = {.first = first, .rows = rows, .h = h, .c = h + state, .slopes = h + 2 * state,
             .sums = h + 2 * state + rows * s->vectors * LANES};
  copy_rows(now.h, units, s->dh_n + first * hidden, hidden, rows, hidden, units);
  if (s->kind == LSTM)
    copy_rows(now.c, units, s->dc_n + first * hidden, hidden, rows, hidden, units);
  for (int64_t i = s->steps - 1; i >= 0; i--) {
    now.t = step_at(s, i);
    now.before = i ? step_at(s, i - 1) : -1;
    for (now.unit = 0; now.unit < units; now.unit += LANES) CELLS[s->kind](s, &now);
    const float* w = s->packed_h;
    Factor f = slopes_factor(s, now.slopes, 0);
    for (int64_t q = 0; q < hidden; q += PANEL) {
      int64_t vecs = parts(smaller(PANEL, hidden - q), LANES);
      product(f, w, vecs * LANES, now.h + q, units, now.h + q, units, rows, vecs);
      w += slopes_of(s, 0) * vecs * LANES;
    }
    if (!s->dx) continue;
    w = s->packed_x;
    f = slopes_factor(s, now.slopes, 1);
    float* dx = s->dx + x_at(s, now.t, first) * s->inputs;
    int64_t dx_row = s->x_row * s->inputs;
    for (int64_t q = 0; q < s->inputs; q += PANEL) {
      int64_t count = smaller(PANEL, s->inputs - q), vecs = parts(count, LANES);
      if (count == vecs * LANES) {
        product(f, w, vecs * LANES, zeros, 0, dx + q, dx_row, rows, vecs);
      } else {
        product(f, w, vecs * LANES, zeros, 0, now.sums, PANEL, rows, vecs);
        copy_rows(dx + q, dx_row, now.sums, PANEL, rows, count, count);
      }
      w += slopes_of(s, 1) * vecs * LANES;
    }
  }
  copy_rows(s->dh0 + first * hidden, hidden, now.h, units, rows, hidden, hidden);
  if (s->kind == LSTM)
    copy_rows(s->dc0 + first * hidden, hidden, now.c, units, rows, hidden, hidden);
}

// The slopes of a bias: of all sums of a panel, over all rows.
static void bias_gradient(const Layer* s, int64_t panel) {
  for (int64_t j = 0; j < vectors_of(s, panel); j++) {
    vec sum = {0};
    for (int64_t r = 0; r < s->rows; r++) sum += load(slots_at(s, panel, r) + j * LANES);
    int64_t vector = panel * WIDE + j, unit = vector / s->slots * LANES;
    if (unit < s->hidden)
      store_some(s->d_bias + vector % s->slots * s->hidden + unit, sum, s->hidden - unit);
  }
}

// Adds what a block of rows gives for one weight, (columns of the weight, PANEL).
static void add_gradient(const Layer* s, float* sums, int of_input, int64_t panel, int64_t t,
                         int64_t steps, int64_t n, int64_t rows) {
  Factor x = {s->x + x_at(s, t, n) * s->inputs, 1, s->x_row * s->inputs, rows, steps,
              s->x_step * s->inputs};
  Factor h = {s->before + kept_at(s, t, n) * s->units, 1, s->units, rows, steps,
              s->batch * s->units};
  const float* slopes = slots_at(s, panel, kept_at(s, t, n));
  product(of_input ? x : h, slopes + (of_input ? s->x_first : s->h_first) * LANES,
          vectors_of(s, panel) * LANES, sums, PANEL, sums, PANEL,
          of_input ? s->inputs : s->hidden,
          of_input ? x_vectors(s, panel) : h_vectors(s, panel));
}

static void unpack_gradient(const Layer* s, const float* sums, int of_input, int64_t panel) {
  int64_t first = panel * PANEL + (of_input ? s->x_first : s->h_first) * LANES;
  int64_t width = (of_input ? x_vectors(s, panel) : h_vectors(s, panel)) * LANES;
  int64_t count = of_input ? s->inputs : s->hidden;
  float* dw = of_input ? s->dw_ih : s->dw_hh;
  for (int64_t c = 0; c < width; c++) {
    int64_t row = weight_row(s, first + c, of_input);
    if (row < 0) continue;
    for (int64_t k = 0; k < count; k++) dw[row * count + k] = sums[k * PANEL + c];
  }
}

// The rows of one or both weights that a panel's slopes belong to.
static void weight_gradient(void* shape, int64_t task) {
  const Layer* s = shape;
  int apart = s->panels < FEW_PANELS;
  int64_t panel = apart ? task / 2 : task;
  int with_x = !apart || task % 2 == 0, with_h = !apart || task % 2 == 1;
  float *x_sums = scratch((s->inputs + s->hidden) * PANEL), *h_sums = x_sums + s->inputs * PANEL;
  memset(x_sums, 0, (s->inputs + s->hidden) * PANEL * sizeof(float));
  int64_t steps = larger(1, BLOCK / s->batch);
  for (int64_t t = 0; t < s->steps; t += steps)
    for (int64_t n = 0; n < s->batch; n += BLOCK) {
      int64_t some = smaller(steps, s->steps - t), rows = smaller(BLOCK, s->batch - n);
      if (with_x) add_gradient(s, x_sums, 1, panel, t, some, n, rows);
      if (with_h) add_gradient(s, h_sums, 0, panel, t, some, n, rows);
    }
  if (with_x) unpack_gradient(s, x_sums, 1, panel);
  if (with_h) unpack_gradient(s, h_sums, 0, panel);
  if (with_x) bias_gradient(s, panel);
}

// ----------------------------------------------------------------------- handlers

static Layer shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* w_hh) {
  Layer s = {.kind = whole(frame, "kind"), .reverse = whole(frame, "reverse") != 0};
  int x_batch_first = whole(frame, "x_batch_first"), y_batch_first = whole(frame, "y_batch_first");
  s.slots = SLOTS[s.kind];
  s.batch = x->dims[x_batch_first ? 0 : 1], s.steps = x->dims[x_batch_first ? 1 : 0];
  s.inputs = x->dims[2], s.hidden = w_hh->dims[1];
  s.units = parts(s.hidden, UNITS) * UNITS;
  s.vectors = s.units / LANES * s.slots, s.panels = parts(s.vectors, WIDE);
  s.rows = s.steps * s.batch;
  s.x_step = x_batch_first ? 1 : s.batch, s.x_row = x_batch_first ? s.steps : 1;
  s.y_step = y_batch_first ? 1 : s.batch, s.y_row = y_batch_first ? s.steps : 1;
  s.x_first = 0, s.x_count = s.kind == GRU ? 3 : WIDE;
  s.h_first = s.kind == GRU ? 1 : 0, s.h_count = s.x_count;
  s.tasks = parts(s.batch, TASK_ROWS);
  return s;
}

// x (L, N, I) or (N, L, I), w_ih (G H, I), w_hh (G H, H), bias (slots H), h0 and c0 (N, H) and
// lengths (N) give y (L, N, H) or (N, L, H), h_n and c_n (N, H), and what is kept for the
// backward pass: the slots, h before and c after each step, or nothing if they have no room.
XLA_FFI_Error* jaxnet_recurrent(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, 7, 6, "3221221322111")) return refused(frame, "accepted are 7 float32 arrays");
  Layer s = shapes(frame, argument(frame, 0), argument(frame, 2));
  s.x = argument(frame, 0)->data, s.w_ih = argument(frame, 1)->data;
  s.w_hh = argument(frame, 2)->data, s.bias = argument(frame, 3)->data;
  s.h0 = argument(frame, 4)->data, s.c0 = argument(frame, 5)->data;
  s.lengths = argument(frame, 6)->data;
  s.y = result(frame, 0)->data, s.h_n = result(frame, 1)->data, s.c_n = result(frame, 2)->data;
  if (result(frame, 3)->dims[0]) {
    s.slots_kept = result(frame, 3)->data, s.before = result(frame, 4)->data;
    s.cells = result(frame, 5)->data;
  }
  int64_t columns = s.panels * PANEL;
  float* packed = malloc(columns * (s.inputs + s.hidden + 1) * sizeof(float));
  s.packed_bias = packed, s.packed_x = packed + columns;
  s.packed_h = s.packed_x + columns * s.inputs;
  pack_bias(&s);
  pack_forward(&s, s.packed_x, s.w_ih, s.inputs, 1);
  pack_forward(&s, s.packed_h, s.w_hh, s.hidden, 0);
  run(frame, forward_rows, &s, s.tasks);
  free(packed);
  return NULL;
}

// x, w_ih, w_hh, c0, lengths, what was kept, and the slopes of y, h_n and c_n give those of x
// (or nothing if that has no room), w_ih, w_hh, bias, h0 and c0, and last those of the sums,
// which lie where the slots were.
XLA_FFI_Error* jaxnet_recurrent_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, 11, 7, "322211113223221221"))
    return refused(frame, "accepted are 11 float32 arrays");
  Layer s = shapes(frame, argument(frame, 0), argument(frame, 2));
  s.x = argument(frame, 0)->data, s.w_ih = argument(frame, 1)->data;
  s.w_hh = argument(frame, 2)->data, s.c0 = argument(frame, 3)->data;
  s.lengths = argument(frame, 4)->data, s.before = argument(frame, 6)->data;
  s.cells = argument(frame, 7)->data, s.dy = argument(frame, 8)->data;
  s.dh_n = argument(frame, 9)->data, s.dc_n = argument(frame, 10)->data;
  if (result(frame, 0)->dims[0]) s.dx = result(frame, 0)->data;
  s.dw_ih = result(frame, 1)->data, s.dw_hh = result(frame, 2)->data;
  s.d_bias = result(frame, 3)->data, s.dh0 = result(frame, 4)->data;
  s.dc0 = result(frame, 5)->data, s.slots_kept = result(frame, 6)->data;
  if (s.slots_kept != argument(frame, 5)->data)
    return refused(frame, "the slopes of the sums belong where the slots are");
  int64_t columns = s.vectors * LANES, x_width = parts(s.inputs, LANES) * LANES;
  float* packed = malloc(columns * (s.units + x_width) * sizeof(float));
  s.packed_h = packed, s.packed_x = packed + columns * s.units;
  pack_backward(&s, s.packed_h, s.w_hh, s.hidden, 0);
  if (s.dx) pack_backward(&s, s.packed_x, s.w_ih, s.inputs, 1);
  run(frame, backward_rows, &s, s.tasks);
  free(packed);
  run(frame, weight_gradient, &s, s.panels < FEW_PANELS ? 2 * s.panels : s.panels);
  return NULL;
}
