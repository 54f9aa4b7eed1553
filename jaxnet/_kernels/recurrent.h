// What the forward and the backward pass of a recurrent layer share.
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
#define SHAPES "the shapes are not those of a recurrent layer of this kind"
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

static inline void product(Factor f, const float* b, int64_t b_row, const float* from, int64_t from_row,
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
static inline int64_t weight_row(const Layer* s, int64_t column, int of_input) {
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

static inline void copy_rows(float* to, int64_t to_row, const float* from, int64_t from_row,
                      int64_t rows, int64_t count, int64_t filled) {
  for (int64_t m = 0; m < rows; m++) {
    memcpy(to + m * to_row, from + m * from_row, count * sizeof(float));
    memset(to + m * to_row + count, 0, (filled - count) * sizeof(float));
  }
}

// Some rows of the batch at one step; unit and panel say which part of their states.
typedef struct {
  int64_t t, first, rows, unit, panel;
  int64_t before;  // the step before, -1 at the first
  float *sums;     // (rows, PANEL)
  float *h, *h_new, *c, *slopes;
} Now;

// Where the kinds differ, the shapes that `fits` cannot spell out: w_hh is (G H, H), the bias
// (slots H,) and c (N, H) or, where there is none, (0, 0); y and dy are (L, N, H) or (N, L, H).
static inline int of_kind(XLA_FFI_CallFrame* frame, const Layer* s, XLA_FFI_Buffer* w_hh,
                          XLA_FFI_Buffer* bias, XLA_FFI_Buffer* h, XLA_FFI_Buffer* c,
                          XLA_FFI_Buffer* y) {
  int64_t gates = s->kind == GRU ? 3 : s->slots, lstm = s->kind == LSTM;
  int y_batch_first = whole(frame, "y_batch_first") != 0;
  return w_hh->dims[0] == gates * s->hidden && bias->dims[0] == s->slots * s->hidden &&
         h->dims[0] == s->batch && c->dims[0] == lstm * s->batch &&
         c->dims[1] == lstm * s->hidden && y->dims[!y_batch_first] == s->batch &&
         y->dims[y_batch_first] == s->steps;
}

// Whether the arrays for the backward pass have the room that it needs.
static inline int kept_fits(const Layer* s, XLA_FFI_Buffer* slots, XLA_FFI_Buffer* before,
                            XLA_FFI_Buffer* cells) {
  int64_t states = s->rows * s->units;
  return slots->dims[0] == states * s->slots && before->dims[0] == states &&
         cells->dims[0] == (s->kind == LSTM) * states;
}

static inline int known_kind(XLA_FFI_CallFrame* frame) {
  int64_t kind = whole(frame, "kind");
  return kind >= TANH && kind <= GRU;
}

static inline Layer shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* w_hh) {
  Layer s = {.kind = whole(frame, "kind"), .reverse = whole(frame, "reverse") != 0};
  int x_batch_first = whole(frame, "x_batch_first") != 0;
  int y_batch_first = whole(frame, "y_batch_first") != 0;
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
