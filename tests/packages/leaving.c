/* Tasks that leave the process otherwise than they found it. */
#include "abi.h"

#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static void *stay(void *argument)
{
    for (;;) {
        pause();
    }
    return NULL;
}

static Result threads(View inputs, long count)
{
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, stay, NULL) != 0) {
            return number(0);
        }
    }
    return number(1);
}

static Result block_signals(View inputs, long argument)
{
    sigset_t all;
    sigfillset(&all);
    return number(pthread_sigmask(SIG_SETMASK, &all, NULL) == 0);
}

static void ignore(int number_of_signal)
{
}

/* A signal every millisecond, which interrupts system calls. */
static Result interrupt(View inputs, long argument)
{
    struct sigaction action = {.sa_handler = ignore};
    struct itimerval every = {{0, 1000}, {0, 1000}};
    return number(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
}

static Result change_directory(View inputs, long argument)
{
    return number(chdir("/") == 0);
}

static Result change_environment(View inputs, long argument)
{
    return number(setenv("SPIDER_TDL_PACKAGE_DIR", "/nonexistent", 1) == 0 && setenv("RUST_LOG", "trace", 1) == 0);
}

static Result clear_environment(View inputs, long argument)
{
    return number(clearenv() == 0);
}

static Result limit(View inputs, long resource)
{
    struct rlimit limits;
    getrlimit((int)resource, &limits);
    limits.rlim_cur = 0;
    return number(setrlimit((int)resource, &limits) == 0);
}

static Result change_umask(View inputs, long argument)
{
    umask(0777);
    return number(1);
}

static Result change_locale(View inputs, long argument)
{
    return number(setlocale(LC_ALL, "C") != NULL);
}

/* Every handler that was there before. */
static Result default_signals(View inputs, long argument)
{
    for (int i = 1; i < 32; i++) {
        signal(i, SIG_DFL);
    }
    return number(1);
}

PACKAGE("leaving",
    {"threads", threads},
    {"block_signals", block_signals},
    {"interrupt", interrupt},
    {"change_directory", change_directory},
    {"change_environment", change_environment},
    {"clear_environment", clear_environment},
    {"limit", limit},
    {"change_umask", change_umask},
    {"change_locale", change_locale},
    {"default_signals", default_signals})
