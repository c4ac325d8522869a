/* How many steps it takes to read structs that come as maps: the calls of functions, which the compiler reports. */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

#define UNCOUNTED __attribute__((no_instrument_function, visibility("hidden")))

static uint64_t steps;

UNCOUNTED void __cyg_profile_func_enter(void *function, void *caller);
UNCOUNTED void __cyg_profile_func_exit(void *function, void *caller);

void __cyg_profile_func_enter(void *function, void *caller)
{
    (void)function;
    (void)caller;
    steps++;
}

void __cyg_profile_func_exit(void *function, void *caller)
{
    (void)function;
    (void)caller;
}

/* nested(Node) -> uint64 steps, where struct Node { next: nil or Node, absent: nil or int8, last: int8 } */
static void nested(spider_task *task)
{
    int depth = 1;
    steps = 0;
    spider_read_struct(task->in, "next, absent, last");
    while (spider_read_option(task->in)) {
        depth++;
        spider_read_struct(task->in, "next, absent, last");
    }
    while (depth-- > 0) {
        spider_read_option(task->in);
        spider_read_int8(task->in);
    }
    spider_write_uint64(task->out, steps);
}

/* wide(struct { a, b, c, d, e, f, g, h: int8 }) -> uint64 steps */
static void wide(spider_task *task)
{
    int i;
    steps = 0;
    spider_read_struct(task->in, "a, b, c, d, e, f, g, h");
    for (i = 0; i < 8; i++) {
        spider_read_int8(task->in);
    }
    spider_write_uint64(task->out, steps);
}

SPIDER_TDL_PACKAGE("steps", NULL, {"nested", nested}, {"wide", wide});
