/* The wall clock of one process, which a test makes jump while the process runs. Preloaded, it adds an
 * offset to what the system says; monotonic clocks stay as they are, as when a system's clock is set.
 *
 * Waits that end at a time of the wall clock move with it, as in the kernel: set forward, those under
 * way end at once; set back, they last longer. So a wait is cut into slices, behind each of which
 * it is looked whether the clock has jumped. A wake-up that comes between two slices would be lost:
 * they are counted, for each condition, and a wait whose count has changed ends as woken.
 *
 * The file named by ONECOMMIT_TEST_CLOCK holds the offset in seconds, and how often the clock was read
 * while it was moved, which proves that it was. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define CONDITIONS 65536
#define SLICE_NS INT64_C(20000000)
#define SECOND_NS INT64_C(1000000000)

static struct {
  _Atomic int64_t offset_s;
  _Atomic uint64_t reads;
} *shared;
static _Atomic uint64_t wakes[CONDITIONS];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("ONECOMMIT_TEST_CLOCK");
  int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) abort();
  void *page = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (page == MAP_FAILED) abort();
  shared = page;
}

static int64_t offset(void) { return shared ? atomic_load(&shared->offset_s) : 0; }

static int real_clock(clockid_t clock, struct timespec *now) {
  static _Atomic(__typeof__(&clock_gettime)) real;
  if (!atomic_load(&real)) atomic_store(&real, REAL(clock_gettime));
  return atomic_load(&real)(clock, now);
}

static int64_t moved(void) {
  int64_t by = offset();
  if (by) atomic_fetch_add(&shared->reads, 1);
  return by;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = real_clock(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += moved();
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec exact;
  int result = clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return result;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

static _Atomic uint64_t *wakes_of(cnd_t *condition) {
  return &wakes[((uintptr_t)condition >> 4) % CONDITIONS];
}

int cnd_signal(cnd_t *condition) {
  atomic_fetch_add(wakes_of(condition), 1);
  return REAL(cnd_signal)(condition);
}

int cnd_broadcast(cnd_t *condition) {
  atomic_fetch_add(wakes_of(condition), 1);
  return REAL(cnd_broadcast)(condition);
}

static int64_t nanoseconds(const struct timespec *time) {
  return time->tv_sec * SECOND_NS + time->tv_nsec;
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
  uint64_t woken = atomic_load(wakes_of(condition));
  for (;;) {
    struct timespec now;
    real_clock(CLOCK_REALTIME, &now);
    int64_t left = nanoseconds(until) - offset() * SECOND_NS - nanoseconds(&now);
    int64_t slice = nanoseconds(&now) + (left < SLICE_NS ? left : SLICE_NS);
    struct timespec next = {slice / SECOND_NS, slice % SECOND_NS};
    int result = REAL(cnd_timedwait)(condition, mutex, &next);
    if (result != thrd_timedout) return result;
    if (atomic_load(wakes_of(condition)) != woken) return thrd_success;
    real_clock(CLOCK_REALTIME, &now);
    if (nanoseconds(&now) + offset() * SECOND_NS >= nanoseconds(until)) return thrd_timedout;
  }
}
