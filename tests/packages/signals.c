/*
 * Tasks that depend on signals. Each sends itself what it waits for, 50 times, and gives up after five seconds.
 *
 *     dispositions         one line "SIGNAL default|ignored|handled" for each of 1 to 64, then "blocked SIGNAL" lines
 *     wait_on_a_thread     how many signals a thread of the task gets by sigtimedwait; all of its threads block them
 *     read_signalfd        how many signals come through a signalfd; all threads of the task block them
 *     handle_on_main       how many calls of a handler were on the main thread, which blocks the signal for a
 *                          millisecond while it arrives
 *     interrupt            a timer's signal each millisecond from now on
 *     block_all            blocks every signal on the main thread
 *     restore_defaults     gives each signal its default action
 */
#include "abi.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 50 };

static Result dispositions(View inputs, long argument)
{
    char lines[4000] = "";
    size_t used = 0;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    for (int i = 1; i <= 64; i++) {
        struct sigaction action;
        if (sigaction(i, NULL, &action) != 0)
            continue; /* the C library's own */
        const char *name = "handled";
        if (action.sa_handler == SIG_DFL)
            name = "default";
        else if (action.sa_handler == SIG_IGN)
            name = "ignored";
        used += (size_t)snprintf(lines + used, sizeof lines - used, "%d %s\n", i, name);
    }
    for (int i = 1; i <= 64; i++)
        if (sigismember(&blocked, i) == 1)
            used += (size_t)snprintf(lines + used, sizeof lines - used, "blocked %d\n", i);
    return text(lines);
}

static sigset_t only(int number_of_signal)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number_of_signal);
    return set;
}

/* kill() of the process: the kernel takes any thread that does not block the signal. */
static void *take_signals(void *count)
{
    sigset_t set = only(SIGUSR1);
    struct timespec most = {5, 0};
    for (int i = 0; i < ROUNDS; i++) {
        kill(getpid(), SIGUSR1);
        if (sigtimedwait(&set, NULL, &most) == SIGUSR1)
            ++*(uint64_t *)count;
        else
            break;
    }
    return NULL;
}

static Result wait_on_a_thread(View inputs, long argument)
{
    uint64_t count = 0;
    pthread_t thread;
    sigset_t set = only(SIGUSR1), before;
    pthread_sigmask(SIG_BLOCK, &set, &before);
    pthread_create(&thread, NULL, take_signals, &count);
    pthread_join(thread, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return number(count);
}

static Result read_signalfd(View inputs, long argument)
{
    uint64_t count = 0;
    struct signalfd_siginfo info;
    sigset_t set = only(SIGUSR2), before;
    pthread_sigmask(SIG_BLOCK, &set, &before);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    struct pollfd poller = {fd, POLLIN, 0};
    for (int i = 0; i < ROUNDS; i++) {
        kill(getpid(), SIGUSR2);
        if (poll(&poller, 1, 5000) != 1 || read(fd, &info, sizeof info) != sizeof info)
            break;
        count++;
    }
    close(fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return number(count);
}

static volatile uint64_t handled, handled_on_main;

static void count_thread(int number_of_signal)
{
    handled++;
    if (syscall(SYS_gettid) == getpid())
        handled_on_main++;
}

static Result handle_on_main(View inputs, long argument)
{
    struct sigaction action = {.sa_handler = count_thread, .sa_flags = SA_RESTART}, before;
    struct timespec pause = {0, 1000000};
    sigset_t set = only(SIGWINCH);
    handled = handled_on_main = 0;
    sigaction(SIGWINCH, &action, &before);
    for (uint64_t i = 0; i < ROUNDS; i++) {
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        kill(getpid(), SIGWINCH);
        nanosleep(&pause, NULL); /* time for another thread to take it */
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        for (int waits = 0; handled == i && waits < 5000; waits++)
            nanosleep(&pause, NULL);
    }
    sigaction(SIGWINCH, &before, NULL);
    return number(handled_on_main);
}

static void ignore(int number_of_signal)
{
}

static Result interrupt(View inputs, long argument)
{
    struct sigaction action = {.sa_handler = ignore};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    return number(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
}

static Result block_all(View inputs, long argument)
{
    sigset_t all;
    sigfillset(&all);
    return number(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
}

static Result restore_defaults(View inputs, long argument)
{
    for (int i = 1; i < 32; i++)
        signal(i, SIG_DFL);
    return number(1);
}

PACKAGE("signals",
    {"dispositions", dispositions},
    {"wait_on_a_thread", wait_on_a_thread},
    {"read_signalfd", read_signalfd},
    {"handle_on_main", handle_on_main},
    {"interrupt", interrupt},
    {"block_all", block_all},
    {"restore_defaults", restore_defaults})
