// From the slopes of a recurrent layer's results to those of its input, weights, bias and
// first state, as an XLA FFI handler.

#include "recurrent.h"

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

// The scratch of a task: h and c, the slopes of a step, and the sums of a panel.
static int64_t states_of(const Layer* s) {
  return parts(s->batch, s->tasks) * (2 * s->units + s->vectors * LANES + PANEL);
}

static void backward_rows(void* shape, int64_t task, float* h) {
  const Layer* s = shape;
  static void (*const CELLS[])(const Layer*, const Now*) = {tanh_backward, relu_backward,
                                                            lstm_backward, gru_backward};
  static const float zeros[PANEL];
  int64_t first = s->batch * task / s->tasks, units = s->units, hidden = s->hidden;
  int64_t rows = s->batch * (task + 1) / s->tasks - first, state = rows * units;
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
static void weight_gradient(void* shape, int64_t task, float* x_sums) {
  const Layer* s = shape;
  int apart = s->panels < FEW_PANELS;
  int64_t panel = apart ? task / 2 : task;
  int with_x = !apart || task % 2 == 0, with_h = !apart || task % 2 == 1;
  float* h_sums = x_sums + s->inputs * PANEL;
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

// ----------------------------------------------------------------------- handler

// x, w_ih, w_hh, c0, lengths, what was kept, and the slopes of y, h_n and c_n give those of x
// (or nothing if that has no room), w_ih, w_hh, bias, h0 and c0, and last those of the sums,
// which lie where the slots were.
XLA_FFI_Error* jaxnet_recurrent_gradient(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "PQi,Gi,GH,cd,N,x,y,z,RSH,NH,cd>pqj,Gi,GH,B,NH,cd,x") || !known_kind(frame))
    return refused(frame, SHAPES);
  Layer s = shapes(frame, argument(frame, 0), argument(frame, 2));
  XLA_FFI_Buffer *x = argument(frame, 0), *dx = result(frame, 0);
  int into_x = dx->dims[0] > 0;
  if (!of_kind(frame, &s, argument(frame, 2), result(frame, 3), argument(frame, 9),
               argument(frame, 3), argument(frame, 8)) ||
      !kept_fits(&s, argument(frame, 5), argument(frame, 6), argument(frame, 7)) ||
      (into_x && memcmp(x->dims, dx->dims, 3 * sizeof(int64_t))))
    return refused(frame, SHAPES);
  s.x = argument(frame, 0)->data, s.w_ih = argument(frame, 1)->data;
  s.w_hh = argument(frame, 2)->data, s.c0 = argument(frame, 3)->data;
  s.lengths = argument(frame, 4)->data, s.before = argument(frame, 6)->data;
  s.cells = argument(frame, 7)->data, s.dy = argument(frame, 8)->data;
  s.dh_n = argument(frame, 9)->data, s.dc_n = argument(frame, 10)->data;
  if (into_x) s.dx = dx->data;
  s.dw_ih = result(frame, 1)->data, s.dw_hh = result(frame, 2)->data;
  s.d_bias = result(frame, 3)->data, s.dh0 = result(frame, 4)->data;
  s.dc0 = result(frame, 5)->data, s.slots_kept = result(frame, 6)->data;
  if (s.slots_kept != argument(frame, 5)->data)
    return refused(frame, "the slopes of the sums belong where the slots are");
  int64_t columns = s.vectors * LANES, x_width = parts(s.inputs, LANES) * LANES;
  float* packed = allocate(columns * (s.units + x_width));
  if (!packed) return finished(frame, 0);
  s.packed_h = packed, s.packed_x = packed + columns * s.units;
  pack_backward(&s, s.packed_h, s.w_hh, s.hidden, 0);
  if (s.dx) pack_backward(&s, s.packed_x, s.w_ih, s.inputs, 1);
  int complete = run(frame, backward_rows, &s, s.tasks, states_of(&s));
  free(packed);
  return finished(frame, complete && run(frame, weight_gradient, &s,
                                         s.panels < FEW_PANELS ? 2 * s.panels : s.panels,
                                         (s.inputs + s.hidden) * PANEL));
}
