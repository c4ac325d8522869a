/*
 * Tasks that end the process without a crash, or that make its end take long.
 *
 *     exit:N, _exit:N
 *     exit_from_a_thread:N       another thread calls exit(N) while the task waits for it
 *     exit_together:N            N threads call exit(0) at the same moment
 *     exit_beside_a_reader:N     exit(N) while another thread is inside fgets(popen(...)) and holds that FILE's lock
 *     exit_in_a_handler:N        a timer of 1 ms starts; its signal handler calls exit(N), probably after the reply
 *     wait_in_an_exit_handler    atexit: a handler that prints "waiting" on stderr and waits for ever
 *     wait_in_a_destructor       the same in this library's destructor
 *     sleep_in_an_exit_handler:MS   atexit: a handler that prints "sleeping", sleeps, and prints "slept" on stderr
 *     print_at_exit              atexit: a handler that prints "handler" on stderr, then the destructor "destructor"
 */
#include "abi.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

static volatile int destructor_waits, destructor_prints, status_at_exit;

static void wait_for_ever(void)
{
    fputs("waiting\n", stderr);
    for (;;)
        pause();
}

__attribute__((destructor)) static void destroy(void)
{
    if (destructor_prints)
        fputs("destructor\n", stderr);
    if (destructor_waits)
        wait_for_ever();
}

static Result call_exit(View inputs, long status)
{
    exit((int)status);
}

static Result call__exit(View inputs, long status)
{
    _exit((int)status);
}

static void *exit_with(void *status)
{
    exit((int)(long)status);
}

static Result exit_from_a_thread(View inputs, long status)
{
    pthread_t thread;
    pthread_create(&thread, NULL, exit_with, (void *)status);
    pthread_join(thread, NULL);
    return number(0);
}

static pthread_barrier_t all_are_here;

static void *exit_when_all_are_here(void *argument)
{
    pthread_barrier_wait(&all_are_here);
    exit(0);
}

static Result exit_together(View inputs, long count)
{
    pthread_t thread;
    pthread_barrier_init(&all_are_here, NULL, (unsigned)count);
    for (long i = 0; i < count; i++)
        pthread_create(&thread, NULL, exit_when_all_are_here, NULL);
    pthread_join(thread, NULL);
    return number(0);
}

/* The command's output is one line, which the reader takes, and then nothing while it lives. */
static void *read_lines(void *ready)
{
    char line[16];
    FILE *pipe = popen("echo ready; exec sleep 30", "r");
    while (fgets(line, sizeof line, pipe) != NULL)
        *(volatile int *)ready = 1;
    return NULL;
}

static Result exit_beside_a_reader(View inputs, long status)
{
    static volatile int ready;
    pthread_t thread;
    pthread_create(&thread, NULL, read_lines, (void *)&ready);
    while (!ready)
        usleep(100);
    usleep(1000); /* the reader is in its second fgets by now */
    exit((int)status);
}

static void exit_in_handler(int number_of_signal)
{
    exit(status_at_exit);
}

static Result exit_in_a_handler(View inputs, long status)
{
    struct sigaction action = {.sa_handler = exit_in_handler};
    struct itimerval once = {{0, 0}, {0, 1000}};
    status_at_exit = (int)status;
    return number(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &once, NULL) == 0);
}

static Result wait_in_an_exit_handler(View inputs, long argument)
{
    return number(atexit(wait_for_ever) == 0);
}

static Result wait_in_a_destructor(View inputs, long argument)
{
    destructor_waits = 1;
    return number(1);
}

static long sleep_at_exit;

static void sleep_handler(void)
{
    fputs("sleeping\n", stderr);
    usleep((useconds_t)sleep_at_exit * 1000);
    fputs("slept\n", stderr);
}

static Result sleep_in_an_exit_handler(View inputs, long milliseconds)
{
    sleep_at_exit = milliseconds;
    return number(atexit(sleep_handler) == 0);
}

static void print_handler(void)
{
    fputs("handler\n", stderr);
}

static Result print_at_exit(View inputs, long argument)
{
    destructor_prints = 1;
    return number(atexit(print_handler) == 0);
}

PACKAGE("exiting",
    {"exit", call_exit},
    {"_exit", call__exit},
    {"exit_from_a_thread", exit_from_a_thread},
    {"exit_together", exit_together},
    {"exit_beside_a_reader", exit_beside_a_reader},
    {"exit_in_a_handler", exit_in_a_handler},
    {"wait_in_an_exit_handler", wait_in_an_exit_handler},
    {"wait_in_a_destructor", wait_in_a_destructor},
    {"sleep_in_an_exit_handler", sleep_in_an_exit_handler},
    {"print_at_exit", print_at_exit})
