/*
 * Tasks that use the Python interpreter in whose process they run. In an executor without one they give 2.
 *
 *     import      imports the module `sched`, which nothing else here needs; 1, or 0 with a traceback on stderr
 *     run         runs a statement that needs the builtins; 1 or 0
 */
#include "abi.h"

#include <dlfcn.h>

static int (*take_lock)(void);
static void (*give_lock)(int);

static int has_python(void)
{
    take_lock = dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    give_lock = dlsym(RTLD_DEFAULT, "PyGILState_Release");
    return take_lock != NULL && give_lock != NULL;
}

static Result import_module(View inputs, long argument)
{
    if (!has_python())
        return number(2);
    void *(*import)(const char *) = dlsym(RTLD_DEFAULT, "PyImport_ImportModule");
    void (*print_error)(void) = dlsym(RTLD_DEFAULT, "PyErr_Print");
    int state = take_lock();
    void *module = import("sched");
    if (module == NULL)
        print_error();
    give_lock(state);
    return number(module != NULL);
}

static Result run_statement(View inputs, long argument)
{
    if (!has_python())
        return number(2);
    int (*run)(const char *) = dlsym(RTLD_DEFAULT, "PyRun_SimpleString");
    int state = take_lock();
    int status = run("assert sum(range(3)) == 3");
    give_lock(state);
    return number(status == 0);
}

PACKAGE("python", {"import", import_module}, {"run", run_statement})
