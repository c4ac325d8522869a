/*
 * Tasks that make processes. None of these lives longer than half a minute.
 *
 *     return_twice             the child returns from the task with a success; the output is its exit status
 *     return_twice_failing     the child returns with an error; the parent's output is the child's exit status
 *     return_twice_by_clone    as return_twice, by the system call, so that no fork handler runs
 *     fork_twice               a child that forks again, as a daemon does; the output is 0
 *     close_and_fork           a child that closes everything and then forks; the output is 0
 *     exit_in_child:N          the child calls exit(N); the output is its exit status
 *     leave_program_and_crash  a program (sleep) lives on after the crash
 *     start_forking:N          N threads that fork and wait until stop_forking; the output is N
 *     fork_in_new_threads:N    N times, two new threads that fork and wait; the output is how often all children ended
 *                              in five seconds, up to the first time that one did not
 *     count_forks              how many of their children have ended
 *     stop_forking             how many of their children had to be killed, because they did not end in five seconds
 *
 * An exit status is 128 + the signal for a child that was killed.
 */
#include "abi.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static Result ended(pid_t child)
{
    int status = -1;
    waitpid(child, &status, 0);
    return number((uint64_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)));
}

static Result return_twice(View inputs, long argument)
{
    pid_t child = fork();
    return child == 0 ? number(42) : ended(child);
}

static Result return_twice_failing(View inputs, long argument)
{
    pid_t child = fork();
    return child == 0 ? failure("Custom", "the child") : ended(child);
}

static Result return_twice_by_clone(View inputs, long argument)
{
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    return child == 0 ? number(42) : ended(child);
}

static Result fork_twice(View inputs, long argument)
{
    pid_t child = fork();
    if (child != 0)
        return ended(child);
    child = fork();
    if (child == 0)
        _exit(0);
    int status = -1;
    waitpid(child, &status, 0);
    _exit(status);
}

static Result close_and_fork(View inputs, long argument)
{
    pid_t child = fork();
    if (child != 0)
        return ended(child);
    for (int fd = 3; fd < 20000; fd++)
        close(fd);
    child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    _exit(0);
}

static Result exit_in_child(View inputs, long status)
{
    pid_t child = fork();
    if (child == 0)
        exit((int)status);
    return ended(child);
}

static Result leave_program_and_crash(View inputs, long argument)
{
    pid_t child;
    char *arguments[] = {"sleep", "30", NULL};
    posix_spawnp(&child, "sleep", NULL, NULL, arguments, environ);
    abort();
}

/* A large process forks slowly enough for another thread to ask for Python's lock meanwhile. This makes it ask in a
 * small process, too: after a microsecond. */
static void switch_threads_often(void)
{
    int (*take_lock)(void) = dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    int (*run)(const char *) = dlsym(RTLD_DEFAULT, "PyRun_SimpleString");
    void (*give_lock)(int) = dlsym(RTLD_DEFAULT, "PyGILState_Release");
    if (run != NULL) {
        int state = take_lock();
        run("import sys; sys.setswitchinterval(1e-6)");
        give_lock(state);
    }
}

enum { MOST_FORKERS = 64 };

static volatile int forking;
static uint64_t forks;
static struct { pthread_t thread; volatile pid_t child; } forkers[MOST_FORKERS];
static long forker_count;

static void *fork_until_stopped(void *child)
{
    while (forking) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        *(volatile pid_t *)child = pid;
        waitpid(pid, NULL, 0);
        __atomic_add_fetch(&forks, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static Result start_forking(View inputs, long count)
{
    switch_threads_often();
    forking = 1;
    for (forker_count = 0; forker_count < count && forker_count < MOST_FORKERS; forker_count++) {
        void *child = (void *)&forkers[forker_count].child;
        if (pthread_create(&forkers[forker_count].thread, NULL, fork_until_stopped, child) != 0)
            break;
    }
    return number((uint64_t)forker_count);
}

static Result count_forks(View inputs, long argument)
{
    return number(__atomic_load_n(&forks, __ATOMIC_SEQ_CST));
}

static Result stop_forking(View inputs, long argument)
{
    uint64_t hung = 0;
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 5;
    forking = 0;
    for (long i = 0; i < forker_count; i++) {
        if (pthread_timedjoin_np(forkers[i].thread, NULL, &deadline) != 0) {
            hung++;
            kill(forkers[i].child, SIGKILL);
            pthread_join(forkers[i].thread, NULL);
        }
    }
    return number(hung);
}

static void *fork_once(void *child)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    *(volatile pid_t *)child = pid;
    waitpid(pid, NULL, 0);
    return NULL;
}

static Result fork_in_new_threads(View inputs, long rounds)
{
    struct { pthread_t thread; volatile pid_t child; } pair[2];
    for (long round = 0; round < rounds; round++) {
        struct timespec deadline;
        int hung = 0;
        for (int i = 0; i < 2; i++)
            pthread_create(&pair[i].thread, NULL, fork_once, (void *)&pair[i].child);
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += 5;
        for (int i = 0; i < 2; i++) {
            if (pthread_timedjoin_np(pair[i].thread, NULL, &deadline) != 0) {
                hung = 1;
                kill(pair[i].child, SIGKILL);
                pthread_join(pair[i].thread, NULL);
            }
        }
        if (hung)
            return number((uint64_t)round);
    }
    return number((uint64_t)rounds);
}

PACKAGE("forking",
    {"fork_in_new_threads", fork_in_new_threads},
    {"return_twice", return_twice},
    {"return_twice_failing", return_twice_failing},
    {"return_twice_by_clone", return_twice_by_clone},
    {"fork_twice", fork_twice},
    {"close_and_fork", close_and_fork},
    {"exit_in_child", exit_in_child},
    {"leave_program_and_crash", leave_program_and_crash},
    {"start_forking", start_forking},
    {"count_forks", count_forks},
    {"stop_forking", stop_forking})
