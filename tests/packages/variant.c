/*
 * A package whose one task, "answer", gives VALUE. The tests break it, one macro each:
 *
 *     VALUE, NAME, MINOR, MAJOR           what it answers and declares
 *     NO_VERSION, NO_NAME, NO_EXECUTE     a symbol is missing
 *     INIT=expression                     its init function, which returns a Result
 *     CONSTRUCTOR=statement               runs while it is loaded
 *     UNDEFINED, UNDEFINED_CALL           it has the address of a function that nothing defines, or calls one
 */
#include "abi.h"

#include <unistd.h>

#ifndef VALUE
#define VALUE 1
#endif
#ifndef NAME
#define NAME "variant"
#endif
#ifndef MAJOR
#define MAJOR 0
#endif
#ifndef MINOR
#define MINOR 1
#endif

extern void nothing_defines_this(void);
#ifdef UNDEFINED
void (*use)(void) = nothing_defines_this;
#endif

/* Every variant exports this name: each must find its own. */
__attribute__((noinline)) uint64_t value(void)
{
    return VALUE;
}

#ifdef CONSTRUCTOR
__attribute__((constructor)) static void construct(void)
{
    CONSTRUCTOR;
}
#endif

#ifndef NO_VERSION
EXPORT Version __spider_tdl_package_get_version(void)
{
    Version version = {MAJOR, MINOR, 7};
    return version;
}
#endif

#ifndef NO_NAME
EXPORT View __spider_tdl_package_get_name(void)
{
    View name = {NAME, sizeof NAME - 1};
    return name;
}
#endif

#ifdef INIT
EXPORT Result __spider_tdl_package_init(void)
{
    return INIT;
}
#endif

#ifndef NO_EXECUTE
EXPORT Result __spider_tdl_package_execute(View name, View context, View inputs)
{
#ifdef UNDEFINED_CALL
    nothing_defines_this();
#endif
    return number(value());
}
#endif
