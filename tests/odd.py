"""Small packages that differ in one thing from a good one, made from one source and the compiler's -D flags."""

from __future__ import annotations

import os
from pathlib import Path

import support

# Written against the ABI itself, not the SDK. Each of its functions leaves its name in the file $ODD_TRACE.
SOURCE = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct { uint32_t major, minor, patch; } version;
typedef struct { const void *pointer; size_t length; } view;
typedef struct { bool is_error; uint8_t *pointer; size_t length; } result;

#ifndef NAME
#define NAME "odd"
#endif
#ifndef VERSION
#define VERSION 0, 1, 0
#endif

static void trace(const char *what)
{
    const char *path = getenv("ODD_TRACE");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

static result give(bool is_error, const void *data, size_t length)
{
    result given = {is_error, (uint8_t *)1, length};
    if (length) {
        given.pointer = malloc(length);
        memcpy(given.pointer, data, length);
    }
    return given;
}

static int calls;

__attribute__((constructor)) static void load(void)
{
    trace("load");
#ifdef SLOW_LOAD
    usleep(20000);
#endif
}

__attribute__((destructor)) static void unload(void) { trace("unload"); }
static void at_exit(void) { trace("atexit"); }

#ifndef NO_VERSION
version __spider_tdl_package_get_version(void)
{
    version value = {VERSION};
    trace("version");
    return value;
}
#endif

#ifndef NO_NAME
view __spider_tdl_package_get_name(void)
{
    /* Not terminated by NUL. */
    static const char name[] = {NAME "!"};
    view value = {name, sizeof name - 2};
    trace("name");
    return value;
}
#endif

#ifdef INIT
result __spider_tdl_package_init(void)
{
    static const char error[] = INIT_ERROR;
    trace("init");
    return give(INIT, error, sizeof error - 1);
}
#endif

#ifndef NO_EXECUTE
result __spider_tdl_package_execute(view task, view context, view inputs)
{
    char name[64] = "";
    uint64_t number;
    memcpy(name, task.pointer, task.length < sizeof name ? task.length : sizeof name - 1);
    trace("execute");
    calls++;
    if (!strcmp(name, "outputs")) /* the inputs, as they are */
        return give(false, inputs.pointer, inputs.length);
    if (!strcmp(name, "error")) /* the same as an error */
        return give(true, inputs.pointer, inputs.length);
    if (!strcmp(name, "context"))
        return give(false, context.pointer, context.length);
    if (!strcmp(name, "declared"))
        return give(false, NAME, sizeof NAME - 1);
    if (!strcmp(name, "calls"))
        return give(false, &calls, sizeof calls);
    if (!strcmp(name, "main thread"))
        return give(false, syscall(SYS_gettid) == getpid() ? "yes" : "no", 3);
    if (!strcmp(name, "pointers"))
        return give(false, task.pointer && context.pointer && inputs.pointer ? "yes" : "no", 3);
    if (!strcmp(name, "NULL")) {
        result nothing = {false, NULL, 0};
        return nothing;
    }
    if (!strcmp(name, "atexit")) {
        atexit(at_exit);
        return give(false, NULL, 0);
    }
    memcpy(&number, inputs.pointer, inputs.length < sizeof number ? inputs.length : sizeof number);
    if (!strcmp(name, "_exit"))
        _exit((int)(number & 0xff));
    if (!strcmp(name, "raise"))
        raise((int)(number & 0xff));
    if (!strcmp(name, "segfault"))
        *(volatile int *)number = 1;
    if (!strcmp(name, "hang")) {
        trace("hangs");
        for (;;)
            pause();
    }
    return give(false, task.pointer, task.length);
}
#endif
"""

INIT_GOOD = ("-DINIT=false", '-DINIT_ERROR=""')


def build(build_package: support.PackageBuilder, *flags: str) -> Path:
    """Compile a package with these flags."""
    source = build_package.directory / "odd.c"
    if not source.exists():
        source.write_text(SOURCE)
    return build_package(source, *flags)


def c_string(data: bytes) -> str:
    """A C string literal of these bytes."""
    return '"' + "".join(f"\\{byte:03o}" for byte in data) + '"'


def declares(name: str | bytes) -> str:
    """The flag for the name that a package declares."""
    return f"-DNAME={c_string(os.fsencode(name))}"


def init_fails(error: bytes) -> tuple[str, str]:
    """The flags for an init function that returns this error."""
    return "-DINIT=true", f"-DINIT_ERROR={c_string(error)}"


class Trace:
    """What the functions of a package have left in its trace."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "trace"
        self.env = {"ODD_TRACE": str(self.path)}

    def take(self) -> list[str]:
        """The names of the functions called since the last time."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split()
        self.path.unlink()
        return lines
