/*
 * Every type, in and out: each task returns its arguments. A reference for how each is read and written, and something
 * to try an executor with.
 *
 *     cc -shared -fPIC -o kitchen_sink/libkitchen_sink.so kitchen_sink.c
 */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

/* One argument of a type that has a reader and a writer: int8(int8) -> int8, and so on. */
#define ECHO(type)                                                    \
    static void echo_##type(spider_task *task)                        \
    {                                                                 \
        spider_write_##type(task->out, spider_read_##type(task->in)); \
    }
ECHO(int8)
ECHO(int16)
ECHO(int32)
ECHO(int64)
ECHO(uint8)
ECHO(uint16)
ECHO(uint32)
ECHO(uint64)
ECHO(float)
ECHO(double)
ECHO(boolean)
ECHO(string)
ECHO(bytes)

/* list(List<int64>) -> List<int64> */
static void list(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_write_int64(task->out, spider_read_int64(task->in));
    }
}

/* map(Map<string, double>) -> Map<string, double> */
static void map(spider_task *task)
{
    size_t count = spider_read_map(task->in);
    spider_write_map(task->out, count);
    while (count-- > 0) {
        spider_write_string(task->out, spider_read_string(task->in));
        spider_write_double(task->out, spider_read_double(task->in));
    }
}

/* struct(struct { id: uint64, name: string, data: Bytes }) -> the same; by position, whether or not it came so */
static void structure(spider_task *task)
{
    spider_read_struct(task->in, "id, name, data");
    spider_write_struct(task->out, "id, name, data");
    spider_write_uint64(task->out, spider_read_uint64(task->in));
    spider_write_string(task->out, spider_read_string(task->in));
    spider_write_bytes(task->out, spider_read_bytes(task->in));
}

/* tuple((boolean, string)) -> (boolean, string), as one value */
static void tuple(spider_task *task)
{
    spider_read_tuple(task->in, 2);
    spider_write_tuple(task->out, 2);
    spider_write_boolean(task->out, spider_read_boolean(task->in));
    spider_write_string(task->out, spider_read_string(task->in));
}

/* option(string or nil) -> string or nil */
static void option(spider_task *task)
{
    if (spider_write_option(task->out, spider_read_option(task->in))) {
        spider_write_string(task->out, spider_read_string(task->in));
    }
}

/* enum(enum { Idle, Running(int64), Moved { x: double, y: double } }) -> the same */
static void enumeration(spider_task *task)
{
    static const char names[] = "Idle, Running(), Moved()";
    size_t variant = spider_read_variant(task->in, names);
    spider_write_variant(task->out, names, variant);
    if (variant == 1) {
        spider_write_int64(task->out, spider_read_int64(task->in));
    } else if (variant == 2) {
        spider_read_struct(task->in, "x, y");
        spider_write_struct(task->out, "x, y");
        spider_write_double(task->out, spider_read_double(task->in));
        spider_write_double(task->out, spider_read_double(task->in));
    }
}

static void nil(spider_task *task)
{
    spider_read_nil(task->in);
    spider_write_nil(task->out);
}

/* swap(int64, string) -> string, int64: two arguments, two outputs */
static void swap(spider_task *task)
{
    int64_t number = spider_read_int64(task->in);
    spider_string text = spider_read_string(task->in);
    spider_write_count(task->out, 2);
    spider_write_string(task->out, text);
    spider_write_int64(task->out, number);
}

/* Copies one value of any type. The readers end the recursion: they follow 1,023 levels, no more. */
static void copy(spider_reader *in, spider_writer *out)
{
    size_t count;
    switch (spider_peek(in)) {
    case SPIDER_TYPE_BOOLEAN: spider_write_boolean(out, spider_read_boolean(in)); break;
    case SPIDER_TYPE_UNSIGNED: spider_write_uint64(out, spider_read_uint64(in)); break;
    case SPIDER_TYPE_NEGATIVE: spider_write_int64(out, spider_read_int64(in)); break;
    case SPIDER_TYPE_FLOAT: spider_write_float(out, spider_read_float(in)); break;
    case SPIDER_TYPE_DOUBLE: spider_write_double(out, spider_read_double(in)); break;
    case SPIDER_TYPE_STRING: spider_write_string(out, spider_read_string(in)); break;
    case SPIDER_TYPE_BINARY: spider_write_bytes(out, spider_read_bytes(in)); break;
    case SPIDER_TYPE_ARRAY:
        count = spider_read_list(in);
        spider_write_list(out, count);
        while (count-- > 0) {
            copy(in, out);
        }
        break;
    case SPIDER_TYPE_MAP:
        count = spider_read_map(in);
        spider_write_map(out, count);
        while (count-- > 0) {
            copy(in, out);
            copy(in, out);
        }
        break;
    case SPIDER_TYPE_NIL:
    case SPIDER_TYPE_EXTENSION: /* which no reader accepts */
    case SPIDER_TYPE_END:
        spider_read_nil(in);
        spider_write_nil(out);
        break;
    }
}

/* any(any value) -> the same */
static void any(spider_task *task)
{
    copy(task->in, task->out);
}

/* all(any values) -> the same, each an output of its own */
static void all(spider_task *task)
{
    spider_write_count(task->out, spider_read_count(task->in));
    while (spider_peek(task->in) != SPIDER_TYPE_END) {
        copy(task->in, task->out);
    }
}

/* context() -> job id, kind, index, instance id, resource group id */
static void context(spider_task *task)
{
    static const char *const kinds[] = {"index", "commit", "cleanup"};
    spider_write_count(task->out, 5);
    spider_write_uint64(task->out, task->job_id);
    spider_write_cstring(task->out, kinds[task->kind]);
    spider_write_uint64(task->out, task->index);
    spider_write_uint64(task->out, task->instance_id);
    spider_write_uint64(task->out, task->resource_group_id);
}

/* A commit task: the graph's outputs, each an output of its own. */
static void graph_outputs(spider_task *task)
{
    spider_write_count(task->out, spider_read_count(task->graph_outputs));
    while (spider_peek(task->graph_outputs) != SPIDER_TYPE_END) {
        copy(task->graph_outputs, task->out);
    }
}

/* fail(uint8 kind, string message): fails with that error, counted from 0; the output is lost. */
static void fail(spider_task *task)
{
    uint8_t kind = spider_read_uint8(task->in);
    spider_string message = spider_read_string(task->in);
    spider_write_string(task->out, message);
    if (kind <= SPIDER_ERROR_CUSTOM) {
        spider_fail(task, (spider_error_kind)kind, "%.*s", (int)message.size, message.data);
    }
}

SPIDER_TDL_PACKAGE("kitchen_sink", NULL,
    {"int8", echo_int8},
    {"int16", echo_int16},
    {"int32", echo_int32},
    {"int64", echo_int64},
    {"uint8", echo_uint8},
    {"uint16", echo_uint16},
    {"uint32", echo_uint32},
    {"uint64", echo_uint64},
    {"float", echo_float},
    {"double", echo_double},
    {"boolean", echo_boolean},
    {"string", echo_string},
    {"bytes", echo_bytes},
    {"list", list},
    {"map", map},
    {"struct", structure},
    {"tuple", tuple},
    {"option", option},
    {"enum", enumeration},
    {"nil", nil},
    {"swap", swap},
    {"any", any},
    {"all", all},
    {"context", context},
    {"graph_outputs", graph_outputs},
    {"fail", fail});
