/* A disk that fails, stalls or kills on command: loaded into the broker with LD_PRELOAD.
 *
 * DISK_ORDERS names a file with orders, one a line; without the file the disk is sound:
 *
 *     CALL PATTERN ACTION NUMBER SKIP
 *
 * CALL is fdatasync, fsync, write, pwrite, create, truncate, unlink or rename; PATTERN is a shell's
 * pattern for the path it must concern (OLD>NEW for rename; a star stands for slashes too). The
 * first SKIP such calls pass. Those after them do ACTION:
 *
 *     fail    with the errno NUMBER
 *     lose    the same, and what was written since the last good sync is gone from the file
 *     stall   for NUMBER milliseconds, then do as always
 *     before  the call is done, the process kills itself
 *     after   the call has been done, and well, the process kills itself
 *
 * DISK_JOURNAL names a file that gets a line for each sync and write, and for each send to a
 * socket before it is done: the call, its errno (0 for none) or `begins`, the path.
 *
 * What a library calls without going through libc is not seen (rustix: fallocate).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ORDERS_MAX 8
/* How long a call takes that fails: enough for a confirm that did not wait for it to be heard. */
#define FAILURE_MS 150

struct order {
    char call[16], pattern[64], action[8];
    long number, skip;
};

/* Something written and not yet synced, and what it replaced. */
struct piece {
    int fd;
    off_t at;
    ssize_t len;
    char *old;
    struct piece *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char known[1024];
static long passed[ORDERS_MAX];
static struct piece *unsynced;

static void note(const char *call, const char *outcome, const char *path)
{
    static int journal = -1;
    char line[PATH_MAX + 64];
    const char *name = getenv("DISK_JOURNAL");
    int saved = errno;
    if (journal < 0 && name)
        journal = syscall(SYS_openat, AT_FDCWD, name,
                          O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int len = snprintf(line, sizeof line, "%s %s %s\n", call, outcome, path);
    if (journal >= 0 && syscall(SYS_write, journal, line, len) != len)
        abort();
    errno = saved;
}

static void done(const char *call, long result, const char *path)
{
    char outcome[16];
    snprintf(outcome, sizeof outcome, "%d", result < 0 ? errno : 0);
    note(call, outcome, path);
}

static int matches(const char *path, const char *pattern)
{
    return !fnmatch(pattern, path, 0);
}

static void path_of(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    path[len < 0 ? 0 : len] = 0;
}

static void read_orders(char *text, size_t size)
{
    const char *name = getenv("DISK_ORDERS");
    int fd = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0) : -1;
    ssize_t len = fd < 0 ? 0 : syscall(SYS_read, fd, text, size - 1);
    if (fd >= 0)
        syscall(SYS_close, fd);
    text[len < 0 ? 0 : len] = 0;
}

/* The order that holds for this call, if there is one. */
static int ordered(const char *call, const char *path, struct order *order)
{
    char text[sizeof known];
    int found = 0, index = 0;
    read_orders(text, sizeof text);
    pthread_mutex_lock(&lock);
    if (strcmp(text, known)) {
        strcpy(known, text);
        memset(passed, 0, sizeof passed);
    }
    char *rest = text, *line;
    while (!found && index < ORDERS_MAX && (line = strsep(&rest, "\n"))) {
        int read = sscanf(line, "%15s %63s %7s %ld %ld", order->call, order->pattern, order->action,
                          &order->number, &order->skip);
        if (read == 5 && !strcmp(call, order->call) && matches(path, order->pattern))
            found = passed[index]++ >= order->skip;
        index++;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static void remember(int fd, off_t at, size_t len)
{
    struct piece *piece = malloc(sizeof *piece);
    *piece = (struct piece){fd, at, 0, malloc(len), NULL};
    piece->len = syscall(SYS_pread64, fd, piece->old, len, at);
    pthread_mutex_lock(&lock);
    piece->next = unsynced;
    unsynced = piece;
    pthread_mutex_unlock(&lock);
}

/* Forgets what was written to a file since its last sync; puts back what was there before. */
static void settle(int fd, int put_back)
{
    pthread_mutex_lock(&lock);
    for (struct piece **at = &unsynced; *at;) {
        struct piece *piece = *at;
        if (piece->fd != fd) {
            at = &piece->next;
            continue;
        }
        if (put_back && piece->len > 0
            && syscall(SYS_pwrite64, fd, piece->old, piece->len, piece->at) != piece->len)
            abort();
        *at = piece->next;
        free(piece->old);
        free(piece);
    }
    pthread_mutex_unlock(&lock);
}

static void pause_for(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

enum verdict { GO_ON, FAIL, DIE };

/* Obeys an order. Says what is to become of the call: if it is to fail errno is set. */
static enum verdict obey(const char *call, const char *path, int fd)
{
    struct order order;
    if (!ordered(call, path, &order))
        return GO_ON;
    if (!strcmp(order.action, "before"))
        die();
    if (!strcmp(order.action, "after"))
        return DIE;
    if (!strcmp(order.action, "stall")) {
        note(call, "begins", path);
        pause_for(order.number);
        return GO_ON;
    }
    pause_for(FAILURE_MS);
    if (!strcmp(order.action, "lose"))
        settle(fd, 1);
    errno = order.number;
    done(call, -1, path);
    return FAIL;
}

/* The result of a call that has been done, if there is anybody left to be told. */
static long conclude(enum verdict verdict, long result)
{
    if (verdict == DIE && result >= 0)
        die();
    return result;
}

static int synced(const char *call, long number, int fd)
{
    char path[PATH_MAX];
    path_of(fd, path);
    enum verdict verdict = obey(call, path, fd);
    if (verdict == FAIL)
        return -1;
    long result = syscall(number, fd);
    if (result == 0)
        settle(fd, 0);
    done(call, result, path);
    return conclude(verdict, result);
}

int fdatasync(int fd)
{
    return synced("fdatasync", SYS_fdatasync, fd);
}

int fsync(int fd)
{
    return synced("fsync", SYS_fsync, fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at)
{
    char path[PATH_MAX];
    path_of(fd, path);
    enum verdict verdict = obey("pwrite", path, fd);
    if (verdict == FAIL)
        return -1;
    if (matches(path, "*.wal"))
        remember(fd, at, len);
    if (matches(path, "*/wal/*.tmp") && len > 0) {
        /* Zeros ahead of time, much of them: a hole is as good, and others need the disk. */
        ssize_t last = syscall(SYS_pwrite64, fd, bytes, 1, at + len - 1);
        return conclude(verdict, last < 0 ? last : (ssize_t)len);
    }
    ssize_t result = syscall(SYS_pwrite64, fd, bytes, len, at);
    done("pwrite", result, path);
    return conclude(verdict, result);
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    char path[PATH_MAX];
    path_of(fd, path);
    /* What is written most are wake-ups, which have no path. */
    enum verdict verdict = *path == '/' ? obey("write", path, fd) : GO_ON;
    return verdict == FAIL ? -1 : conclude(verdict, syscall(SYS_write, fd, bytes, len));
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & O_CREAT ? va_arg(more, int) : 0;
    va_end(more);
    enum verdict verdict = flags & O_CREAT ? obey("create", path, -1) : GO_ON;
    if (verdict == FAIL)
        return -1;
    return conclude(verdict, syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

int ftruncate64(int fd, off64_t len)
{
    char path[PATH_MAX];
    path_of(fd, path);
    enum verdict verdict = obey("truncate", path, fd);
    return verdict == FAIL ? -1 : conclude(verdict, syscall(SYS_ftruncate, fd, len));
}

int unlink(const char *path)
{
    enum verdict verdict = obey("unlink", path, -1);
    return verdict == FAIL ? -1 : conclude(verdict, syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

int rename(const char *old, const char *new)
{
    char paths[2 * PATH_MAX];
    snprintf(paths, sizeof paths, "%s>%s", old, new);
    enum verdict verdict = obey("rename", paths, -1);
    if (verdict == FAIL)
        return -1;
    return conclude(verdict, syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0));
}

ssize_t send(int fd, const void *bytes, size_t len, int flags)
{
    note("send", "begins", "socket");
    return syscall(SYS_sendto, fd, bytes, len, flags, NULL, 0);
}
