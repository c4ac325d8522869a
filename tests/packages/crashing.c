/*
 * Tasks that crash, and two that do not end.
 *
 *     sigsegv:A            writes to the address A
 *     sigabrt, sigbus, sigfpe, stack_overflow
 *     raise:S              raises signal S
 *     crash_in_a_thread    writes to address 0, on another thread
 *     invalid_outputs:N    returns outputs of N bytes at address 8: the crash is the executor's
 *     invalid_error        returns an error of 100 bytes at address 8
 *     bad_free             returns outputs whose address the executor cannot free
 *     hang, spin           waits, or computes, for ever; prints "hanging" on stderr first
 */
#include "abi.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int sink;

static Result sigsegv(View inputs, long address)
{
    *(volatile int *)address = 1;
    return number(0);
}

static Result sigabrt(View inputs, long argument)
{
    abort();
}

/* Reads a page that lies after the end of a mapped file. */
static Result sigbus(View inputs, long argument)
{
    FILE *file = tmpfile();
    volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
    return number((uint64_t)page[0]);
}

static Result sigfpe(View inputs, long zero)
{
#ifdef __x86_64__
    sink = 1 / (int)zero;
#endif
    raise(SIGFPE); /* on other machines the division gives 0 */
    return number(0);
}

static __attribute__((noinline)) int endless(int depth)
{
    volatile char frame[512];
    frame[0] = (char)depth;
    return depth < 0 ? 0 : endless(depth + 1) + frame[0];
}

static Result stack_overflow(View inputs, long argument)
{
    return number((uint64_t)endless(0));
}

static Result raise_signal(View inputs, long number_of_signal)
{
    raise((int)number_of_signal);
    return number(0);
}

static void *write_to_null(void *null)
{
    *(volatile int *)null = 1;
    return NULL;
}

static Result crash_in_a_thread(View inputs, long argument)
{
    pthread_t thread;
    pthread_create(&thread, NULL, write_to_null, NULL);
    pthread_join(thread, NULL);
    return number(0);
}

static Result invalid_outputs(View inputs, long length)
{
    return (Result){0, (void *)8, (size_t)length};
}

static Result invalid_error(View inputs, long argument)
{
    return (Result){1, (void *)8, 100};
}

static Result bad_free(View inputs, long argument)
{
    static uint8_t outputs[64];
    return (Result){0, outputs + 16, 4};
}

static Result hang(View inputs, long argument)
{
    fputs("hanging\n", stderr);
    while (!sink)
        pause();
    return number(0);
}

static Result spin(View inputs, long argument)
{
    fputs("hanging\n", stderr);
    while (!sink) {
    }
    return number(0);
}

PACKAGE("crashing",
    {"sigsegv", sigsegv},
    {"sigabrt", sigabrt},
    {"sigbus", sigbus},
    {"sigfpe", sigfpe},
    {"stack_overflow", stack_overflow},
    {"raise", raise_signal},
    {"crash_in_a_thread", crash_in_a_thread},
    {"invalid_outputs", invalid_outputs},
    {"invalid_error", invalid_error},
    {"bad_free", bad_free},
    {"hang", hang},
    {"spin", spin})
