// A task that ends its thread, as pthread_exit and pthread_cancel do: by unwinding the stack.
#include "spider_tdl.h"

#include <pthread.h>

static void end(spider_task *)
{
    pthread_exit(nullptr);
}

SPIDER_TDL_PACKAGE("ends_thread", nullptr, {"end", end});

static void *call(void *)
{
    static const char context[] = "\x95\x01\xa7" "Cleanup\x02\x03\xc0";
    __spider_tdl_package_execute({"end", 3}, {context, sizeof context - 1}, {"", 0});
    std::puts("returned");
    return nullptr;
}

int main()
{
    pthread_t thread;
    if (pthread_create(&thread, nullptr, call, nullptr) != 0 || pthread_join(thread, nullptr) != 0) {
        return 1;
    }
    std::puts("joined");
    return 0;
}
