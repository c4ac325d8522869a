/* One half of a package: the other file reads. */
#define SPIDER_TDL_IMPLEMENTATION
#define SPIDER_TDL_SEVERAL_FILES
#include "spider_tdl.h"

__attribute__((visibility("hidden"))) int64_t sum_values(spider_reader *in);

static void sum(spider_task *task)
{
    spider_write_int64(task->out, sum_values(task->in));
}

SPIDER_TDL_PACKAGE("two_files", NULL, {"sum", sum});
