/* odd.c as C++, with a symbol of type STB_GNU_UNIQUE: the loader never unloads such a library. It takes the same flags. */
#ifndef NAME
#define NAME "unique"
#endif
#include "odd.c"

inline int &unique_symbol()
{
    static int count = 0;
    return count;
}

EXPORT int use_unique_symbol(void)
{
    return ++unique_symbol();
}
