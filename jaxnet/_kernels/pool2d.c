// Two-dimensional max pooling on the CPU, as XLA FFI handlers: `pick` takes from every
// window what stands where x is largest, `spread` puts it back there. Of equal numbers
// the first one in reading order wins, but the last nan, as in torch.

#include "kernel.h"

typedef struct {
  const float *x, *from;
  float* to;
  int64_t channels, height, width, batch;  // of x
  int64_t rows, cols;                      // windows
  int64_t kh, kw, down, right, top, left, step_down, step_right;
  int apart;                               // no place lies in two windows
  int covered;                             // every place lies in one
  int past_cache;                          // whether dx is too large to stay in it
} Pool;

// The part of one axis's window that lies inside: from `first` on, `count` places.
typedef struct {
  int64_t first, count;
} Span;

static inline Span span(int64_t start, int64_t size, int64_t step, int64_t length) {
  int64_t cut = start < 0 ? parts(-start, step) : 0;
  int64_t end = start < length ? smaller(size, parts(length - start, step)) : 0;
  return (Span){start + cut * step, larger(end - cut, 0)};
}

static inline ivec beats(vec a, vec b) { return (a > b) | (a != a); }

static void pick_plane(void* shape, int64_t c, float* scratch) {
  (void)scratch;
  const Pool* s = shape;
  const float *x = s->x + c * s->height * s->width * s->batch;
  const float *v = s->from + c * s->height * s->width * s->batch;
  float* y = s->to + c * s->rows * s->cols * s->batch;
  int same = x == v;
  for (int64_t r = 0; r < s->rows; r++) {
    Span high = span(r * s->down - s->top, s->kh, s->step_down, s->height);
    for (int64_t q = 0; q < s->cols; q++, y += s->batch) {
      Span wide = span(q * s->right - s->left, s->kw, s->step_right, s->width);
      int64_t corner = (high.first * s->width + wide.first) * s->batch;
      for (int64_t n = 0; n < s->batch; n += LANES) {
        int64_t lanes = s->batch - n;
        vec best = load_some(x + corner + n, lanes), taken = load_some(v + corner + n, lanes);
        for (int64_t i = 0; i < high.count; i++) {
          int64_t at = corner + i * s->step_down * s->width * s->batch + n;
          for (int64_t j = 0; j < wide.count; j++, at += s->step_right * s->batch) {
            vec value = load_some(x + at, lanes);
            ivec better = beats(value, best);
            best = choose(better, value, best);
            if (!same) taken = choose(better, load_some(v + at, lanes), taken);
          }
        }
        store_some(y + n, same ? best : taken, lanes);
      }
    }
  }
}

static void spread_plane(void* shape, int64_t c, float* scratch) {
  (void)scratch;
  const Pool* s = shape;
  const float* x = s->x + c * s->height * s->width * s->batch;
  const float* dy = s->from + c * s->rows * s->cols * s->batch;
  float* dx = s->to + c * s->height * s->width * s->batch;
  if (!s->covered) memset(dx, 0, s->height * s->width * s->batch * sizeof(float));
  for (int64_t r = 0; r < s->rows; r++) {
    Span high = span(r * s->down - s->top, s->kh, s->step_down, s->height);
    for (int64_t q = 0; q < s->cols; q++, dy += s->batch) {
      Span wide = span(q * s->right - s->left, s->kw, s->step_right, s->width);
      int64_t corner = (high.first * s->width + wide.first) * s->batch;
      for (int64_t n = 0; n < s->batch; n += LANES) {
        int64_t lanes = s->batch - n;
        vec best = load_some(x + corner + n, lanes);
        ivec place = {0}, number = {0};
        for (int64_t i = 0; i < high.count; i++) {
          int64_t at = corner + i * s->step_down * s->width * s->batch + n;
          for (int64_t j = 0; j < wide.count; j++, at += s->step_right * s->batch, number += 1) {
            vec value = load_some(x + at, lanes);
            ivec better = beats(value, best);
            best = choose(better, value, best);
            place = (better & number) | (~better & place);
          }
        }
        vec slope = load_some(dy + n, lanes);
        number = (ivec){0};
        for (int64_t i = 0; i < high.count; i++) {
          int64_t at = corner + i * s->step_down * s->width * s->batch + n;
          for (int64_t j = 0; j < wide.count; j++, at += s->step_right * s->batch, number += 1) {
            vec share = (vec)((place == number) & (ivec)slope);
            if (!s->apart) share += load_some(dx + at, lanes);
            stream(dx + at, share, lanes, s->past_cache && s->covered);
          }
        }
      }
    }
  }
}

static Pool shapes(XLA_FFI_CallFrame* frame, XLA_FFI_Buffer* x, XLA_FFI_Buffer* y) {
  Pool s = {.x = x->data, .batch = x->dims[0], .channels = x->dims[1], .height = x->dims[2],
            .width = x->dims[3], .rows = y->dims[2], .cols = y->dims[3],
            .kh = whole(frame, "kh"), .kw = whole(frame, "kw"),
            .down = whole(frame, "down"), .right = whole(frame, "right"),
            .top = whole(frame, "top"), .left = whole(frame, "left"),
            .step_down = whole(frame, "step_down"), .step_right = whole(frame, "step_right")};
  s.apart = s.down > (s.kh - 1) * s.step_down && s.right > (s.kw - 1) * s.step_right;
  int dense = (s.kh == 1 || s.step_down == 1) && (s.kw == 1 || s.step_right == 1);
  s.covered = s.apart && dense && s.down == s.kh && s.right == s.kw &&
              s.rows * s.kh - s.top >= s.height && s.cols * s.kw - s.left >= s.width;
  s.past_cache = s.channels * s.height * s.width * s.batch * 4 > STREAMED;
  return s;
}

// Whether each of some windows along one axis covers a part of it.
static int covering(int64_t windows, int64_t size, int64_t stride, int64_t before, int64_t step,
                    int64_t length) {
  if (size < 1 || stride < 1 || step < 1) return 0;
  for (int64_t i = 0; i < windows; i++)
    if (!span(i * stride - before, size, step, length).count) return 0;
  return 1;
}

// The other argument's and the result's shapes are those of x and of the windows.
static XLA_FFI_Error* run_planes(XLA_FFI_CallFrame* frame, Work* work) {
  if (answers_version(frame)) return NULL;
  if (!fits(frame, work == pick_plane ? "NCHW,NCHW>NCRS" : "NCHW,NCRS>NCHW"))
    return refused(frame, "accepted are x (N, C, H, W), and values like it or dy (N, C, H', W')");
  XLA_FFI_Buffer *x = argument(frame, 0), *from = argument(frame, 1), *to = result(frame, 0);
  Pool s = shapes(frame, x, work == pick_plane ? to : from);
  s.from = from->data, s.to = to->data;
  if (!covering(s.rows, s.kh, s.down, s.top, s.step_down, s.height) ||
      !covering(s.cols, s.kw, s.right, s.left, s.step_right, s.width))
    return refused(frame, "every window must cover a part of x");
  return finished(frame, run(frame, work, &s, s.channels, 0));
}

// x (N, C, H, W) and v like it give y (N, C, rows, cols).
XLA_FFI_Error* jaxnet_max_pool2d_pick(XLA_FFI_CallFrame* frame) {
  return run_planes(frame, pick_plane);
}

// x (N, C, H, W) and dy (N, C, rows, cols) give dx like x.
XLA_FFI_Error* jaxnet_max_pool2d_spread(XLA_FFI_CallFrame* frame) {
  return run_planes(frame, spread_plane);
}
