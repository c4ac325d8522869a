/*
 * A library for LD_PRELOAD that makes the file system odd, as $PRELOADED says:
 *
 *     inodes        every file has the same device and inode number (the loader does not ask here, and sees the real ones)
 *     no-dev-null   /dev/null does not exist
 *     no-proc       nothing below /proc can be opened
 *     early-file    if fd 0 or 1 is closed at start, a file that is close-on-exec takes its number, as in libffi 3.5
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_odd(const char *how)
{
    const char *set = getenv("PRELOADED");
    return set != NULL && strcmp(set, how) == 0;
}

__attribute__((constructor)) static void take_number(void)
{
    if (is_odd("early-file")) {
        int fd = memfd_create("early", MFD_CLOEXEC);
        if (fd > 1)
            close(fd);
    }
}

static int same_inode(int status, struct stat *found)
{
    if (status == 0 && is_odd("inodes")) {
        found->st_dev = 1;
        found->st_ino = 1;
    }
    return status;
}

#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

#define STAT(name) \
    int name(const char *path, struct stat *found) \
    { \
        return same_inode(REAL(#name, const char *, struct stat *)(path, found), found); \
    }
#define FSTAT(name) \
    int name(int fd, struct stat *found) { return same_inode(REAL(#name, int, struct stat *)(fd, found), found); }
#define FSTATAT(name) \
    int name(int fd, const char *path, struct stat *found, int flags) \
    { \
        return same_inode(REAL(#name, int, const char *, struct stat *, int)(fd, path, found, flags), found); \
    }

STAT(stat)
STAT(lstat)
FSTAT(fstat)
FSTATAT(fstatat)

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if ((is_odd("no-dev-null") && strcmp(path, "/dev/null") == 0) ||
        (is_odd("no-proc") && strncmp(path, "/proc/", 6) == 0)) {
        errno = ENOENT;
        return -1;
    }
    return openat(AT_FDCWD, path, flags, mode);
}

/* Programs that are compiled for large files call these; on 64-bit machines the structures are the same. */
#ifdef __GLIBC__
int stat64(const char *path, struct stat64 *found) { return stat(path, (struct stat *)found); }
int lstat64(const char *path, struct stat64 *found) { return lstat(path, (struct stat *)found); }
int fstat64(int fd, struct stat64 *found) { return fstat(fd, (struct stat *)found); }
int fstatat64(int fd, const char *path, struct stat64 *found, int flags)
{
    return fstatat(fd, path, (struct stat *)found, flags);
}
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
#endif
