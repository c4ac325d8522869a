/*
 * A library for LD_PRELOAD that sees whether each buffer that a package returned is freed, once, and not read afterwards.
 *
 * abi.h reports each buffer to watch_buffer. free() overwrites a watched buffer with 0xDD and keeps it, so that a second
 * free of it is seen and a later read gives other bytes. At the end of the process the file $PRELOADED gets a line
 * "RETURNED FREED FREED_AGAIN".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 1 << 16 };

static struct { void *pointer; size_t length; int freed; } watched[MOST];
static size_t count, freed, freed_again;
static void (*real_free)(void *);
static pid_t process;

/* A call that comes before this one leaks a few bytes. */
__attribute__((constructor)) static void start(void)
{
    real_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    process = getpid();
}

/* Children that were forked do not report. */
__attribute__((destructor)) static void report(void)
{
    char line[100];
    const char *path = getenv("PRELOADED");
    int fd = path != NULL && getpid() == process ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;
    if (fd >= 0) {
        int size = snprintf(line, sizeof line, "%zu %zu %zu\n", count, freed, freed_again);
        if (write(fd, line, (size_t)size) != size)
            abort();
        close(fd);
    }
}

void watch_buffer(void *pointer, size_t length)
{
    if (count == MOST)
        abort();
    watched[count].pointer = pointer;
    watched[count++].length = length;
}

void free(void *pointer)
{
    for (size_t i = count; i-- > 0;) {
        if (watched[i].pointer == pointer) {
            if (watched[i].freed++)
                freed_again++;
            else
                freed++;
            memset(pointer, 0xdd, watched[i].length);
            return;
        }
    }
    if (real_free != NULL)
        real_free(pointer);
}
