/* The other half of two_files.c: the values of a map, added up. */
#include "spider_tdl.h"

__attribute__((visibility("hidden"))) int64_t sum_values(spider_reader *in);

int64_t sum_values(spider_reader *in)
{
    int64_t total = 0;
    size_t pairs = spider_read_map(in);
    while (pairs-- > 0) {
        spider_skip(in);
        total += spider_read_int64(in);
    }
    return total;
}
