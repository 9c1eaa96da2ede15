/* Makes calls to the system fail, in a process that is started with this library in LD_PRELOAD.

   AIOVEC_FAULTS names a file of 32-bit numbers that is mapped into the process and that whoever
   runs the test writes to, also while the process runs:

     0  the calls that may fail: a sum of the values below; 0 lets every call pass
     1  how many of those that match still pass first
     2  how many fail then; it counts down to 0
     3  the error they fail with (errno); below 0, the process is killed instead
     4  how many have failed so far
     5  how many have matched so far
     6  where the text begins that the file's path must hold, up to a NUL, as an offset in bytes

   A call that fails does nothing. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, SYNC = 4, TRUNCATE = 8, RENAME = 16, OPEN = 32, UNLINK = 64 };

#define SIZE 4096
static _Atomic int32_t *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("AIOVEC_FAULTS");
    if (!path) return;
    int (*plain_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = plain_open(path, O_RDWR);
    if (file < 0) return;
    void *mapped = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) control = mapped;
}

static int matches(const char *path) {
    const char *wanted = (const char *)control + control[6];
    return strstr(path, wanted) != NULL;
}

/* Whether a call of this kind on this path fails now. */
static int fails(int kind, const char *path) {
    if (!control || !(control[0] & kind) || !path || !matches(path)) return 0;
    atomic_fetch_add(&control[5], 1);
    if (control[1] > 0 && atomic_fetch_sub(&control[1], 1) > 0) return 0;
    if (control[2] <= 0 || atomic_fetch_sub(&control[2], 1) <= 0) return 0;
    atomic_fetch_add(&control[4], 1);
    if (control[3] < 0)
        for (;;) kill(getpid(), SIGKILL);
    errno = control[3];
    return 1;
}

static int file_fails(int kind, int file) {
    char link[64], path[4096];
    if (!control || !(control[0] & kind)) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(kind, path);
}


#define ON_FILE(kind, result, name, parameters, ...)                  \
    result name parameters {                                          \
        static result(*plain) parameters;                             \
        if (!plain) *(void **)&plain = dlsym(RTLD_NEXT, #name);       \
        if (file_fails(kind, file)) return -1;                        \
        return plain(__VA_ARGS__);                                    \
    }

ON_FILE(READ, ssize_t, read, (int file, void *to, size_t n), file, to, n)
ON_FILE(READ, ssize_t, pread, (int file, void *to, size_t n, off_t at), file, to, n, at)
ON_FILE(READ, ssize_t, pread64, (int file, void *to, size_t n, off64_t at), file, to, n, at)
ON_FILE(READ, ssize_t, readv, (int file, const struct iovec *to, int n), file, to, n)
ON_FILE(READ, ssize_t, preadv64, (int file, const struct iovec *to, int n, off64_t at), file, to, n, at)
ON_FILE(WRITE, ssize_t, write, (int file, const void *from, size_t n), file, from, n)
ON_FILE(WRITE, ssize_t, pwrite, (int file, const void *from, size_t n, off_t at), file, from, n, at)
ON_FILE(WRITE, ssize_t, pwrite64, (int file, const void *from, size_t n, off64_t at), file, from, n, at)
ON_FILE(WRITE, ssize_t, writev, (int file, const struct iovec *from, int n), file, from, n)
ON_FILE(SYNC, int, fsync, (int file), file)
ON_FILE(SYNC, int, fdatasync, (int file), file)
ON_FILE(TRUNCATE, int, ftruncate, (int file, off_t size), file, size)
ON_FILE(TRUNCATE, int, ftruncate64, (int file, off64_t size), file, size)

#define ON_PATHS(kind, name)                                          \
    int name(const char *from, const char *to) {                      \
        static int (*plain)(const char *, const char *);              \
        if (!plain) *(void **)&plain = dlsym(RTLD_NEXT, #name);       \
        if (fails(kind, to)) return -1;                               \
        return plain(from, to);                                       \
    }

ON_PATHS(RENAME, rename)
ON_PATHS(RENAME, link)

/* What Rust's library calls for a hard link. */
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    static int (*plain)(int, const char *, int, const char *, int);
    if (!plain) *(void **)&plain = dlsym(RTLD_NEXT, "linkat");
    if (fails(RENAME, to)) return -1;
    return plain(from_folder, from, to_folder, to, flags);
}

int unlink(const char *path) {
    static int (*plain)(const char *);
    if (!plain) *(void **)&plain = dlsym(RTLD_NEXT, "unlink");
    if (fails(UNLINK, path)) return -1;
    return plain(path);
}

#define OPENING(name)                                                 \
    int name(const char *path, int flags, ...) {                      \
        static int (*plain)(const char *, int, ...);                  \
        if (!plain) *(void **)&plain = dlsym(RTLD_NEXT, #name);       \
        __builtin_va_list rest;                                       \
        __builtin_va_start(rest, flags);                              \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? __builtin_va_arg(rest, mode_t) : 0; \
        __builtin_va_end(rest);                                       \
        if (fails(OPEN, path)) return -1;                             \
        return plain(path, flags, mode);                              \
    }

OPENING(open)
OPENING(open64)
