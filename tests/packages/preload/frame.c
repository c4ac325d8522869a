/*
 * A library for LD_PRELOAD about the buffer for the largest frame, which is the only
 * calloc of more than 8 MiB. As $PRELOADED says:
 *
 *     refused       there is no memory for it
 *     watched       if something is written beside it, the process aborts at its end
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BESIDE = 1 << 20, CANARY = 0xa5 };

static uint8_t *buffer;
static size_t length;
static pid_t process;

static uint8_t *watch(size_t size)
{
    uint8_t *memory = mmap(NULL, size + 2 * BESIDE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, CANARY, BESIDE);
    memset(memory + BESIDE + size, CANARY, BESIDE);
    process = getpid();
    length = size;
    return buffer = memory + BESIDE;
}

__attribute__((destructor)) static void check(void)
{
    if (buffer == NULL || getpid() != process)
        return;
    for (size_t i = 0; i < BESIDE; i++)
        if (buffer[length + i] != CANARY || (buffer - BESIDE)[i] != CANARY)
            abort();
}

void *calloc(size_t count, size_t size)
{
    static void *(*next)(size_t, size_t);
    static uint8_t early[4096];
    static size_t used;
    const char *how = getenv("PRELOADED");
    if (how != NULL && count * size > 8 << 20)
        return strcmp(how, "refused") == 0 ? NULL : watch(count * size);
    if (next == NULL && used == 0) {
        used = 1; /* dlsym itself may call calloc. */
        next = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
    }
    if (next == NULL) {
        used += count * size + 16;
        return early + (used - count * size - 16) / 16 * 16;
    }
    return next(count, size);
}
