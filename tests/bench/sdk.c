/*
 * What the package SDK costs: tasks that return their argument, called many times in this process. Prints a line for
 * each: what it is, the nanoseconds per element, and the multiple of the floor: malloc, memcpy and free of the payload.
 * tests/bench/sdk.py makes a table of it.
 */
#define _POSIX_C_SOURCE 200809L
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if SPIDER_TDL_HEADER_VERSION < 200 /* to compare with */
#define spider__view spider_view
#define spider__result spider_result
#endif

/* ---- The tasks ---- */

static void add(spider_task *task)
{
    int64_t a = spider_read_int64(task->in);
    int64_t b = spider_read_int64(task->in);
    spider_write_int64(task->out, a + b);
}

static void strings(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_write_string(task->out, spider_read_string(task->in));
    }
}

static void integers(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_write_int64(task->out, spider_read_int64(task->in));
    }
}

static void doubles(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_write_double(task->out, spider_read_double(task->in));
    }
}

static void booleans(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_write_boolean(task->out, spider_read_boolean(task->in));
    }
}

static void text(spider_task *task)
{
    spider_write_string(task->out, spider_read_string(task->in));
}

/* struct { id: int64, place: struct { x: double, name: string } } */
static void nested(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_read_struct(task->in, "id, place");
        spider_write_struct(task->out, "id, place");
        spider_write_int64(task->out, spider_read_int64(task->in));
        spider_read_struct(task->in, "x, name");
        spider_write_struct(task->out, "x, name");
        spider_write_double(task->out, spider_read_double(task->in));
        spider_write_string(task->out, spider_read_string(task->in));
    }
}

static void bytes(spider_task *task)
{
    spider_write_bytes(task->out, spider_read_bytes(task->in));
}

static void structs(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_read_struct(task->in, "re, im");
        double re = spider_read_double(task->in);
        double im = spider_read_double(task->in);
        spider_write_tuple(task->out, 2);
        spider_write_double(task->out, re);
        spider_write_double(task->out, im);
    }
}

static void map(spider_task *task)
{
    size_t count = spider_read_map(task->in);
    spider_write_map(task->out, count);
    while (count-- > 0) {
        spider_write_string(task->out, spider_read_string(task->in));
        spider_write_int64(task->out, spider_read_int64(task->in));
    }
}

SPIDER_TDL_PACKAGE("bench", NULL,
    {"add", add},
    {"strings", strings},
    {"integers", integers},
    {"doubles", doubles},
    {"booleans", booleans},
    {"text", text},
    {"nested", nested},
    {"bytes", bytes},
    {"structs", structs},
    {"map", map});

/* ---- Payloads ---- */

typedef struct payload {
    uint8_t *data;
    size_t size;
} payload;

static void put(payload *to, const void *data, size_t size)
{
    to->data = (uint8_t *)realloc(to->data, to->size + size);
    if (to->data == NULL) {
        exit(1);
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static void put_number(payload *to, uint8_t marker, uint64_t value, unsigned bytes)
{
    put(to, &marker, 1);
    while (bytes-- > 0) {
        uint8_t byte = (uint8_t)(value >> (8 * bytes));
        put(to, &byte, 1);
    }
}

static void put_double(payload *to, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_number(to, 0xcb, bits, 8);
}

static void put_text(payload *to, const char *text)
{
    put_number(to, 0xda, strlen(text), 2);
    put(to, text, strlen(text));
}

/* The lengths, which count from the end of the payload that is complete now. */
static void finish(payload *made, uint32_t values)
{
    uint32_t head[2] = {values, (uint32_t)(made->size - 8)};
    memcpy(made->data, head, sizeof head);
}

static payload begin(void)
{
    payload made = {NULL, 0};
    put(&made, "\0\0\0\0\0\0\0", 8);
    return made;
}

static payload text_list(unsigned count, unsigned size, const char *pattern)
{
    char text[1025] = "";
    payload made = begin();
    put_number(&made, 0xdd, count, 4);
    for (unsigned i = 0; i < count; i++) {
        for (unsigned at = 0; at < size; at++) { /* characters are whole: the size is a multiple of the pattern's */
            text[at] = pattern[at % strlen(pattern)];
        }
        if (size < 100) {
            snprintf(text, sizeof text, "/var/log/spider/worker-%03u/part-%08u.clp", i, i * 7919);
        }
        put_text(&made, text);
    }
    finish(&made, 1);
    return made;
}

/* ---- Times ---- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static const uint8_t context[] = {0x95, 1, 0x81, 0xa5, 'I', 'n', 'd', 'e', 'x', 7, 2, 3, 0xc0};

enum { ROUNDS = 400 };
static double times[ROUNDS];

/* The nanoseconds of a copy of the payload, which is the least that a call can take. */
static double measure_floor(payload inputs, unsigned calls)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        double start = now();
        for (unsigned i = 0; i < calls; i++) {
            uint8_t *copy = (uint8_t *)malloc(inputs.size);
            memcpy(copy, inputs.data, inputs.size);
            __asm__ volatile("" : : "r"(copy) : "memory");
            free(copy);
        }
        times[round] = (now() - start) / calls;
    }
    qsort(times, ROUNDS, sizeof *times, compare);
    return times[ROUNDS / 4];
}

static void measure(const char *name, const char *task, payload inputs, unsigned count)
{
    spider__view views[3] = {{task, strlen(task)}, {context, sizeof context}, {inputs.data, inputs.size}};
    unsigned calls = inputs.size < 100000 ? (unsigned)(100000 / inputs.size) : 1;
    for (unsigned round = 0; round < ROUNDS; round++) {
        double start = now();
        for (unsigned i = 0; i < calls; i++) {
            spider__result result = __spider_tdl_package_execute(views[0], views[1], views[2]);
            if (result.is_error) {
                fprintf(stderr, "%s: %.*s\n", name, (int)result.length, (const char *)result.pointer);
                exit(1);
            }
            free(result.pointer);
        }
        times[round] = (now() - start) / calls;
    }
    qsort(times, ROUNDS, sizeof *times, compare);
    double time = times[ROUNDS / 4];
    printf("%s\t%.2f\t%.1f\n", name, time / count, time / measure_floor(inputs, calls));
    free(inputs.data);
}

int main(void)
{
    payload made = begin();
    payload second = begin();
    put_number(&made, 0xcd, 1000, 2);
    finish(&made, 2);
    put_number(&second, 0xcd, 2000, 2);
    finish(&second, 0);
    put(&made, second.data + 4, second.size - 4);
    measure("add, two integers", "add", made, 1);

    measure("100 strings of 41 bytes, paths", "strings", text_list(100, 41, "x"), 100);
    measure("1000 strings of 1000 bytes, ASCII", "strings", text_list(1000, 1000, "x"), 1000);
    measure("1000 strings of 1000 bytes, Latin", "strings", text_list(1000, 1000, "caf\xc3\xa9 noir"), 1000);
    measure("1000 strings of 1000 bytes, Cyrillic", "strings",
            text_list(1000, 1000, "\xd1\x81\xd0\xbb\xd0\xbe\xd0\xb2\xd0\xb0 \xd0\xb8 \xd0\xb4\xd0\xb0, "), 1000);

    made = begin();
    put_number(&made, 0xdc, 10000, 2);
    for (uint64_t i = 0; i < 10000; i++) {
        put_number(&made, 0xce, i * 99991, 4);
    }
    finish(&made, 1);
    measure("10000 integers", "integers", made, 10000);

    made = begin();
    put_number(&made, 0xdc, 10000, 2);
    for (unsigned i = 0; i < 10000; i++) {
        put_double(&made, i * 0.1);
    }
    finish(&made, 1);
    measure("10000 doubles", "doubles", made, 10000);

    made = begin();
    put_number(&made, 0xdc, 1000, 2);
    for (unsigned i = 0; i < 1000; i++) {
        put_number(&made, i % 100, 0, 0);
    }
    finish(&made, 1);
    measure("1000 small integers", "integers", made, 1000);

    made = begin();
    put_number(&made, 0xdc, 1000, 2);
    for (unsigned i = 0; i < 1000; i++) {
        put_number(&made, 0xc2 + i % 2, 0, 0);
    }
    finish(&made, 1);
    measure("1000 booleans", "booleans", made, 1000);

    for (unsigned form = 0; form < 2; form++) {
        made = begin();
        put_number(&made, 0xdb, 100000, 4);
        for (unsigned i = 0; i < 10000; i++) {
            put(&made, form == 0 ? "a text of " : "caf\xc3\xa9 noir", 10);
        }
        finish(&made, 1);
        measure(form == 0 ? "a text of 100000 bytes, ASCII" : "a text of 100000 bytes, Latin", "text", made, 1);
    }

    made = begin();
    put_number(&made, 0xdc, 1000, 2);
    for (unsigned i = 0; i < 1000; i++) {
        put(&made, "\x92\7\x92", 3);
        put_double(&made, i);
        put_text(&made, "a short text");
    }
    finish(&made, 1);
    measure("1000 structs within structs, with a text", "nested", made, 1000);

    made = begin();
    put_number(&made, 0xdd, 1000000, 4);
    for (unsigned i = 0; i < 1000000; i++) {
        put_number(&made, 0xcc, i % 256, i % 256 < 0x80 ? 0 : 1);
        made.data[made.size - 1] = (uint8_t)(i % 256);
    }
    finish(&made, 1);
    measure("1000000 bytes", "bytes", made, 1000000);

    for (unsigned form = 0; form < 3; form++) {
        static const char *const names[] = {"1000 structs of two", "1000 structs of two, as maps",
                                            "1000 structs of two, as maps in another order"};
        made = begin();
        put_number(&made, 0xdc, 1000, 2);
        for (unsigned i = 0; i < 1000; i++) {
            put_number(&made, form == 0 ? 0x92 : 0x82, 0, 0);
            for (unsigned field = 0; field < 2; field++) {
                if (form > 0) {
                    put(&made, field + 1 == form ? "\xa2re" : "\xa2im", 3);
                }
                put_double(&made, i);
            }
        }
        finish(&made, 1);
        measure(names[form], "structs", made, 1000);
    }

    made = begin();
    put_number(&made, 0xde, 1000, 2);
    for (unsigned i = 0; i < 1000; i++) {
        char key[16];
        snprintf(key, sizeof key, "key-%08u", i);
        put_text(&made, key);
        put_number(&made, 0xcd, i + 256, 2);
    }
    finish(&made, 1);
    measure("a map of 1000 strings to integers", "map", made, 1000);
    free(second.data);
    return 0;
}
