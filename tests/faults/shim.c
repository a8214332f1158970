/* Faults in the C library's file calls, for one process and one folder.
 *
 * Loaded with LD_PRELOAD. Nothing happens until faults_arm() names a folder; from then on every
 * call of the main thread that changes something below it is numbered from 1, and the chosen
 * one kills the process before or after it was done, tears, or fails. Other threads (the
 * heartbeat, the hashing) are not counted unless faults_threads() says so: the numbers must be
 * the same in every run.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, BEFORE, AFTER, TORN, SHORT, FAIL, FAIL_FROM, STOP };

static char folder[4096];
static int mode = NONE, at, code, fired;
static int count, every_thread;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;
static char trace[1 << 20];
static size_t traced;

/* mode: see above; number: the call; error: errno of FAIL and FAIL_FROM. */
void faults_arm(const char *below, int what, int number, int error)
{
    snprintf(folder, sizeof folder, "%s", below);
    mode = what;
    at = number;
    code = error;
    count = fired = 0;
    traced = 0;
    trace[0] = 0;
}

/* Count the calls of all threads, for a process that writes in several. */
void faults_threads(int all) { every_thread = all; }

int faults_count(void) { return count; }
int faults_fired(void) { return fired; }
const char *faults_trace(void) { return trace; }

static void note(const char *name, const char *path)
{
    int n = snprintf(trace + traced, sizeof trace - traced, "%s %s\n", name, path);
    if (n > 0 && traced + n < sizeof trace) traced += n;
}

static int below(int dir, const char *path, char *full, size_t size)
{
    char base[4096] = "";
    if (!folder[0] || (!every_thread && syscall(SYS_gettid) != getpid())) return 0;
    if (path && path[0] == '/') {
        snprintf(full, size, "%s", path);
    } else {
        char link[64];
        if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
        if (path) snprintf(full, size, "%.2000s/%.2000s", base, path);
        else snprintf(full, size, "%s", base);
    }
    size_t n = strlen(folder);
    return strncmp(full, folder, n) == 0 && (full[n] == 0 || full[n] == '/' || full[n] == '[');
}

/* Of the worker processes of a command, the one dies that makes this file. */
static char token[4096];

static void die(void)
{
    if (token[0] && syscall(SYS_openat, AT_FDCWD, token, O_CREAT | O_EXCL | O_WRONLY, 0600) < 0) {
        mode = NONE;
        return;
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* A process that a command starts is armed as it begins; a folder "socket:" is every socket. */
__attribute__((constructor)) static void arm_worker(void)
{
    const char *spec = getenv("FAULTS_WORKER");
    if (spec && sscanf(spec, "%d %d %4095s %4095s", &mode, &at, folder, token) != 4) mode = NONE;
    every_thread = spec != NULL;
}

/* Number a call; return 1 if it must fail with errno, 2 if it must tear, 3 if it is short. */
static int before(const char *name, int dir, const char *path, int writes)
{
    char full[4200];
    if (!below(dir, path, full, sizeof full)) return 0;
    pthread_mutex_lock(&counting);
    int number = ++count;
    note(name, full);
    pthread_mutex_unlock(&counting);
    if (mode == FAIL_FROM && number >= at && writes) { fired = 1; errno = code; return 1; }
    if (number != at) return 0;
    if (mode == NONE || mode == FAIL_FROM) return 0;
    fired = 1;
    if (mode == BEFORE) die();
    if (mode == STOP) { kill(getpid(), SIGSTOP); return 0; }
    if (mode == FAIL) { errno = code; return 1; }
    if (mode == TORN) { if (writes == 2) return 2; die(); }
    if (mode == SHORT) return writes == 2 ? 3 : 0;
    return 4; /* AFTER */
}

static void after(int verdict) { if (verdict == 4) { mode = NONE; die(); } }


/* Calls that only need space (writes > 0) are those that a full disk refuses. */
#define SIMPLE(ret, name, dir, path, writes, params, args, types) \
ret name params { \
    static ret (*real) types; \
    if (!real) real = (ret (*) types)dlsym(RTLD_NEXT, #name); \
    int v = before(#name, dir, path, writes); \
    if (v == 1) return -1; \
    ret r = real args; \
    int saved = errno; after(v); errno = saved; \
    return r; }

#define WRITES(ret, name, params, args, cut, types) \
ret name params { \
    static ret (*real) types; \
    if (!real) real = (ret (*) types)dlsym(RTLD_NEXT, #name); \
    int v = before(#name, fd, NULL, 2); \
    if (v == 1) return -1; \
    if ((v == 2 || v == 3) && n > 1) { \
        ret r = real cut; \
        if (v == 2) die(); \
        return r; } \
    if (v == 2) die(); \
    ret r = real args; \
    int saved = errno; after(v); errno = saved; \
    return r; }

WRITES(ssize_t, write, (int fd, const void *b, size_t n), (fd, b, n), (fd, b, n / 2),
       (int, const void *, size_t))
WRITES(ssize_t, send, (int fd, const void *b, size_t n, int f), (fd, b, n, f), (fd, b, n / 2, f),
       (int, const void *, size_t, int))
WRITES(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o),
       (fd, b, n / 2, o), (int, const void *, size_t, off_t))
WRITES(ssize_t, pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o),
       (fd, b, n / 2, o), (int, const void *, size_t, off64_t))
WRITES(ssize_t, writev, (int fd, const struct iovec *b, int n), (fd, b, n), (fd, b, n / 2),
       (int, const struct iovec *, int))
WRITES(ssize_t, pwritev, (int fd, const struct iovec *b, int n, off_t o), (fd, b, n, o),
       (fd, b, n / 2, o), (int, const struct iovec *, int, off_t))

SIMPLE(int, ftruncate, fd, NULL, 1, (int fd, off_t n), (fd, n), (int, off_t))
SIMPLE(int, ftruncate64, fd, NULL, 1, (int fd, off64_t n), (fd, n), (int, off64_t))
SIMPLE(int, fsync, fd, NULL, 1, (int fd), (fd), (int))
SIMPLE(int, fdatasync, fd, NULL, 1, (int fd), (fd), (int))
SIMPLE(int, rename, AT_FDCWD, b, 1, (const char *a, const char *b), (a, b),
       (const char *, const char *))
SIMPLE(int, renameat, e, b, 1, (int d, const char *a, int e, const char *b), (d, a, e, b),
       (int, const char *, int, const char *))
SIMPLE(int, renameat2, e, b, 1, (int d, const char *a, int e, const char *b, unsigned f),
       (d, a, e, b, f), (int, const char *, int, const char *, unsigned))
SIMPLE(int, link, AT_FDCWD, b, 1, (const char *a, const char *b), (a, b),
       (const char *, const char *))
SIMPLE(int, linkat, e, b, 1, (int d, const char *a, int e, const char *b, int f),
       (d, a, e, b, f), (int, const char *, int, const char *, int))
SIMPLE(int, symlink, AT_FDCWD, b, 1, (const char *a, const char *b), (a, b),
       (const char *, const char *))
SIMPLE(int, unlink, AT_FDCWD, a, 0, (const char *a), (a), (const char *))
SIMPLE(int, unlinkat, d, a, 0, (int d, const char *a, int f), (d, a, f),
       (int, const char *, int))
SIMPLE(int, rmdir, AT_FDCWD, a, 0, (const char *a), (a), (const char *))
SIMPLE(int, mkdir, AT_FDCWD, a, 1, (const char *a, mode_t m), (a, m), (const char *, mode_t))
SIMPLE(int, mkdirat, d, a, 1, (int d, const char *a, mode_t m), (d, a, m),
       (int, const char *, mode_t))
SIMPLE(int, chmod, AT_FDCWD, a, 0, (const char *a, mode_t m), (a, m), (const char *, mode_t))
SIMPLE(int, fchmod, fd, NULL, 0, (int fd, mode_t m), (fd, m), (int, mode_t))
SIMPLE(int, fchmodat, d, a, 0, (int d, const char *a, mode_t m, int f), (d, a, m, f),
       (int, const char *, mode_t, int))
SIMPLE(int, utimensat, d, a, 0, (int d, const char *a, const struct timespec t[2], int f),
       (d, a, t, f), (int, const char *, const struct timespec *, int))
SIMPLE(int, utimes, AT_FDCWD, a, 0, (const char *a, const struct timeval t[2]), (a, t),
       (const char *, const struct timeval *))

/* Only an open that may create or truncate changes anything. */
#define OPENS(name, dir, decl, pass, types) \
int name decl { \
    static int (*real) types; \
    if (!real) real = (int (*) types)dlsym(RTLD_NEXT, #name); \
    va_list rest; va_start(rest, flags); \
    mode_t m = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    int v = (flags & (O_CREAT | O_TRUNC)) ? before(#name, dir, path, 1) : 0; \
    if (v == 1) return -1; \
    int r = real pass; \
    int saved = errno; after(v); errno = saved; \
    return r; }

OPENS(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, m),
      (const char *, int, ...))
OPENS(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, m),
      (const char *, int, ...))
OPENS(openat, dir, (int dir, const char *path, int flags, ...), (dir, path, flags, m),
      (int, const char *, int, ...))
OPENS(openat64, dir, (int dir, const char *path, int flags, ...), (dir, path, flags, m),
      (int, const char *, int, ...))
