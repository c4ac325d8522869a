/* A package that the loader refuses to unload: it has a symbol of type STB_GNU_UNIQUE. */
#include "abi.h"

#ifndef VALUE
#define VALUE 1
#endif

inline int &calls()
{
    static int count = 0;
    return count;
}

static Result answer(View, long)
{
    calls()++;
    return number(VALUE);
}

#ifdef INIT
EXPORT Result __spider_tdl_package_init(void)
{
    return INIT;
}
#endif

PACKAGE("unique", {"answer", answer})
