/* A library for LD_PRELOAD in which a change of the settings of malloc ends the process. */
#include <stdlib.h>

int mallopt(int parameter, int value)
{
    abort();
}
