/* Tasks that make processes. None of these lives longer than half a minute. */
#include "abi.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static Result ended(pid_t child)
{
    int status = -1;
    waitpid(child, &status, 0);
    return number((uint64_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)));
}

/* The child returns as if it were the executor; the parent gives its exit status. */
static Result return_twice(View inputs, long argument)
{
    pid_t child = fork();
    return child == 0 ? number(42) : ended(child);
}

/* The same by the system call, of which the C library and its fork handlers know nothing. */
static Result return_twice_by_system_call(View inputs, long argument)
{
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    return child == 0 ? number(42) : ended(child);
}

/* As a daemon does. */
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
    if (child == 0) {
        exit((int)status);
    }
    return ended(child);
}

/* A child that lives on without an exec. */
static Result leave_child(View inputs, long argument)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        for (;;) {
            pause();
        }
    }
    return number((uint64_t)child);
}

/* A child that lives on with one. */
static Result leave_program(View inputs, long argument)
{
    pid_t child = 0;
    char *arguments[] = {"sleep", "30", NULL};
    return posix_spawnp(&child, "sleep", NULL, NULL, arguments, environ) ? number(0) : number((uint64_t)child);
}

static Result leave_child_and_crash(View inputs, long argument)
{
    leave_child(inputs, 0);
    abort();
}

static Result leave_program_and_crash(View inputs, long argument)
{
    leave_program(inputs, 0);
    abort();
}

/* What the descriptors of a child are, on stderr. */
static Result list_descriptors(View inputs, long argument)
{
    return number((uint64_t)system("for fd in /proc/self/fd/*; do readlink $fd; done >&2"));
}

static volatile int forking;
static uint64_t forks;
static pthread_t forker;

static void *fork_in_a_loop(void *argument)
{
    while (forking) {
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        if (child > 0) {
            waitpid(child, NULL, 0);
            __atomic_add_fetch(&forks, 1, __ATOMIC_SEQ_CST);
        }
    }
    return NULL;
}

/* A large process forks slowly enough for other threads to ask for Python's lock meanwhile. So that they do in a small
 * one, where there is a Python: have them ask after a microsecond. */
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

static Result start_forking(View inputs, long argument)
{
    switch_threads_often();
    forking = 1;
    return number((uint64_t)pthread_create(&forker, NULL, fork_in_a_loop, NULL));
}

static Result count_forks(View inputs, long argument)
{
    return number(__atomic_load_n(&forks, __ATOMIC_SEQ_CST));
}

static Result stop_forking(View inputs, long argument)
{
    forking = 0;
    return number((uint64_t)pthread_join(forker, NULL));
}

PACKAGE("forking",
    {"return_twice", return_twice},
    {"return_twice_by_system_call", return_twice_by_system_call},
    {"fork_twice", fork_twice},
    {"close_and_fork", close_and_fork},
    {"exit_in_child", exit_in_child},
    {"leave_child", leave_child},
    {"leave_program", leave_program},
    {"leave_child_and_crash", leave_child_and_crash},
    {"leave_program_and_crash", leave_program_and_crash},
    {"list_descriptors", list_descriptors},
    {"start_forking", start_forking},
    {"count_forks", count_forks},
    {"stop_forking", stop_forking})
