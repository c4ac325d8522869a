/*
 * spider_tdl.h: write Spider task packages in C. From the spider-task-executor project.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One header and libc. C99 or later, or C++11 or later; gcc or clang; Linux, little-endian. In C++17, spider_tdl.hpp
 * makes tasks of ordinary functions. A whole package:
 *
 *     #define SPIDER_TDL_IMPLEMENTATION
 *     #include "spider_tdl.h"
 *
 *     static void add(spider_task *task)                       // add(int64, int64) -> int64
 *     {
 *         int64_t a = spider_read_int64(task->in);
 *         int64_t b = spider_read_int64(task->in);
 *         spider_write_int64(task->out, a + b);
 *     }
 *
 *     SPIDER_TDL_PACKAGE("sums", NULL, {"add", add});
 *
 *     cc -O2 -shared -fPIC -o sums/libsums.so sums.c
 *
 * Reading    Each spider_read_...(task->in) takes the next value; the first one takes the first argument. After
 *            spider_read_list, _map, _struct or _tuple, the next values are its elements, in order.
 * Errors     The first error is kept, and it is the outcome of the task. After it, every reader returns zero (a list is
 *            empty, an option is absent) and every writer does nothing. So no call needs a check, except before a side
 *            effect: `if (!spider_ready(task)) return;`.
 * Arguments  A wrong type, a missing argument, and an argument or element that the task did not read are errors. They
 *            say where (`inputs[1].points[3]`, counted from 0), what was expected and what was found.
 * Writing    One complete value is the output. A task without an output writes nothing. A task with several outputs
 *            announces their number with spider_write_count.
 * Memory     Strings, bytes and memory from readers and from spider_alloc belong to the task. They are valid until the
 *            task function returns. The task must not free them. Writers copy what they are given.
 * Threads    A task, its readers and its writer belong to the thread that calls the task. No global data changes.
 * Files      Other source files of the package only include this header. The one that declares the package defines
 *            SPIDER_TDL_SEVERAL_FILES, too. The header exports only the four symbols that Spider calls.
 * zstd       Graph outputs of more than 1,024 bytes are compressed. If commit tasks of a package read them, define
 *            SPIDER_TDL_WITH_ZSTD next to SPIDER_TDL_IMPLEMENTATION, and link the package with -lzstd.
 */
#ifndef SPIDER_TDL_H
#define SPIDER_TDL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include <stdexcept>
#include <string>
extern "C" {
#endif

/* In a package of one file, functions are local: the library contains only those that it uses. */
#if defined(SPIDER_TDL_IMPLEMENTATION) && !defined(SPIDER_TDL_SEVERAL_FILES)
#define SPIDER__API static __attribute__((unused))
#else
#define SPIDER__API __attribute__((visibility("hidden")))
#endif

/* The version of this header, as major * 10000 + minor * 100 + patch, and the version of the package interface: an
 * executor of version 0.1.x runs packages of every 0.1.y. */
#define SPIDER_TDL_HEADER_VERSION 100
#define SPIDER_TDL_INTERFACE_MAJOR 0
#define SPIDER_TDL_INTERFACE_MINOR 1
#define SPIDER_TDL_INTERFACE_PATCH 0

/* Limits. */
#define SPIDER_TDL_DEPTH_MAX 1023     /* levels of nesting that are read, as in Rust */
#define SPIDER_TDL_FIELDS_MAX 64      /* fields of a struct */
#define SPIDER_TDL_MAP_STRUCTS_MAX 32 /* levels of structs that come as maps */
#define SPIDER_TDL_OPEN_MAX 128       /* levels of lists and maps of unknown length that are written */

/* ---- Types ------------------------------------------------------------------------------------------------------ */

typedef enum spider_error_kind {
    SPIDER_ERROR_TASK_NOT_FOUND, SPIDER_ERROR_DESERIALIZATION, SPIDER_ERROR_SERIALIZATION,
    SPIDER_ERROR_EXECUTION, SPIDER_ERROR_INVALID_TASK_CONTEXT, SPIDER_ERROR_CUSTOM
} spider_error_kind;

/* Index tasks form the job's graph. The commit task follows if all succeed, the cleanup task when the job ends. */
typedef enum spider_task_kind { SPIDER_TASK_INDEX, SPIDER_TASK_COMMIT, SPIDER_TASK_CLEANUP } spider_task_kind;

/* What spider_peek returns. UNSIGNED and NEGATIVE are integers from 0 up and below 0; ARRAY is a list, struct, tuple or
 * Bytes; no reader accepts EXTENSION. */
typedef enum spider_type {
    SPIDER_TYPE_END, SPIDER_TYPE_NIL, SPIDER_TYPE_BOOLEAN, SPIDER_TYPE_UNSIGNED, SPIDER_TYPE_NEGATIVE,
    SPIDER_TYPE_FLOAT, SPIDER_TYPE_DOUBLE, SPIDER_TYPE_STRING, SPIDER_TYPE_BINARY, SPIDER_TYPE_EXTENSION,
    SPIDER_TYPE_ARRAY, SPIDER_TYPE_MAP
} spider_type;

/* A string is UTF-8 without a NUL at its end. From a reader, `data` is not NULL, and the task does not free it. */
typedef struct spider_string {
    const char *data;
    size_t size;
} spider_string;

typedef struct spider_bytes {
    const uint8_t *data;
    size_t size;
} spider_bytes;

typedef struct spider_reader spider_reader;
typedef struct spider_writer spider_writer;

/* One call of a task. It must not be copied. Its pointers are valid until the task function returns. */
typedef struct spider_task {
    spider_reader *in;            /* the arguments */
    spider_writer *out;           /* the outputs */
    spider_reader *graph_outputs; /* the outputs of the job's graph; reading them fails if this is no commit task */
    spider_task_kind kind;
    uint64_t job_id;
    uint64_t index;       /* of an index task within its job, otherwise 0 */
    uint64_t instance_id; /* of this attempt to run the task */
    uint64_t resource_group_id;
} spider_task;

typedef void (*spider_task_function)(spider_task *task);

/* A task in SPIDER_TDL_PACKAGE. The name must remain valid while the package is loaded. */
typedef struct spider_task_entry {
    const char *name;
    spider_task_function function;
} spider_task_entry;

/* These three cross the boundary between executor and package, by value. The bytes of a view are borrowed. The executor
 * frees the bytes of a result, unless `length` is 0. */
typedef struct spider_version {
    uint32_t major_version, minor_version, patch_version;
} spider_version;

typedef struct spider_view {
    const void *pointer;
    size_t length;
} spider_view;

typedef struct spider_result {
    bool is_error;
    uint8_t *pointer;
    size_t length;
} spider_result;

/* ---- The task --------------------------------------------------------------------------------------------------- */

/* Makes the task fail with a message that is formatted as by printf. Does nothing if the task has failed before. The
 * message is cut at 4,095 bytes, and bytes that are not UTF-8 become '?'. */
__attribute__((format(printf, 3, 4), nonnull, cold))
SPIDER__API void spider_fail(spider_task *task, spider_error_kind kind, const char *format, ...);

/* True if the task has not failed. */
SPIDER__API bool spider_ok(const spider_task *task);

/* Call this before a side effect. True if the task has not failed and has read all of its arguments to their ends;
 * otherwise the task fails. Without it, the arguments are checked when the task ends. */
SPIDER__API bool spider_ready(spider_task *task);

/* Zeroed memory for `count` things of `size` bytes. It belongs to the task, which must not free it. Without memory, the
 * task fails with a SerializationError and the result is NULL. A count from spider_read_list is safe here: it is
 * never larger than the number of bytes that were sent. */
SPIDER__API void *spider_alloc(spider_task *task, size_t count, size_t size);

/* ---- Readers ---------------------------------------------------------------------------------------------------- */

/* The number of all arguments, or of all graph outputs. Reads no value. 0 after an error. */
SPIDER__API size_t spider_read_count(spider_reader *in);

/* Integers of any width are accepted if the value fits. Floats are not. */
SPIDER__API int8_t spider_read_int8(spider_reader *in);
SPIDER__API int16_t spider_read_int16(spider_reader *in);
SPIDER__API int32_t spider_read_int32(spider_reader *in);
SPIDER__API int64_t spider_read_int64(spider_reader *in);
SPIDER__API uint8_t spider_read_uint8(spider_reader *in);
SPIDER__API uint16_t spider_read_uint16(spider_reader *in);
SPIDER__API uint32_t spider_read_uint32(spider_reader *in);
SPIDER__API uint64_t spider_read_uint64(spider_reader *in);

/* Both widths and integers are accepted, and rounded. A double too large for a float becomes infinity, as in Rust. */
SPIDER__API float spider_read_float(spider_reader *in);
SPIDER__API double spider_read_double(spider_reader *in);

SPIDER__API bool spider_read_boolean(spider_reader *in);
SPIDER__API void spider_read_nil(spider_reader *in);

/* The string is part of the request. The cstring is a copy in the task's memory with a NUL at its end, and never NULL.
 * Text that has a NUL in it is refused. */
SPIDER__API spider_string spider_read_string(spider_reader *in);
SPIDER__API const char *spider_read_cstring(spider_reader *in);

/* Bytes from an array of integers (copied into the task's memory) or from binary, msgpack's type bin (not copied). */
SPIDER__API spider_bytes spider_read_bytes(spider_reader *in);

/* Returns the number of elements, or of pairs, which are read next: key, value, key, value... Binary is accepted as a
 * list of integers. */
SPIDER__API size_t spider_read_list(spider_reader *in);
SPIDER__API size_t spider_read_map(spider_reader *in);

/* Accepts exactly `count` values, which are read next. */
SPIDER__API void spider_read_tuple(spider_reader *in, size_t count);

/* Accepts a struct with these fields, such as "x, y", which are read next, in this order. It may come as an array (Rust
 * writes that) or as a map from names to values. `names` must remain valid until the task returns. */
SPIDER__API void spider_read_struct(spider_reader *in, const char *names);

/* Begins a value that may be nil. True: read the value next. False: it was nil, or the struct came as a map without this
 * field; read nothing. */
SPIDER__API bool spider_read_option(spider_reader *in);

/* The type of the next value, which is not taken. After the last element of a list, that is the value after the list.
 * SPIDER_TYPE_END: no argument is left, or the task has failed. */
SPIDER__API spider_type spider_peek(spider_reader *in);

/* Skips the next value, whatever its type. */
SPIDER__API void spider_skip(spider_reader *in);

/* Makes the task fail because of the value that was read last: a DeserializationError with its position, "expected
 * <expected>, found <format...>", as the readers report. For example:
 *     spider_reject(task->in, "a color", "the string %.*s", (int)text.size, text.data); */
__attribute__((format(printf, 3, 4), nonnull, cold))
SPIDER__API void spider_reject(spider_reader *in, const char *expected, const char *format, ...);

/* ---- Writers ---------------------------------------------------------------------------------------------------- */

/* Announces the number of outputs, before the first one. Without it, a task writes one output or none. */
SPIDER__API void spider_write_count(spider_writer *out, size_t count);

/* Integers are written in the smallest form that holds the value, whatever their type. */
SPIDER__API void spider_write_int8(spider_writer *out, int8_t value);
SPIDER__API void spider_write_int16(spider_writer *out, int16_t value);
SPIDER__API void spider_write_int32(spider_writer *out, int32_t value);
SPIDER__API void spider_write_int64(spider_writer *out, int64_t value);
SPIDER__API void spider_write_uint8(spider_writer *out, uint8_t value);
SPIDER__API void spider_write_uint16(spider_writer *out, uint16_t value);
SPIDER__API void spider_write_uint32(spider_writer *out, uint32_t value);
SPIDER__API void spider_write_uint64(spider_writer *out, uint64_t value);

SPIDER__API void spider_write_float(spider_writer *out, float value);
SPIDER__API void spider_write_double(spider_writer *out, double value);
SPIDER__API void spider_write_nil(spider_writer *out);
SPIDER__API void spider_write_boolean(spider_writer *out, bool value);

/* Text that is not UTF-8 is a SerializationError. So is NULL as a cstring. */
SPIDER__API void spider_write_string(spider_writer *out, spider_string value);
SPIDER__API void spider_write_cstring(spider_writer *out, const char *value);

/* Written as an array of integers. */
SPIDER__API void spider_write_bytes(spider_writer *out, spider_bytes value);

/* Begin a list, a map, a tuple or a struct. Next, write exactly `count` elements, pairs (key, value, key, value...) or
 * values, or one value for each field. `names` are the fields, such as "x, y", in the order of writing. */
SPIDER__API void spider_write_list(spider_writer *out, size_t count);
SPIDER__API void spider_write_map(spider_writer *out, size_t count);
SPIDER__API void spider_write_tuple(spider_writer *out, size_t count);
SPIDER__API void spider_write_struct(spider_writer *out, const char *names);

/* Writes nil if `present` is false. Otherwise the value must be written next. Returns `present`. */
SPIDER__API bool spider_write_option(spider_writer *out, bool present);

/* For a list or map of unknown length: begin it, write its elements, or its keys and values in turn, and end it. */
SPIDER__API void spider_begin_list(spider_writer *out);
SPIDER__API void spider_end_list(spider_writer *out);
SPIDER__API void spider_begin_map(spider_writer *out);
SPIDER__API void spider_end_map(spider_writer *out);

/* ---- The package ------------------------------------------------------------------------------------------------ */

typedef struct spider__package {
    spider_view name;
    spider_task_function init;
    const spider_task_entry *tasks;
    size_t task_count;
} spider__package;

extern const spider__package spider__this_package __attribute__((visibility("hidden")));

SPIDER__API bool spider__reader_ok(const spider_reader *in); /* for spider_tdl.hpp */

/*
 * SPIDER_TDL_PACKAGE(name, init, tasks...) declares the package, once, at file scope, after its tasks:
 *   name   a string literal; the library must be <name>/lib<name>.so
 *   init   NULL, or a function that is called once before any task. It has no arguments and no outputs. If it fails, so
 *          does loading the package.
 *   tasks  one or more of {"name", function}
 */
#define SPIDER_TDL_PACKAGE(...) \
    typedef char define_SPIDER_TDL_IMPLEMENTATION_before_you_include_spider_tdl_h[-1]

#ifdef __cplusplus
} /* extern "C" */

/* `throw spider::task_error("no such key")` makes a task fail. Any other std::exception is an ExecutionError with the
 * text of its what(). Anything else that is thrown is an ExecutionError "unknown C++ exception". */
namespace spider {
struct __attribute__((visibility("hidden"))) task_error final : std::runtime_error {
    explicit task_error(const std::string &message, spider_error_kind error_kind = SPIDER_ERROR_EXECUTION)
        : std::runtime_error(message), kind(error_kind) {}
    const spider_error_kind kind;
};
} /* namespace spider */
#endif

#endif /* SPIDER_TDL_H */

/* ==== Implementation ============================================================================================== */

#if defined(SPIDER_TDL_IMPLEMENTATION) && !defined(SPIDER__IMPLEMENTED)
#define SPIDER__IMPLEMENTED

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef SPIDER_TDL_WITH_ZSTD
#include <zstd.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "spider_tdl.h needs a little-endian machine."
#endif

#undef SPIDER_TDL_PACKAGE
#define SPIDER_TDL_PACKAGE(name_, init_, ...)                                                                       \
    static const spider_task_entry spider__tasks[] = {__VA_ARGS__};                                                 \
    const spider__package spider__this_package = {{"" name_, sizeof("" name_) - 1}, init_, spider__tasks,           \
                                                  sizeof spider__tasks / sizeof *spider__tasks};                    \
    struct spider_task

/* Error paths, and what runs once per call, are out of line and small, which makes the rest faster. */
#define SPIDER__COLD static __attribute__((cold, noinline))
#define SPIDER__EXPORT __attribute__((visibility("default")))
#define SPIDER__INLINE static inline __attribute__((always_inline))

#ifdef __cplusplus
extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#endif

typedef union spider__block {
    union spider__block *next;
    long double alignment;
} spider__block;

/* The first bytes of a msgpack value, decoded. */
typedef struct spider__head {
    spider_type type;
    uint64_t bits;       /* of an integer (in two's complement), boolean, float or double */
    uint32_t size;       /* bytes of a string, binary or extension; elements of an array; pairs of a map */
    const uint8_t *body; /* the bytes of a string or binary */
} spider__head;

/* A container that is being read. The values of a list that came as binary, and of a struct that came as a map, are not
 * read in sequence: these two have an `after`. */
typedef struct spider__level {
    const char *names;    /* of a struct's fields, otherwise NULL */
    const uint8_t *after; /* the end of the container */
    uint32_t index;       /* values begun */
    uint32_t count;       /* values in all: two for each pair of a map */
    bool pairs;           /* a map */
} spider__level;

struct spider_reader {
    struct spider__call *call;
    const char *label;       /* begins the positions in error texts */
    const uint8_t *position; /* after the last head, or string, or binary */
    const uint8_t *end;      /* where the bytes at `position` end */
    const uint8_t *value_end; /* the end of the argument; `end` differs if the position is outside of the request */
    spider__head head;        /* of the current value */
    const uint8_t *next;      /* the rest of the payload; NULL: graph outputs that are still to be opened */
    const uint8_t *limit;
    uint32_t index; /* values of the payload begun */
    uint32_t count; /* values of the payload in all */
    uint32_t depth;
    uint32_t map_structs; /* among the levels */
    bool peeked;          /* `head` is still to be taken */
    uint8_t byte[2];      /* the current element of a list that came as binary, as a uint8 */
    spider__level levels[SPIDER_TDL_DEPTH_MAX];
    const uint8_t *fields[SPIDER_TDL_MAP_STRUCTS_MAX][SPIDER_TDL_FIELDS_MAX]; /* their values; NULL: absent */
};

/* How a number or size is written: in one byte if it is below a limit, otherwise as a marker and 1, 2, 4 or 8 bytes. */
typedef struct spider__form {
    uint8_t small;
    uint16_t limit;
    uint8_t marker; /* for one byte; the next ones are for 2, 4 and 8 */
    bool has_byte_size;
} spider__form;

/* A list or map of unknown length that is being written. */
typedef struct spider__open {
    const spider__form *form;
    size_t start; /* the offset of its header */
    uint64_t outer_pending;
    size_t count; /* values begun */
} spider__open;

struct spider_writer {
    struct spider__call *call;
    uint8_t *data; /* the outputs, or the error, malloc'ed */
    size_t size;
    size_t capacity;
    size_t start;     /* the offset of the current output's length */
    uint64_t pending; /* values that are still to be written before the current one is complete */
    size_t count;     /* outputs begun */
    size_t announced; /* outputs that may be written */
    bool counted;     /* `announced` outputs must be written */
    uint32_t depth;
    spider__open open[SPIDER_TDL_OPEN_MAX];
};

/* One call of a task. `task` is the first member: a spider_task * can be cast to a spider__call *. */
typedef struct spider__call {
    spider_task task;
    bool failed;
    spider__block *memory; /* what spider_alloc returned */
    spider_bytes graph_buffer; /* as it came; no data: there is none */
    spider_reader in;
    spider_reader graph_outputs;
    spider_writer out;
} spider__call;

/* ---- Msgpack, and text ------------------------------------------------------------------------------------------- */

/* Reads a number of 1, 2, 4 or 8 bytes. */
SPIDER__INLINE uint64_t spider__load_be(const uint8_t *at, const uint8_t *end, unsigned width)
{
    uint64_t value = 0;
    if (end - at >= 8) { /* mostly so, and faster */
        memcpy(&value, at, 8);
        return __builtin_bswap64(value) >> (64 - 8 * width);
    }
    while (width-- > 0) {
        value = value << 8 | *at++;
    }
    return value;
}

static uint32_t spider__load_le32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static void spider__store_le32(uint8_t *at, size_t value) { memcpy(at, &value, 4); }

/* Returns the end of the head, or of the string, binary or extension; NULL if the value reaches beyond `end`. An array
 * or map needs as many bytes as it has elements, so that a count never exceeds what was sent. c1 has the type END. */
SPIDER__INLINE const uint8_t *spider__decode(const uint8_t *at, const uint8_t *end, spider__head *head)
{
    /* For the markers c0 to df: the type, and how many bytes of a number or size follow. */
    static const uint8_t forms[32][2] = {
        {SPIDER_TYPE_NIL, 0},       {SPIDER_TYPE_END, 0},       {SPIDER_TYPE_BOOLEAN, 0},   {SPIDER_TYPE_BOOLEAN, 0},
        {SPIDER_TYPE_BINARY, 1},    {SPIDER_TYPE_BINARY, 2},    {SPIDER_TYPE_BINARY, 4},    {SPIDER_TYPE_EXTENSION, 1},
        {SPIDER_TYPE_EXTENSION, 2}, {SPIDER_TYPE_EXTENSION, 4}, {SPIDER_TYPE_FLOAT, 4},     {SPIDER_TYPE_DOUBLE, 8},
        {SPIDER_TYPE_UNSIGNED, 1},  {SPIDER_TYPE_UNSIGNED, 2},  {SPIDER_TYPE_UNSIGNED, 4},  {SPIDER_TYPE_UNSIGNED, 8},
        {SPIDER_TYPE_NEGATIVE, 1},  {SPIDER_TYPE_NEGATIVE, 2},  {SPIDER_TYPE_NEGATIVE, 4},  {SPIDER_TYPE_NEGATIVE, 8},
        {SPIDER_TYPE_EXTENSION, 0}, {SPIDER_TYPE_EXTENSION, 0}, {SPIDER_TYPE_EXTENSION, 0}, {SPIDER_TYPE_EXTENSION, 0},
        {SPIDER_TYPE_EXTENSION, 0}, {SPIDER_TYPE_STRING, 1},    {SPIDER_TYPE_STRING, 2},    {SPIDER_TYPE_STRING, 4},
        {SPIDER_TYPE_ARRAY, 2},     {SPIDER_TYPE_ARRAY, 4},     {SPIDER_TYPE_MAP, 2},       {SPIDER_TYPE_MAP, 4},
    };
    if (at == end) {
        return NULL;
    }
    uint8_t marker = *at++;
    head->size = 0;
    head->body = NULL;
    if (marker < 0x80 || marker >= 0xe0) {
        head->type = marker < 0x80 ? SPIDER_TYPE_UNSIGNED : SPIDER_TYPE_NEGATIVE;
        head->bits = marker < 0x80 ? marker : UINT64_C(0xffffffffffffff00) | marker;
        return at;
    }
    uint64_t size;
    if (marker < 0xc0) {
        head->type = marker >= 0xa0 ? SPIDER_TYPE_STRING : marker >= 0x90 ? SPIDER_TYPE_ARRAY : SPIDER_TYPE_MAP;
        size = marker & (marker >= 0xa0 ? 0x1f : 0x0f);
    } else {
        unsigned width = forms[marker - 0xc0][1];
        head->type = (spider_type)forms[marker - 0xc0][0];
        if ((size_t)(end - at) < width) {
            return NULL;
        }
        head->bits = width == 0 ? marker & 1 /* of a boolean */ : spider__load_be(at, end, width);
        at += width;
        if (head->type == SPIDER_TYPE_NEGATIVE) {
            if (head->bits >> (8 * width - 1) == 0) {
                head->type = SPIDER_TYPE_UNSIGNED;
            } else if (width < 8) {
                head->bits |= UINT64_MAX << (8 * width);
            }
        }
        if (head->type <= SPIDER_TYPE_DOUBLE) {
            return at;
        }
        size = width == 0 ? UINT64_C(1) << (marker - 0xd4) : head->bits;
    }
    head->size = (uint32_t)size;
    size += head->type == SPIDER_TYPE_EXTENSION; /* the byte that says what the extension is */
    head->body = at;
    if ((size_t)(end - at) < (head->type == SPIDER_TYPE_MAP ? 2 * size : size)) {
        return NULL;
    }
    return head->type < SPIDER_TYPE_ARRAY ? at + size : at;
}

static uint64_t spider__children(const spider__head *head)
{
    return head->type == SPIDER_TYPE_ARRAY ? head->size : head->type == SPIDER_TYPE_MAP ? 2 * (uint64_t)head->size : 0;
}

/* Returns the end of so many values, however deep they are. NULL: they are truncated, or contain the marker c1. */
static const uint8_t *spider__skip(const uint8_t *at, const uint8_t *end, uint64_t values)
{
    for (; values > 0; values--) {
        spider__head head;
        at = spider__decode(at, end, &head);
        if (at == NULL || head.type == SPIDER_TYPE_END) {
            return NULL;
        }
        values += spider__children(&head);
    }
    return at;
}

static const spider__form spider__byte = {0x00, 0x100, 0, false};
static const spider__form spider__unsigned = {0x00, 0x80, 0xcc, true};
static const spider__form spider__string = {0xa0, 32, 0xd9, true};
static const spider__form spider__array = {0x90, 16, 0xdb, false};
static const spider__form spider__map = {0x80, 16, 0xdd, false};

/* How many bytes follow the marker: 0, 1, 2, 4 or 8. */
static size_t spider__extra_bytes(const spider__form *form, uint64_t value)
{
    return value < form->limit                           ? 0
           : value <= UINT8_MAX && form->has_byte_size   ? 1
           : value <= UINT16_MAX                         ? 2
           : value <= UINT32_MAX                         ? 4
                                                         : 8;
}

/* Writes a marker and the lowest bytes of a number. 8 bytes must be writable after the marker. */
SPIDER__INLINE uint8_t *spider__store_be(uint8_t *at, unsigned marker, uint64_t value, size_t bytes)
{
    *at++ = (uint8_t)marker;
    value = __builtin_bswap64(value << (64 - 8 * bytes));
    memcpy(at, &value, 8);
    return at + bytes;
}

SPIDER__INLINE uint8_t *spider__store_head(uint8_t *at, const spider__form *form, uint64_t value)
{
    size_t bytes = spider__extra_bytes(form, value);
    if (bytes == 0) {
        *at = (uint8_t)(form->small | value);
        return at + 1;
    }
    return spider__store_be(at, form->marker + (bytes == 8 ? 3 : (unsigned)bytes / 2), value, bytes);
}

/* The bits of 8 bytes that are not ASCII. */
static uint64_t spider__high_bits(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, 8);
    return word & UINT64_C(0x8080808080808080);
}

/* The size of the longest prefix that is well-formed UTF-8. */
static size_t spider__utf8_prefix(const void *text, size_t size)
{
    const uint8_t *data = (const uint8_t *)text;
    size_t i = 0;
    while (i < size) {
        uint64_t high = 0;
        while (size - i >= 8 && (high = spider__high_bits(data + i)) == 0) {
            i += 8;
        }
        i += high != 0 ? (size_t)__builtin_ctzll(high) / 8 : 0;
        while (i < size && data[i] < 0x80) {
            i++;
        }
        while (i < size && data[i] >= 0x80) {
            uint8_t lead = data[i];
            size_t more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
            if (lead < 0xc2 || lead > 0xf4 || size - i <= more) {
                return i;
            }
            /* No overlong forms, no surrogates, nothing above U+10FFFF. */
            uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
            uint8_t top = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
            if (data[i + 1] < low || data[i + 1] > top || (more > 1 && data[i + 2] >> 6 != 2)
                || (more > 2 && data[i + 3] >> 6 != 2)) {
                return i;
            }
            i += more + 1;
        }
    }
    return size;
}

/* ---- Errors and memory ------------------------------------------------------------------------------------------- */

/* Makes the task fail with an error in msgpack: {"ExecutionError": text}. */
SPIDER__COLD void spider__fail_with(spider__call *call, spider_error_kind kind, const void *text, size_t size)
{
    static const char *const names[] = {"TaskNotFound",   "DeserializationError", "SerializationError",
                                        "ExecutionError", "InvalidTaskContext",   "Custom"};
    const char *name = names[(unsigned)kind < SPIDER_ERROR_CUSTOM ? kind : SPIDER_ERROR_CUSTOM];
    size_t name_size = strlen(name);
    if (call->failed) {
        return;
    }
    call->failed = true;
    free(call->out.data); /* the outputs are lost, and their memory may be what the error needs */
    uint8_t *at = (uint8_t *)malloc(20 + name_size + size);
    call->out.data = at;
    call->out.size = 0;
    if (at == NULL) {
        return; /* the executor reports an empty error */
    }
    *at = 0x81;
    at[1] = (uint8_t)(0xa0 | name_size);
    memcpy(at + 2, name, name_size);
    at = spider__store_head(at + 2 + name_size, &spider__string, size);
    memcpy(at, text, size);
    call->out.size = (size_t)(at - call->out.data) + size;
    for (size_t i = 0; (i += spider__utf8_prefix(at + i, size - i)) < size;) {
        at[i] = '?'; /* text that is not UTF-8 would make the whole error unreadable */
    }
}

void spider_fail(spider_task *task, spider_error_kind kind, const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t size = length < 0 ? 0 : (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
    spider__fail_with((spider__call *)task, kind, text, size);
}

bool spider_ok(const spider_task *task) { return !((const spider__call *)task)->failed; }
bool spider__reader_ok(const spider_reader *in) { return !in->call->failed; }

void *spider_alloc(spider_task *task, size_t count, size_t size)
{
    spider__call *call = (spider__call *)task;
    bool fits = size == 0 || count <= (SIZE_MAX - sizeof(spider__block)) / size;
    spider__block *block = fits ? (spider__block *)calloc(1, sizeof *block + count * size) : NULL;
    if (block == NULL) {
        spider_fail(task, SPIDER_ERROR_SERIALIZATION, "out of memory: no room for %zu times %zu bytes", count, size);
        return NULL;
    }
    block->next = call->memory;
    call->memory = block;
    return block + 1;
}

/* ---- The names of fields ---------------------------------------------------------------------------------------- */

/* Takes the next of the names in "one, two, three". False after the last. */
static bool spider__next_name(const char **names, spider_string *name)
{
    const char *at = *names;
    while (*at == ' ' || *at == ',') {
        at++;
    }
    name->data = at;
    while (*at != '\0' && *at != ' ' && *at != ',') {
        at++;
    }
    name->size = (size_t)(at - name->data);
    *names = at;
    return name->size > 0;
}

static uint32_t spider__count_names(const char *names)
{
    uint32_t count = 0;
    spider_string name;
    while (spider__next_name(&names, &name)) {
        count++;
    }
    return count;
}

/* Which of the names a key is; `count`: none of them. The search begins at `likely`: so keys in the order of the names
 * are each found at once. */
static uint32_t spider__match(const spider_string *names, uint32_t count, uint32_t likely, const spider__head *key)
{
    bool is_text = key->type == SPIDER_TYPE_STRING || key->type == SPIDER_TYPE_BINARY;
    for (uint32_t i = 0; is_text && i < count; i++) {
        uint32_t candidate = likely + i < count ? likely + i : likely + i - count;
        if (names[candidate].size == key->size && memcmp(names[candidate].data, key->body, key->size) == 0) {
            return candidate;
        }
    }
    return count;
}

/* ---- Errors of readers ------------------------------------------------------------------------------------------ */

/* An absent field of a struct that came as a map reads as this nil. */
static const uint8_t spider__absent[1] = {0xc0};

#define SPIDER__POSITION_SIZE 512

/* Where the value that was begun last is, such as `inputs[0].points[3]`, or a container around it: `depth` levels. */
SPIDER__COLD void spider__describe_position(const spider_reader *in, uint32_t depth, char *text)
{
    size_t used = (size_t)snprintf(text, SPIDER__POSITION_SIZE, in->index > 0 ? "%s[%" PRIu32 "]" : "%s", in->label,
                                   in->index - 1);
    for (uint32_t i = 0; i < depth && in->levels[i].index > 0; i++) { /* without a value, the container is meant */
        const spider__level *level = &in->levels[i];
        uint32_t index = level->index - 1;
        char *at = text + used;
        size_t room = SPIDER__POSITION_SIZE - used;
        if (room < 64) {
            snprintf(at, room, "[...]");
            return;
        }
        if (level->pairs) {
            used += (size_t)snprintf(at, room, "[%s %" PRIu32 "]", index % 2 == 0 ? "key" : "value", index / 2);
        } else if (level->names == NULL) {
            used += (size_t)snprintf(at, room, "[%" PRIu32 "]", index);
        } else {
            const char *names = level->names;
            spider_string name;
            while (spider__next_name(&names, &name) && index-- > 0) {
            }
            used += (size_t)snprintf(at, room, ".%.*s", name.size > 60 ? 60 : (int)name.size, name.data);
        }
    }
}

void spider_reject(spider_reader *in, const char *expected, const char *format, ...)
{
    char position[SPIDER__POSITION_SIZE];
    char found[256];
    if (in->call->failed) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(found, sizeof found, format, arguments);
    va_end(arguments);
    spider__describe_position(in, in->depth, position);
    spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION, "%s: expected %s, found %s", position, expected,
                length < 0 ? format : found);
}

/* The value is of another type. */
SPIDER__COLD void spider__mismatch(spider_reader *in, const char *expected)
{
    static const char *const kinds[] = {"a reserved type", "nil", "the boolean ", "the integer ", "the integer -",
                                        "a float", "a double", "a string", "binary", "an extension", "an array",
                                        "a map"};
    const spider__head *head = &in->head;
    const char *kind = kinds[head->type];
    if (in->position == spider__absent + 1) {
        spider_reject(in, expected, "no such field");
    } else if (head->type == SPIDER_TYPE_BOOLEAN) {
        spider_reject(in, expected, "%s%s", kind, head->bits != 0 ? "true" : "false");
    } else if (head->type == SPIDER_TYPE_UNSIGNED || head->type == SPIDER_TYPE_NEGATIVE) {
        uint64_t magnitude = head->type == SPIDER_TYPE_UNSIGNED ? head->bits : 0 - head->bits;
        spider_reject(in, expected, "%s%" PRIu64, kind, magnitude);
    } else if (head->type < SPIDER_TYPE_STRING) {
        spider_reject(in, expected, "%s", kind);
    } else {
        spider_reject(in, expected, "%s of length %" PRIu32, kind, head->size);
    }
}

SPIDER__COLD void spider__damaged(spider_reader *in, const char *expected)
{
    spider_reject(in, expected, "the end of the bytes (truncated), or the reserved marker c1");
}

/* ---- Readers ---------------------------------------------------------------------------------------------------- */

/* Opens a payload, whose bytes the reader borrows. */
static void spider__open_payload(spider_reader *in, const char *label, const uint8_t *data, size_t size)
{
    in->label = label;
    in->count = size < 4 ? 0 : spider__load_le32(data);
    in->next = data + (size < 4 ? size : 4);
    in->limit = data + size;
    bool lacks_count = size < 4 && (size > 0 || in != in->call->task.in); /* a cleanup task's inputs may be empty */
    if (lacks_count || in->count > (size_t)(in->limit - in->next) / 4) {
        spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION,
                    "%s: expected a count of 4 bytes and %" PRIu32 " values, found only %zu bytes (truncated)", label,
                    in->count, size);
    }
}

SPIDER__COLD bool spider__open_graph_outputs(spider_reader *in);

/* Goes to the next value of the payload. False after an error. */
static bool spider__begin_top(spider_reader *in, const char *expected)
{
    if (in->next == NULL && !spider__open_graph_outputs(in)) {
        return false;
    }
    if (in->index == in->count) {
        spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION,
                    "%s[%" PRIu32 "]: expected %s, found nothing (%" PRIu32 " value%s given)", in->label, in->index,
                    expected, in->count, in->count == 1 ? "" : "s");
        return false;
    }
    in->index++;
    size_t left = (size_t)(in->limit - in->next);
    if (left < 4 || spider__load_le32(in->next) > left - 4) {
        spider__damaged(in, expected);
        return false;
    }
    in->position = in->next + 4;
    in->end = in->value_end = in->next = in->position + spider__load_le32(in->next);
    return true;
}

/* Goes to the next value of a container whose values are not read in sequence. */
static void spider__begin_elsewhere(spider_reader *in, const spider__level *level)
{
    if (level->names != NULL) {
        const uint8_t *field = in->fields[in->map_structs - 1][level->index - 1];
        in->position = field != NULL ? field : spider__absent;
        in->end = field != NULL ? in->value_end : spider__absent + 1;
    } else {
        in->byte[0] = 0xcc; /* a uint8 */
        in->byte[1] = (level->after - level->count)[level->index - 1];
        in->position = in->byte;
        in->end = in->byte + 2;
    }
}

/* Leaves the containers that have been read to their ends. Until then, errors can say where the last value was. */
SPIDER__INLINE void spider__leave(spider_reader *in)
{
    while (!in->peeked && in->depth > 0 && in->levels[in->depth - 1].index == in->levels[in->depth - 1].count) {
        const spider__level *level = &in->levels[--in->depth];
        if (level->after != NULL) {
            in->position = level->after;
            in->end = in->value_end;
            in->map_structs -= level->names != NULL;
        }
    }
}

/* Decodes the head of the next value. NULL after an error. */
static const spider__head *spider__take(spider_reader *in, const char *expected)
{
    if (in->call->failed) {
        return NULL;
    }
    if (in->peeked) {
        in->peeked = false;
        return &in->head;
    }
    spider__leave(in);
    if (in->depth > 0) {
        spider__level *level = &in->levels[in->depth - 1];
        level->index++;
        if (level->after != NULL) {
            spider__begin_elsewhere(in, level);
        }
    } else if (!spider__begin_top(in, expected)) {
        return NULL;
    }
    in->position = spider__decode(in->position, in->end, &in->head);
    if (in->position == NULL) {
        spider__damaged(in, expected);
        return NULL;
    }
    return &in->head;
}

static bool spider__take_type(spider_reader *in, const char *expected, spider_type type)
{
    const spider__head *head = spider__take(in, expected);
    if (head != NULL && head->type != type) {
        spider__mismatch(in, expected);
        return false;
    }
    return head != NULL;
}

/* Opens a container, whose values are read next. NULL after an error. */
static spider__level *spider__enter(spider_reader *in, uint32_t count, bool pairs, const char *names)
{
    if (in->depth == SPIDER_TDL_DEPTH_MAX) {
        spider_reject(in, "at most 1023 levels", "deeper nesting");
        return NULL;
    }
    spider__level level = {names, NULL, 0, count, pairs};
    in->levels[in->depth] = level;
    return &in->levels[in->depth++];
}

/* Opens a struct that came as a map: finds the values of its fields. This takes time for each level of such structs, so
 * their number is limited. */
static void spider__enter_map_struct(spider_reader *in, const char *names, uint32_t count, uint32_t entries)
{
    if (in->map_structs == SPIDER_TDL_MAP_STRUCTS_MAX || count > SPIDER_TDL_FIELDS_MAX) {
        spider_reject(in, "a map of at most 64 fields, at most 32 deep", "more");
        return;
    }
    spider__level *level = spider__enter(in, count, false, names);
    if (level == NULL) {
        return;
    }
    const uint8_t **fields = in->fields[in->map_structs++];
    spider_string split[SPIDER_TDL_FIELDS_MAX];
    for (uint32_t i = 0; i < count && spider__next_name(&names, &split[i]); i++) {
        fields[i] = NULL;
    }
    const uint8_t *at = in->position;
    uint32_t likely = 0;
    for (; entries > 0; entries--) {
        spider__head key;
        const uint8_t *value = spider__decode(at, in->end, &key);
        value = value != NULL ? spider__skip(value, in->end, spider__children(&key)) : NULL;
        at = value != NULL ? spider__skip(value, in->end, 1) : NULL;
        if (at == NULL) {
            spider__damaged(in, "a value");
            return;
        }
        uint32_t match = spider__match(split, count, likely, &key);
        if (match == count) {
            continue;
        }
        if (fields[match] != NULL) {
            level->index = match + 1;
            spider_reject(in, "one value", "the field twice");
            return;
        }
        fields[match] = value;
        likely = match + 1;
    }
    level->after = at;
}

size_t spider_read_count(spider_reader *in)
{
    if (in->call->failed || (in->next == NULL && !spider__open_graph_outputs(in))) {
        return 0;
    }
    return in->count;
}

spider_type spider_peek(spider_reader *in)
{
    spider__leave(in);
    if (!in->peeked && in->depth == 0 && in->index == spider_read_count(in)) {
        return SPIDER_TYPE_END;
    }
    in->peeked = spider__take(in, "a value") != NULL;
    if (in->peeked && in->head.type == SPIDER_TYPE_END) {
        spider__damaged(in, "a value");
    }
    return in->peeked ? in->head.type : SPIDER_TYPE_END;
}

void spider_skip(spider_reader *in)
{
    const spider__head *head = spider__take(in, "a value");
    if (head == NULL) {
        return;
    }
    in->position = spider__skip(in->position, in->end, spider__children(head));
    if (in->position == NULL || head->type == SPIDER_TYPE_END) {
        spider__damaged(in, "a value");
    }
}

/* Makes the task fail if a container, or with `all` the payload, was not read to its end. */
SPIDER__COLD void spider__check_all_read(spider_reader *in, bool all)
{
    spider__leave(in);
    const spider__level *level = in->depth > 0 ? &in->levels[in->depth - 1] : NULL;
    uint32_t read = (level != NULL ? level->index : in->index) - in->peeked;
    uint32_t count = level != NULL ? level->count : all ? in->count : read;
    if (read < count && !in->call->failed) {
        bool pairs = level != NULL && level->pairs;
        char position[SPIDER__POSITION_SIZE];
        spider__describe_position(in, level != NULL ? in->depth - 1 : 0, position);
        spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION, "%s: expected %" PRIu32 " %s%s, found %" PRIu32,
                    level != NULL ? position : in->label, read, pairs ? "keys and values" : "value",
                    pairs || read == 1 ? "" : "s", count);
    }
}

bool spider_ready(spider_task *task)
{
    spider__check_all_read(task->in, true);
    spider__check_all_read(task->graph_outputs, false);
    return spider_ok(task);
}

void spider_read_nil(spider_reader *in) { spider__take_type(in, "nil", SPIDER_TYPE_NIL); }
bool spider_read_boolean(spider_reader *in)
{
    return spider__take_type(in, "boolean", SPIDER_TYPE_BOOLEAN) && in->head.bits != 0;
}

bool spider_read_option(spider_reader *in)
{
    const spider__head *head = spider__take(in, "a value or nil");
    in->peeked = head != NULL && head->type != SPIDER_TYPE_NIL;
    return in->peeked;
}

/* Returns the bits of an integer within the bounds; 0 after an error. */
SPIDER__INLINE uint64_t spider__read_integer(spider_reader *in, const char *expected, int64_t min, uint64_t max)
{
    const spider__head *head = spider__take(in, expected);
    if (head == NULL) {
        return 0;
    }
    if ((head->type != SPIDER_TYPE_UNSIGNED || head->bits > max)
        && (head->type != SPIDER_TYPE_NEGATIVE || (int64_t)head->bits < min)) {
        spider__mismatch(in, expected);
        return 0;
    }
    return head->bits;
}

#define SPIDER__INTEGER_READER(name, type, min, max) \
    type spider_read_##name(spider_reader *in) { return (type)spider__read_integer(in, #name, min, max); }
SPIDER__INTEGER_READER(int8, int8_t, INT8_MIN, INT8_MAX)
SPIDER__INTEGER_READER(int16, int16_t, INT16_MIN, INT16_MAX)
SPIDER__INTEGER_READER(int32, int32_t, INT32_MIN, INT32_MAX)
SPIDER__INTEGER_READER(int64, int64_t, INT64_MIN, INT64_MAX)
SPIDER__INTEGER_READER(uint8, uint8_t, 0, UINT8_MAX)
SPIDER__INTEGER_READER(uint16, uint16_t, 0, UINT16_MAX)
SPIDER__INTEGER_READER(uint32, uint32_t, 0, UINT32_MAX)
SPIDER__INTEGER_READER(uint64, uint64_t, 0, UINT64_MAX)

#define SPIDER__FLOAT_READER(type_)                                                                   \
    type_ spider_read_##type_(spider_reader *in)                                                      \
    {                                                                                                 \
        const spider__head *head = spider__take(in, #type_);                                          \
        if (head == NULL) {                                                                           \
            return 0;                                                                                 \
        }                                                                                             \
        union { uint32_t bits; float value; } single = {(uint32_t)head->bits};                        \
        union { uint64_t bits; double value; } full = {head->bits};                                   \
        switch (head->type) {                                                                         \
        case SPIDER_TYPE_FLOAT: return (type_)single.value;                                           \
        case SPIDER_TYPE_DOUBLE: return (type_)full.value;                                            \
        case SPIDER_TYPE_UNSIGNED: return (type_)head->bits;                                          \
        case SPIDER_TYPE_NEGATIVE: return (type_)(int64_t)head->bits;                                 \
        default: spider__mismatch(in, #type_); return 0;                                              \
        }                                                                                             \
    }
SPIDER__FLOAT_READER(float)
SPIDER__FLOAT_READER(double)

spider_string spider_read_string(spider_reader *in)
{
    spider_string value = {"", 0};
    const spider__head *head = spider__take(in, "string");
    if (head == NULL) {
        return value;
    }
    if (head->type != SPIDER_TYPE_STRING && head->type != SPIDER_TYPE_BINARY) {
        spider__mismatch(in, "string");
    } else if (spider__utf8_prefix(head->body, head->size) < head->size) {
        spider_reject(in, "string", "bytes that are not UTF-8");
    } else {
        value.data = (const char *)head->body;
        value.size = head->size;
    }
    return value;
}

const char *spider_read_cstring(spider_reader *in)
{
    spider_string text = spider_read_string(in);
    if (memchr(text.data, '\0', text.size) != NULL) {
        spider_reject(in, "a string without a NUL", "a NUL");
    }
    void *copy = in->call->failed ? NULL : spider_alloc(&in->call->task, text.size + 1, 1);
    return copy == NULL ? "" : (const char *)memcpy(copy, text.data, text.size);
}

/* Opens a list, which may have come as binary. NULL after an error. */
static spider__level *spider__enter_list(spider_reader *in, const char *expected)
{
    const spider__head *head = spider__take(in, expected);
    if (head != NULL && head->type != SPIDER_TYPE_ARRAY && head->type != SPIDER_TYPE_BINARY) {
        spider__mismatch(in, expected);
    }
    spider__level *level = in->call->failed ? NULL : spider__enter(in, head->size, false, NULL);
    if (level != NULL && head->type == SPIDER_TYPE_BINARY) {
        level->after = in->position;
    }
    return level;
}

size_t spider_read_list(spider_reader *in)
{
    const spider__level *level = spider__enter_list(in, "list");
    return level != NULL ? level->count : 0;
}

spider_bytes spider_read_bytes(spider_reader *in)
{
    spider_bytes value = {(const uint8_t *)"", 0};
    spider__level *level = spider__enter_list(in, "Bytes");
    if (level == NULL) {
        return value;
    }
    const uint8_t *at = in->position;
    uint8_t *data = level->after != NULL ? NULL : (uint8_t *)spider_alloc(&in->call->task, level->count, 1);
    for (uint32_t i = 0; level->after == NULL && i < level->count && !in->call->failed; i++) {
        if (at < in->end && *at < 0x80) {
            data[i] = *at++;
        } else if (in->end - at >= 2 && *at == 0xcc) {
            data[i] = at[1];
            at += 2;
        } else { /* another form, or an error */
            in->position = at;
            level->index = i;
            data[i] = spider_read_uint8(in);
            at = in->position;
        }
    }
    if (in->call->failed) {
        return value;
    }
    in->position = at;
    value.data = level->after != NULL ? level->after - level->count : data;
    value.size = level->index = level->count;
    return value;
}

size_t spider_read_map(spider_reader *in)
{
    bool is_map = spider__take_type(in, "map", SPIDER_TYPE_MAP);
    return is_map && spider__enter(in, 2 * in->head.size, true, NULL) != NULL ? in->head.size : 0;
}

void spider_read_tuple(spider_reader *in, size_t count)
{
    const spider__head *head = spider__take(in, "tuple");
    if (head != NULL && head->type == SPIDER_TYPE_ARRAY && head->size == count) {
        spider__enter(in, head->size, false, NULL);
    } else if (head != NULL) {
        char expected[48];
        snprintf(expected, sizeof expected, "a tuple of %zu", count);
        spider__mismatch(in, expected);
    }
}

void spider_read_struct(spider_reader *in, const char *names)
{
    const spider__head *head = spider__take(in, "struct");
    uint32_t count = spider__count_names(names);
    if (head != NULL && head->type == SPIDER_TYPE_ARRAY && head->size == count) {
        spider__enter(in, count, false, names);
    } else if (head != NULL && head->type == SPIDER_TYPE_MAP) {
        spider__enter_map_struct(in, names, count, head->size);
    } else if (head != NULL) {
        char expected[160];
        snprintf(expected, sizeof expected, "a struct of %" PRIu32 " (%.100s)", count, names);
        spider__mismatch(in, expected);
    }
}

/* ---- Writers ---------------------------------------------------------------------------------------------------- */

#define spider__fail_to_write(out, ...) spider_fail(&(out)->call->task, SPIDER_ERROR_SERIALIZATION, __VA_ARGS__)

/* The output in which an error is: the current one, or the one that would begin. */
static size_t spider__output_index(const spider_writer *out)
{
    return out->pending == 0 && out->depth == 0 ? out->count : out->count - 1;
}

/* Makes room for `size` more bytes. Outputs have less than 4 GiB, so that lengths and counts fit into 32 bits. */
static __attribute__((noinline)) bool spider__grow(spider_writer *out, size_t size)
{
    size_t capacity = 2 * out->capacity + size + 256;
    uint8_t *data = size <= UINT32_MAX - out->size ? (uint8_t *)realloc(out->data, capacity) : NULL;
    if (data == NULL) {
        spider__fail_to_write(out, "out of memory: no room for %zu more bytes of outputs", size);
        return false;
    }
    out->data = data;
    out->capacity = capacity;
    return true;
}

/* The 8 bytes are for spider__store_be. */
SPIDER__INLINE bool spider__reserve(spider_writer *out, size_t size)
{
    return size + 8 <= out->capacity - out->size || spider__grow(out, size + 8);
}

static void spider__end_output(spider_writer *out)
{
    if (out->count > 0) {
        spider__store_le32(out->data + out->start, out->size - out->start - 4);
    }
}

/* Begins an output, or an element of the innermost open list or map. False after an error. */
static bool spider__begin_value(spider_writer *out)
{
    out->pending = 1;
    if (out->depth > 0) {
        out->open[out->depth - 1].count++;
        return true;
    }
    if (out->count == out->announced) {
        spider__fail_to_write(out, "outputs: more values were written than announced: %zu%s", out->announced,
                              out->announced == 1 ? " (several outputs need spider_write_count)" : "");
        return false;
    }
    spider__end_output(out);
    if (!spider__reserve(out, 8)) {
        return false;
    }
    out->size += out->count == 0 ? 4 : 0; /* the payload's count */
    out->start = out->size;
    out->size += 4;
    out->count++;
    return true;
}

/* Writes a value that takes `size` bytes here, and is followed by `children` values. Returns where the bytes go; NULL
 * after an error. */
SPIDER__INLINE uint8_t *spider__put(spider_writer *out, size_t size, uint64_t children)
{
    if (out->call->failed || (out->pending == 0 && !spider__begin_value(out)) || !spider__reserve(out, size)) {
        return NULL;
    }
    out->pending += children;
    out->pending--;
    out->size += size;
    return out->data + out->size - size;
}

/* Writes a value that begins with a number or size, and returns where `size` more bytes go; NULL after an error. */
SPIDER__INLINE uint8_t *spider__put_head(spider_writer *out, const spider__form *form, uint64_t value, size_t size,
                                         uint64_t children)
{
    uint8_t *at = spider__put(out, 1 + spider__extra_bytes(form, value) + size, children);
    return at != NULL ? spider__store_head(at, form, value) : NULL;
}

/* Writes a value of a marker, and the lowest bytes of a number. */
static void spider__put_marker(spider_writer *out, unsigned marker, uint64_t value, size_t bytes)
{
    uint8_t *at = spider__put(out, 1 + bytes, 0);
    if (at != NULL) {
        spider__store_be(at, marker, value, bytes);
    }
}

static void spider__put_byte(spider_writer *out, uint8_t byte) { spider__put_head(out, &spider__byte, byte, 0, 0); }

void spider_write_count(spider_writer *out, size_t count)
{
    if (out->count > 0) {
        spider__fail_to_write(out, "outputs: spider_write_count must precede the first output");
    }
    out->announced = count;
    out->counted = true;
}

void spider_write_nil(spider_writer *out) { spider__put_byte(out, 0xc0); }
void spider_write_boolean(spider_writer *out, bool value) { spider__put_byte(out, value ? 0xc3 : 0xc2); }
void spider_write_uint64(spider_writer *out, uint64_t value) { spider__put_head(out, &spider__unsigned, value, 0, 0); }

bool spider_write_option(spider_writer *out, bool present)
{
    if (!present) {
        spider_write_nil(out);
    }
    return present;
}

void spider_write_int64(spider_writer *out, int64_t value)
{
    uint64_t bits = (uint64_t)value;
    if (value >= 0) {
        spider_write_uint64(out, bits);
    } else if (value >= -32) {
        spider__put_byte(out, (uint8_t)bits);
    } else {
        size_t bytes = value >= INT8_MIN ? 1 : value >= INT16_MIN ? 2 : value >= INT32_MIN ? 4 : 8;
        spider__put_marker(out, 0xd0 + (bytes == 8 ? 3 : (unsigned)bytes / 2), bits, bytes);
    }
}

void spider_write_int8(spider_writer *out, int8_t value) { spider_write_int64(out, value); }
void spider_write_int16(spider_writer *out, int16_t value) { spider_write_int64(out, value); }
void spider_write_int32(spider_writer *out, int32_t value) { spider_write_int64(out, value); }
void spider_write_uint8(spider_writer *out, uint8_t value) { spider_write_uint64(out, value); }
void spider_write_uint16(spider_writer *out, uint16_t value) { spider_write_uint64(out, value); }
void spider_write_uint32(spider_writer *out, uint32_t value) { spider_write_uint64(out, value); }

void spider_write_float(spider_writer *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    spider__put_marker(out, 0xca, bits, 4);
}

void spider_write_double(spider_writer *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    spider__put_marker(out, 0xcb, bits, 8);
}

void spider_write_string(spider_writer *out, spider_string value)
{
    if (spider__utf8_prefix(value.data, value.size) < value.size) {
        spider__fail_to_write(out, "outputs[%zu]: a string that is not UTF-8", spider__output_index(out));
        return;
    }
    uint8_t *at = spider__put_head(out, &spider__string, value.size, value.size, 0);
    if (at != NULL && value.size > 0) { /* without a size, `data` may be NULL */
        memcpy(at, value.data, value.size);
    }
}

void spider_write_cstring(spider_writer *out, const char *value)
{
    spider_string text = {value, value != NULL ? strlen(value) : 0};
    if (value == NULL) {
        spider__fail_to_write(out, "outputs[%zu]: NULL is not a string", spider__output_index(out));
    }
    spider_write_string(out, text);
}

void spider_write_bytes(spider_writer *out, spider_bytes value)
{
    size_t size = value.size;
    for (size_t i = 0; i < value.size; i++) {
        size += value.data[i] >> 7; /* from 0x80, a byte takes two */
    }
    uint8_t *at = spider__put_head(out, &spider__array, value.size, size, 0);
    for (size_t i = 0; at != NULL && i < value.size; i++) {
        if (value.data[i] >= 0x80) {
            *at++ = 0xcc;
        }
        *at++ = value.data[i];
    }
}

void spider_write_list(spider_writer *out, size_t count) { spider__put_head(out, &spider__array, count, 0, count); }
void spider_write_map(spider_writer *out, size_t count) { spider__put_head(out, &spider__map, count, 0, 2ull * count); }
void spider_write_tuple(spider_writer *out, size_t count) { spider_write_list(out, count); }
void spider_write_struct(spider_writer *out, const char *names) { spider_write_list(out, spider__count_names(names)); }

/* One byte is left for the head, which is all that most need. */
static void spider__begin_container(spider_writer *out, const spider__form *form)
{
    if (out->depth == SPIDER_TDL_OPEN_MAX) {
        spider__fail_to_write(out, "outputs[%zu]: too many lists and maps of unknown length are open",
                              spider__output_index(out));
    } else if (spider__put(out, 1, 0) != NULL) {
        spider__open open = {form, out->size - 1, out->pending, 0};
        out->open[out->depth++] = open;
        out->pending = 0;
    }
}

static void spider__end_container(spider_writer *out, const spider__form *form)
{
    const spider__open *open = out->depth > 0 ? &out->open[out->depth - 1] : NULL;
    size_t per_entry = form == &spider__map ? 2 : 1;
    if (out->call->failed) {
        return;
    }
    if (open == NULL || open->form != form || out->pending > 0 || open->count % per_entry != 0) {
        const char *name = form == &spider__map ? "map" : "list";
        spider__fail_to_write(out, "outputs[%zu]: spider_end_%s without spider_begin_%s, or before its last value",
                              spider__output_index(out), name, name);
        return;
    }
    uint8_t head[16];
    size_t head_size = (size_t)(spider__store_head(head, form, open->count / per_entry) - head);
    if (spider__reserve(out, head_size - 1)) {
        uint8_t *at = out->data + open->start;
        memmove(at + head_size, at + 1, out->size - open->start - 1);
        memcpy(at, head, head_size);
        out->size += head_size - 1;
        out->pending = open->outer_pending;
        out->depth--;
    }
}

void spider_begin_list(spider_writer *out) { spider__begin_container(out, &spider__array); }
void spider_end_list(spider_writer *out) { spider__end_container(out, &spider__array); }
void spider_begin_map(spider_writer *out) { spider__begin_container(out, &spider__map); }
void spider_end_map(spider_writer *out) { spider__end_container(out, &spider__map); }

/* ---- The call --------------------------------------------------------------------------------------------------- */

/* The large arrays are not cleared. */
SPIDER__COLD void spider__start(spider__call *call)
{
    memset(call, 0, offsetof(spider__call, in));
    memset(&call->in, 0, offsetof(spider_reader, levels));
    memset(&call->graph_outputs, 0, offsetof(spider_reader, levels));
    memset(&call->out, 0, offsetof(spider_writer, open));
    call->task.in = &call->in;
    call->task.graph_outputs = &call->graph_outputs;
    call->task.out = &call->out;
    call->in.call = call->graph_outputs.call = call->out.call = call;
    call->out.announced = 1;
    spider__open_payload(&call->in, "inputs", (const uint8_t *)"", 0);
}

static void spider__decompress(spider_reader *in, const uint8_t *data, size_t size)
{
    spider_task *task = &in->call->task;
#ifdef SPIDER_TDL_WITH_ZSTD
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer source = {data, size, 0};
    ZSTD_outBuffer target = {NULL, 0, 0};
    size_t state = 1; /* 0 at the end of the data */
    while (stream != NULL && state != 0 && !ZSTD_isError(state)
           && (source.pos < source.size || target.pos == target.size)) {
        if (target.pos == target.size) { /* the data also declares a size, which cannot be trusted */
            size_t larger = 4096 + 4 * size + 2 * target.size;
            void *grown = spider_alloc(task, larger, 1);
            if (grown == NULL) {
                break;
            }
            memcpy(grown, target.pos == 0 ? grown : target.dst, target.pos);
            target.dst = grown;
            target.size = larger;
        }
        state = ZSTD_decompressStream(stream, &target, &source);
    }
    ZSTD_freeDStream(stream);
    if (stream == NULL) {
        spider_fail(task, SPIDER_ERROR_SERIALIZATION, "out of memory: no room for zstd");
    } else if (state != 0) {
        spider_fail(task, SPIDER_ERROR_DESERIALIZATION, "graph_outputs: expected zstd, found damaged bytes: %s",
                    ZSTD_isError(state) ? ZSTD_getErrorName(state) : "truncated");
    } else {
        spider__open_payload(in, "graph_outputs", (const uint8_t *)target.dst, target.pos);
    }
#else
    (void)data;
    (void)size;
    spider_fail(task, SPIDER_ERROR_INVALID_TASK_CONTEXT,
                "graph_outputs: they are zstd-compressed, and this package was compiled without SPIDER_TDL_WITH_ZSTD");
#endif
}

/* Called when a task first asks for graph outputs. */
SPIDER__COLD bool spider__open_graph_outputs(spider_reader *in)
{
    spider__call *call = in->call;
    spider_bytes buffer = call->graph_buffer;
    if (buffer.data == NULL) {
        spider_fail(&call->task, SPIDER_ERROR_INVALID_TASK_CONTEXT,
                    "graph_outputs: there are none, only a commit task has them");
    } else if (buffer.size == 0 || buffer.data[0] > 1) {
        spider_fail(&call->task, SPIDER_ERROR_DESERIALIZATION,
                    "graph_outputs: expected a first byte of 0 (plain) or 1 (zstd), found %s",
                    buffer.size == 0 ? "no bytes" : "another");
    } else if (buffer.data[0] == 1) {
        spider__decompress(in, buffer.data + 1, buffer.size - 1);
    } else {
        spider__open_payload(in, "graph_outputs", buffer.data + 1, buffer.size - 1);
    }
    return !call->failed;
}

static bool spider__equal(const char *text, const void *data, size_t size)
{
    return strlen(text) == size && memcmp(text, data, size) == 0;
}

/* {"Index": number}, "Commit" or "Cleanup". */
static void spider__read_task_id(spider_task *task, spider_reader *in)
{
    bool is_map = spider_peek(in) == SPIDER_TYPE_MAP;
    size_t entries = is_map ? spider_read_map(in) : 1;
    if (entries != 1) {
        spider_reject(in, "Index with a number, Commit or Cleanup", "a map of length %zu", entries);
        return;
    }
    spider_string name = spider_read_string(in);
    if (is_map && spider__equal("Index", name.data, name.size)) {
        task->index = spider_read_uint64(in);
    } else if (!is_map && spider__equal("Commit", name.data, name.size)) {
        task->kind = SPIDER_TASK_COMMIT;
    } else if (!is_map && spider__equal("Cleanup", name.data, name.size)) {
        task->kind = SPIDER_TASK_CLEANUP;
    } else {
        spider_reject(in, "Index with a number, Commit or Cleanup", "%.*s", (int)name.size, name.data);
    }
}

SPIDER__COLD void spider__read_context(spider__call *call, const uint8_t *data, size_t size)
{
    spider_task *task = &call->task;
    spider_reader *in = &call->graph_outputs; /* not needed yet for its purpose */
    in->label = "task";
    in->position = data;
    in->end = in->value_end = data + size;
    spider__enter(in, 1, false, "context");
    if (!spider__take_type(in, "an array of length 5", SPIDER_TYPE_ARRAY)) {
        return;
    }
    if (in->head.size != 5) {
        spider_reject(in, "an array of length 5", "one of length %" PRIu32 "%s", in->head.size,
                      in->head.size == 4 ? ", as an older Spider sends" : "");
        return;
    }
    spider__enter(in, 5, false, "job_id, task_id, task_instance_id, resource_group_id, graph_outputs");
    task->job_id = spider_read_uint64(in);
    spider__read_task_id(task, in);
    task->instance_id = spider_read_uint64(in);
    task->resource_group_id = spider_read_uint64(in);
    if (spider_read_option(in)) {
        call->graph_buffer = spider_read_bytes(in);
    }
    in->depth = 0;
}

/* In C++, no exception leaves the package. */
static void spider__run(spider__call *call, spider_task_function function)
{
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
    try {
        function(&call->task);
    } catch (const spider::task_error &error) {
        spider_fail(&call->task, error.kind, "%s", error.what());
    } catch (const std::exception &error) {
        spider_fail(&call->task, SPIDER_ERROR_EXECUTION, "%s", error.what());
    } catch (...) {
        spider_fail(&call->task, SPIDER_ERROR_EXECUTION, "unknown C++ exception");
    }
#else
    function(&call->task);
#endif
}

SPIDER__COLD void spider__end_outputs(spider_writer *out)
{
    if (out->depth > 0) {
        spider__fail_to_write(out, "outputs[%zu]: a list or map was begun, but not ended", out->count - 1);
    } else if (out->pending > 0) {
        spider__fail_to_write(out, "outputs[%zu]: %" PRIu64 " more value%s announced", out->count - 1, out->pending,
                              out->pending == 1 ? " was" : "s were");
    } else if (out->counted && out->count < out->announced) {
        spider__fail_to_write(out, "outputs: %zu were announced, but only %zu written", out->announced, out->count);
    } else if (!out->call->failed && (out->count > 0 || spider__reserve(out, 4))) {
        spider__end_output(out);
        out->size += out->count == 0 ? 4 : 0;
        spider__store_le32(out->data, out->count);
    }
}

/* Frees everything but the outputs or the error, which the executor frees. */
SPIDER__COLD spider_result spider__finish(spider__call *call)
{
    while (call->memory != NULL) {
        spider__block *block = call->memory;
        call->memory = block->next;
        free(block);
    }
    uint8_t *data = call->out.data != NULL ? call->out.data : (uint8_t *)1; /* Rust requires that it is not NULL */
    spider_result result = {call->failed, data, call->out.size};
    return result;
}

/* ---- The package interface -------------------------------------------------------------------------------------- */

static const spider_task_entry *spider__find_task(const void *name, size_t size)
{
    for (size_t i = 0; i < spider__this_package.task_count; i++) {
        const spider_task_entry *task = &spider__this_package.tasks[i];
        if (spider__equal(task->name, name, size)) {
            return task;
        }
    }
    return NULL;
}

SPIDER__COLD void spider__check_tasks(spider_task *task)
{
    for (size_t i = 0; i < spider__this_package.task_count; i++) {
        const spider_task_entry *entry = &spider__this_package.tasks[i];
        if (entry->name == NULL || entry->function == NULL
            || spider__find_task(entry->name, strlen(entry->name)) != entry) {
            spider_fail(task, SPIDER_ERROR_EXECUTION,
                        "the package's task number %zu has no name, no function, or the name of another task", i + 1);
            return;
        }
    }
}

SPIDER__EXPORT spider_version __spider_tdl_package_get_version(void)
{
    spider_version version = {SPIDER_TDL_INTERFACE_MAJOR, SPIDER_TDL_INTERFACE_MINOR, SPIDER_TDL_INTERFACE_PATCH};
    return version;
}

SPIDER__EXPORT spider_view __spider_tdl_package_get_name(void) { return spider__this_package.name; }

SPIDER__EXPORT spider_result __spider_tdl_package_init(void)
{
    spider__call call;
    spider__start(&call);
    call.out.announced = 0;
    spider__check_tasks(&call.task);
    if (!call.failed && spider__this_package.init != NULL) {
        spider__run(&call, spider__this_package.init);
    }
    return spider__finish(&call);
}

SPIDER__EXPORT spider_result __spider_tdl_package_execute(spider_view task_name, spider_view context,
                                                          spider_view inputs)
{
    spider__call call;
    const spider_task_entry *task = spider__find_task(task_name.pointer, task_name.length);
    spider__start(&call);
    if (task == NULL) {
        spider__fail_with(&call, SPIDER_ERROR_TASK_NOT_FOUND, task_name.pointer, task_name.length);
    } else {
        spider__read_context(&call, (const uint8_t *)context.pointer, context.length);
        spider__open_payload(&call.in, "inputs", (const uint8_t *)inputs.pointer, inputs.length);
        if (!call.failed) {
            spider__run(&call, task->function);
            spider_ready(&call.task);
            spider__end_outputs(&call.out);
        }
    }
    return spider__finish(&call);
}

#ifdef __cplusplus
#pragma GCC diagnostic pop
} /* extern "C" */
#endif

#endif /* SPIDER_TDL_IMPLEMENTATION */
