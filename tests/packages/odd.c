/*
 * A good package, from which -D flags make packages that differ from it in one thing:
 *
 *     NAME="odd", VERSION=0,1,0            what it declares
 *     NAME_SIZE=N, NAME_AT=pointer         the length of the declared name, and where it is
 *     VALUE=1                              what the task "answer" gives
 *     NO_VERSION, NO_NAME, NO_EXECUTE      a symbol is missing
 *     INIT=expression                      its init function, which returns a Result; there is none without the flag
 *     CONSTRUCTOR=statement                runs while the library is loaded
 *     UNDEFINED, UNDEFINED_CALL            it has the address of a function that nothing defines, or calls one
 *     MISSING="nothing_defines_this"       the name of that function
 *
 * INIT and CONSTRUCTOR may use these:
 *     fork_and_wait()     a child that returns, too; its exit status is the output of the task "child"
 *     leave_thread()      a thread that runs code of this library for ever
 *     leave_handler()     a handler for SIGUSR1 in this library
 *
 * Tasks. Those that return bytes return them as they are, without a payload around them.
 *     answer              VALUE, as a number
 *     inputs, context     the bytes of the inputs, of the context
 *     error               the bytes of the inputs as an error
 *     declared            the bytes of NAME
 *     calls               how often a task of this package was called, this call included, as a number
 *     pointers            1 if no view has a NULL pointer, as a number
 *     child               the exit status of fork_and_wait's child, as a number; 999 before it has ended
 *     atexit              registers an exit handler
 *     crash               abort()
 *     any other name      the bytes of the name
 *
 * Each function writes its name into the file $ODD_TRACE: load, version, name, init, execute, atexit, unload.
 */
#include "abi.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef NAME
#define NAME "odd"
#endif
#ifndef NAME_SIZE
#define NAME_SIZE (sizeof NAME - 1)
#endif
#ifndef NAME_AT
#define NAME_AT name
#endif
#ifndef VERSION
#define VERSION 0, 1, 0
#endif
#ifndef VALUE
#define VALUE 1
#endif

#ifndef MISSING
#define MISSING "nothing_defines_this"
#endif

extern void missing(void) __asm__(MISSING);
#ifdef UNDEFINED
void (*use)(void) = missing;
#endif

static int calls;
static uint64_t child_status = 999;

static void trace(const char *what)
{
    const char *path = getenv("ODD_TRACE");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

__attribute__((unused)) static void fork_and_wait(void)
{
    pid_t child = fork();
    int status = -1;
    if (child > 0 && waitpid(child, &status, 0) == child)
        child_status = (uint64_t)(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void *stay(void *argument)
{
    for (;;)
        usleep(1000);
    return NULL;
}

__attribute__((unused)) static int leave_thread(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, stay, NULL);
}

static void handle(int number_of_signal)
{
    calls++;
}

__attribute__((unused)) static void leave_handler(void)
{
    signal(SIGUSR1, handle);
}

__attribute__((constructor)) static void load(void)
{
    trace("load");
#ifdef CONSTRUCTOR
    CONSTRUCTOR;
#endif
}

__attribute__((destructor)) static void unload(void)
{
    trace("unload");
}

__attribute__((unused)) static void at_exit(void)
{
    trace("atexit");
}

#ifndef NO_VERSION
EXPORT Version __spider_tdl_package_get_version(void)
{
    trace("version");
    Version version = {VERSION};
    return version;
}
#endif

/* The name is not followed by NUL. */
#ifndef NO_NAME
EXPORT View __spider_tdl_package_get_name(void)
{
    __attribute__((unused)) static const char name[] = {NAME "!"};
    trace("name");
    View view = {NAME_AT, NAME_SIZE};
    return view;
}
#endif

#ifdef INIT
EXPORT Result __spider_tdl_package_init(void)
{
    trace("init");
    return INIT;
}
#endif

/* Every package exports this function, and must find its own. */
EXPORT __attribute__((noinline)) uint64_t value(void)
{
    return VALUE;
}

#ifndef NO_EXECUTE
EXPORT Result __spider_tdl_package_execute(View task, View context, View inputs)
{
    char name[64] = "";
    memcpy(name, task.pointer, task.length < sizeof name ? task.length : 0);
    trace("execute");
    calls++;
#ifdef UNDEFINED_CALL
    missing();
#endif
    if (!strcmp(name, "answer"))
        return number(value());
    if (!strcmp(name, "inputs"))
        return copied(0, inputs.pointer, inputs.length);
    if (!strcmp(name, "context"))
        return copied(0, context.pointer, context.length);
    if (!strcmp(name, "error"))
        return copied(1, inputs.pointer, inputs.length);
    if (!strcmp(name, "declared"))
        return copied(0, NAME, sizeof NAME - 1);
    if (!strcmp(name, "calls"))
        return number((uint64_t)calls);
    if (!strcmp(name, "pointers"))
        return number(task.pointer && context.pointer && inputs.pointer);
    if (!strcmp(name, "child"))
        return number(child_status);
    if (!strcmp(name, "atexit"))
        return number(atexit(at_exit) == 0);
    if (!strcmp(name, "crash"))
        abort();
    return copied(0, task.pointer, task.length);
}
#endif
