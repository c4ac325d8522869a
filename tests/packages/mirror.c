/* Every task's outputs are the bytes of its context: what a test sends as a context comes back as a payload. */
#include "abi.h"

EXPORT Version __spider_tdl_package_get_version(void)
{
    Version version = {0, 1, 0};
    return version;
}

EXPORT View __spider_tdl_package_get_name(void)
{
    View name = {"mirror", 6};
    return name;
}

EXPORT Result __spider_tdl_package_execute(View name, View context, View inputs)
{
    return copied(0, context.pointer, context.length);
}
