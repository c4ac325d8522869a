/*
 * One task that does what it is told: calls of the SDK, in any order, right or wrong.
 *
 *     script(string operations, arguments...) -> string, what the readers returned; or what the operations wrote
 *
 * Operations are parted by blanks, and some have parameters after colons. The first argument is read as one of them,
 * so the others begin at inputs[1]. Readers have the names of spider_read_..., writers those of spider_write_..., with
 * a capital.
 */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static char results[8192]; /* what the readers returned */
static size_t used;

__attribute__((format(printf, 1, 2))) static void report(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    used += (size_t)vsnprintf(results + used, sizeof results - used, format, arguments);
    va_end(arguments);
    if (used >= sizeof results) {
        abort();
    }
}

/* After an error, readers return zero. */
static void expect_zero(const spider_task *task, bool zero)
{
    if (!spider_ok(task) && !zero) {
        abort();
    }
}

static void report_number(const spider_task *task, double number)
{
    expect_zero(task, !(number < 0 || number > 0));
    report("%.17g ", number);
}

static void report_bytes(const spider_task *task, spider_bytes bytes)
{
    expect_zero(task, bytes.size == 0 && bytes.data != NULL);
    for (size_t i = 0; i < bytes.size; i++) {
        report("%02x", bytes.data[i]);
    }
    report(" ");
}

static void report_text(const spider_task *task, spider_string text)
{
    expect_zero(task, text.size == 0 && text.data != NULL);
    report("%.*s ", (int)text.size, text.data);
}

/* Equal names at one address, as literals have: the SDK remembers them by that. */
static const char *intern(const char *names)
{
    static char pool[1 << 16];
    char *at = pool;
    if (*names == '\0') {
        return "";
    }
    while (*at != '\0' && strcmp(at, names) != 0) {
        at += strlen(at) + 1;
    }
    if (at + strlen(names) + 2 > pool + sizeof pool) {
        abort();
    }
    return strcpy(at, names);
}

static bool read_next(spider_task *task, spider_reader *in, const char *name, char *parameter)
{
    static const char *const types[] = {"end", "nil", "boolean", "unsigned", "negative", "float", "double", "string",
                                        "binary", "extension", "array", "map"};
#define IS(text) (strcmp(name, text) == 0)
#define NUMBER(type) if (IS(#type)) { report_number(task, (double)spider_read_##type(in)); return true; }
    NUMBER(int8) NUMBER(int16) NUMBER(int32) NUMBER(int64)
    NUMBER(uint8) NUMBER(uint16) NUMBER(uint32) NUMBER(uint64)
    NUMBER(float) NUMBER(double) NUMBER(boolean) NUMBER(option)
    NUMBER(list) NUMBER(map) NUMBER(count)
    if (IS("nil")) {
        spider_read_nil(in);
    } else if (IS("string")) {
        report_text(task, spider_read_string(in));
    } else if (IS("cstring")) {
        const char *text = spider_read_cstring(in);
        spider_string view = {text, strlen(text)};
        report_text(task, view);
    } else if (IS("bytes")) {
        report_bytes(task, spider_read_bytes(in));
    } else if (IS("tuple")) {
        spider_read_tuple(in, (size_t)strtoull(parameter, NULL, 10));
    } else if (IS("struct")) {
        spider_read_struct(in, intern(parameter));
    } else if (IS("variant")) {
        report_number(task, (double)spider_read_variant(in, intern(parameter)));
    } else if (IS("peek")) {
        spider_type type = spider_peek(in);
        expect_zero(task, type == SPIDER_TYPE_END);
        report("%s ", types[type]);
    } else if (IS("skip")) {
        spider_skip(in);
    } else if (IS("reject")) {
        spider_reject(in, parameter, "%s number %d", "argument", 1);
    } else {
        return false;
    }
    return true;
}

static bool write_next(spider_writer *out, const char *name, const char *parameter)
{
    size_t count = (size_t)strtoull(parameter, NULL, 10);
    if (IS("Int64")) {
        spider_write_int64(out, atoll(parameter));
    } else if (IS("Ints")) {
        for (size_t i = 0; i < count; i++) {
            spider_write_uint8(out, (uint8_t)(i % 100));
        }
    } else if (IS("Nil")) {
        spider_write_nil(out);
    } else if (IS("Cstring")) {
        spider_write_cstring(out, parameter);
    } else if (IS("Null_cstring")) {
        spider_write_cstring(out, NULL);
    } else if (IS("Null_string")) {
        spider_string text = {NULL, 0};
        spider_write_string(out, text);
    } else if (IS("Null_bytes")) {
        spider_bytes bytes = {NULL, 0};
        spider_write_bytes(out, bytes);
    } else if (IS("Option")) {
        spider_write_option(out, count > 0);
    } else if (IS("Count")) {
        spider_write_count(out, count);
    } else if (IS("List")) {
        spider_write_list(out, count);
    } else if (IS("Map")) {
        spider_write_map(out, count);
    } else if (IS("Tuple")) {
        spider_write_tuple(out, count);
    } else if (IS("Struct")) {
        spider_write_struct(out, intern(parameter));
    } else if (IS("Variant")) { /* its number, and the names */
        spider_write_variant(out, intern(parameter + strcspn(parameter, ":") + 1), count);
    } else if (IS("Begin_list")) {
        spider_write_list_begin(out);
    } else if (IS("Begin_map")) {
        spider_write_map_begin(out);
    } else if (IS("End_list")) {
        spider_write_list_end(out);
    } else if (IS("End_map")) {
        spider_write_map_end(out);
    } else {
        return false;
    }
    return true;
}

static bool perform(spider_task *task, const char *name, char *parameter)
{
    if (IS("ready")) { /* tells the two answers apart: after this, the task fails in one of two ways */
        if (spider_ready(task)) {
            spider_fail(task, SPIDER_ERROR_CUSTOM, "ready");
        }
    } else if (IS("Part")) { /* of a string that is read, but perhaps more than it has */
        char *size = strchr(parameter, ':');
        spider_string text = spider_read_string(task->in);
        text.data += atoi(parameter);
        text.size = size == NULL ? text.size - (size_t)atoi(parameter) : (size_t)atoi(size + 1);
        spider_write_string(task->out, text);
    } else if (IS("Text")) { /* of bytes that are read */
        spider_bytes bytes = spider_read_bytes(task->in);
        spider_string text = {(const char *)bytes.data, bytes.size};
        spider_write_string(task->out, text);
    } else if (IS("fail")) {
        spider_bytes text = spider_read_bytes(task->in);
        spider_fail(task, SPIDER_ERROR_CUSTOM, "%.*s", (int)text.size, (const char *)text.data);
    } else if (IS("alloc")) {
        const char *memory = (const char *)spider_alloc(task, SIZE_MAX / 16, (size_t)atoi(parameter));
        expect_zero(task, memory == NULL);
    } else if (IS("align")) { /* whatever the sizes */
        for (size_t size = 0; size < 40; size++) {
            if ((uintptr_t)spider_alloc(task, 1, size) % 16 != 0) {
                abort();
            }
        }
    } else if (IS("kind")) {
        spider_fail(task, (spider_error_kind)atoi(parameter), "of kind %s", parameter);
    } else {
        return false;
    }
    return true;
}

static void script(spider_task *task)
{
    spider_reader *in = task->in;
    spider_string all = spider_read_string(in);
    char *at = (char *)spider_alloc(task, all.size + 1, 1);
    bool writes = false;
    used = 0;
    if (at == NULL) {
        return;
    }
    memcpy(at, all.data, all.size);
    while (*at != '\0') {
        char *name = at;
        char *parameter;
        at += strcspn(at, " ");
        if (*at != '\0') {
            *at++ = '\0';
        }
        parameter = name + strcspn(name, ":");
        if (*parameter != '\0') {
            *parameter++ = '\0';
        }
        writes = writes || (name[0] >= 'A' && name[0] <= 'Z');
        if (IS("graph")) {
            in = task->graph_outputs;
        } else if (!read_next(task, in, name, parameter) && !write_next(task->out, name, parameter)
                   && !perform(task, name, parameter)) {
            abort();
        }
    }
    if (!writes) {
        spider_string text = {results, used == 0 ? 0 : used - 1};
        spider_write_string(task->out, text);
    }
}

SPIDER_TDL_PACKAGE("script", NULL, {"script", script});
