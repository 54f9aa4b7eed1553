// A recurrent layer in one direction on the CPU, the whole sequence, as an XLA FFI handler.

#include "recurrent.h"

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

// The scratch of a task: h before and after a step, c, and the sums of a panel.
static int64_t states_of(const Layer* s) {
  return parts(s->batch, s->tasks) * (3 * s->units + PANEL);
}

static void forward_rows(void* shape, int64_t task, float* h) {
  const Layer* s = shape;
  static void (*const CELLS[])(const Layer*, const Now*) = {tanh_forward, relu_forward,
                                                            lstm_forward, gru_forward};
  int64_t first = s->batch * task / s->tasks, units = s->units;
  int64_t rows = s->batch * (task + 1) / s->tasks - first, state = rows * units;
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

// ----------------------------------------------------------------------- handler

// x (L, N, I) or (N, L, I), w_ih (G H, I), w_hh (G H, H), bias (slots H), h0 and c0 (N, H) and
// lengths (N) give y (L, N, H) or (N, L, H), h_n and c_n (N, H), and what is kept for the
// backward pass: the slots, h before and c after each step, or nothing if they have no room.
XLA_FFI_Error* jaxnet_recurrent(XLA_FFI_CallFrame* frame) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, "PQi,Gi,GH,B,NH,cd,N>RSH,NH,cd,x,y,z") || !known_kind(frame))
    return refused(frame, SHAPES);
  Layer s = shapes(frame, argument(frame, 0), argument(frame, 2));
  XLA_FFI_Buffer *slots = result(frame, 3), *before = result(frame, 4), *cells = result(frame, 5);
  int keeps = slots->dims[0] > 0;
  if (!of_kind(frame, &s, argument(frame, 2), argument(frame, 3), argument(frame, 4),
               argument(frame, 5), result(frame, 0)) ||
      (keeps && !kept_fits(&s, slots, before, cells)))
    return refused(frame, SHAPES);
  s.x = argument(frame, 0)->data, s.w_ih = argument(frame, 1)->data;
  s.w_hh = argument(frame, 2)->data, s.bias = argument(frame, 3)->data;
  s.h0 = argument(frame, 4)->data, s.c0 = argument(frame, 5)->data;
  s.lengths = argument(frame, 6)->data;
  s.y = result(frame, 0)->data, s.h_n = result(frame, 1)->data, s.c_n = result(frame, 2)->data;
  if (keeps) s.slots_kept = slots->data, s.before = before->data, s.cells = cells->data;
  int64_t columns = s.panels * PANEL;
  float* packed = allocate(columns * (s.inputs + s.hidden + 1));
  if (!packed) return finished(frame, 0);
  s.packed_bias = packed, s.packed_x = packed + columns;
  s.packed_h = s.packed_x + columns * s.inputs;
  pack_bias(&s);
  pack_forward(&s, s.packed_x, s.w_ih, s.inputs, 1);
  pack_forward(&s, s.packed_h, s.w_hh, s.hidden, 0);
  int complete = run(frame, forward_rows, &s, s.tasks, states_of(&s));
  free(packed);
  return finished(frame, complete);
}
