/* What authors do wrong, or seldom. */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void too_few_elements(spider_task *task)
{
    spider_write_count(task->out, 2);
    spider_write_nil(task->out);
    spider_write_map(task->out, 2);
    spider_write_nil(task->out);
    spider_write_nil(task->out);
}

static void bad_utf8(spider_task *task)
{
    spider_string text = {"caf\xe9", 4};
    spider_write_string(task->out, text);
}

static void bad_utf8_in_error(spider_task *task)
{
    spider_fail(task, SPIDER_ERROR_CUSTOM, "%s %s", "caf\xe9", "\xff \xe2\x98\x83 \xe2");
}

static void fails_twice(spider_task *task)
{
    spider_fail(task, SPIDER_ERROR_CUSTOM, "the %s", "first");
    spider_fail(task, SPIDER_ERROR_EXECUTION, "the second");
}

static void writes_then_fails(spider_task *task)
{
    int i;
    for (i = 0; i < 10000; i++) {
        spider_write_cstring(task->out, "lost");
    }
    spider_fail(task, SPIDER_ERROR_EXECUTION, "in the end");
}

static void long_error(spider_task *task)
{
    char *text = (char *)spider_alloc(task, 100001, 1);
    if (text != NULL) {
        memset(text, 'x', 100000);
        spider_fail(task, SPIDER_ERROR_EXECUTION, "%s", text);
    }
}

static void null_string(spider_task *task)
{
    spider_string text = {NULL, 0};
    spider_bytes bytes = {NULL, 0};
    spider_write_string(task->out, text);
    spider_write_bytes(task->out, bytes);
}

/* A part of a string, which may start or end within a character. */
static void part(spider_task *task)
{
    spider_string text = spider_read_string(task->in);
    uint64_t start = spider_read_uint64(task->in);
    uint64_t size = spider_read_uint64(task->in);
    if (spider_ready(task) && start <= text.size && size <= text.size - start) {
        text.data += start;
        text.size = size;
        spider_write_string(task->out, text);
    }
}

static void bytes_as_string(spider_task *task)
{
    spider_bytes bytes = spider_read_bytes(task->in);
    spider_string text;
    text.data = (const char *)bytes.data;
    text.size = bytes.size;
    spider_write_string(task->out, text);
}

/* Everything that can be called after an error. */
static void reads_on(spider_task *task)
{
    spider_reader *in = task->in;
    spider_string text;
    spider_bytes bytes;
    bool zero = spider_read_uint64(in) == 0 && !spider_ok(task) && !spider_ready(task);
    text = spider_read_string(in);
    bytes = spider_read_bytes(in);
    zero = zero && text.data != NULL && text.size == 0 && bytes.data != NULL && bytes.size == 0;
    zero = zero && spider_read_int8(in) == 0 && !spider_read_boolean(in) && !(spider_read_double(in) > 0);
    zero = zero && spider_read_list(in) == 0 && spider_read_map(in) == 0 && !spider_read_option(in);
    spider_read_struct(in, "a, b");
    spider_read_tuple(in, 2);
    spider_read_nil(in);
    spider_skip(in);
    zero = zero && spider_peek(in) == SPIDER_TYPE_END && spider_read_count(in) == 0 && spider_read_count(task->graph_outputs) == 0;
    spider_write_string(task->out, text);
    spider_write_bytes(task->out, bytes);
    spider_write_list(task->out, 3);
    if (!zero) {
        abort();
    }
}

static void create(spider_task *task, spider_string path)
{
    if (spider_ready(task)) {
        char name[4096];
        FILE *file;
        snprintf(name, sizeof name, "%.*s", (int)path.size, path.data);
        file = fopen(name, "w");
        if (file != NULL) {
            fclose(file);
        }
    }
}

static void touch(spider_task *task)
{
    create(task, spider_read_string(task->in));
}

static void peek_and_touch(spider_task *task)
{
    spider_string path = spider_read_string(task->in);
    spider_peek(task->in);
    create(task, path);
}

/* A tuple of which only the last part is wanted, a map of one pair. */
static void third_of_three(spider_task *task)
{
    size_t pairs;
    spider_read_tuple(task->in, 3);
    spider_skip(task->in);
    spider_skip(task->in);
    pairs = spider_read_map(task->in);
    spider_skip(task->in);
    spider_write_count(task->out, 2);
    spider_write_uint8(task->out, spider_read_uint8(task->in));
    spider_write_uint64(task->out, pairs);
}

/* A struct of no fields, which may come as a map of others. */
static void no_fields(spider_task *task)
{
    spider_read_struct(task->in, "");
    spider_write_nil(task->out);
}

static void null_cstring(spider_task *task)
{
    spider_write_nil(task->out);
    spider_write_cstring(task->out, getenv("SPIDER_TEST_NOT_SET"));
}

SPIDER_TDL_PACKAGE("odd", NULL,
    {"too_few_elements", too_few_elements},
    {"bad_utf8", bad_utf8},
    {"bad_utf8_in_error", bad_utf8_in_error},
    {"fails_twice", fails_twice},
    {"writes_then_fails", writes_then_fails},
    {"long_error", long_error},
    {"null_string", null_string},
    {"part", part},
    {"bytes_as_string", bytes_as_string},
    {"reads_on", reads_on},
    {"touch", touch},
    {"peek_and_touch", peek_and_touch},
    {"third_of_three", third_of_three},
    {"no_fields", no_fields},
    {"null_cstring", null_cstring});
