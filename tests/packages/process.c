/*
 * Tasks that report the state of the process, and tasks that change it for good.
 *
 *     pid, cwd, mask (the umask)
 *     environment            one line "NAME=VALUE" for each variable
 *     locale                 setlocale(LC_ALL, NULL)
 *     limits                 one line "RESOURCE SOFT HARD" for each resource, "-1" for no limit
 *     is_main_thread         1 or 0
 *     sleep:MS               sleeps that many milliseconds
 *     change_directory, change_environment, clear_environment, change_umask, change_locale
 *     limit:RESOURCE         a soft limit of 0
 *     close:FD
 *     threads:N              N threads that wait for ever
 */
#include "abi.h"

#include <limits.h>
#include <locale.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

static Result report_pid(View inputs, long argument)
{
    return number((uint64_t)getpid());
}

static Result report_cwd(View inputs, long argument)
{
    char path[PATH_MAX] = "";
    return text(getcwd(path, sizeof path) ? path : "");
}

static Result report_mask(View inputs, long argument)
{
    mode_t mask = umask(0);
    umask(mask);
    return number(mask);
}

static Result report_environment(View inputs, long argument)
{
    size_t size = 1;
    for (char **variable = environ; variable && *variable; variable++)
        size += strlen(*variable) + 1;
    char *lines = calloc(size, 1), *at = lines;
    for (char **variable = environ; variable && *variable; variable++)
        at += sprintf(at, "%s\n", *variable);
    Result result = text(lines);
    free(lines);
    return result;
}

static Result report_locale(View inputs, long argument)
{
    return text(setlocale(LC_ALL, NULL));
}

static Result report_limits(View inputs, long argument)
{
    char lines[2000] = "";
    size_t used = 0;
    for (int resource = 0; resource < 16; resource++) {
        struct rlimit limits;
        getrlimit(resource, &limits);
        used += (size_t)snprintf(lines + used, sizeof lines - used, "%d %lld %lld\n", resource,
                                 (long long)limits.rlim_cur, (long long)limits.rlim_max);
    }
    return text(lines);
}

static Result is_main_thread(View inputs, long argument)
{
    return number(syscall(SYS_gettid) == getpid());
}

static Result sleep_for(View inputs, long milliseconds)
{
    usleep((useconds_t)milliseconds * 1000);
    return number((uint64_t)milliseconds);
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

static Result change_umask(View inputs, long argument)
{
    umask(0777);
    return number(1);
}

static Result change_locale(View inputs, long argument)
{
    return number(setlocale(LC_ALL, "C.UTF-8") != NULL || setlocale(LC_ALL, "C") != NULL);
}

static Result limit(View inputs, long resource)
{
    struct rlimit limits;
    getrlimit((int)resource, &limits);
    limits.rlim_cur = 0;
    return number(setrlimit((int)resource, &limits) == 0);
}

static Result close_one(View inputs, long fd)
{
    return number(close((int)fd) == 0);
}

static void *stay(void *argument)
{
    for (;;)
        pause();
    return NULL;
}

static Result threads(View inputs, long count)
{
    for (long i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, stay, NULL) != 0)
            return number(0);
    }
    return number(1);
}

PACKAGE("process",
    {"pid", report_pid},
    {"cwd", report_cwd},
    {"mask", report_mask},
    {"environment", report_environment},
    {"locale", report_locale},
    {"limits", report_limits},
    {"is_main_thread", is_main_thread},
    {"sleep", sleep_for},
    {"change_directory", change_directory},
    {"change_environment", change_environment},
    {"clear_environment", clear_environment},
    {"change_umask", change_umask},
    {"change_locale", change_locale},
    {"limit", limit},
    {"close", close_one},
    {"threads", threads})
