// What the kernels share: vectors of one pixel of several images, threads, and XLA's FFI.
//
// Images lie with the batch innermost, (channels, height, width, batch): XLA is told so by
// the layouts of the call, and the shapes it hands over are still (N, C, H, W).
//
// How work is cut into tasks depends on the shapes alone, never on the number of threads,
// and partial sums are added in a fixed order: the same input gives the same bits.

#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec_at __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vec load(const float* p) { return *(const vec_at*)p; }
static inline void store(float* p, vec v) { *(vec_at*)p = v; }

// The first `lanes` numbers, zeros behind them; and back.
static inline vec load_some(const float* p, int64_t lanes) {
  if (lanes >= LANES) return load(p);
  vec v = {0};
  for (int64_t n = 0; n < lanes; n++) v[n] = p[n];
  return v;
}

static inline void store_some(float* p, vec v, int64_t lanes) {
  if (lanes >= LANES) {
    store(p, v);
    return;
  }
  for (int64_t n = 0; n < lanes; n++) p[n] = v[n];
}

// Results larger than this go past the cache, straight to memory: the processor need not
// read first what is overwritten whole, and what the cache holds stays there.
#define STREAMED (2 << 20)

static inline void stream(float* p, vec v, int64_t lanes, int past_cache) {
#if defined(__AVX__)
  if (past_cache && lanes >= LANES && (uintptr_t)p % sizeof(vec) == 0) {
#if defined(__clang__)  // it has no such function of each width
    __builtin_nontemporal_store(v, (vec*)p);
#elif defined(__AVX512F__)
    __builtin_ia32_movntps512(p, v);
#else
    __builtin_ia32_movntps256(p, v);
#endif
    return;
  }
#endif
  store_some(p, v, lanes);
}

static inline float total(vec v) {
  float lanes[LANES];
  store(lanes, v);
  for (int half = LANES / 2; half; half /= 2)
    for (int n = 0; n < half; n++) lanes[n] += lanes[n + half];
  return lanes[0];
}

#if LANES == 16
#if defined(__clang__)
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

// Rows become columns: afterwards v[i][j] is what was v[j][i].
static inline void transpose(vec* v) {
  vec w[LANES];
  for (int n = 0; n < 8; n++) {
    w[n] = MIXED(v[n], v[n + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    w[n + 8] = MIXED(v[n], v[n + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  for (int m = 0; m < 16; m += 8)
    for (int n = m; n < m + 4; n++) {
      v[n] = MIXED(w[n], w[n + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
      v[n + 4] = MIXED(w[n], w[n + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
  for (int m = 0; m < 16; m += 4)
    for (int n = m; n < m + 2; n++) {
      w[n] = MIXED(v[n], v[n + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      w[n + 2] = MIXED(v[n], v[n + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  for (int n = 0; n < 16; n += 2) {
    v[n] = MIXED(w[n], w[n + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    v[n + 1] = MIXED(w[n], w[n + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
}
#else
static inline void transpose(vec* v) {
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < i; j++) {
      float kept = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = kept;
    }
}
#endif

// Where the mask has ones v, elsewhere w.
static inline vec choose(ivec mask, vec v, vec w) {
  return (vec)((mask & (ivec)v) | (~mask & (ivec)w));
}

// Holds a vector in a register: gcc would read it from memory again at every use.
#if defined(__x86_64__)
#define HELD(v) __asm__("" : "+v"(v))
#else
#define HELD(v)
#endif

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

// ---------------------------------------------------------------- work over threads

// Memory for so many numbers, or NULL if there is none.
static inline float* allocate(int64_t floats) {
  if (floats < 0 || floats > INT64_MAX / 64) return NULL;  // more than bytes can be counted
  return aligned_alloc(64, (size_t)larger(parts(floats, 16), 1) * 64);
}

// Does one task, in scratch memory that one thread has at a time.
typedef void Work(void* shape, int64_t task, float* scratch);

typedef struct {
  Work* work;
  void* shape;
  int64_t tasks;
  int64_t floats;  // of scratch memory
  int64_t next;    // the next task that nobody has taken
  int64_t done;
  int64_t users;   // who may still look at this struct
} Job;

static void take_tasks(Job* job, float* scratch) {
  for (;;) {
    int64_t task = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    if (task >= job->tasks) return;
    job->work(job->shape, task, scratch);
#if defined(__AVX__)
    __builtin_ia32_sfence();  // what was streamed is in memory before the task counts as done
#endif
    __atomic_fetch_add(&job->done, 1, __ATOMIC_RELEASE);
  }
}

static void leave(Job* job) {
  if (__atomic_sub_fetch(&job->users, 1, __ATOMIC_ACQ_REL) == 0) free(job);
}

// A thread that comes late, or finds no memory, leaves the tasks to the others.
static void help(void* data) {
  Job* job = data;
  int late = __atomic_load_n(&job->next, __ATOMIC_RELAXED) >= job->tasks;
  float* scratch = late ? NULL : allocate(job->floats);
  if (scratch) take_tasks(job, scratch);
  free(scratch);
  leave(job);
}

// Whether a call to XLA succeeded. Its error, which nobody is told of, is given back.
static int succeeded(XLA_FFI_CallFrame* frame, XLA_FFI_Error* error) {
  if (!error) return 1;
  XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, NULL, error};
  frame->api->XLA_FFI_Error_Destroy(&args);
  return 0;
}

// Does all tasks, or none and returns 0 if there is no memory. The caller works too and waits
// only for tasks that are already running, so a pool that is busy or of one thread cannot
// block it. Scratch memory is given back after every call: a thread that ends, or works on
// small arrays after large ones, keeps none.
static int run(XLA_FFI_CallFrame* frame, Work* work, void* shape, int64_t tasks, int64_t floats) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args asked = {
      XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, NULL, frame->ctx, &threads};
  int known = succeeded(frame, frame->api->XLA_FFI_ThreadPool_NumThreads(&asked));
  int64_t helpers = known ? smaller(threads, tasks) - 1 : 0;
  Job* job = malloc(sizeof(Job));
  float* scratch = job ? allocate(floats) : NULL;
  if (!scratch) {
    free(job);
    return 0;
  }
  *job = (Job){work, shape, tasks, floats, 0, 0, 1};
  for (int64_t i = 0; i < helpers; i++) {
    __atomic_add_fetch(&job->users, 1, __ATOMIC_RELAXED);
    XLA_FFI_ThreadPool_Schedule_Args args = {
        XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, NULL, frame->ctx, help, job};
    if (!succeeded(frame, frame->api->XLA_FFI_ThreadPool_Schedule(&args))) leave(job);
  }
  take_tasks(job, scratch);
  // Who still works is nearly done, unless the system has put it aside: then make room.
  for (int64_t spins = 0; __atomic_load_n(&job->done, __ATOMIC_ACQUIRE) < tasks; spins++)
    if (spins > 4096) sched_yield();
  free(scratch);
  leave(job);
  return 1;
}

// ------------------------------------------------------------------------ XLA's calls

static inline XLA_FFI_Error* failed(XLA_FFI_CallFrame* frame, XLA_FFI_Error_Code code,
                                    const char* message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
  return frame->api->XLA_FFI_Error_Create(&args);
}

static inline XLA_FFI_Error* refused(XLA_FFI_CallFrame* frame, const char* accepted) {
  return failed(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, accepted);
}

// What a handler returns: an error if it found no memory.
static inline XLA_FFI_Error* finished(XLA_FFI_CallFrame* frame, int complete) {
  if (complete) return NULL;
  return failed(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED,
                "no memory for the scratch arrays of jaxnet's kernel; make the batch smaller");
}

// True if XLA only asks which version of the interface this is.
static inline int answers_version(XLA_FFI_CallFrame* frame) {
  __auto_type asked = frame->extension_start;  // its type has another name in each jaxlib
  if (!asked || asked->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)asked)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return 1;
}

// A number that the call was given, or zero if it was given none of this name and type.
static inline const void* attribute(XLA_FFI_CallFrame* frame, const char* name,
                                    XLA_FFI_DataType dtype) {
  static const int64_t zero = 0;
  for (int64_t i = 0; i < frame->attrs.size; i++) {
    XLA_FFI_ByteSpan* span = frame->attrs.names[i];
    XLA_FFI_Scalar* number = frame->attrs.attrs[i];
    if (number->dtype == dtype && span->len == strlen(name) &&
        !memcmp(span->ptr, name, span->len))
      return number->value;
  }
  return &zero;
}

static inline int64_t whole(XLA_FFI_CallFrame* frame, const char* name) {
  return *(const int64_t*)attribute(frame, name, XLA_FFI_DataType_S64);
}

// Whether the arrays of a call are float32 and have the axes that are spelled out, as in
// "NI,OI>NO": a letter is the same size wherever it stands, at least 1 if it is a capital.
// Whole numbers among the attributes must be small enough to be added and multiplied.
static inline int fits(XLA_FFI_CallFrame* frame, const char* axes) {
  for (int64_t i = 0; i < frame->attrs.size; i++) {
    XLA_FFI_Scalar* number = frame->attrs.attrs[i];
    if (frame->attrs.types[i] != XLA_FFI_AttrType_SCALAR) return 0;
    if (number->dtype != XLA_FFI_DataType_S64) continue;
    if (llabs(*(int64_t*)number->value / 2) > INT32_MAX / 2) return 0;
  }
  int64_t sizes[128], i = 0, args = frame->args.size, all = args + frame->rets.size;
  memset(sizes, -1, sizeof(sizes));
  for (; *axes; i++) {
    if (i == all) return 0;
    XLA_FFI_Buffer* b = i < args ? frame->args.args[i] : frame->rets.rets[i - args];
    if (b->dtype != XLA_FFI_DataType_F32) return 0;
    int64_t axis = 0;
    for (; *axes >= 'A'; axes++, axis++) {
      if (axis == b->rank) return 0;
      int64_t *size = &sizes[(int)*axes], given = b->dims[axis];
      if (*size < 0) *size = given;
      if (given != *size || given < (*axes <= 'Z')) return 0;
    }
    if (axis != b->rank || (*axes == '>') != (i + 1 == args)) return 0;
    if (*axes) axes++;
  }
  return i == all;
}

static inline XLA_FFI_Buffer* argument(XLA_FFI_CallFrame* frame, int i) {
  return frame->args.args[i];
}

static inline XLA_FFI_Buffer* result(XLA_FFI_CallFrame* frame, int i) {
  return frame->rets.rets[i];
}
