/*
 * spider_tdl.h: Spider task packages in C and C++. From the spider-task-executor project; version 0.1.0.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One header, libc only, nothing to configure: C99 or later, C++11 or later (the typed layer needs C++17), gcc or
 * clang, Linux. A whole package:
 *
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
 *     cc -shared -fPIC -o sums/libsums.so sums.c
 *
 * and the same in C++17, where a task may be an ordinary function:
 *
 *     static std::int64_t add(std::int64_t a, std::int64_t b) { return a + b; }
 *
 *     SPIDER_TDL_PACKAGE("sums", nullptr, {"add", spider::typed<add>});
 *
 * How it works
 *   Reading    Each spider_read_…(task->in) takes the next value; the first one starts at the first argument. A list,
 *              map, struct or tuple is opened by its own reader, which is followed by its elements, in order.
 *   Errors     The first one sticks. After it every reader returns zero (a list is empty, an option is none), every
 *              writer does nothing, and the task's outcome is that error, whatever it goes on to do. So nothing needs
 *              a check, except before a side effect: `if (!spider_ready(task)) return;`.
 *   Arguments  One too few, one too many or one of the wrong type is a DeserializationError that says where
 *              (`inputs[1].points[3]`, counted from 0), what was expected and what was found.
 *   Writing    Each complete value written to task->out is one output. Writing none is fine.
 *   Memory     Everything that a reader or spider_alloc returns belongs to the task: it is valid until the task
 *              function returns, and is not to be freed. Nothing in this header asks its caller to free anything.
 *   Threads    A task and its readers and writers belong to the thread that called it. There is no global state
 *              beside the table of tasks, which is made before the first call of one and does not change.
 *
 * The four __spider_tdl_package_… symbols that SPIDER_TDL_PACKAGE defines are all that is exported.
 * Other source files of the same package may include the header as well; one of them declares the package.
 *
 * Define SPIDER_TDL_WITH_ZSTD (and link with -lzstd) for commit tasks whose graph outputs may exceed 1,024 bytes; it
 * counts in the file that declares the package.
 */
#ifndef SPIDER_TDL_H
#define SPIDER_TDL_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SPIDER_TDL_WITH_ZSTD
#include <zstd.h>
#endif

#ifdef __cplusplus
#include <cxxabi.h>
#include <exception>
#include <string>
#include <utility>
#if __cplusplus >= 201703L
#include <array>
#include <limits>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <vector>
#endif
#define SPIDER__ASSERT(name, condition) static_assert(condition, #name)
#define SPIDER__FUNCTION inline
#define SPIDER__EXPORT extern "C" __attribute__((visibility("default")))
#else
#define SPIDER__ASSERT(name, condition) typedef char spider__assert_##name[(condition) ? 1 : -1]
#define SPIDER__FUNCTION static inline
#define SPIDER__EXPORT extern __attribute__((visibility("default")))
#endif

/* The version of the package interface. A 0.1.x executor runs packages of every 0.1.y. */
#define SPIDER_TDL_VERSION_MAJOR 0
#define SPIDER_TDL_VERSION_MINOR 1
#define SPIDER_TDL_VERSION_PATCH 0

/* The deepest nesting that the readers follow: as deep as Rust's. */
#define SPIDER__MAX_DEPTH 1023

/* ---- Types ---------------------------------------------------------------------------------------------------- */

/* What a task can fail with. */
typedef enum spider_error {
    SPIDER_TASK_NOT_FOUND,
    SPIDER_DESERIALIZATION_ERROR,
    SPIDER_SERIALIZATION_ERROR,
    SPIDER_EXECUTION_ERROR,
    SPIDER_INVALID_TASK_CONTEXT,
    SPIDER_CUSTOM
} spider_error;

/* A task of the job's graph, or the one that runs when all of them have succeeded (commit) or the job is over
 * (cleanup). */
typedef enum spider_task_kind { SPIDER_INDEX_TASK, SPIDER_COMMIT_TASK, SPIDER_CLEANUP_TASK } spider_task_kind;

/* What spider_peek sees. SPIDER_ARRAY is a list, a struct, a tuple, or Bytes. */
typedef enum spider_type {
    SPIDER_END,
    SPIDER_NIL,
    SPIDER_BOOLEAN,
    SPIDER_UNSIGNED, /* an integer from 0 up */
    SPIDER_NEGATIVE, /* an integer below 0 */
    SPIDER_FLOAT,
    SPIDER_DOUBLE,
    SPIDER_STRING,
    SPIDER_BINARY,
    SPIDER_ARRAY,
    SPIDER_MAP,
    SPIDER_EXTENSION
} spider_type;

/* UTF-8, not NUL-terminated. `data` is never NULL. */
typedef struct spider_string {
    const char *data;
    size_t size;
} spider_string;

/* `data` is never NULL. */
typedef struct spider_bytes {
    const uint8_t *data;
    size_t size;
} spider_bytes;

typedef struct spider_reader spider_reader;
typedef struct spider_writer spider_writer;

/* One call of a task. Not to be copied; its pointers are valid until the task function returns. */
typedef struct spider_task {
    spider_reader *in;            /* the arguments */
    spider_writer *out;           /* the outputs */
    spider_reader *graph_outputs; /* a commit task's: the outputs of the job's graph. Otherwise reading it fails. */
    spider_task_kind kind;
    uint64_t job_id;
    uint64_t index;       /* of an index task within its job, otherwise 0 */
    uint64_t instance_id; /* of this attempt to run the task */
    uint64_t resource_group_id;

    bool spider__failed;
    bool spider__gave_binary; /* some of the inputs' bytes are the author's that were not checked for UTF-8 */
    uint8_t *spider__error;   /* the first error in msgpack, malloc'ed; NULL if there was no memory at all for it */
    size_t spider__error_size;
    uint8_t *spider__spare; /* becomes the error if there is no memory for it; NULL if there was none for this */
    union spider__block *spider__memory; /* what spider_alloc gave out */
} spider_task;

typedef void (*spider_task_function)(spider_task *task);

/* An element of the table in SPIDER_TDL_PACKAGE. The name must stay as it is as long as the package is loaded. */
typedef struct spider_task_entry {
    const char *name;
    spider_task_function function;
} spider_task_entry;

/* The package interface: what crosses the boundary between executor and package, by value. */
typedef struct spider_version {
    uint32_t major_version;
    uint32_t minor_version;
    uint32_t patch_version;
} spider_version;

/* Borrowed bytes: the receiver frees nothing. `pointer` is not NULL, even if `length` is 0. */
typedef struct spider_view {
    const void *pointer;
    size_t length;
} spider_view;

/* Outputs, or an error. The executor frees `pointer` with free(), unless `length` is 0. */
typedef struct spider_result {
    bool is_error;
    uint8_t *pointer;
    size_t length;
} spider_result;

SPIDER__ASSERT(version_size, sizeof(spider_version) == 12);
SPIDER__ASSERT(view_length, offsetof(spider_view, length) == sizeof(void *));
SPIDER__ASSERT(view_size, sizeof(spider_view) == 2 * sizeof(void *));
SPIDER__ASSERT(bool_size, sizeof(bool) == 1 && offsetof(spider_result, is_error) == 0);
SPIDER__ASSERT(result_pointer, offsetof(spider_result, pointer) == sizeof(void *));
SPIDER__ASSERT(result_length, offsetof(spider_result, length) == 2 * sizeof(void *));
SPIDER__ASSERT(result_size, sizeof(spider_result) == 3 * sizeof(void *));
SPIDER__ASSERT(float_size, sizeof(float) == 4 && sizeof(double) == 8);

SPIDER__EXPORT spider_version __spider_tdl_package_get_version(void);
SPIDER__EXPORT spider_view __spider_tdl_package_get_name(void);
SPIDER__EXPORT spider_result __spider_tdl_package_init(void);
SPIDER__EXPORT spider_result __spider_tdl_package_execute(spider_view task_name, spider_view context,
                                                          spider_view inputs);

typedef struct spider__package {
    const spider_task_entry *tasks;
    uint32_t task_count;
    uint32_t slot_count;
    uint32_t *slots; /* hash table of 1 + position in `tasks`; 0 is free */
    bool indexed;    /* the hash table is complete */
    uint8_t *spare;  /* room for an error when there is no memory: SPIDER__SPARE_SIZE bytes, malloc'ed; or NULL */
    bool (*decompress)(spider_task *task, spider_bytes *data); /* zstd; NULL: not compiled in */
} spider__package;

typedef union spider__block {
    union spider__block *next;
    long double alignment;
} spider__block;

/* A list, tuple, struct or map that is being read. */
typedef struct spider__level {
    const char *names;    /* of a struct's fields, otherwise NULL */
    const uint8_t *entry; /* a struct that came as a map: its first entry that was not looked at. Otherwise NULL */
    uint32_t entries;     /* from `entry` on */
    bool at_entry;        /* the value being read is that of the last entry looked at: `entry` is where it ends */
    bool pairs;           /* a map */
    uint32_t index;       /* values begun */
    uint32_t count;       /* values to read: two for each pair of a map */
    size_t first_field;   /* a struct that came as a map: where the reader's `fields` has its own */
} spider__level;

struct spider_reader {
    spider_task *task;
    const char *label;       /* starts the positions in error texts */
    const uint8_t *start;    /* of the payload */
    const uint8_t *position; /* in the value being read, which ends at `end` */
    const uint8_t *end;
    const uint8_t *next; /* the values behind it, up to `limit`; NULL: the payload has not been opened */
    const uint8_t *limit;
    uint32_t index; /* values begun */
    uint32_t count;
    uint32_t depth;
    bool framed;   /* a payload; otherwise one bare value */
    bool begun;    /* `position` is at a value that has been peeked at */
    bool optional; /* the field that is sought may be absent; then it is */
    bool absent;
    const uint8_t **fields; /* the values of structs that come as maps, where found so far; malloc'ed */
    size_t field_count;
    size_t field_capacity;
    spider__level levels[SPIDER__MAX_DEPTH];
};

struct spider_writer {
    spider_task *task;
    uint8_t *data;
    size_t size;
    size_t capacity;
    size_t expected;  /* the inputs' size: outputs that are large at all often get about as large */
    size_t start;     /* of the output being written: its length goes there */
    uint64_t pending; /* values that it still lacks */
    uint32_t count;   /* outputs begun */
};

/* Classes of authors may hold the types above, so those keep their visibility; functions are nobody else's. */
#pragma GCC visibility push(hidden)
#if defined(__cplusplus)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#endif

#ifdef __cplusplus
namespace spider {
/* Throw it to make a task fail: `throw spider::task_error("no such key")`. Any other std::exception is an
 * ExecutionError of its what(), and whatever else is thrown is one of "unknown C++ exception". */
class task_error final : public std::exception {
public:
    explicit task_error(std::string message) : task_error(SPIDER_EXECUTION_ERROR, std::move(message)) {}
    task_error(spider_error kind, std::string message) : kind_(kind), message_(std::move(message)) {}
    spider_error kind() const noexcept { return kind_; }
    const std::string &message() const noexcept { return message_; }
    const char *what() const noexcept override { return message_.c_str(); }

private:
    spider_error kind_;
    std::string message_;
};
} // namespace spider
#endif

/* ---- Errors and memory ---------------------------------------------------------------------------------------- */

SPIDER__FUNCTION uint8_t *spider__store_be(uint8_t *at, uint64_t value, unsigned bytes)
{
    while (bytes > 0) {
        bytes--;
        *at++ = (uint8_t)(value >> (8 * bytes));
    }
    return at;
}

SPIDER__FUNCTION void spider__store_le32(uint8_t *at, size_t value)
{
    unsigned i;
    for (i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

SPIDER__FUNCTION uint64_t spider__load_be(const uint8_t *at, unsigned bytes)
{
    switch (bytes) {
    case 1: return at[0];
    case 2: return (uint64_t)at[0] << 8 | at[1];
    case 4: return (uint64_t)at[0] << 24 | (uint64_t)at[1] << 16 | (uint64_t)at[2] << 8 | at[3];
    default: return spider__load_be(at, 4) << 32 | spider__load_be(at + 4, 4);
    }
}

SPIDER__FUNCTION uint32_t spider__load_le32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

SPIDER__FUNCTION size_t spider__string_header_size(size_t size)
{
    return size < 32 ? 1 : size < 0x100 ? 2 : size < 0x10000 ? 3 : 5;
}

/* Writes the header of a string of less than 4 GiB. */
SPIDER__FUNCTION uint8_t *spider__string_header(uint8_t *at, size_t size)
{
    if (size < 32) {
        *at++ = (uint8_t)(0xa0 | size);
        return at;
    }
    if (size < 0x100) {
        *at++ = 0xd9;
        return spider__store_be(at, size, 1);
    }
    if (size < 0x10000) {
        *at++ = 0xda;
        return spider__store_be(at, size, 2);
    }
    *at++ = 0xdb;
    return spider__store_be(at, size, 4);
}

/* The size of the longest prefix that is ASCII, as most text is. Where the processor has no vectors of 32 bytes, the
 * compiler makes do with smaller ones. */
typedef long long spider__vector __attribute__((vector_size(32)));

#define SPIDER__HIGH_BITS INT64_C(-0x7f7f7f7f7f7f7f80)
#define SPIDER__ANY_HIGH_BIT(v) (((((v)[0] | (v)[1]) | ((v)[2] | (v)[3])) & SPIDER__HIGH_BITS) != 0)

#define SPIDER__ASCII_PREFIX(name, any_high_bit)                                                            \
    SPIDER__FUNCTION size_t name(const uint8_t *data, size_t size)                                          \
    {                                                                                                       \
        size_t i = 0;                                                                                       \
        for (; size >= 128 && i < size; i += 128) {                                                         \
            const uint8_t *at = data + (size - i < 128 ? size - 128 : i); /* some of the last ones again */ \
            spider__vector a, b, c, d;                                                                      \
            memcpy(&a, at, 32);                                                                             \
            memcpy(&b, at + 32, 32);                                                                        \
            memcpy(&c, at + 64, 32);                                                                        \
            memcpy(&d, at + 96, 32);                                                                        \
            a = (a | b) | (c | d);                                                                          \
            if (any_high_bit(a)) {                                                                          \
                break;                                                                                      \
            }                                                                                               \
        }                                                                                                   \
        if (i >= size) {                                                                                    \
            return size;                                                                                    \
        }                                                                                                   \
        for (; size - i >= 8; i += 8) {                                                                     \
            int64_t word;                                                                                   \
            memcpy(&word, data + i, 8);                                                                     \
            if ((word & SPIDER__HIGH_BITS) != 0) {                                                          \
                break;                                                                                      \
            }                                                                                               \
        }                                                                                                   \
        while (i < size && data[i] < 0x80) {                                                                \
            i++;                                                                                            \
        }                                                                                                   \
        return i;                                                                                           \
    }
SPIDER__ASCII_PREFIX(spider__ascii_prefix, SPIDER__ANY_HIGH_BIT)
#ifdef __x86_64__
#define SPIDER__ANY_HIGH_BIT_AVX2(v) (!__builtin_ia32_ptestz256((v), ((v) ^ (v)) + SPIDER__HIGH_BITS))
__attribute__((target("avx2"))) SPIDER__ASCII_PREFIX(spider__ascii_prefix_avx2, SPIDER__ANY_HIGH_BIT_AVX2)
#endif

/* The size of the longest prefix that is well-formed UTF-8. */
SPIDER__FUNCTION size_t spider__utf8_prefix(const uint8_t *data, size_t size)
{
    size_t i = 0;
    while (i < size) {
        uint8_t lead = data[i];
        uint8_t low = 0x80; /* the bounds of the second byte */
        uint8_t top = 0xbf;
        size_t more;
        if (lead < 0x80) {
#ifdef __x86_64__
            if (size - i >= 128 && __builtin_cpu_supports("avx2")) {
                i += spider__ascii_prefix_avx2(data + i, size - i);
                continue;
            }
#endif
            i += spider__ascii_prefix(data + i, size - i);
            continue;
        }
        if (lead >= 0xc2 && lead <= 0xdf) {
            more = 1;
        } else if (lead >= 0xe0 && lead <= 0xef) {
            more = 2;
            low = lead == 0xe0 ? 0xa0 : 0x80; /* not longer than needed */
            top = lead == 0xed ? 0x9f : 0xbf; /* no surrogates */
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            more = 3;
            low = lead == 0xf0 ? 0x90 : 0x80;
            top = lead == 0xf4 ? 0x8f : 0xbf; /* up to U+10FFFF */
        } else {
            return i;
        }
        if (size - i <= more || data[i + 1] < low || data[i + 1] > top || (more > 1 && data[i + 2] >> 6 != 2)
            || (more > 2 && data[i + 3] >> 6 != 2)) {
            return i;
        }
        i += more + 1;
    }
    return i;
}

#define SPIDER__SPARE_SIZE 160
#define SPIDER__SPARE_TEXT 120 /* what is left of it for a text, at least */

/* Makes room for an error of `*size` bytes of text and returns where they go. Without memory the text must do with
 * less, and then `*size` is that. NULL: not even that, or not the first. */
SPIDER__FUNCTION uint8_t *spider__error_text(spider_task *task, spider_error kind, size_t *size)
{
    const char *name = kind == SPIDER_TASK_NOT_FOUND          ? "TaskNotFound"
                       : kind == SPIDER_DESERIALIZATION_ERROR ? "DeserializationError"
                       : kind == SPIDER_SERIALIZATION_ERROR   ? "SerializationError"
                       : kind == SPIDER_EXECUTION_ERROR       ? "ExecutionError"
                       : kind == SPIDER_INVALID_TASK_CONTEXT  ? "InvalidTaskContext"
                                                              : "Custom";
    size_t name_size = strlen(name);
    size_t header = 1 + 1 + name_size;
    uint8_t *at;
    if (task->spider__failed) {
        return NULL;
    }
    task->spider__failed = true;
    at = (uint8_t *)malloc(header + 5 + *size + 1); /* vsnprintf adds a NUL */
    if (at == NULL) {
        at = task->spider__spare;
        task->spider__spare = NULL;
        if (at == NULL) {
            return NULL;
        }
        *size = *size < SPIDER__SPARE_TEXT ? *size : SPIDER__SPARE_TEXT;
    }
    task->spider__error = at;
    task->spider__error_size = header + spider__string_header_size(*size) + *size;
    *at++ = 0x81;
    at = spider__string_header(at, name_size);
    memcpy(at, name, name_size);
    return spider__string_header(at + name_size, *size);
}

/* An error text that is not UTF-8 would be lost on its way. */
SPIDER__FUNCTION void spider__mend_utf8(uint8_t *text, size_t size)
{
    size_t i = 0;
    while ((i += spider__utf8_prefix(text + i, size - i)) < size) {
        text[i] = '?';
    }
}

SPIDER__FUNCTION void spider__fail_with(spider_task *task, spider_error kind, const void *text, size_t size)
{
    uint8_t *at = spider__error_text(task, kind, &size);
    if (at != NULL) {
        memcpy(at, text, size);
        spider__mend_utf8(at, size);
    }
}

/* Makes the task fail, with a message as of printf; does nothing if it has failed before. Bytes that are not UTF-8
 * become '?'. The caller keeps what it passes. */
__attribute__((format(printf, 3, 4), nonnull(3)))
SPIDER__FUNCTION void spider_fail(spider_task *task, spider_error kind, const char *format, ...)
{
    va_list arguments;
    va_list again;
    int length;
    va_start(arguments, format);
    va_copy(again, arguments);
    length = vsnprintf(NULL, 0, format, arguments);
    if (length < 0) { /* such as %ls with characters that the locale lacks */
        spider__fail_with(task, kind, format, strlen(format));
    } else {
        size_t size = (size_t)length;
        uint8_t *text = spider__error_text(task, kind, &size);
        if (text != NULL) {
            vsnprintf((char *)text, size + 1, format, again);
            spider__mend_utf8(text, size);
        }
    }
    va_end(again);
    va_end(arguments);
}

/* True until the first error. */
SPIDER__FUNCTION bool spider_ok(const spider_task *task)
{
    return !task->spider__failed;
}

/* Zeroed memory for `count` things of `size` bytes, which lives as long as the call. Without memory the task fails
 * with a SerializationError, and NULL is returned. (`count` may come from spider_read_list: it never exceeds the
 * bytes that are there.) */
SPIDER__FUNCTION void *spider_alloc(spider_task *task, size_t count, size_t size)
{
    spider__block *block = NULL;
    if (size == 0 || count <= (SIZE_MAX - sizeof *block) / size) {
        block = (spider__block *)calloc(1, sizeof *block + count * size);
    }
    if (block == NULL) {
        spider_fail(task, SPIDER_SERIALIZATION_ERROR, "out of memory: no room for %zu times %zu bytes", count, size);
        return NULL;
    }
    block->next = task->spider__memory;
    task->spider__memory = block;
    return block + 1;
}

/* ---- Reading -------------------------------------------------------------------------------------------------- */

/* The first bytes of a msgpack value, decoded. */
typedef struct spider__head {
    spider_type type;
    uint64_t bits;       /* of an integer (in two's complement), boolean, float or double */
    uint32_t size;       /* bytes of a string or binary, elements of an array, pairs of a map */
    const uint8_t *body; /* the bytes of a string or binary */
} spider__head;

/* Returns what follows the head (and the bytes of a string or binary), NULL if the value reaches past `end`: an array
 * or a map, too, if fewer bytes are left than it has elements. So a count that was accepted is not larger than what
 * was sent. */
SPIDER__FUNCTION const uint8_t *spider__decode(const uint8_t *at, const uint8_t *end, spider__head *head)
{
    /* The markers c0 to df: a type, and how many bytes of a number or size follow. */
    static const uint8_t forms[32][2] = {
        {SPIDER_NIL, 0},       {SPIDER_EXTENSION, 0}, {SPIDER_BOOLEAN, 0},   {SPIDER_BOOLEAN, 0},
        {SPIDER_BINARY, 1},    {SPIDER_BINARY, 2},    {SPIDER_BINARY, 4},    {SPIDER_EXTENSION, 0},
        {SPIDER_EXTENSION, 0}, {SPIDER_EXTENSION, 0}, {SPIDER_FLOAT, 4},     {SPIDER_DOUBLE, 8},
        {SPIDER_UNSIGNED, 1},  {SPIDER_UNSIGNED, 2},  {SPIDER_UNSIGNED, 4},  {SPIDER_UNSIGNED, 8},
        {SPIDER_NEGATIVE, 1},  {SPIDER_NEGATIVE, 2},  {SPIDER_NEGATIVE, 4},  {SPIDER_NEGATIVE, 8},
        {SPIDER_EXTENSION, 0}, {SPIDER_EXTENSION, 0}, {SPIDER_EXTENSION, 0}, {SPIDER_EXTENSION, 0},
        {SPIDER_EXTENSION, 0}, {SPIDER_STRING, 1},    {SPIDER_STRING, 2},    {SPIDER_STRING, 4},
        {SPIDER_ARRAY, 2},     {SPIDER_ARRAY, 4},     {SPIDER_MAP, 2},       {SPIDER_MAP, 4},
    };
    uint8_t marker;
    head->type = SPIDER_END;
    head->bits = 0;
    head->size = 0;
    head->body = at;
    if (at == end) {
        return NULL;
    }
    marker = *at++;
    if (marker < 0x80) {
        head->type = SPIDER_UNSIGNED;
        head->bits = marker;
        return at;
    }
    if (marker >= 0xe0) {
        head->type = SPIDER_NEGATIVE;
        head->bits = UINT64_C(0xffffffffffffff00) | marker;
        return at;
    }
    if (marker < 0xc0) {
        head->type = marker >= 0xa0 ? SPIDER_STRING : marker >= 0x90 ? SPIDER_ARRAY : SPIDER_MAP;
        head->size = marker & (marker >= 0xa0 ? 0x1fu : 0x0fu);
    } else {
        unsigned width = forms[marker - 0xc0][1];
        head->type = (spider_type)forms[marker - 0xc0][0];
        if (width == 0) {
            head->bits = marker & 1u; /* of a boolean */
            return at;
        }
        if ((size_t)(end - at) < width) {
            return NULL;
        }
        head->bits = spider__load_be(at, width);
        at += width;
        if (head->type == SPIDER_NEGATIVE) {
            if (head->bits >> (8 * width - 1) == 0) {
                head->type = SPIDER_UNSIGNED;
            } else if (width < 8) {
                head->bits |= UINT64_MAX << (8 * width);
            }
        }
        if (head->type <= SPIDER_DOUBLE) {
            return at;
        }
        head->size = (uint32_t)head->bits;
    }
    head->body = at;
    if ((size_t)(end - at) < (head->type == SPIDER_MAP ? 2 * (uint64_t)head->size : head->size)) {
        return NULL;
    }
    return head->type == SPIDER_STRING || head->type == SPIDER_BINARY ? at + head->size : at;
}

/* Steps over what is behind the marker of an extension. NULL: it is truncated, or the marker is the reserved c1. */
SPIDER__FUNCTION const uint8_t *spider__skip_extension(const uint8_t *at, const uint8_t *end)
{
    uint8_t marker = at[-1];
    uint64_t size = UINT64_C(1) << (marker & 3); /* of d4 to d7 */
    if (marker == 0xc1) {
        return NULL;
    }
    if (marker == 0xd8) {
        size = 16;
    } else if (marker < 0xd4) { /* c7, c8, c9 */
        unsigned width = 1u << (marker - 0xc7);
        if ((size_t)(end - at) < width) {
            return NULL;
        }
        size = spider__load_be(at, width);
        at += width;
    }
    return (size_t)(end - at) > size ? at + 1 + size : NULL; /* a byte of type, and the data */
}

/* Steps over one value, however deep it is. NULL: it is truncated, or holds the reserved marker c1. */
SPIDER__FUNCTION const uint8_t *spider__skip(const uint8_t *at, const uint8_t *end)
{
    uint64_t values = 1;
    while (values > 0 && at != NULL) {
        spider__head head;
        at = spider__decode(at, end, &head);
        values--;
        if (at != NULL) {
            if (head.type == SPIDER_EXTENSION) {
                at = spider__skip_extension(at, end);
            }
            values += head.type == SPIDER_ARRAY ? head.size : head.type == SPIDER_MAP ? 2 * (uint64_t)head.size : 0;
        }
    }
    return at;
}

/* Finds the next of the names in "one, two, three"; NULL behind the last. */
SPIDER__FUNCTION const char *spider__next_name(const char *names, size_t *size)
{
    size_t length = 0;
    while (*names == ' ' || *names == ',') {
        names++;
    }
    while (names[length] != '\0' && names[length] != ' ' && names[length] != ',') {
        length++;
    }
    *size = length;
    return length > 0 ? names : NULL;
}

SPIDER__FUNCTION uint32_t spider__count_names(const char *names)
{
    uint32_t count = 0;
    size_t size;
    while ((names = spider__next_name(names, &size)) != NULL) {
        names += size;
        count++;
    }
    return count;
}

/* The name at a position that is known to exist. */
SPIDER__FUNCTION const char *spider__name_at(const char *names, uint32_t position, size_t *size)
{
    names = spider__next_name(names, size);
    while (position-- > 0) {
        names = spider__next_name(names + *size, size);
    }
    return names;
}

/* Which of the names a map's key is, by name or by number; UINT32_MAX: none of them. */
SPIDER__FUNCTION uint32_t spider__match_name(const char *names, const spider__head *key)
{
    uint32_t position = 0;
    size_t size;
    if (key->type == SPIDER_UNSIGNED) {
        return key->bits < spider__count_names(names) ? (uint32_t)key->bits : UINT32_MAX;
    }
    if (key->type != SPIDER_STRING && key->type != SPIDER_BINARY) {
        return UINT32_MAX;
    }
    for (; (names = spider__next_name(names, &size)) != NULL; names += size, position++) {
        if (size == key->size && memcmp(names, key->body, size) == 0) {
            return position;
        }
    }
    return UINT32_MAX;
}

/* Where the value last begun is, such as `inputs[0].points[3]`. */
SPIDER__FUNCTION void spider__describe_position(const spider_reader *in, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, in->framed ? "%s[%" PRIu32 "]" : "%s", in->label, in->index - 1);
    uint32_t i;
    for (i = 0; i < in->depth && used < size; i++) {
        const spider__level *level = &in->levels[i];
        uint32_t index = level->index - 1;
        size_t left = size - used;
        if (level->index == 0) { /* it is itself what is wrong: none of its values has begun */
            return;
        }
        if (left < 64) { /* as good as a text of this depth can be */
            snprintf(text + used, left, "[...]");
            return;
        }
        if (level->pairs) {
            used +=
                (size_t)snprintf(text + used, left, "[%s %" PRIu32 "]", index % 2 == 0 ? "key" : "value", index / 2);
        } else if (level->names == NULL) {
            used += (size_t)snprintf(text + used, left, "[%" PRIu32 "]", index);
        } else {
            size_t length;
            const char *name = spider__name_at(level->names, index, &length);
            used += (size_t)snprintf(text + used, left, ".%.*s", length > 60 ? 60 : (int)length, name);
        }
    }
}

SPIDER__FUNCTION void spider__unexpected(spider_reader *in, const char *expected, const char *found)
{
    char position[512];
    spider__describe_position(in, position, sizeof position);
    spider_fail(in->task, SPIDER_DESERIALIZATION_ERROR, "%s: expected %s, found %s", position, expected, found);
}

SPIDER__FUNCTION void spider__mismatch(spider_reader *in, const char *expected, const spider__head *head)
{
    char found[64];
    switch (head->type) {
    case SPIDER_NIL: snprintf(found, sizeof found, "nil"); break;
    case SPIDER_BOOLEAN: snprintf(found, sizeof found, "the boolean %s", head->bits != 0 ? "true" : "false"); break;
    case SPIDER_UNSIGNED: snprintf(found, sizeof found, "the integer %" PRIu64, head->bits); break;
    case SPIDER_NEGATIVE: snprintf(found, sizeof found, "the integer -%" PRIu64, 0 - head->bits); break;
    case SPIDER_FLOAT: snprintf(found, sizeof found, "a float"); break;
    case SPIDER_DOUBLE: snprintf(found, sizeof found, "a double"); break;
    case SPIDER_STRING: snprintf(found, sizeof found, "a string of length %" PRIu32, head->size); break;
    case SPIDER_BINARY: snprintf(found, sizeof found, "binary of length %" PRIu32, head->size); break;
    case SPIDER_ARRAY: snprintf(found, sizeof found, "an array of length %" PRIu32, head->size); break;
    case SPIDER_MAP: snprintf(found, sizeof found, "a map of length %" PRIu32, head->size); break;
    case SPIDER_END:
    case SPIDER_EXTENSION: snprintf(found, sizeof found, "a reserved or extension type"); break;
    }
    spider__unexpected(in, expected, found);
}

SPIDER__FUNCTION void spider__truncated(spider_reader *in, const char *expected)
{
    spider__unexpected(in, expected, "the end of the bytes (truncated)");
}

/* Steps over one value. NULL after an error. */
SPIDER__FUNCTION const uint8_t *spider__skip_value(spider_reader *in, const uint8_t *at)
{
    const uint8_t *after = spider__skip(at, in->end);
    if (after == NULL) {
        spider__unexpected(in, "a value", "truncated bytes, or the reserved marker c1");
    }
    return after;
}

/* Prepares a reader for a payload (`framed`) or for one bare value. The reader borrows the bytes. */
SPIDER__FUNCTION void spider__open(spider_reader *in, const char *label, bool framed, const uint8_t *data,
                                   size_t size)
{
    in->label = label;
    in->framed = framed;
    in->begun = false;
    in->optional = false;
    in->absent = false;
    in->depth = 0;
    in->field_count = 0;
    in->index = 0;
    in->count = framed ? 0 : 1;
    in->start = data;
    in->next = data;
    in->limit = size == 0 ? data : data + size;
    if (!framed || data == NULL || (size == 0 && in == in->task->in)) { /* a cleanup task's inputs lack even a count */
        return;
    }
    if (size < 4) {
        spider_fail(in->task, SPIDER_DESERIALIZATION_ERROR, "%s: expected a count of 4 bytes, found only %zu bytes",
                    label, size);
        return;
    }
    in->count = spider__load_le32(data);
    in->next += 4;
    if (in->count > (size - 4) / 4) {
        spider_fail(in->task, SPIDER_DESERIALIZATION_ERROR,
                    "%s: expected %" PRIu32 " values, found only %zu bytes (truncated)", label, in->count, size - 4);
    }
}

SPIDER__FUNCTION bool spider__open_graph_outputs(spider_reader *in);

SPIDER__FUNCTION bool spider__begin_top(spider_reader *in, const char *expected)
{
    size_t size;
    if (in->next == NULL && !spider__open_graph_outputs(in)) {
        return false;
    }
    if (in->index == in->count) {
        spider_fail(in->task, SPIDER_DESERIALIZATION_ERROR,
                    "%s[%" PRIu32 "]: expected %s, found nothing (%" PRIu32 " value%s given)", in->label, in->index,
                    expected, in->count, in->count == 1 ? "" : "s");
        return false;
    }
    in->index++;
    size = (size_t)(in->limit - in->next);
    if (in->framed) {
        uint32_t length = size < 4 ? 0 : spider__load_le32(in->next);
        if (size < 4 || length > size - 4) {
            spider__truncated(in, expected);
            return false;
        }
        in->next += 4;
        size = length;
    }
    in->position = in->next;
    in->end = in->next + size;
    in->next = in->end;
    return true;
}

/* Looks at the entries of a struct that came as a map until the value of that field is found, and remembers those of
 * other fields. A field after the last: looks at all of them. Fields that come in their order are read in passing. */
SPIDER__FUNCTION void spider__find_field(spider_reader *in, spider__level *level, uint32_t field)
{
    const uint8_t **fields = in->fields + level->first_field;
    if (level->at_entry) {
        level->entry = in->position;
        level->at_entry = false;
    }
    while (level->entries > 0 && (field == level->count || fields[field] == NULL)) {
        const uint8_t *value = spider__skip_value(in, level->entry);
        spider__head key;
        uint32_t match;
        if (value == NULL) {
            return;
        }
        spider__decode(level->entry, in->end, &key);
        level->entries--;
        match = spider__match_name(level->names, &key);
        if (match != UINT32_MAX) {
            if (fields[match] != NULL) {
                level->index = match + 1;
                spider__unexpected(in, "one value", "the field twice");
                return;
            }
            fields[match] = value;
        }
        if (match == field) {
            level->at_entry = true;
            return;
        }
        level->entry = spider__skip_value(in, value);
        if (level->entry == NULL) {
            return;
        }
    }
}

/* Goes to the next field of a struct that came as a map. */
SPIDER__FUNCTION bool spider__seek_field(spider_reader *in, spider__level *level, const char *expected)
{
    spider__find_field(in, level, level->index - 1);
    if (in->task->spider__failed) {
        return false;
    }
    in->position = in->fields[level->first_field + level->index - 1];
    in->absent = in->position == NULL;
    if (in->absent && !in->optional) {
        spider__unexpected(in, expected, "no such field");
        return false;
    }
    return true;
}

/* Goes to the next value. False after an error. */
SPIDER__FUNCTION bool spider__begin(spider_reader *in, const char *expected)
{
    spider__level *level;
    if (in->task->spider__failed) {
        return false;
    }
    if (in->begun) {
        return true;
    }
    if (in->depth == 0) {
        return spider__begin_top(in, expected);
    }
    level = &in->levels[in->depth - 1];
    level->index++;
    return level->entry == NULL || spider__seek_field(in, level, expected);
}

/* Decodes the head of the next value and steps behind it. */
SPIDER__FUNCTION bool spider__take(spider_reader *in, const char *expected, spider__head *head)
{
    const uint8_t *after;
    if (!spider__begin(in, expected)) {
        return false;
    }
    in->begun = false;
    after = spider__decode(in->position, in->end, head);
    if (after == NULL) {
        spider__truncated(in, expected);
        return false;
    }
    in->position = after;
    return true;
}

/* Ends a value, and with it every level of which it was the last. */
SPIDER__FUNCTION void spider__done(spider_reader *in)
{
    while (in->depth > 0 && in->levels[in->depth - 1].index == in->levels[in->depth - 1].count) {
        spider__level *level = &in->levels[in->depth - 1];
        if (level->entry != NULL) {
            spider__find_field(in, level, level->count);
            if (in->task->spider__failed) {
                return;
            }
            in->position = level->entry;
            in->field_count = level->first_field;
        }
        in->depth--;
    }
}

/* Room for the fields of a struct that comes as a map, none of them found yet. */
SPIDER__FUNCTION bool spider__push_fields(spider_reader *in, uint32_t count)
{
    size_t needed = in->field_count + count;
    if (needed > in->field_capacity) {
        size_t capacity = 2 * needed + 16;
        const uint8_t **fields = (const uint8_t **)realloc((void *)in->fields, capacity * sizeof *fields);
        if (fields == NULL) {
            spider_fail(in->task, SPIDER_SERIALIZATION_ERROR, "out of memory: no room for %zu fields", needed);
            return false;
        }
        in->fields = fields;
        in->field_capacity = capacity;
    }
    while (in->field_count < needed) {
        in->fields[in->field_count++] = NULL;
    }
    return true;
}

/* Opens a list, tuple or struct, or a map, which has two values to a pair. `map` is the head of a struct that came as a
 * map, otherwise NULL. */
SPIDER__FUNCTION bool spider__enter(spider_reader *in, uint32_t count, bool pairs, const char *names,
                                    const spider__head *map)
{
    spider__level *level = &in->levels[in->depth];
    if (in->depth == SPIDER__MAX_DEPTH) {
        spider__unexpected(in, "at most 1023 levels", "deeper nesting");
        return false;
    }
    level->names = names;
    level->entry = NULL;
    level->at_entry = false;
    level->pairs = pairs;
    level->index = 0;
    level->count = count;
    if (map != NULL) {
        level->entry = in->position;
        level->entries = map->size;
        level->first_field = in->field_count;
        if (!spider__push_fields(in, count)) {
            return false;
        }
    }
    in->depth++;
    spider__done(in); /* it may be empty */
    return !in->task->spider__failed;
}

/* How many arguments, or graph outputs, there are in all; 0 after an error. */
SPIDER__FUNCTION uint32_t spider_count(spider_reader *in)
{
    if (in->task->spider__failed || (in->next == NULL && !spider__open_graph_outputs(in))) {
        return 0;
    }
    return in->count;
}

/* The type of the next value, which is not taken. SPIDER_END: no argument is left, or the task has failed. */
SPIDER__FUNCTION spider_type spider_peek(spider_reader *in)
{
    spider__head head;
    if (in->depth == 0 && !in->begun && in->index == spider_count(in)) {
        return SPIDER_END;
    }
    if (!spider__begin(in, "a value")) {
        return SPIDER_END;
    }
    in->begun = true;
    if (spider__decode(in->position, in->end, &head) == NULL) {
        spider__truncated(in, "a value");
        return SPIDER_END;
    }
    return head.type;
}

/* True if there was no error and every argument has been read; one too many is an error. For tasks with side
 * effects; at the end of a task it is checked anyway. */
SPIDER__FUNCTION bool spider_ready(spider_task *task)
{
    const spider_reader *in = task->in;
    uint32_t read = in->index - (in->begun && in->depth == 0);
    if (!task->spider__failed && read < in->count) {
        spider_fail(task, SPIDER_DESERIALIZATION_ERROR, "%s: expected %" PRIu32 " value%s, found %" PRIu32, in->label,
                    read, read == 1 ? "" : "s", in->count);
    }
    return !task->spider__failed;
}

/* Takes one value of any type. */
SPIDER__FUNCTION void spider_skip(spider_reader *in)
{
    const uint8_t *after;
    if (!spider__begin(in, "a value")) {
        return;
    }
    in->begun = false;
    after = spider__skip_value(in, in->position);
    if (after != NULL) {
        in->position = after;
        spider__done(in);
    }
}

SPIDER__FUNCTION void spider_read_nil(spider_reader *in)
{
    spider__head head;
    if (spider__take(in, "nil", &head)) {
        if (head.type == SPIDER_NIL) {
            spider__done(in);
        } else {
            spider__mismatch(in, "nil", &head);
        }
    }
}

/* For a value that may be nil. True: it is not, and is to be read next. False: it was nil, and has been taken; or it
 * is a field that is absent from a struct that came as a map. */
SPIDER__FUNCTION bool spider_read_option(spider_reader *in)
{
    bool found;
    in->optional = true;
    in->absent = false;
    found = spider__begin(in, "a value or nil");
    in->optional = false;
    if (found && in->absent) {
        spider__done(in);
    } else if (found) {
        in->begun = true;
        if (in->position == in->end || *in->position != 0xc0) {
            return true;
        }
        spider_read_nil(in);
    }
    return false;
}

SPIDER__FUNCTION bool spider_read_boolean(spider_reader *in)
{
    spider__head head;
    if (!spider__take(in, "boolean", &head)) {
        return false;
    }
    if (head.type != SPIDER_BOOLEAN) {
        spider__mismatch(in, "boolean", &head);
        return false;
    }
    spider__done(in);
    return head.bits != 0;
}

SPIDER__FUNCTION int64_t spider__read_signed(spider_reader *in, const char *expected, int64_t min, int64_t max)
{
    spider__head head;
    int64_t value;
    if (!spider__take(in, expected, &head)) {
        return 0;
    }
    value = head.type == SPIDER_NEGATIVE ? -(int64_t)~head.bits - 1 : (int64_t)(head.bits & INT64_MAX);
    if ((head.type != SPIDER_NEGATIVE && (head.type != SPIDER_UNSIGNED || head.bits > INT64_MAX)) || value < min
        || value > max) {
        spider__mismatch(in, expected, &head);
        return 0;
    }
    spider__done(in);
    return value;
}

SPIDER__FUNCTION uint64_t spider__read_unsigned(spider_reader *in, const char *expected, uint64_t max)
{
    spider__head head;
    if (!spider__take(in, expected, &head)) {
        return 0;
    }
    if (head.type != SPIDER_UNSIGNED || head.bits > max) {
        spider__mismatch(in, expected, &head);
        return 0;
    }
    spider__done(in);
    return head.bits;
}

/* spider_read_int8 to spider_read_uint64. Every width that the value was written in is accepted, if the value fits; a
 * float is not. */
#define SPIDER__INTEGER_READERS(bits)                                                                 \
    SPIDER__FUNCTION int##bits##_t spider_read_int##bits(spider_reader *in)                           \
    {                                                                                                 \
        return (int##bits##_t)spider__read_signed(in, "int" #bits, INT##bits##_MIN, INT##bits##_MAX); \
    }                                                                                                 \
    SPIDER__FUNCTION uint##bits##_t spider_read_uint##bits(spider_reader *in)                         \
    {                                                                                                 \
        return (uint##bits##_t)spider__read_unsigned(in, "uint" #bits, UINT##bits##_MAX);             \
    }
SPIDER__INTEGER_READERS(8)
SPIDER__INTEGER_READERS(16)
SPIDER__INTEGER_READERS(32)
SPIDER__INTEGER_READERS(64)

SPIDER__FUNCTION bool spider__take_number(spider_reader *in, const char *expected, spider__head *head)
{
    if (!spider__take(in, expected, head)) {
        return false;
    }
    if (head->type != SPIDER_FLOAT && head->type != SPIDER_DOUBLE && head->type != SPIDER_UNSIGNED
        && head->type != SPIDER_NEGATIVE) {
        spider__mismatch(in, expected, head);
        return false;
    }
    spider__done(in);
    return true;
}

SPIDER__FUNCTION float spider__to_float(const spider__head *head)
{
    uint32_t bits = (uint32_t)head->bits;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

SPIDER__FUNCTION double spider__to_double(const spider__head *head)
{
    double value;
    memcpy(&value, &head->bits, sizeof value);
    return value;
}

/* Both widths and integers are accepted, and rounded where they must be. */
SPIDER__FUNCTION float spider_read_float(spider_reader *in)
{
    spider__head head;
    if (!spider__take_number(in, "float", &head)) {
        return 0;
    }
    return head.type == SPIDER_FLOAT      ? spider__to_float(&head)
           : head.type == SPIDER_DOUBLE   ? (float)spider__to_double(&head)
           : head.type == SPIDER_UNSIGNED ? (float)head.bits
                                          : -(float)(0 - head.bits);
}

SPIDER__FUNCTION double spider_read_double(spider_reader *in)
{
    spider__head head;
    if (!spider__take_number(in, "double", &head)) {
        return 0;
    }
    return head.type == SPIDER_FLOAT      ? (double)spider__to_float(&head)
           : head.type == SPIDER_DOUBLE   ? spider__to_double(&head)
           : head.type == SPIDER_UNSIGNED ? (double)head.bits
                                          : -(double)(0 - head.bits);
}

/* The bytes are borrowed: no copy, valid until the task returns. */
__attribute__((flatten)) /* strings are most of what there is to read and write */
SPIDER__FUNCTION spider_string spider_read_string(spider_reader *in)
{
    spider_string value = {"", 0};
    spider__head head;
    if (!spider__take(in, "string", &head)) {
        return value;
    }
    if (head.type != SPIDER_STRING && head.type != SPIDER_BINARY) {
        spider__mismatch(in, "string", &head);
        return value;
    }
    if (spider__utf8_prefix(head.body, head.size) < head.size) {
        spider__unexpected(in, "string", "bytes that are not UTF-8");
        return value;
    }
    spider__done(in);
    value.data = (const char *)head.body;
    value.size = head.size;
    return value;
}

/* Opens a list and returns how many elements follow. */
SPIDER__FUNCTION uint32_t spider_read_list(spider_reader *in)
{
    spider__head head;
    if (!spider__take(in, "list", &head)) {
        return 0;
    }
    if (head.type != SPIDER_ARRAY) {
        spider__mismatch(in, "list", &head);
        return 0;
    }
    return spider__enter(in, head.size, false, NULL, NULL) ? head.size : 0;
}

/* Opens a map and returns how many pairs of a key and a value follow. */
SPIDER__FUNCTION uint32_t spider_read_map(spider_reader *in)
{
    spider__head head;
    if (!spider__take(in, "map", &head)) {
        return 0;
    }
    if (head.type != SPIDER_MAP) {
        spider__mismatch(in, "map", &head);
        return 0;
    }
    return spider__enter(in, 2 * head.size, true, NULL, NULL) ? head.size : 0;
}

/* Opens a tuple of exactly `count` values, which follow. */
SPIDER__FUNCTION void spider_read_tuple(spider_reader *in, uint32_t count)
{
    spider__head head;
    char expected[48];
    if (!spider__take(in, "tuple", &head)) {
        return;
    }
    if (head.type != SPIDER_ARRAY || head.size != count) {
        snprintf(expected, sizeof expected, "a tuple of %" PRIu32, count);
        spider__mismatch(in, expected, &head);
        return;
    }
    spider__enter(in, count, false, NULL, NULL);
}

/* Opens a struct. Its fields are to be read in the order of `names`, such as "x, y"; which is a string literal: it must
 * outlive the call. A struct comes as an array of exactly so many values; a map from the fields' names, in any
 * order, is accepted as well. */
SPIDER__FUNCTION void spider_read_struct(spider_reader *in, const char *names)
{
    uint32_t count = spider__count_names(names);
    spider__head head;
    char expected[160];
    if (!spider__take(in, "struct", &head)) {
        return;
    }
    if (head.type == SPIDER_MAP) {
        spider__enter(in, count, false, names, &head);
        return;
    }
    if (head.type != SPIDER_ARRAY || head.size != count) {
        snprintf(expected, sizeof expected, "a struct of %" PRIu32 " (%.100s)", count, names);
        spider__mismatch(in, expected, &head);
        return;
    }
    spider__enter(in, count, false, names, NULL);
}

/* Bytes from an array of integers, or from binary. Valid until the task returns. */
SPIDER__FUNCTION spider_bytes spider_read_bytes(spider_reader *in)
{
    spider_bytes value = {(const uint8_t *)"", 0};
    spider__head head;
    spider__level *level;
    uint8_t *data;
    uint32_t depth;
    uint32_t i;
    if (!spider__take(in, "Bytes", &head)) {
        return value;
    }
    if (head.type == SPIDER_BINARY) {
        in->task->spider__gave_binary = true;
        spider__done(in);
        value.data = head.body;
        value.size = head.size;
        return value;
    }
    if (head.type != SPIDER_ARRAY) {
        spider__mismatch(in, "Bytes", &head);
        return value;
    }
    data = (uint8_t *)spider_alloc(in->task, head.size, 1);
    if (!spider__enter(in, head.size, false, NULL, NULL) || data == NULL || head.size == 0) {
        return value;
    }
    depth = in->depth;
    level = &in->levels[depth - 1];
    for (i = 0; i < head.size; i++) {
        const uint8_t *at = in->position;
        if (at < in->end && *at < 0x80) {
            data[i] = *at;
            in->position = at + 1;
        } else if (in->end - at >= 2 && *at == 0xcc) {
            data[i] = at[1];
            in->position = at + 2;
        } else {
            level->index = i;
            data[i] = spider_read_uint8(in);
            if (in->task->spider__failed) {
                return value;
            }
        }
    }
    if (in->depth == depth) { /* otherwise spider_read_uint8 has read the last and ended the array */
        level->index = head.size;
        spider__done(in);
    }
    value.data = data;
    value.size = head.size;
    return value;
}

/* ---- Writing -------------------------------------------------------------------------------------------------- */

/* Starts a value that takes `size` bytes here and `children` values behind them. Returns where the bytes go; NULL
 * after an error. */
SPIDER__FUNCTION uint8_t *spider__put(spider_writer *out, size_t size, uint64_t children)
{
    bool first = out->pending == 0;
    size_t needed = size + (first ? 4 : 0) + (out->size == 0 ? 4 : 0);
    uint8_t *at;
    if (out->task->spider__failed) {
        return NULL;
    }
    if (needed > out->capacity - out->size) {
        size_t capacity = out->capacity == 0 ? 256 : out->capacity * 2;
        uint8_t *data = NULL;
        if (capacity > 4096 && capacity < out->expected) {
            capacity = out->expected;
        }
        if (needed <= SIZE_MAX / 4 && out->capacity <= SIZE_MAX / 4) {
            if (capacity < out->size + needed) {
                capacity = out->size + needed;
            }
            data = (uint8_t *)realloc(out->data, capacity);
        }
        if (data == NULL) {
            spider_fail(out->task, SPIDER_SERIALIZATION_ERROR, "out of memory: no room for %zu bytes of outputs",
                        out->size + needed);
            return NULL;
        }
        out->data = data;
        out->capacity = capacity;
    }
    if (out->size == 0) {
        out->size = 4; /* the count */
    }
    if (first) {
        out->start = out->size;
        out->size += 4;
        out->count++;
        out->pending = 1;
    }
    at = out->data + out->size;
    out->size += size;
    out->pending += children;
    out->pending--;
    if (out->pending == 0) {
        size_t length = out->size - out->start - 4;
        if (length > UINT32_MAX) {
            spider_fail(out->task, SPIDER_SERIALIZATION_ERROR,
                        "outputs[%" PRIu32 "]: %zu bytes are too long for an output", out->count - 1, length);
            return NULL;
        }
        spider__store_le32(out->data + out->start, length);
    }
    return at;
}

SPIDER__FUNCTION void spider__put_marker(spider_writer *out, uint8_t marker, uint64_t value, unsigned bytes,
                                         uint64_t children)
{
    uint8_t *at = spider__put(out, 1 + (size_t)bytes, children);
    if (at != NULL) {
        *at++ = marker;
        spider__store_be(at, value, bytes);
    }
}

SPIDER__FUNCTION void spider_write_nil(spider_writer *out)
{
    spider__put_marker(out, 0xc0, 0, 0, 0);
}

SPIDER__FUNCTION void spider_write_boolean(spider_writer *out, bool value)
{
    spider__put_marker(out, value ? 0xc3 : 0xc2, 0, 0, 0);
}

/* Integers take the smallest form that holds the value, whatever their type. */
SPIDER__FUNCTION void spider_write_uint64(spider_writer *out, uint64_t value)
{
    if (value < 0x80) {
        spider__put_marker(out, (uint8_t)value, 0, 0, 0);
    } else if (value <= UINT8_MAX) {
        spider__put_marker(out, 0xcc, value, 1, 0);
    } else if (value <= UINT16_MAX) {
        spider__put_marker(out, 0xcd, value, 2, 0);
    } else if (value <= UINT32_MAX) {
        spider__put_marker(out, 0xce, value, 4, 0);
    } else {
        spider__put_marker(out, 0xcf, value, 8, 0);
    }
}

SPIDER__FUNCTION void spider_write_int64(spider_writer *out, int64_t value)
{
    uint64_t bits = (uint64_t)value;
    if (value >= 0) {
        spider_write_uint64(out, bits);
    } else if (value >= -32) {
        spider__put_marker(out, (uint8_t)bits, 0, 0, 0);
    } else if (value >= INT8_MIN) {
        spider__put_marker(out, 0xd0, bits, 1, 0);
    } else if (value >= INT16_MIN) {
        spider__put_marker(out, 0xd1, bits, 2, 0);
    } else if (value >= INT32_MIN) {
        spider__put_marker(out, 0xd2, bits, 4, 0);
    } else {
        spider__put_marker(out, 0xd3, bits, 8, 0);
    }
}

/* spider_write_int8 to spider_write_uint32. */
#define SPIDER__INTEGER_WRITERS(bits)                                                       \
    SPIDER__FUNCTION void spider_write_int##bits(spider_writer *out, int##bits##_t value)   \
    {                                                                                       \
        spider_write_int64(out, value);                                                     \
    }                                                                                       \
    SPIDER__FUNCTION void spider_write_uint##bits(spider_writer *out, uint##bits##_t value) \
    {                                                                                       \
        spider_write_uint64(out, value);                                                    \
    }
SPIDER__INTEGER_WRITERS(8)
SPIDER__INTEGER_WRITERS(16)
SPIDER__INTEGER_WRITERS(32)

SPIDER__FUNCTION void spider_write_float(spider_writer *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    spider__put_marker(out, 0xca, bits, 4, 0);
}

SPIDER__FUNCTION void spider_write_double(spider_writer *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    spider__put_marker(out, 0xcb, bits, 8, 0);
}

SPIDER__FUNCTION bool spider__check_size(spider_writer *out, uint64_t size)
{
    if (size > UINT32_MAX) {
        spider_fail(out->task, SPIDER_SERIALIZATION_ERROR,
                    "outputs: a length of %" PRIu64 " does not fit into 32 bits", size);
        return false;
    }
    return true;
}

/* Whether the string was checked when it was read from the inputs. A part of one may have been cut within a character:
 * then it starts, or what is behind it starts, with a byte that continues one. */
SPIDER__FUNCTION bool spider__was_checked(const spider_task *task, spider_string value)
{
    const spider_reader *in = task->in;
    uintptr_t data = (uintptr_t)value.data;
    uintptr_t limit = (uintptr_t)in->limit;
    if (task->spider__gave_binary || data < (uintptr_t)in->start || data >= limit || value.size > limit - data) {
        return false;
    }
    return (value.data[0] & 0xc0) != 0x80 && (value.size == limit - data || (value.data[value.size] & 0xc0) != 0x80);
}

/* Copies the string. What is not UTF-8 is a SerializationError. */
__attribute__((flatten))
SPIDER__FUNCTION void spider_write_string(spider_writer *out, spider_string value)
{
    uint8_t *at;
    if (!spider__check_size(out, value.size)) {
        return;
    }
    if (!spider__was_checked(out->task, value)
        && spider__utf8_prefix((const uint8_t *)value.data, value.size) < value.size) {
        spider_fail(out->task, SPIDER_SERIALIZATION_ERROR, "outputs[%" PRIu32 "]: a string that is not UTF-8",
                    out->pending == 0 ? out->count : out->count - 1);
        return;
    }
    at = spider__put(out, spider__string_header_size(value.size) + value.size, 0);
    if (at != NULL && value.size > 0) {
        memcpy(spider__string_header(at, value.size), value.data, value.size);
    } else if (at != NULL) {
        *at = 0xa0;
    }
}

/* Copies a NUL-terminated string. NULL is a SerializationError. */
SPIDER__FUNCTION void spider_write_cstring(spider_writer *out, const char *text)
{
    spider_string value;
    if (text == NULL) {
        spider_fail(out->task, SPIDER_SERIALIZATION_ERROR, "outputs[%" PRIu32 "]: NULL is no string",
                    out->pending == 0 ? out->count : out->count - 1);
        return;
    }
    value.data = text;
    value.size = strlen(text);
    spider_write_string(out, value);
}

/* Starts a list of `count` elements, which are to be written next. */
SPIDER__FUNCTION void spider_write_list(spider_writer *out, size_t count)
{
    if (!spider__check_size(out, count)) {
        return;
    }
    if (count < 16) {
        spider__put_marker(out, (uint8_t)(0x90 | count), 0, 0, count);
    } else if (count <= UINT16_MAX) {
        spider__put_marker(out, 0xdc, count, 2, count);
    } else {
        spider__put_marker(out, 0xdd, count, 4, count);
    }
}

/* Starts a tuple of `count` values, or a struct of `count` fields: they are written by position. */
SPIDER__FUNCTION void spider_write_tuple(spider_writer *out, size_t count)
{
    spider_write_list(out, count);
}

/* Starts a map of `count` pairs; the first key is to be written next. */
SPIDER__FUNCTION void spider_write_map(spider_writer *out, size_t count)
{
    if (!spider__check_size(out, count)) {
        return;
    }
    if (count < 16) {
        spider__put_marker(out, (uint8_t)(0x80 | count), 0, 0, 2 * (uint64_t)count);
    } else if (count <= UINT16_MAX) {
        spider__put_marker(out, 0xde, count, 2, 2 * (uint64_t)count);
    } else {
        spider__put_marker(out, 0xdf, count, 4, 2 * (uint64_t)count);
    }
}

/* Copies the bytes, as an array of integers. */
SPIDER__FUNCTION void spider_write_bytes(spider_writer *out, spider_bytes value)
{
    size_t size = value.size;
    size_t i;
    uint8_t *at;
    for (i = 0; i < value.size; i++) {
        size += value.data[i] >> 7; /* 0xcc goes before those */
    }
    spider_write_list(out, value.size);
    if (value.size == 0) {
        return;
    }
    out->pending -= value.size - 1; /* as one value */
    at = spider__put(out, size, 0);
    for (i = 0; at != NULL && i < value.size; i++) {
        if (value.data[i] >= 0x80) {
            *at++ = 0xcc;
        }
        *at++ = value.data[i];
    }
}

/* ---- The package ---------------------------------------------------------------------------------------------- */

SPIDER__FUNCTION uint32_t spider__hash(const uint8_t *data, size_t size)
{
    uint32_t hash = UINT32_C(2166136261); /* FNV-1a */
    while (size-- > 0) {
        hash = (hash ^ *data++) * UINT32_C(16777619);
    }
    return hash;
}

/* The slot of the task of that name, or the free one where it would go. */
SPIDER__FUNCTION uint32_t *spider__find_slot(const spider__package *package, const uint8_t *name, size_t size)
{
    uint32_t slot = spider__hash(name, size) % package->slot_count;
    while (package->slots[slot] != 0) {
        const char *there = package->tasks[package->slots[slot] - 1].name;
        if (strlen(there) == size && memcmp(there, name, size) == 0) {
            break;
        }
        slot = slot + 1 == package->slot_count ? 0 : slot + 1;
    }
    return &package->slots[slot];
}

/* Called before the first task: not while the library is loaded, when the entries may not have been computed yet. */
SPIDER__FUNCTION bool spider__index_tasks(spider_task *task, spider__package *package)
{
    uint32_t i;
    for (i = 0; i < package->task_count && !package->indexed; i++) {
        const char *name = package->tasks[i].name;
        uint32_t *slot;
        if (name == NULL || package->tasks[i].function == NULL) {
            spider_fail(task, SPIDER_EXECUTION_ERROR, "the package's tasks[%" PRIu32 "] has no %s", i,
                        name == NULL ? "name" : "function");
            return false;
        }
        slot = spider__find_slot(package, (const uint8_t *)name, strlen(name));
        if (*slot != 0 && *slot != i + 1) {
            spider_fail(task, SPIDER_EXECUTION_ERROR, "the package has two tasks named \"%s\"", name);
            return false;
        }
        *slot = i + 1;
    }
    package->indexed = true;
    return true;
}

/* A call with everything that belongs to it; on the stack of spider__execute. */
typedef struct spider__call {
    spider_task task;
    spider__package *package;
    spider_reader in;
    spider_reader graph_outputs;
    spider_writer out;
    spider_bytes graph_buffer; /* the context's graph outputs, as they came */
    bool has_graph_buffer;
} spider__call;

/* Never NULL, though an executor may pass that for nothing. */
SPIDER__FUNCTION const uint8_t *spider__data(spider_view view)
{
    return view.length == 0 ? (const uint8_t *)"" : (const uint8_t *)view.pointer;
}

SPIDER__FUNCTION void spider__start(spider__call *call, spider__package *package)
{
    memset(&call->task, 0, sizeof call->task);
    memset(&call->out, 0, sizeof call->out);
    call->package = package;
    call->task.spider__spare = __atomic_exchange_n(&package->spare, (uint8_t *)NULL, __ATOMIC_ACQ_REL);
    if (call->task.spider__spare == NULL) {
        call->task.spider__spare = (uint8_t *)malloc(SPIDER__SPARE_SIZE);
    }
    call->task.in = &call->in;
    call->task.graph_outputs = &call->graph_outputs;
    call->task.out = &call->out;
    call->in.task = call->graph_outputs.task = call->out.task = &call->task;
    call->in.fields = call->graph_outputs.fields = NULL;
    call->in.field_capacity = call->graph_outputs.field_capacity = 0;
    call->has_graph_buffer = false;
    spider__open(&call->in, "inputs", true, (const uint8_t *)"", 0);
    spider__open(&call->graph_outputs, "graph_outputs", true, NULL, 0);
}

/* The package has the function that its own file was compiled with: no other function depends on the macro, so it does
 * not matter how other files were compiled. */
#ifdef SPIDER_TDL_WITH_ZSTD
#define SPIDER__DECOMPRESS spider__decompress

/* Grows with what comes out, whatever size the frame declares. The memory is the task's. False after an error. */
SPIDER__FUNCTION bool spider__decompress(spider_task *task, spider_bytes *bytes)
{
    size_t size = bytes->size;
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer source = {bytes->data, size, 0};
    ZSTD_outBuffer target = {NULL, 0, 0};
    size_t state = stream == NULL ? 0 : ZSTD_initDStream(stream);
    if (stream == NULL) {
        spider_fail(task, SPIDER_SERIALIZATION_ERROR, "out of memory: no room for zstd");
        return false;
    }
    do {
        if (target.pos == target.size) {
            size_t larger = target.size == 0 ? 4096 + 4 * size : 2 * target.size;
            void *grown = spider_alloc(task, larger, 1);
            if (grown == NULL) {
                break;
            }
            if (target.pos > 0) {
                memcpy(grown, target.dst, target.pos);
            }
            target.dst = grown;
            target.size = larger;
        }
        state = ZSTD_decompressStream(stream, &target, &source);
    } while (!ZSTD_isError(state) && (source.pos < source.size || (state != 0 && target.pos == target.size)));
    ZSTD_freeDStream(stream);
    if (ZSTD_isError(state)) {
        spider_fail(task, SPIDER_DESERIALIZATION_ERROR, "graph_outputs: expected zstd, found damaged bytes: %s",
                    ZSTD_getErrorName(state));
    } else if (state != 0) {
        spider_fail(task, SPIDER_DESERIALIZATION_ERROR,
                    "graph_outputs: expected the end of a zstd frame, found the end of the bytes (truncated)");
    }
    bytes->data = (const uint8_t *)target.dst;
    bytes->size = target.pos;
    return !task->spider__failed;
}
#else
#define SPIDER__DECOMPRESS NULL
#endif

/* Graph outputs are looked into when a task asks for them. */
SPIDER__FUNCTION bool spider__open_graph_outputs(spider_reader *in)
{
    spider_task *task = in->task;
    const spider__call *call = (const spider__call *)(const void *)task;
    spider_bytes buffer = call->graph_buffer;
    if (!call->has_graph_buffer) {
        spider_fail(task, SPIDER_INVALID_TASK_CONTEXT, "%s: there are none, only a commit task has them", in->label);
    } else if (buffer.size == 0 || buffer.data[0] > 1) {
        char found[32] = "no bytes";
        if (buffer.size > 0) {
            snprintf(found, sizeof found, "%u", (unsigned)buffer.data[0]);
        }
        spider_fail(task, SPIDER_DESERIALIZATION_ERROR,
                    "%s: expected a first byte of 0 (plain) or 1 (zstd), found %s", in->label, found);
    } else if (buffer.data[0] == 1 && call->package->decompress == NULL) {
        spider_fail(task, SPIDER_INVALID_TASK_CONTEXT,
                    "%s: they are zstd-compressed, and this package was compiled without SPIDER_TDL_WITH_ZSTD",
                    in->label);
    } else {
        bool plain = *buffer.data++ == 0;
        buffer.size--;
        if (plain || call->package->decompress(task, &buffer)) {
            spider__open(in, in->label, true, buffer.data, buffer.size);
        }
    }
    return !task->spider__failed;
}

SPIDER__FUNCTION void spider__read_task_id(spider_task *task, spider_reader *in)
{
    const char *expected = "Index with a number, Commit or Cleanup";
    spider__head head;
    bool has_value = spider_peek(in) == SPIDER_MAP;
    uint32_t which;
    if (!spider__take(in, expected, &head)) {
        return;
    }
    if (has_value) {
        if (head.size != 1) {
            spider__mismatch(in, expected, &head);
            return;
        }
        if (!spider__enter(in, 2, true, NULL, NULL) || !spider__take(in, expected, &head)) {
            return;
        }
    }
    which = spider__match_name("Index, Commit, Cleanup", &head);
    if (which == UINT32_MAX || (which == 0 && !has_value)) {
        spider__mismatch(in, expected, &head);
        return;
    }
    spider__done(in);
    task->kind = which == 0 ? SPIDER_INDEX_TASK : which == 1 ? SPIDER_COMMIT_TASK : SPIDER_CLEANUP_TASK;
    if (which == 0) {
        task->index = spider_read_uint64(in);
    } else if (has_value) {
        spider_read_nil(in);
    }
}

SPIDER__FUNCTION void spider__read_context(spider__call *call, spider_view view)
{
    spider_task *task = &call->task;
    spider_reader *in = &call->graph_outputs; /* which is not needed yet */
    spider__open(in, "context", false, spider__data(view), view.length);
    spider_read_struct(in, "job_id, task_id, task_instance_id, resource_group_id, graph_outputs");
    task->job_id = spider_read_uint64(in);
    spider__read_task_id(task, in);
    task->instance_id = spider_read_uint64(in);
    task->resource_group_id = spider_read_uint64(in);
    if (spider_read_option(in)) {
        call->graph_buffer = spider_read_bytes(in);
        call->has_graph_buffer = true;
    }
    spider__open(in, "graph_outputs", true, NULL, 0);
}

SPIDER__FUNCTION void spider__run(spider_task *task, spider_task_function function)
{
#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
    try {
        function(task);
    } catch (const spider::task_error &error) {
        spider__fail_with(task, error.kind(), error.message().data(), error.message().size());
    } catch (const std::exception &error) {
        spider_fail(task, SPIDER_EXECUTION_ERROR, "%s", error.what());
#ifdef __GLIBCXX__
    } catch (const abi::__forced_unwind &) { /* the end of the thread: whoever stops that ends the process */
        throw;
#endif
    } catch (...) {
        spider_fail(task, SPIDER_EXECUTION_ERROR, "unknown C++ exception");
    }
#else
    function(task);
#endif
}

/* Frees what the call holds, except for what it returns, which the executor frees. */
SPIDER__FUNCTION spider_result spider__finish(spider__call *call)
{
    spider_result result = {false, NULL, 0};
    spider_task *task = &call->task;
    spider_writer *out = &call->out;
    if (!task->spider__failed && out->pending > 0) {
        spider_fail(task, SPIDER_SERIALIZATION_ERROR,
                    "outputs[%" PRIu32 "] is incomplete: %" PRIu64 " more values were announced", out->count - 1,
                    out->pending);
    }
    if (!task->spider__failed && out->size == 0) {
        out->data = (uint8_t *)malloc(4);
        out->size = 4;
        if (out->data == NULL) {
            spider_fail(task, SPIDER_SERIALIZATION_ERROR, "out of memory: no room for 4 bytes of outputs");
        }
    }
    free(__atomic_exchange_n(&call->package->spare, task->spider__spare, __ATOMIC_ACQ_REL));
    free((void *)call->in.fields);
    free((void *)call->graph_outputs.fields);
    while (task->spider__memory != NULL) {
        spider__block *block = task->spider__memory;
        task->spider__memory = block->next;
        free(block);
    }
    if (task->spider__failed) {
        free(out->data);
        result.is_error = true;
        result.pointer = task->spider__error;
        result.length = task->spider__error_size;
    } else {
        spider__store_le32(out->data, out->count);
        result.pointer = out->data;
        result.length = out->size;
    }
    if (result.length == 0) {
        result.pointer = (uint8_t *)1; /* Rust wants a pointer that is not NULL, though nobody reads it */
    }
    return result;
}

SPIDER__FUNCTION spider_result spider__initialize(spider__package *package, spider_task_function init)
{
    spider__call call;
    spider_result result;
    spider__start(&call, package);
    if (spider__index_tasks(&call.task, package) && init != NULL) {
        spider__run(&call.task, init);
    }
    result = spider__finish(&call);
    if (!result.is_error) { /* no outputs, not even their count */
        free(result.pointer);
        result.pointer = (uint8_t *)1;
        result.length = 0;
    }
    return result;
}

SPIDER__FUNCTION spider_result spider__execute(spider__package *package, spider_view name, spider_view context,
                                               spider_view inputs)
{
    spider__call call;
    uint32_t found = 0;
    spider__start(&call, package);
    if (spider__index_tasks(&call.task, package)) {
        found = *spider__find_slot(package, spider__data(name), name.length);
    }
    if (found == 0) {
        spider__fail_with(&call.task, SPIDER_TASK_NOT_FOUND, spider__data(name), name.length);
    } else {
        spider__read_context(&call, context);
        spider__open(&call.in, "inputs", true, spider__data(inputs), inputs.length);
        call.out.expected = inputs.length + 64;
        if (!call.task.spider__failed) {
            spider__run(&call.task, package->tasks[found - 1].function);
            spider_ready(&call.task);
        }
    }
    return spider__finish(&call);
}

/* ---- C++17: tasks that are ordinary functions ----------------------------------------------------------------- */

#if defined(__cplusplus) && __cplusplus >= 201703L
/*
 * spider::typed<function> makes a task of a function. Its parameters are the arguments, and its result is the output; a
 * std::tuple is several outputs, void is none. A first parameter of type `spider_task &` or `const spider_task &` is no
 * argument but the call, with its context. What can be converted: bool, the integers, float, double, std::string,
 * std::string_view (borrowed), spider_bytes (borrowed), std::vector, std::array, std::pair, std::tuple, std::optional,
 * std::map, std::unordered_map, and every type for which there are
 *
 *     void spider_read(spider_reader *in, type &value);
 *     void spider_write(spider_writer *out, const type &value);
 *
 * in its own namespace, in the global one, or from SPIDER_STRUCT.
 */
template <class T, class = std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>>>
constexpr bool spider__is_integer() /* of a width that TDL has; not a character, such as char or wchar_t */
{
    if constexpr (sizeof(T) > 8) {
        return false;
    }
    return std::is_same_v<T, std::make_signed_t<T>> || std::is_same_v<T, std::make_unsigned_t<T>>;
}

template <class T, std::enable_if_t<spider__is_integer<T>(), int> = 0>
void spider_read(spider_reader *in, T &value)
{
    constexpr const char *names[] = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"};
    constexpr int log2 = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
    using limits = std::numeric_limits<T>;
    if constexpr (std::is_signed_v<T>) {
        value = static_cast<T>(spider__read_signed(in, names[2 * log2], limits::min(), limits::max()));
    } else {
        value = static_cast<T>(spider__read_unsigned(in, names[2 * log2 + 1], limits::max()));
    }
}

template <class T, std::enable_if_t<spider__is_integer<T>(), int> = 0>
void spider_write(spider_writer *out, const T &value)
{
    if constexpr (std::is_signed_v<T>) {
        spider_write_int64(out, value);
    } else {
        spider_write_uint64(out, value);
    }
}

inline void spider_read(spider_reader *in, bool &value)
{
    value = spider_read_boolean(in);
}
inline void spider_read(spider_reader *in, float &value)
{
    value = spider_read_float(in);
}
inline void spider_read(spider_reader *in, double &value)
{
    value = spider_read_double(in);
}
inline void spider_read(spider_reader *in, spider_bytes &value)
{
    value = spider_read_bytes(in);
}

inline void spider_read(spider_reader *in, std::string_view &value)
{
    const spider_string text = spider_read_string(in);
    value = std::string_view(text.data, text.size);
}

inline void spider_read(spider_reader *in, std::string &value)
{
    const spider_string text = spider_read_string(in);
    value.assign(text.data, text.size);
}

template <class T, std::enable_if_t<std::is_same_v<T, bool>, int> = 0> /* or a pointer would be a bool */
void spider_write(spider_writer *out, const T &value)
{
    spider_write_boolean(out, value);
}
inline void spider_write(spider_writer *out, const float &value)
{
    spider_write_float(out, value);
}
inline void spider_write(spider_writer *out, const double &value)
{
    spider_write_double(out, value);
}
inline void spider_write(spider_writer *out, const spider_bytes &value)
{
    spider_write_bytes(out, value);
}
inline void spider_write(spider_writer *out, const char *value)
{
    spider_write_cstring(out, value);
}

inline void spider_write(spider_writer *out, const std::string_view &value)
{
    spider_write_string(out, spider_string{value.data(), value.size()});
}

inline void spider_write(spider_writer *out, const std::string &value)
{
    spider_write_string(out, spider_string{value.data(), value.size()});
}

template <class A>
void spider_read(spider_reader *in, std::vector<std::uint8_t, A> &value)
{
    const spider_bytes bytes = spider_read_bytes(in);
    value.assign(bytes.data, bytes.data + bytes.size);
}

template <class A>
void spider_write(spider_writer *out, const std::vector<std::uint8_t, A> &value)
{
    spider_write_bytes(out, spider_bytes{value.data(), value.size()});
}

template <class T, class A>
void spider_read(spider_reader *in, std::vector<T, A> &value)
{
    std::uint32_t count = spider_read_list(in);
    value.clear();
    value.reserve(count < 1024 ? count : 1024); /* an element may be much larger than the byte that announced it */
    for (; count > 0 && spider_ok(in->task); count--) {
        T element{};
        spider_read(in, element);
        value.push_back(std::move(element));
    }
}

template <class T, class A>
void spider_write(spider_writer *out, const std::vector<T, A> &value)
{
    spider_write_list(out, value.size());
    for (const T &element : value) {
        spider_write(out, element);
    }
}

template <class T, std::size_t N>
void spider_read(spider_reader *in, std::array<T, N> &value)
{
    spider_read_tuple(in, N);
    for (T &element : value) {
        spider_read(in, element);
    }
}

template <class T, std::size_t N>
void spider_write(spider_writer *out, const std::array<T, N> &value)
{
    spider_write_tuple(out, N);
    for (const T &element : value) {
        spider_write(out, element);
    }
}

template <class T>
void spider_read(spider_reader *in, std::optional<T> &value)
{
    value.reset();
    if (spider_read_option(in)) {
        spider_read(in, value.emplace());
    }
}

template <class T>
void spider_write(spider_writer *out, const std::optional<T> &value)
{
    if (value) {
        spider_write(out, *value);
    } else {
        spider_write_nil(out);
    }
}

template <class... T>
void spider_read(spider_reader *in, std::tuple<T...> &value)
{
    spider_read_tuple(in, sizeof...(T));
    std::apply([&](T &...element) { (spider_read(in, element), ...); }, value);
}

template <class... T>
void spider_write(spider_writer *out, const std::tuple<T...> &value)
{
    spider_write_tuple(out, sizeof...(T));
    std::apply([&](const T &...element) { (spider_write(out, element), ...); }, value);
}

template <class T, class U>
void spider_read(spider_reader *in, std::pair<T, U> &value)
{
    spider_read_tuple(in, 2);
    spider_read(in, value.first);
    spider_read(in, value.second);
}

template <class T, class U>
void spider_write(spider_writer *out, const std::pair<T, U> &value)
{
    spider_write_tuple(out, 2);
    spider_write(out, value.first);
    spider_write(out, value.second);
}

template <class Map>
void spider__read_map(spider_reader *in, Map &value)
{
    value.clear();
    for (std::uint32_t count = spider_read_map(in); count > 0 && spider_ok(in->task); count--) {
        typename Map::key_type key{};
        typename Map::mapped_type mapped{};
        spider_read(in, key);
        spider_read(in, mapped);
        if (const auto there = value.find(key); there != value.end()) { /* the last one counts, as in Rust */
            there->second = std::move(mapped);
        } else {
            value.emplace(std::move(key), std::move(mapped));
        }
    }
}

template <class Map>
void spider__write_map(spider_writer *out, const Map &value)
{
    spider_write_map(out, value.size());
    for (const auto &pair : value) {
        spider_write(out, pair.first);
        spider_write(out, pair.second);
    }
}

template <class... T>
void spider_read(spider_reader *in, std::map<T...> &value)
{
    spider__read_map(in, value);
}
template <class... T>
void spider_read(spider_reader *in, std::unordered_map<T...> &value)
{
    spider__read_map(in, value);
}
template <class... T>
void spider_write(spider_writer *out, const std::map<T...> &value)
{
    spider__write_map(out, value);
}
template <class... T>
void spider_write(spider_writer *out, const std::unordered_map<T...> &value)
{
    spider__write_map(out, value);
}

namespace spider {

/* The next value, such as read<std::int64_t>(task.graph_outputs). */
template <class T>
T read(spider_reader *in)
{
    T value{};
    spider_read(in, value);
    return value;
}

template <class... T>
void read_each([[maybe_unused]] spider_reader *in, T &...value)
{
    (spider_read(in, value), ...);
}

template <class T>
void write_outputs(spider_writer *out, const T &value)
{
    spider_write(out, value);
}

template <class... T>
void write_outputs(spider_writer *out, const std::tuple<T...> &value)
{
    std::apply([&](const T &...output) { (spider_write(out, output), ...); }, value);
}

template <class... Parameters, class Function>
void call(spider_task *task, Function function)
{
    std::tuple<std::decay_t<Parameters>...> arguments;
    std::apply([&](auto &...argument) { read_each(task->in, argument...); }, arguments);
    if (!spider_ready(task)) {
        return;
    }
    if constexpr (std::is_void_v<decltype(std::apply(function, std::move(arguments)))>) {
        std::apply(function, std::move(arguments));
    } else {
        write_outputs(task->out, std::apply(function, std::move(arguments)));
    }
}

template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(Parameters...))
{
    call<Parameters...>(task, function);
}

template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(spider_task &, Parameters...))
{
    call<Parameters...>(task,
                        [task, function](auto &&...argument) { return function(*task, std::move(argument)...); });
}

template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(const spider_task &, Parameters...))
{
    call<Parameters...>(task,
                        [task, function](auto &&...argument) { return function(*task, std::move(argument)...); });
}

template <auto Function>
void typed(spider_task *task)
{
    unpack(task, Function);
}

} // namespace spider

/* SPIDER__EACH(f, a, b, c) is f(a), f(b), f(c), for up to 256 names. The `()` behind the names is how the last step is
 * known; a macro that comes up within itself is only expanded by the next scan, so there are as many scans as names. */
#define SPIDER__EACH(f, ...) SPIDER__SCAN_256(SPIDER__STEP(f, __VA_ARGS__, (), ~))
#define SPIDER__STEP(f, name, next, ...) \
    f(name) SPIDER__PASTE(SPIDER__IF_END_, SPIDER__IS_END(next))(f, next, __VA_ARGS__)
#define SPIDER__IF_END_0(f, next, ...) , SPIDER__STEP_LATER SPIDER__NOTHING()()(f, next, __VA_ARGS__)
#define SPIDER__IF_END_1(f, next, ...)
#define SPIDER__STEP_LATER() SPIDER__STEP
#define SPIDER__NOTHING()
#define SPIDER__IS_END(next) SPIDER__SECOND(SPIDER__END next, 0, ~)
#define SPIDER__END() ~, 1
#define SPIDER__SECOND(...) SPIDER__SECOND_OF(__VA_ARGS__)
#define SPIDER__SECOND_OF(first, second, ...) second
#define SPIDER__PASTE(a, b) SPIDER__PASTE_NOW(a, b)
#define SPIDER__PASTE_NOW(a, b) a##b
#define SPIDER__SCAN_256(...) SPIDER__SCAN_64(SPIDER__SCAN_64(SPIDER__SCAN_64(SPIDER__SCAN_64(__VA_ARGS__))))
#define SPIDER__SCAN_64(...) SPIDER__SCAN_16(SPIDER__SCAN_16(SPIDER__SCAN_16(SPIDER__SCAN_16(__VA_ARGS__))))
#define SPIDER__SCAN_16(...) SPIDER__SCAN_4(SPIDER__SCAN_4(SPIDER__SCAN_4(SPIDER__SCAN_4(__VA_ARGS__))))
#define SPIDER__SCAN_4(...) SPIDER__SCAN(SPIDER__SCAN(SPIDER__SCAN(SPIDER__SCAN(__VA_ARGS__))))
#define SPIDER__SCAN(...) __VA_ARGS__

#define SPIDER__FIELD(name) spider__value.name
#define SPIDER__BINDING(name) spider__##name

/* SPIDER_STRUCT(point, x, y): the conversions of `struct point { double x; double y; };`. All fields, in the order in
 * which they are to be written; in the namespace of the struct or the global one. */
#define SPIDER_STRUCT(type, ...)                                                                         \
    SPIDER__MAYBE_UNUSED inline void spider_read(spider_reader *spider__in, type &spider__value)         \
    {                                                                                                    \
        spider_read_struct(spider__in, #__VA_ARGS__);                                                    \
        spider::read_each(spider__in, SPIDER__EACH(SPIDER__FIELD, __VA_ARGS__));                         \
    }                                                                                                    \
    SPIDER__MAYBE_UNUSED inline void spider_write(spider_writer *spider__out, const type &spider__value) \
    {                                                                                                    \
        [[maybe_unused]] const auto &[SPIDER__EACH(SPIDER__BINDING, __VA_ARGS__)] = spider__value;       \
        spider_write(spider__out, std::tie(SPIDER__EACH(SPIDER__FIELD, __VA_ARGS__)));                   \
    }                                                                                                    \
    static_assert(true, "")
#define SPIDER__MAYBE_UNUSED __attribute__((visibility("hidden"), unused))
#endif

#if defined(__cplusplus)
#pragma GCC diagnostic pop
#endif
#pragma GCC visibility pop

/*
 * SPIDER_TDL_PACKAGE(name, init, tasks...): declares the package; once, at file scope, behind its tasks.
 *   name   a string literal; the library must be <name>/lib<name>.so
 *   init   a spider_task_function that is called once, before any task, or NULL. It has no arguments and no outputs; if
 *          it fails, so does loading the package.
 *   tasks  {"name", function}, one or more. Two of the same name, or NULL for one or the other: the package refuses to
 *          initialize.
 */
#define SPIDER_TDL_PACKAGE(name_, init_, ...)                                                                    \
    static const spider_task_entry spider__tasks[] = {__VA_ARGS__};                                              \
    static uint32_t spider__slots[2 * (sizeof spider__tasks / sizeof spider__tasks[0]) + 1];                     \
    static spider__package spider__the_package = {spider__tasks, sizeof spider__tasks / sizeof spider__tasks[0], \
                                                  2 * (sizeof spider__tasks / sizeof spider__tasks[0]) + 1,      \
                                                  spider__slots, false, NULL, SPIDER__DECOMPRESS};               \
    SPIDER__EXPORT spider_version __spider_tdl_package_get_version(void)                                         \
    {                                                                                                            \
        spider_version version = {SPIDER_TDL_VERSION_MAJOR, SPIDER_TDL_VERSION_MINOR, SPIDER_TDL_VERSION_PATCH}; \
        return version;                                                                                          \
    }                                                                                                            \
    SPIDER__EXPORT spider_view __spider_tdl_package_get_name(void)                                               \
    {                                                                                                            \
        spider_view view = {"" name_, sizeof("" name_) - 1};                                                     \
        return view;                                                                                             \
    }                                                                                                            \
    SPIDER__EXPORT spider_result __spider_tdl_package_init(void)                                                 \
    {                                                                                                            \
        return spider__initialize(&spider__the_package, init_);                                                  \
    }                                                                                                            \
    SPIDER__EXPORT spider_result __spider_tdl_package_execute(spider_view task_name, spider_view context,        \
                                                              spider_view inputs)                                \
    {                                                                                                            \
        return spider__execute(&spider__the_package, task_name, context, inputs);                                \
    }                                                                                                            \
    struct spider__package

#endif
