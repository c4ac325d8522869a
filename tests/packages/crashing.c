/* Tasks that end the process, and one that does not end. */
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
    return number(0);
}

/* A page of a file behind its end. */
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
    raise(SIGFPE); /* elsewhere the division gives 0 */
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

static Result call_exit(View inputs, long status)
{
    exit((int)status);
    return number(0);
}

static Result call__exit(View inputs, long status)
{
    _exit((int)status);
}

static void *exit_in_thread(void *status)
{
    exit((int)(long)status);
}

static Result exit_from_a_thread(View inputs, long status)
{
    pthread_t thread;
    pthread_create(&thread, NULL, exit_in_thread, (void *)status);
    pthread_join(thread, NULL);
    return number(0);
}

static void *crash_in_thread(void *address)
{
    *(volatile int *)address = 1;
    return NULL;
}

static Result crash_in_a_thread(View inputs, long argument)
{
    pthread_t thread;
    pthread_create(&thread, NULL, crash_in_thread, (void *)argument);
    pthread_join(thread, NULL);
    return number(0);
}

/* Both say so when they begin. */
static Result hang(View inputs, long argument)
{
    fputs("hanging\n", stderr);
    while (!sink) {
        pause();
    }
    return number(0);
}

/* Without a system call. */
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
    {"exit", call_exit},
    {"_exit", call__exit},
    {"exit_from_a_thread", exit_from_a_thread},
    {"crash_in_a_thread", crash_in_a_thread},
    {"hang", hang},
    {"spin", spin})
