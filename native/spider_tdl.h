/*
 * spider_tdl.h: write Spider task packages in C. From the spider-task-executor project.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One header and libc. C99 or later, or C++11 or later; gcc or clang; Linux, little-endian. In
 * C++17, spider_tdl.hpp makes tasks of ordinary functions. A whole package:
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
 * Reading    Each spider_read_...(task->in) takes the next value, first the first argument. After
 *            spider_read_list, _map, _struct or _tuple, the next values are its elements, in order.
 * Errors     The first error is kept, and it is the outcome of the task. After it, every reader
 *            returns zero (a list is empty, an option is absent) and every writer does nothing. So
 *            no call needs a check, but a side effect does: `if (!spider_ready(task)) return;`.
 * Arguments  A wrong type, a missing argument, and an argument or element that the task did not
 *            read are errors. They say where (`inputs[1].points[3]`, counted from 0), what was
 *            expected and what was found.
 * Writing    One complete value is the output. A task without an output writes nothing. A task
 *            with several outputs announces their number with spider_write_count.
 * Memory     Strings, bytes and memory from readers and from spider_alloc belong to the task. They
 *            are valid until it returns, and it must not free them. Writers copy what they are
 *            given. Names of fields and variants are not copied: use string literals.
 * Threads    A task, its readers and its writer belong to the thread that calls the task. No
 *            global data changes.
 * Files      Unlike stb's headers, this one makes its functions static, unless told otherwise: in a
 *            package of several files, the one that declares the package defines
 *            SPIDER_TDL_SEVERAL_FILES, too, and the others only include this header.
 * zstd       Graph outputs of more than 1,024 bytes are compressed. If commit tasks read them,
 *            define SPIDER_TDL_WITH_ZSTD next to SPIDER_TDL_IMPLEMENTATION, and link with -lzstd.
 */
#ifndef SPIDER_TDL_H
#define SPIDER_TDL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
#define SPIDER__EXCEPTIONS
#include <stdexcept>
#include <string>
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* In a package of one file, functions are local: the library contains only those that it uses. In
 * other files, a reference makes the linker name the macro that is missing; it is put before all
 * code, because the linker reports the first one first. */
#define SPIDER__HIDDEN __attribute__((__visibility__("hidden")))
#if !defined(SPIDER_TDL_IMPLEMENTATION)
#define SPIDER__API SPIDER__HIDDEN
__asm__(".pushsection .text\n.balign 4\n.long define_SPIDER_TDL_SEVERAL_FILES_in_the_file_that_"
        "declares_the_package - .\n.popsection");
#elif defined(SPIDER_TDL_SEVERAL_FILES)
#define SPIDER__API SPIDER__HIDDEN
SPIDER__HIDDEN extern const char
    define_SPIDER_TDL_SEVERAL_FILES_in_the_file_that_declares_the_package;
#else
#define SPIDER__API static __attribute__((__unused__))
#endif
#define SPIDER__INLINE static inline __attribute__((__always_inline__))

/* The version of this header, as major * 10000 + minor * 100 + patch. The version of the package
 * interface is 0.1.0: an executor of version 0.1.x runs packages of every 0.1.y. */
#define SPIDER_TDL_HEADER_VERSION 200

/* Limits. */
#define SPIDER_TDL_DEPTH_MAX 1023     /* levels of nesting that are read, as in Rust */
#define SPIDER_TDL_FIELDS_MAX 64      /* fields of a struct that comes as a map */
#define SPIDER_TDL_MAP_STRUCTS_MAX 32 /* levels of structs that come as maps */
#define SPIDER_TDL_OPEN_MAX 128       /* levels of lists and maps of unknown length in an output */

/* ---- Types ---------------------------------------------------------------------------------- */

typedef enum spider_error_kind {
    SPIDER_ERROR_TASK_NOT_FOUND, SPIDER_ERROR_DESERIALIZATION, SPIDER_ERROR_SERIALIZATION,
    SPIDER_ERROR_EXECUTION, SPIDER_ERROR_INVALID_TASK_CONTEXT, SPIDER_ERROR_CUSTOM
} spider_error_kind;

/* Index tasks form the job's graph. The commit task follows if all succeed, the cleanup task when
 * the job ends. */
typedef enum spider_task_kind { SPIDER_TASK_INDEX, SPIDER_TASK_COMMIT, SPIDER_TASK_CLEANUP }
    spider_task_kind;

/* What spider_peek returns. UNSIGNED and NEGATIVE are integers from 0 up and below 0; ARRAY is a
 * list, struct, tuple or Bytes; no reader accepts EXTENSION. */
typedef enum spider_type {
    SPIDER_TYPE_END, SPIDER_TYPE_NIL, SPIDER_TYPE_BOOLEAN, SPIDER_TYPE_UNSIGNED,
    SPIDER_TYPE_NEGATIVE, SPIDER_TYPE_FLOAT, SPIDER_TYPE_DOUBLE, SPIDER_TYPE_STRING,
    SPIDER_TYPE_BINARY, SPIDER_TYPE_EXTENSION, SPIDER_TYPE_ARRAY, SPIDER_TYPE_MAP
} spider_type;

/* A string is UTF-8 without a NUL at its end. From a reader, `data` is not NULL, and the task does
 * not free it. */
typedef struct spider_string { const char *data; size_t size; } spider_string;
typedef struct spider_bytes { const uint8_t *data; size_t size; } spider_bytes;

typedef struct spider_reader spider_reader;
typedef struct spider_writer spider_writer;

/* One call of a task. It must not be copied. Its pointers are valid until the task function
 * returns. */
typedef struct spider_task {
    spider_reader *in;            /* the arguments */
    spider_writer *out;           /* the outputs */
    spider_reader *graph_outputs; /* of the job's graph; only a commit task can read them */
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

/* ---- The task ------------------------------------------------------------------------------- */

/* Makes the task fail with a message that is formatted as by printf. Does nothing if the task has
 * failed before. The message is cut at 4,095 bytes, and bytes that are not UTF-8 become '?'. */
__attribute__((__format__(__printf__, 3, 4), __nonnull__, __cold__))
SPIDER__API void spider_fail(spider_task *task, spider_error_kind kind, const char *format, ...);

/* True if the task has not failed. */
SPIDER__INLINE bool spider_ok(const spider_task *task);

/* Call this before a side effect. True if the task has not failed and has read all of its
 * arguments to their ends; otherwise the task fails. Without it, the arguments are checked when the
 * task ends. */
SPIDER__API bool spider_ready(spider_task *task);

/* Zeroed memory for `count` things of `size` bytes. It belongs to the task, which must not free it.
 * Without memory, the task fails with a SerializationError and the result is NULL. A count from
 * spider_read_list is safe here: it is never larger than the number of bytes that were sent. */
SPIDER__API void *spider_alloc(spider_task *task, size_t count, size_t size);

/* ---- Readers -------------------------------------------------------------------------------- */

/* The number of all arguments, or of all graph outputs. Reads no value. 0 after an error. */
SPIDER__API size_t spider_read_count(spider_reader *in);

/* int8_t spider_read_int8(spider_reader *in), and so on for int16, int32, int64, uint8, uint16,
 * uint32 and uint64. Integers of any width are accepted if the value fits. Floats are not. */
#define SPIDER__INTEGERS(f)                                                                        \
    f(int8, INT8_MIN, INT8_MAX) f(int16, INT16_MIN, INT16_MAX) f(int32, INT32_MIN, INT32_MAX)      \
    f(int64, INT64_MIN, INT64_MAX) f(uint8, 0, UINT8_MAX) f(uint16, 0, UINT16_MAX)                 \
    f(uint32, 0, UINT32_MAX) f(uint64, 0, UINT64_MAX)
#define SPIDER__DECLARE(name, min, max)                                                            \
    SPIDER__INLINE name##_t spider_read_##name(spider_reader *in);                                 \
    SPIDER__INLINE void spider_write_##name(spider_writer *out, name##_t value);
SPIDER__INTEGERS(SPIDER__DECLARE)

/* Both widths and integers are accepted, and rounded. A double too large for a float becomes
 * infinity, as in Rust. */
SPIDER__INLINE float spider_read_float(spider_reader *in);
SPIDER__INLINE double spider_read_double(spider_reader *in);

SPIDER__INLINE bool spider_read_boolean(spider_reader *in);
SPIDER__API void spider_read_nil(spider_reader *in);

/* The string is part of the request. The cstring is a copy in the task's memory with a NUL at its
 * end, and never NULL. Text that has a NUL in it is refused. */
SPIDER__API spider_string spider_read_string(spider_reader *in);
SPIDER__API const char *spider_read_cstring(spider_reader *in);

/* Bytes from an array of integers (copied into the task's memory) or from binary, msgpack's type
 * bin (not copied). */
SPIDER__API spider_bytes spider_read_bytes(spider_reader *in);

/* Returns the number of elements, or of pairs, which are read next: key, value, key, value...
 * Binary is accepted as a list of integers, and so as a tuple and as a struct. */
SPIDER__API size_t spider_read_list(spider_reader *in);
SPIDER__API size_t spider_read_map(spider_reader *in);

/* Accepts exactly `count` values, which are read next. */
SPIDER__API void spider_read_tuple(spider_reader *in, size_t count);

/* Accepts a struct with these fields, such as "x, y", which are read next, in this order. It may
 * come as an array (Rust writes that) or as a map whose keys are names, or numbers of fields from
 * 0; other names are ignored. `names` must not change until the task returns. */
SPIDER__INLINE void spider_read_struct(spider_reader *in, const char *names);

/* Accepts an enum with these variants, such as "Idle, Running(), Failed()", and returns the number
 * of the variant, from 0. A variant with content has parentheses after its name, and a note may
 * stand in them; its content is read next: one value, or a struct or tuple of several. If no name
 * has parentheses, a variant has content if it comes with a value other than nil. */
SPIDER__API size_t spider_read_variant(spider_reader *in, const char *names);

/* Begins a value that may be nil. True: read the value next. False: it was nil, or the struct came
 * as a map without this field; read nothing. */
SPIDER__API bool spider_read_option(spider_reader *in);

/* The type of the next value, which is not taken. After the last element of a list, that is the
 * value after the list. SPIDER_TYPE_END: no argument is left, or the task has failed. */
SPIDER__API spider_type spider_peek(spider_reader *in);

/* Skips the next value, whatever its type. */
SPIDER__API void spider_skip(spider_reader *in);

/* Makes the task fail because of the value that was read last: a DeserializationError with its
 * position, "expected <expected>, found <format...>", as the readers report. For example:
 *     spider_reject(task->in, "a color", "the string %.*s", (int)text.size, text.data); */
__attribute__((__format__(__printf__, 3, 4), __nonnull__, __cold__))
SPIDER__API void spider_reject(spider_reader *in, const char *expected, const char *format, ...);

/* ---- Writers -------------------------------------------------------------------------------- */

/* Announces the number of outputs, before the first one. Without it, a task writes one output or
 * none. No count of any writer can be above 4,294,967,295. */
SPIDER__API void spider_write_count(spider_writer *out, size_t count);

/* void spider_write_int8(spider_writer *out, int8_t value), and so on, are declared above. Integers
 * are written in the smallest form that holds the value, whatever their type. */
SPIDER__INLINE void spider_write_float(spider_writer *out, float value);
SPIDER__INLINE void spider_write_double(spider_writer *out, double value);
SPIDER__INLINE void spider_write_nil(spider_writer *out);
SPIDER__INLINE void spider_write_boolean(spider_writer *out, bool value);

/* Text that is not UTF-8 is a SerializationError. So is NULL as a cstring. */
SPIDER__API void spider_write_string(spider_writer *out, spider_string value);
SPIDER__API void spider_write_cstring(spider_writer *out, const char *value);

/* Written as an array of integers. */
SPIDER__API void spider_write_bytes(spider_writer *out, spider_bytes value);

/* Begin a list, a map, a tuple or a struct. Next, write exactly `count` elements, pairs (key,
 * value, key, value...) or values, or one value for each field. `names` are the fields, such as
 * "x, y", in the order of writing; they must not change until the task returns. */
SPIDER__API void spider_write_list(spider_writer *out, size_t count);
SPIDER__API void spider_write_map(spider_writer *out, size_t count);
SPIDER__API void spider_write_tuple(spider_writer *out, size_t count);
SPIDER__INLINE void spider_write_struct(spider_writer *out, const char *names);

/* Writes variant number `index` of an enum, as spider_read_variant reads it. If the variant has
 * parentheses after its name, write its content next; otherwise it has none. */
SPIDER__API void spider_write_variant(spider_writer *out, const char *names, size_t index);

/* Writes nil if `present` is false. Otherwise the value must be written next. Returns `present`. */
SPIDER__INLINE bool spider_write_option(spider_writer *out, bool present);

/* For a list or map of unknown length: begin it, write its elements, or its keys and values in
 * turn, and end it. */
SPIDER__API void spider_write_list_begin(spider_writer *out);
SPIDER__API void spider_write_list_end(spider_writer *out);
SPIDER__API void spider_write_map_begin(spider_writer *out);
SPIDER__API void spider_write_map_end(spider_writer *out);

/* ---- The package ---------------------------------------------------------------------------- */

/* SPIDER_TDL_PACKAGE(name, init, tasks...) declares the package, once, at file scope:
 *   name   a string literal; the library must be <name>/lib<name>.so
 *   init   NULL, or a function that is called once before any task. It has no arguments and no
 *          outputs. If it fails, so does loading the package.
 *   tasks  one or more of {"name", function} */
#define SPIDER_TDL_PACKAGE(...) \
    typedef char define_SPIDER_TDL_IMPLEMENTATION_before_you_include_spider_tdl_h[-1]

#ifdef __cplusplus
} /* extern "C" */
#endif

#ifdef SPIDER__EXCEPTIONS
/* `throw spider::task_error("no such key")` makes a task fail. Any other std::exception is an
 * ExecutionError with the text of its what(). Anything else that is thrown is an ExecutionError
 * "unknown C++ exception". */
namespace spider {
struct __attribute__((__visibility__("hidden"))) task_error final : std::runtime_error {
    explicit task_error(const std::string &message,
                        spider_error_kind error_kind = SPIDER_ERROR_EXECUTION)
        : std::runtime_error(message), kind(error_kind) {}
    const spider_error_kind kind;
};
} /* namespace spider */
#endif

/* ==== Private: all that follows ============================================================== */

#ifdef __cplusplus
extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuseless-cast"
#endif
#endif

/*
 * A reader goes through a payload, which is a count and, for each value, a length and the value in
 * msgpack. Three cursors say where it is. In the second value of two:
 *
 *     | count | length |  value 0  | length |    value 1    | bytes that do not matter |
 *                                             ^position     ^end                       ^limit
 *
 * `position` is where the next value begins if it follows the last one, as in an array or a map.
 * `left` says that it does: it is the number of values that the innermost container still has, and
 * it is 0 in every other state: nothing of the payload has been begun, the container has ended, its
 * values are elsewhere (a struct that came as a map, a list that came as binary), a value was only
 * looked at, or the task has failed. So the inline readers below look at `left`, the room and the
 * marker. On any doubt they consume nothing and call a function that also knows the other states.
 *
 * A container that is entered takes over `left`, and its level keeps in `outer` what the container
 * around it had there. Leaving it, which only the next read does, brings that back. What cannot be
 * continued simply is counted in `left` of a level instead. So the values that a level still has
 * are its own `left` and, if it is the innermost, that of the reader, or else `outer` of the next.
 */
typedef struct spider__level {
    const char *names;    /* of a struct's fields; the name of a variant; otherwise NULL */
    const uint8_t *after; /* the end of a container whose values are elsewhere, otherwise NULL */
    uint32_t count;       /* values in all: two for each pair of a map */
    uint32_t ignored;     /* bytes of binary that are more than that; of names before a variant's */
    uint32_t left;
    uint32_t outer;
    uint16_t slot; /* of the first field of a struct that came as a map */
    uint8_t kind;  /* one of enum spider__kind */
} spider__level;

/* The names of structs that were read or written lately, and their numbers, at most 15: most tasks
 * have a few literals, which need not be counted each time. */
typedef struct spider__known {
    const char *names[4];
    uint8_t counts[4];
    uint8_t next; /* the place for another */
} spider__known;
/* The first bytes of a msgpack value, decoded. A nil of which the bits are 1 is a missing field. */
typedef struct spider__head {
    spider_type type;
    uint8_t marker;
    uint32_t size;       /* bytes of a string, binary or extension; elements; pairs */
    uint64_t bits;       /* of an integer (in two's complement), boolean, float or double */
    const uint8_t *body; /* the bytes of a string or binary */
} spider__head;
enum { SPIDER__LEVELS = 16, SPIDER__SLOTS = 64, SPIDER__OPEN = 8 }; /* before memory is allocated */
struct spider_reader {
    struct spider__call *call;
    const uint8_t *position, *end, *limit; /* no limit: graph outputs, still to be opened */
    uint32_t left;
    bool peeked;          /* `head` is still to be taken */
    spider__known known;
    spider__level *base;  /* the first level: the payload */
    spider__level *level; /* the innermost */
    spider__level *top;   /* the last one for which there is room */
    const uint8_t **slots; /* the values of fields; NULL: absent */
    uint16_t slots_used, slot_count;
    uint16_t map_structs; /* among the levels */
    const char *label;    /* begins the positions in errors */
    spider__head head;    /* of the current value */
    spider__level levels[SPIDER__LEVELS];
    const uint8_t *first_slots[SPIDER__SLOTS];
};
/* A list or map of unknown length that is being written. */
typedef struct spider__open {
    size_t start; /* the offset of its header */
    uint64_t outer_pending;
    size_t count; /* values begun */
    bool is_map;
} spider__open;
/* The inline writers look at `pending` and the room; all else is done by spider__begin. */
struct spider_writer {
    struct spider__call *call;
    uint8_t *data;    /* the outputs, or the error, malloc'ed; the executor frees them */
    uint8_t *at;      /* where the next byte goes */
    uint8_t *limit;   /* the end of the room for values, 16 bytes before the end of the memory */
    uint64_t pending; /* values until the current output, or element of an open list, is complete */
    spider__known known;
    uint32_t depth;      /* lists and maps that are open */
    size_t start;        /* the offset of the current output's length */
    size_t count;        /* outputs begun */
    size_t announced;    /* outputs that may be written */
    bool counted;        /* `announced` outputs must be written */
    const char *hint;    /* at what else a superfluous value can be; "": nothing else */
    spider__open *open;
    spider__open first_open[SPIDER__OPEN];
};

typedef union spider__block { union spider__block *next; long double alignment; } spider__block;
/* One call of a task. `task` is the first member: a spider_task * can be cast to it. */
typedef struct spider__call {
    spider_task task;
    bool failed;
    spider__block *memory;     /* what spider_alloc returned; freed when the task has returned */
    spider_bytes graph_buffer; /* as it came; no data: there is none */
    spider_reader in;
    spider_reader graph_outputs;
    spider_writer out;
} spider__call;
/* What the inline functions call. */
SPIDER__API uint64_t spider__read_integer(spider_reader *, const char *, int64_t, uint64_t);
SPIDER__API void spider__leave(spider_reader *in);
SPIDER__API float spider__read_float(spider_reader *in);
SPIDER__API double spider__read_double(spider_reader *in);
SPIDER__API bool spider__read_boolean(spider_reader *in);
SPIDER__API void spider__read_struct(spider_reader *in, const char *names);
SPIDER__API bool spider__begin(spider_writer *out, size_t size);
SPIDER__API void spider__write_integer(spider_writer *out, uint64_t bits, bool is_negative);
SPIDER__API void spider__write_struct(spider_writer *out, const char *names);
/* Bits of `contents` can stand for parentheses. If it is not `known` which variants have content,
 * the value decides. Writing returns whether there is content. */
SPIDER__API size_t spider__read_variant(spider_reader *, const char *, uint64_t, bool known);
SPIDER__API bool spider__write_variant(spider_writer *, const char *, size_t, uint64_t contents);

/* ---- Inline readers and writers ------------------------------------------------------------- */

enum { SPIDER__SEQUENCE, SPIDER__CONTENT, SPIDER__PAIRS, SPIDER__FIELDS, SPIDER__BYTES,
       SPIDER__PAYLOAD };
bool spider_ok(const spider_task *task) { return !((const spider__call *)task)->failed; }
SPIDER__INLINE bool spider__reader_ok(const spider_reader *in) { return !in->call->failed; }
/* Takes a value of a marker and `size` bytes more, if it is next. */
SPIDER__INLINE bool spider__take_inline(spider_reader *in, uint8_t marker, int size) {
    const uint8_t *at = in->position;
    if (in->left == 0 || in->end - at <= size || *at != marker) return false;
    in->left--;
    in->position = at + 1 + size;
    return true;
}

#define SPIDER__READER(name, min, max)                                                             \
    name##_t spider_read_##name(spider_reader *in) {                                               \
        if (in->left == 0 || in->position == in->end || *in->position >= 0x80) {                   \
            return (name##_t)spider__read_integer(in, #name, min, max);                            \
        }                                                                                          \
        in->left--;                                                                                \
        return (name##_t)*in->position++;                                                          \
    }
SPIDER__INTEGERS(SPIDER__READER)
float spider_read_float(spider_reader *in) {
    union { uint32_t bits; float value; } number;
    if (!spider__take_inline(in, 0xca, 4)) return spider__read_float(in);
    memcpy(&number.bits, in->position - 4, 4);
    number.bits = __builtin_bswap32(number.bits);
    return number.value;
}
double spider_read_double(spider_reader *in) {
    union { uint64_t bits; double value; } number;
    if (!spider__take_inline(in, 0xcb, 8)) return spider__read_double(in);
    memcpy(&number.bits, in->position - 8, 8);
    number.bits = __builtin_bswap64(number.bits);
    return number.value;
}
bool spider_read_boolean(spider_reader *in) {
    if (in->left == 0 || in->position == in->end || (*in->position & 0xfe) != 0xc2)
        return spider__read_boolean(in);
    in->left--;
    return (*in->position++ & 1) != 0;
}
/* Their number, if it is known; otherwise more than there can be. */
SPIDER__INLINE uint32_t spider__count_known(const spider__known *known, const char *names) {
    for (unsigned i = 0; i < 4; i++) {
        if (known->names[i] == names) return known->counts[i];
    }
    return UINT32_MAX;
}

/* Enters a struct that comes as an array, if its names are known. The struct that was read before
 * may have ended. */
void spider_read_struct(spider_reader *in, const char *names) {
    if (in->left == 0 && in->level->outer > 0) {
        in->left = in->level->outer;
        in->level--;
    } else if (in->left == 0) {
        spider__leave(in);
    }
    uint32_t count = spider__count_known(&in->known, names);
    const uint8_t *at = in->position;
    if (in->left == 0 || in->end - at <= (ptrdiff_t)count || *at != (0x90 | count)
        || in->level == in->top) {
        spider__read_struct(in, names);
        return;
    }
    spider__level *level = ++in->level;
    level->names = names;
    level->after = NULL;
    level->count = count;
    level->left = 0;
    level->outer = in->left - 1;
    level->kind = SPIDER__SEQUENCE;
    in->left = count;
    in->position = at + 1;
}
/* Makes room for `size` bytes of the next value. False after an error. */
SPIDER__INLINE bool spider__begin_inline(spider_writer *out, size_t size) {
    return (out->pending > 0 && out->limit - out->at >= (ptrdiff_t)size)
           || spider__begin(out, size);
}
/* Writes a value of a marker and a number of 0, 4 or 8 bytes. */
SPIDER__INLINE void spider__put_inline(spider_writer *out, unsigned marker, uint64_t bits,
                                       unsigned size) {
    if (spider__begin_inline(out, 1 + size)) {
        uint8_t *at = out->at;
        bits = size == 4 ? __builtin_bswap32((uint32_t)bits) : __builtin_bswap64(bits);
        *at = (uint8_t)marker;
        memcpy(at + 1, &bits, size);
        out->at = at + 1 + size;
        out->pending--;
    }
}
void spider_write_nil(spider_writer *out) { spider__put_inline(out, 0xc0, 0, 0); }
void spider_write_boolean(spider_writer *out, bool value) {
    spider__put_inline(out, value ? 0xc3 : 0xc2, 0, 0);
}
void spider_write_float(spider_writer *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    spider__put_inline(out, 0xca, bits, 4);
}
void spider_write_double(spider_writer *out, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    spider__put_inline(out, 0xcb, bits, 8);
}
/* Of a signed type, the bits are those of an int64_t. */
SPIDER__INLINE void spider__write_inline(spider_writer *out, uint64_t bits, bool is_negative) {
    if (bits < 0x80) spider__put_inline(out, bits & 0x7f, 0, 0);
    else spider__write_integer(out, bits, is_negative);
}

#define SPIDER__WRITER(name, min, max)                                                             \
    void spider_write_##name(spider_writer *out, name##_t value) {                                 \
        spider__write_inline(out, (uint64_t)value, (int64_t)min >> 63 & (int64_t)value >> 63);     \
    }
SPIDER__INTEGERS(SPIDER__WRITER)
void spider_write_struct(spider_writer *out, const char *names) {
    uint32_t count = spider__count_known(&out->known, names);
    if (count > 15 || !spider__begin_inline(out, 1)) {
        spider__write_struct(out, names);
        return;
    }
    *out->at++ = (uint8_t)(0x90 | count);
    out->pending += count;
    out->pending--;
}
bool spider_write_option(spider_writer *out, bool present) {
    if (!present) spider_write_nil(out);
    return present;
}

/* These three cross the boundary between executor and package, by value. The bytes of a view are
 * borrowed. The executor frees the bytes of a result, unless `length` is 0. */
typedef struct spider__version { uint32_t numbers[3]; } spider__version;
typedef struct spider__view { const void *pointer; size_t length; } spider__view;
typedef struct spider__result { bool is_error; uint8_t *pointer; size_t length; } spider__result;

typedef struct spider__package {
    spider__view name;
    spider_task_function init;
    const spider_task_entry *tasks;
    size_t task_count;
} spider__package;

SPIDER__HIDDEN extern const spider__package spider__this_package;
#ifdef __cplusplus
#pragma GCC diagnostic pop
} /* extern "C" */
#endif
#endif /* SPIDER_TDL_H */

/* ==== Implementation ========================================================================= */

#if defined(SPIDER_TDL_IMPLEMENTATION) && !defined(SPIDER__IMPLEMENTED)
#define SPIDER__IMPLEMENTED
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef SPIDER_TDL_WITH_ZSTD
#include <zstd.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "spider_tdl.h needs a little-endian machine."
#endif
#undef SPIDER_TDL_PACKAGE
#define SPIDER_TDL_PACKAGE(name_, init_, ...)                                                      \
    static const spider_task_entry spider__tasks[] = {__VA_ARGS__};                                \
    const spider__package spider__this_package = {                                                 \
        {"" name_, sizeof("" name_) - 1}, init_, spider__tasks,                                    \
        sizeof spider__tasks / sizeof *spider__tasks};                                             \
    struct spider_task

/* Error paths are out of line and small, which makes the rest faster. */
#define SPIDER__COLD static __attribute__((__cold__, __noinline__))
#define SPIDER__SLOW __attribute__((__noinline__))
#ifdef __cplusplus
extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuseless-cast"
#endif
#endif

/* ---- Msgpack -------------------------------------------------------------------------------- */

/* Reads a number of 1, 2, 4 or 8 bytes. */
SPIDER__INLINE uint64_t spider__load_be(const uint8_t *at, const uint8_t *end, unsigned width) {
    uint64_t value = 0;
    if (end - at >= 8) { /* mostly so, and faster */
        memcpy(&value, at, 8);
        return __builtin_bswap64(value) >> (64 - 8 * width);
    }
    while (width-- > 0) value = value << 8 | *at++;
    return value;
}
static uint32_t spider__load_le32(const uint8_t *at) {
    uint32_t value;
    return *(uint32_t *)memcpy(&value, at, 4);
}
static void spider__store_le32(uint8_t *at, size_t value) { memcpy(at, &value, 4); }

/* Returns the end of the head, or of the string, binary or extension; NULL if the value reaches
 * beyond `end`. An array or map needs as many bytes as it has elements, so that a count never
 * exceeds what was sent. c1 has the type END. */
SPIDER__INLINE const uint8_t *spider__decode(const uint8_t *at, const uint8_t *end,
                                             spider__head *head) {
    /* For the markers c0 to df: the type, and how many bytes of a number or size follow. */
    static const uint8_t types[32] = {1, 0, 2, 2, 8, 8, 8, 9, 9, 9, 5, 6, 3, 3, 3, 3,
                                      4, 4, 4, 4, 9, 9, 9, 9, 9, 7, 7, 7, 10, 10, 11, 11};
    static const uint8_t widths[32] = {0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8,
                                       1, 2, 4, 8, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4};
    uint64_t size;
    if (at == end) return NULL;
    uint8_t marker = *at++;
    head->marker = marker;
    head->size = 0;
    head->body = NULL;
    if (marker < 0x80 || marker >= 0xe0) {
        head->type = marker < 0x80 ? SPIDER_TYPE_UNSIGNED : SPIDER_TYPE_NEGATIVE;
        head->bits = marker < 0x80 ? marker : UINT64_C(0xffffffffffffff00) | marker;
        return at;
    }
    if (marker < 0xc0) {
        head->type = marker < 0x90 ? SPIDER_TYPE_MAP : SPIDER_TYPE_ARRAY;
        head->type = marker < 0xa0 ? head->type : SPIDER_TYPE_STRING;
        size = marker & (marker >= 0xa0 ? 0x1f : 0x0f);
    } else {
        unsigned width = widths[marker - 0xc0];
        head->type = (spider_type)types[marker - 0xc0];
        if ((size_t)(end - at) < width) return NULL;
        head->bits = width == 0 ? marker & 1 /* of a boolean */ : spider__load_be(at, end, width);
        at += width;
        if (head->type == SPIDER_TYPE_NEGATIVE) {
            if (head->bits >> (8 * width - 1) == 0) head->type = SPIDER_TYPE_UNSIGNED;
            else if (width < 8) head->bits |= UINT64_MAX << (8 * width);
        }
        if (head->type <= SPIDER_TYPE_DOUBLE) return at;
        size = width == 0 ? UINT64_C(1) << (marker - 0xd4) : head->bits;
    }
    head->size = (uint32_t)size;
    size += head->type == SPIDER_TYPE_EXTENSION; /* the byte that says what the extension is */
    head->body = at;
    if ((size_t)(end - at) < (head->type == SPIDER_TYPE_MAP ? 2 * size : size)) return NULL;
    return head->type < SPIDER_TYPE_ARRAY ? at + size : at;
}

/* Writes a marker and the lowest bytes of a number. 8 bytes must be writable after the marker. */
SPIDER__INLINE uint8_t *spider__store_be(uint8_t *at, unsigned marker, uint64_t value, size_t bytes)
{
    *at++ = (uint8_t)marker;
    value = __builtin_bswap64(value << (64 - 8 * bytes));
    memcpy(at, &value, 8);
    return at + bytes;
}

/* Writes the size of a string (a0), array (90) or map (80): with this marker if it is below 32 or
 * 16, otherwise after a marker for one byte (strings only), two or four. */
SPIDER__INLINE uint8_t *spider__store_size(uint8_t *at, unsigned small, size_t size) {
    unsigned two = small == 0xa0 ? 0xda : small == 0x90 ? 0xdc : 0xde;
    if (size < (small == 0xa0 ? 32 : 16)) {
        *at = (uint8_t)(small | size);
        return at + 1;
    }
    if (small == 0xa0 && size <= UINT8_MAX) return spider__store_be(at, 0xd9, size, 1);
    return size <= UINT16_MAX ? spider__store_be(at, two, size, 2)
                              : spider__store_be(at, two + 1, size, 4);
}

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

typedef uint8_t spider__vector __attribute__((__vector_size__(16)));

SPIDER__INLINE spider__vector spider__load_vector(const uint8_t *at) {
    spider__vector bytes;
    memcpy(&bytes, at, 16);
    return bytes;
}
SPIDER__INLINE bool spider__any(spider__vector bytes) {
    uint64_t words[2];
    memcpy(words, &bytes, 16);
    return (words[0] | words[1]) != 0;
}

/* Whether 16 bytes continue well-formed text, which may end within a character. At least 3 bytes
 * are before them. No overlong forms, no surrogates, nothing above U+10FFFF. */
SPIDER__INLINE bool spider__is_utf8(const uint8_t *at) {
#define SPIDER__IF(condition) ((spider__vector)(condition))
    const spider__vector x = spider__load_vector(at);
    const spider__vector before = spider__load_vector(at - 1);
    if (!spider__any((x | before) & 0x80)) return true;
    const spider__vector must_continue = SPIDER__IF(before >= 0xc0)
                                         | SPIDER__IF(spider__load_vector(at - 2) >= 0xe0)
                                         | SPIDER__IF(spider__load_vector(at - 3) >= 0xf0);
    return !spider__any((SPIDER__IF((x & 0xc0) == 0x80) ^ must_continue)
                        | SPIDER__IF((x & 0xfe) == 0xc0) | SPIDER__IF(x >= 0xf5)
                        | (SPIDER__IF(before == 0xe0) & SPIDER__IF(x < 0xa0))
                        | (SPIDER__IF(before == 0xed) & SPIDER__IF(x >= 0xa0))
                        | (SPIDER__IF(before == 0xf0) & SPIDER__IF(x < 0x90))
                        | (SPIDER__IF(before == 0xf4) & SPIDER__IF(x >= 0x90)));
#undef SPIDER__IF
}

/* The size of the character at the start of some bytes; 0 if it is malformed. */
static size_t spider__character_size(const uint8_t *at, size_t size) {
    uint8_t lead = *at;
    size_t more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t top = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (more == 0) return 1;
    if (lead < 0xc2 || lead > 0xf4 || size <= more || at[1] < low || at[1] > top
        || (more > 1 && at[2] >> 6 != 2) || (more > 2 && at[3] >> 6 != 2)) {
        return 0;
    }
    return more + 1;
}
static bool spider__is_ascii(const uint8_t *at, size_t size) {
    uint64_t words[2] = {0, 0};
    if (size >= 16) {
        spider__vector bits = spider__load_vector(at + size - 16); /* some of them again */
        for (size_t i = 0; i < size - 16; i += 16) bits |= spider__load_vector(at + i);
        return !spider__any(bits & 0x80);
    }
    memcpy(words, at, size < 8 ? size : 8);
    if (size >= 8) memcpy(words + 1, at + size - 8, 8);
    return ((words[0] | words[1]) & UINT64_C(0x8080808080808080)) == 0;
}

/* The size of the longest prefix that is well-formed UTF-8. */
static size_t spider__utf8_prefix(const void *text, size_t size) {
    const uint8_t *data = (const uint8_t *)text;
    size_t i = 0;
    while (i < size) {
        size_t start = i;
        size_t step = size - i < 1024 ? size - i : 1024;
        if (spider__is_ascii(data + i, step)) {
            i += step;
            continue;
        }
        while (i >= 3 && size - i >= 16 && spider__is_utf8(data + i)) i += 16;
        if (i > start) { /* back to the start of the last character, which may not be complete */
            while (data[i - 1] >> 6 == 2) i--;
            i -= data[i - 1] >= 0xc0;
        } else {
            step = spider__character_size(data + i, size - i);
            if (step == 0) return i;
            i += step;
        }
    }
    return size;
}

/* ---- Errors and memory ---------------------------------------------------------------------- */

/* Makes the task fail with an error in msgpack, {"ExecutionError": text}, in which a text of `size`
 * bytes has still to be stored: returns where. NULL: it has failed before, or there is no memory.
 * From now on, readers have nothing left, and writers nothing pending. */
SPIDER__COLD char *spider__begin_error(spider__call *call, spider_error_kind kind, size_t size) {
    static const char *const names[] = {
        "TaskNotFound", "DeserializationError", "SerializationError", "ExecutionError",
        "InvalidTaskContext", "Custom"};
    const char *name = names[(unsigned)kind < SPIDER_ERROR_CUSTOM ? kind : SPIDER_ERROR_CUSTOM];
    size_t name_size = strlen(name);
    spider_writer *out = &call->out;
    if (call->failed) return NULL;
    call->failed = true;
    call->in.left = call->graph_outputs.left = 0;
    call->in.level = call->in.base;
    call->graph_outputs.level = call->graph_outputs.base;
    free(out->data); /* the outputs are lost, and their memory may be what the error needs */
    out->data = (uint8_t *)malloc(20 + name_size + size + 1);
    out->at = out->limit = out->data;
    out->pending = 0;
    if (out->data == NULL) return NULL; /* the executor reports an empty error */
    *out->at++ = 0x81;
    out->at = spider__store_size(out->at, 0xa0, name_size);
    memcpy(out->at, name, name_size);
    out->at = spider__store_size(out->at + name_size, 0xa0, size);
    return (char *)out->at;
}
SPIDER__COLD void spider__end_error(spider__call *call, size_t size) {
    uint8_t *at = call->out.at;
    for (size_t i = 0; (i += spider__utf8_prefix(at + i, size - i)) < size;)
        at[i] = '?'; /* text that is not UTF-8 would make the whole error unreadable */
    call->out.at = at + size;
}

/* The text is formatted where it stays: it takes no stack. */
void spider_fail(spider_task *task, spider_error_kind kind, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    size_t size = length < 0 ? 0 : length < 4096 ? (size_t)length : 4095;
    char *at = spider__begin_error((spider__call *)task, kind, size);
    if (at != NULL) {
        va_start(arguments, format);
        if (size > 0) vsnprintf(at, size + 1, format, arguments);
        va_end(arguments);
        spider__end_error((spider__call *)task, size);
    }
}
void *spider_alloc(spider_task *task, size_t count, size_t size) {
    spider__call *call = (spider__call *)task;
    bool fits = size == 0 || count <= (SIZE_MAX - sizeof(spider__block)) / size;
    spider__block *block = fits ? (spider__block *)calloc(1, sizeof *block + count * size) : NULL;
    if (block == NULL) {
        spider_fail(task, SPIDER_ERROR_SERIALIZATION,
                    "out of memory: no room for %zu times %zu bytes", count, size);
        return NULL;
    }
    block->next = call->memory;
    call->memory = block;
    return block + 1;
}

/* ---- The names of fields and variants ------------------------------------------------------- */

/* Takes the next of the names in "one, two, three". False after the last. What stands in
 * parentheses is a note. */
SPIDER__INLINE bool spider__next_name(const char **names, spider_string *name) {
    const char *at = *names;
    if (*at == '(') {
        while (*at != '\0' && *at++ != ')') {}
    }
    while (*at == ' ' || *at == ',') at++;
    name->data = at;
    while ((uint8_t)*at > ',' || (*at != '\0' && *at != ' ' && *at != ',' && *at != '(')) at++;
    name->size = (size_t)(at - name->data);
    *names = at;
    return name->size > 0;
}
static uint32_t spider__count_names(spider__known *known, const char *names) {
    uint32_t count = spider__count_known(known, names);
    spider_string name;
    if (count <= 15) return count;
    const char *rest = names;
    for (count = 0; spider__next_name(&rest, &name); count++) {}
    if (count <= 15) {
        known->names[known->next] = names;
        known->counts[known->next] = (uint8_t)count;
        known->next = (uint8_t)((known->next + 1) % 4);
    }
    return count;
}

/* Finds name number `index`. Without one, the name has no size. */
static spider_string spider__name_at(const char *names, size_t index) {
    spider_string name;
    while (spider__next_name(&names, &name) && index > 0) index--;
    return name;
}
static bool spider__equal(spider_string name, const void *data, size_t size) {
    return name.size == size && memcmp(name.data, data, size) == 0;
}

/* Whether a key can mean a field or a variant: it is a name, or a number in a form for unsigned
 * integers. */
static bool spider__is_key(const spider__head *key) {
    return key->type == SPIDER_TYPE_STRING || key->type == SPIDER_TYPE_BINARY
           || (key->type == SPIDER_TYPE_UNSIGNED && (key->marker & 0xfc) != 0xd0);
}

/* The number of the field that a key means, by its name or by this number; `count`: none of them.
 * The search begins at `likely`: so keys in the order of the names are each found at once. */
static uint32_t spider__match(const spider_string *names, uint32_t count, uint32_t likely,
                              const spider__head *key) {
    if (key->type == SPIDER_TYPE_UNSIGNED) return key->bits < count ? (uint32_t)key->bits : count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t candidate = likely + i < count ? likely + i : likely + i - count;
        if (spider__equal(names[candidate], key->body, key->size)) return candidate;
    }
    return count;
}

/* Finds a variant by its name or by its number, and whether it has content. */
static bool spider__find_variant(const char *names, uint64_t contents, const spider__head *key,
                                 uint32_t *index, spider_string *name, bool *has_content) {
    for (*index = 0; spider__next_name(&names, name); ++*index) {
        if (key->type == SPIDER_TYPE_UNSIGNED ? key->bits == *index
                                              : spider__equal(*name, key->body, key->size)) {
            *has_content = *names == '(' || (*index < 64 && (contents >> *index & 1) != 0);
            return true;
        }
    }
    return false;
}

/* ---- Errors of readers ---------------------------------------------------------------------- */

/* A text has three parts, so that the whole is below 450 bytes and the cause is not cut off. */
enum { SPIDER__POSITION_SIZE = 200, SPIDER__EXPECTED_SIZE = 120, SPIDER__FOUND_SIZE = 110 };

static uint32_t spider__left(const spider_reader *in, const spider__level *level) {
    return level->left + (level == in->level ? in->left : level[1].outer);
}

/* How many values of a level have begun. */
static uint32_t spider__begun(const spider_reader *in, const spider__level *level) {
    return level->count - spider__left(in, level) + (in->peeked && level == in->level);
}

/* Where the value that was begun last is, such as `inputs[0].points[3]`, in the levels before one.
 * A level without such a value means the container itself. */
SPIDER__COLD void spider__describe(const spider_reader *in, const spider__level *end, char *text) {
    size_t used = (size_t)snprintf(text, SPIDER__POSITION_SIZE, "%s", in->label);
    for (const spider__level *level = in->base; level < end; level++) {
        uint32_t begun = spider__begun(in, level);
        char *at = text + used;
        size_t room = SPIDER__POSITION_SIZE - used;
        int size = 0;
        if (begun == 0) return;
        if (room < 80) {
            snprintf(at, room, "[...]");
            return;
        }
        if (level->kind == SPIDER__PAIRS) {
            const char *which = begun % 2 == 1 ? "key" : "value";
            size = snprintf(at, room, "[%s %" PRIu32 "]", which, (begun - 1) / 2);
        } else if (level->names == NULL) {
            size = snprintf(at, room, "[%" PRIu32 "]", begun - 1);
        } else {
            spider_string name = spider__name_at(level->names, begun - 1);
            size = snprintf(at, room, ".%.*s", name.size > 60 ? 60 : (int)name.size, name.data);
        }
        used += (size_t)size;
    }
}

/* Fails with "<position>: expected <expected><rest>". This and what follows return false. */
SPIDER__COLD bool spider__refuse(spider_reader *in, const char *expected, const char *rest) {
    char position[SPIDER__POSITION_SIZE];
    bool is_long = strlen(expected) > SPIDER__EXPECTED_SIZE;
    spider__describe(in, in->level + 1, position);
    spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION, "%s: expected %.*s%s%s", position,
                (int)SPIDER__EXPECTED_SIZE, expected, is_long ? "..." : "", rest);
    return false;
}
void spider_reject(spider_reader *in, const char *expected, const char *format, ...) {
    char rest[8 + SPIDER__FOUND_SIZE] = ", found ";
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(rest + 8, SPIDER__FOUND_SIZE, format, arguments);
    va_end(arguments);
    if (length >= SPIDER__FOUND_SIZE) memcpy(rest + sizeof rest - 4, "...", 4);
    spider__refuse(in, expected, rest);
}

/* The value is of another type. */
SPIDER__COLD bool spider__mismatch(spider_reader *in, const char *expected) {
    static const char *const kinds[] = {
        "a reserved type", "nil", "the boolean true", "the integer ", "the integer -", "a float",
        "a double", "a string", "binary", "an extension", "an array", "a map"};
    const spider__head *head = &in->head;
    const char *kind = kinds[head->type];
    uint64_t number = head->type == SPIDER_TYPE_NEGATIVE ? 0 - head->bits : head->bits;
    if (head->type == SPIDER_TYPE_NIL && number != 0)
        return spider__refuse(in, expected, ", but the field is missing");
    if (head->type == SPIDER_TYPE_BOOLEAN && number == 0) kind = "the boolean false";
    if (head->type == SPIDER_TYPE_UNSIGNED || head->type == SPIDER_TYPE_NEGATIVE)
        spider_reject(in, expected, "%s%" PRIu64, kind, number);
    else if (head->type < SPIDER_TYPE_STRING) spider_reject(in, expected, "%s", kind);
    else spider_reject(in, expected, "%s of length %" PRIu32, kind, head->size);
    return false;
}
SPIDER__COLD void spider__reject_variant(spider_reader *in, const char *names, const char *format,
                                         int size, const char *text) {
    char expected[SPIDER__EXPECTED_SIZE + 16];
    snprintf(expected, sizeof expected, "one of %s", names);
    if (format != NULL) spider_reject(in, expected, format, size, text);
    else spider__mismatch(in, expected);
}
SPIDER__COLD bool spider__damaged(spider_reader *in, const char *expected) {
    return spider__refuse(in, expected,
                          ", found the end of the bytes (truncated), or the reserved marker c1");
}

/* ---- Readers -------------------------------------------------------------------------------- */

/* Makes a reader that has nothing to read. The large arrays are not cleared. */
static void spider__start_reader(spider_reader *in, spider__call *call, const char *label) {
    memset(in, 0, offsetof(spider_reader, levels));
    in->call = call;
    in->label = label;
    in->base = in->level = in->levels;
    in->top = in->levels + SPIDER__LEVELS - 1;
    in->slots = in->first_slots;
    in->slot_count = SPIDER__SLOTS;
    memset(in->base, 0, sizeof *in->base);
    in->base->kind = SPIDER__PAYLOAD;
}

/* Opens a payload, whose bytes the reader borrows. */
static void spider__open_payload(spider_reader *in, const uint8_t *data, size_t size) {
    uint32_t count = size < 4 ? 0 : spider__load_le32(data);
    in->base->count = in->base->left = count;
    in->end = data + (size < 4 ? size : 4);
    in->limit = data + size;
    bool lacks_count = size < 4 && (size > 0 || in != &in->call->in); /* cleanup tasks have none */
    if (lacks_count || count > (size_t)(in->limit - in->end) / 4) {
        spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION, "%s: expected a count of 4 "
                    "bytes and %" PRIu32 " values, found only %zu bytes (truncated)", in->label,
                    count, size);
    }
}
SPIDER__COLD bool spider__open_graph_outputs(spider_reader *in);

/* Goes to the next value of the payload. False after an error. */
static bool spider__begin_argument(spider_reader *in, const char *expected) {
    spider__level *level = in->base;
    if (in->limit == NULL && !spider__open_graph_outputs(in)) return false;
    if (level->left == 0) {
        spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION,
                    "%s[%" PRIu32 "]: expected %.*s, found nothing (%" PRIu32 " value%s given)",
                    in->label, level->count, (int)SPIDER__EXPECTED_SIZE, expected, level->count,
                    level->count == 1 ? "" : "s");
        return false;
    }
    level->left--;
    size_t room = (size_t)(in->limit - in->end);
    if (room < 4 || spider__load_le32(in->end) > room - 4) return spider__damaged(in, expected);
    in->position = in->end + 4;
    in->end = in->position + spider__load_le32(in->end);
    return true;
}
/* If the values of the innermost level follow one another, counts them in the reader. */
static void spider__resume(spider_reader *in) {
    if (in->level->kind <= SPIDER__PAIRS) {
        in->left += in->level->left;
        in->level->left = 0;
    }
}

/* Leaves the containers that have been read to their ends. Until then, errors can say where the
 * last value was. */
SPIDER__SLOW void spider__leave(spider_reader *in) {
    while (in->left == 0 && in->level->left == 0 && in->level > in->base) {
        const spider__level *level = in->level--;
        if (level->after != NULL) in->position = level->after;
        if (level->kind == SPIDER__FIELDS) {
            in->slots_used = level->slot;
            in->map_structs--;
        }
        in->left = level->outer;
        spider__resume(in);
    }
}
/* Makes the value that was taken last the next one again, as if it had only been looked at. */
static void spider__untake(spider_reader *in) {
    in->peeked = true;
    in->level->left += in->left + 1;
    in->left = 0;
    if (in->level > in->base) {
        in->level[-1].left += in->level->outer;
        in->level->outer = 0;
    }
}

/* Decodes the head of the next value. NULL after an error. */
SPIDER__SLOW static const spider__head *spider__take(spider_reader *in, const char *expected) {
    if (in->left == 0) {
        if (in->call->failed) return NULL;
        if (in->peeked) {
            in->peeked = false;
            in->level->left--;
            spider__resume(in);
            return &in->head;
        }
        spider__leave(in);
    }
    spider__level *level = in->level;
    if (in->left > 0) {
        in->left--;
    } else if (level->kind == SPIDER__PAYLOAD) {
        if (!spider__begin_argument(in, expected)) return NULL;
    } else {
        static const spider__head byte = {SPIDER_TYPE_UNSIGNED, 0xcc, 0, 0, NULL};
        static const spider__head missing = {SPIDER_TYPE_NIL, 0xc0, 0, 1, NULL};
        const uint32_t index = level->count - level->left--;
        in->position = level->after;
        if (level->kind == SPIDER__BYTES) {
            in->head = byte;
            in->head.bits = (level->after - level->ignored - level->count)[index];
            return &in->head;
        }
        if (in->slots[level->slot + index] == NULL) {
            in->head = missing;
            return &in->head;
        }
        in->position = in->slots[level->slot + index];
    }
    in->position = spider__decode(in->position, in->end, &in->head);
    if (in->position == NULL) {
        spider__damaged(in, expected);
        return NULL;
    }
    return &in->head;
}

static bool spider__take_type(spider_reader *in, const char *expected, spider_type type) {
    const spider__head *head = spider__take(in, expected);
    return head != NULL && (head->type == type || spider__mismatch(in, expected));
}

/* Makes room for all levels and fields that are allowed. False after an error. */
SPIDER__COLD bool spider__grow_reader(spider_reader *in) {
    enum { LEVELS = SPIDER_TDL_DEPTH_MAX + 1, SLOTS = SPIDER_TDL_MAP_STRUCTS_MAX * 64 };
    spider__level *levels = (spider__level *)spider_alloc(
        &in->call->task, 1, LEVELS * sizeof *levels + SLOTS * sizeof *in->slots);
    if (levels == NULL) return false;
    memcpy(levels, in->levels, sizeof in->levels);
    in->level = levels + (in->level - in->base);
    in->base = levels;
    in->top = levels + LEVELS - 1;
    in->slots = (const uint8_t **)(void *)(levels + LEVELS);
    in->slot_count = SLOTS;
    memcpy(in->slots, in->first_slots, sizeof in->first_slots);
    return true;
}
/* Whether there can be another level, after `depth` more. */
static bool spider__has_level(spider_reader *in, size_t depth) {
    if (in->level + depth < in->top) return true;
    if (in->base == in->levels) return spider__grow_reader(in);
    spider_reject(in, "at most 1023 levels", "deeper nesting");
    return false;
}

/* Enters a container, whose values are read next. NULL after an error. */
static spider__level *spider__enter(spider_reader *in, uint32_t count, uint8_t kind,
                                    const char *names) {
    if (!spider__has_level(in, 0)) return NULL;
    bool is_sequence = kind <= SPIDER__PAIRS;
    spider__level level = {names, NULL, count, 0, is_sequence ? 0 : count,
                           is_sequence ? in->left : 0, in->slots_used, kind};
    in->level->left += in->left - level.outer;
    in->left = count - level.left;
    *++in->level = level;
    return in->level;
}

/* Returns the end of a value, whose head ends at `at`. NULL: it is truncated, or contains the
 * marker c1, or the task has failed because of its depth. */
static const uint8_t *spider__skip(spider_reader *in, const uint8_t *at, spider__head head) {
    size_t depth = 0; /* levels that are skipped: the unused ones keep what is left in each */
    uint32_t left = 0;
    while (head.type != SPIDER_TYPE_END) {
        if (head.type >= SPIDER_TYPE_EXTENSION) { /* a level, too, as in Rust */
            if (!spider__has_level(in, depth)) return NULL;
            in->level[++depth].left = left;
            left = head.type == SPIDER_TYPE_MAP     ? 2 * head.size
                   : head.type == SPIDER_TYPE_ARRAY ? head.size : 0;
        }
        while (left == 0) {
            if (depth == 0) return at;
            left = in->level[depth--].left;
        }
        left--;
        at = spider__decode(at, in->end, &head);
        if (at == NULL) return NULL;
    }
    return NULL;
}

/* Enters a struct that comes as a map: finds the values of its fields. This takes time for each
 * level of such structs, so their number is limited. */
static bool spider__enter_map_struct(spider_reader *in, const char *names, uint32_t count,
                                     uint32_t entries) {
    if (count > SPIDER_TDL_FIELDS_MAX) {
        spider_fail(&in->call->task, SPIDER_ERROR_EXECUTION,
                    "a struct of more than 64 fields cannot be read from a map, and this one has %"
                    PRIu32 ": %.100s...", count, names);
        return false;
    }
    if (in->map_structs == SPIDER_TDL_MAP_STRUCTS_MAX)
        return spider__refuse(in, "at most 32 structs as maps inside one another", ", found more");
    if (in->slot_count - in->slots_used < (int)count && !spider__grow_reader(in)) return false;
    spider__level *level = spider__enter(in, count, SPIDER__FIELDS, names);
    if (level == NULL) return false;
    const uint8_t **slots = in->slots + level->slot;
    spider_string split[SPIDER_TDL_FIELDS_MAX];
    for (uint32_t i = 0; i < count && spider__next_name(&names, &split[i]); i++) slots[i] = NULL;
    in->slots_used = (uint16_t)(in->slots_used + count);
    in->map_structs++;
    const uint8_t *at = in->position;
    uint32_t likely = 0;
    for (; entries > 0; entries--) {
        const uint8_t *value = spider__decode(at, in->end, &in->head);
        uint32_t match = count;
        if (value != NULL) {
            if (!spider__is_key(&in->head))
                return spider__mismatch(in, "the name or the number of a field");
            match = spider__match(split, count, likely, &in->head);
            at = spider__decode(value, in->end, &in->head);
        }
        if (value != NULL && at != NULL) at = spider__skip(in, at, in->head);
        if (value == NULL || at == NULL) return spider__damaged(in, "a value");
        level = in->level; /* levels and slots may have moved */
        slots = in->slots + level->slot;
        if (match == count) continue;
        if (slots[match] != NULL) {
            level->left = count - match - 1;
            return spider__refuse(in, "one value", ", found the field twice");
        }
        slots[match] = value;
        likely = match + 1;
    }
    in->level->after = at;
    return true;
}

size_t spider_read_count(spider_reader *in) {
    if (in->call->failed || (in->limit == NULL && !spider__open_graph_outputs(in))) return 0;
    return in->base->count;
}
spider_type spider_peek(spider_reader *in) {
    if (!in->peeked) {
        spider__leave(in);
        if (in->level == in->base && (spider_read_count(in) == 0 || in->base->left == 0))
            return SPIDER_TYPE_END;
    }
    if (spider__take(in, "a value") == NULL) return SPIDER_TYPE_END;
    if (in->head.type == SPIDER_TYPE_END) spider__damaged(in, "a value");
    else spider__untake(in);
    return in->head.type;
}
void spider_skip(spider_reader *in) {
    const spider__head *head = spider__take(in, "a value");
    const uint8_t *after = head != NULL ? spider__skip(in, in->position, *head) : NULL;
    if (after == NULL) spider__damaged(in, "a value");
    else in->position = after;
}

/* Makes the task fail if a container, or with `all` the payload, was not read to its end. */
SPIDER__SLOW static void spider__check_all_read(spider_reader *in, bool all) {
    spider__leave(in);
    const spider__level *level = in->level;
    uint32_t count = level->count;
    uint32_t read = count - spider__left(in, level);
    if (read == count || (!all && level == in->base) || in->call->failed) return;
    if (level->kind == SPIDER__CONTENT) {
        spider_string name = spider__name_at(level->names, 0);
        spider__reject_variant(in, level->names - level->ignored, "%.*s with content",
                               (int)name.size, name.data);
    } else {
        bool pairs = level->kind == SPIDER__PAIRS;
        char position[SPIDER__POSITION_SIZE];
        spider__describe(in, level, position);
        spider_fail(&in->call->task, SPIDER_ERROR_DESERIALIZATION,
                    "%s: expected %" PRIu32 " %s%s, found %" PRIu32, position, read,
                    pairs ? "keys and values" : "value", pairs || read == 1 ? "" : "s", count);
    }
}
bool spider_ready(spider_task *task) {
    spider__check_all_read(task->in, true);
    spider__check_all_read(task->graph_outputs, false);
    return spider_ok(task);
}
void spider_read_nil(spider_reader *in) { spider__take_type(in, "nil", SPIDER_TYPE_NIL); }
bool spider__read_boolean(spider_reader *in) {
    return spider__take_type(in, "boolean", SPIDER_TYPE_BOOLEAN) && in->head.bits != 0;
}
bool spider_read_option(spider_reader *in) {
    const spider__head *head = spider__take(in, "a value or nil");
    if (head == NULL || head->type == SPIDER_TYPE_NIL) return false;
    if (in->level->kind == SPIDER__BYTES) { /* as in Rust */
        spider_reject(in, "a value or nil", "a byte of binary");
        return false;
    }
    spider__untake(in);
    return true;
}

/* Returns the bits of an integer within the bounds; 0 after an error. */
SPIDER__SLOW uint64_t spider__read_integer(spider_reader *in, const char *expected, int64_t min,
                                           uint64_t max) {
    const uint8_t *at = in->position;
    if (in->left > 0 && in->end - at >= 9 && *at >= 0xcc && *at <= 0xd3) { /* mostly so */
        uint64_t bits;
        const unsigned shift = 64 - (8u << (*at & 3));
        memcpy(&bits, at + 1, 8);
        bits = __builtin_bswap64(bits);
        bits = *at < 0xd0 ? bits >> shift : (uint64_t)((int64_t)bits >> shift);
        if (*at >= 0xd0 && (int64_t)bits < 0 ? (int64_t)bits >= min : bits <= max) {
            in->left--;
            in->position = at + 1 + (1u << (*at & 3));
            return bits;
        }
    }
    const spider__head *head = spider__take(in, expected);
    if (head == NULL) return 0;
    if ((head->type != SPIDER_TYPE_UNSIGNED || head->bits > max)
        && (head->type != SPIDER_TYPE_NEGATIVE || (int64_t)head->bits < min)) {
        return spider__mismatch(in, expected);
    }
    return head->bits;
}

#define SPIDER__FLOAT_READER(type_)                                                                \
    SPIDER__SLOW type_ spider__read_##type_(spider_reader *in) {                                   \
        const spider__head *head = spider__take(in, #type_);                                   \
        union { uint64_t bits; float single; double full; } number;                                \
        if (head == NULL) return 0;                                                                \
        number.bits = head->bits;                                                                  \
        if (head->type == SPIDER_TYPE_FLOAT) return (type_)number.single;                          \
        if (head->type == SPIDER_TYPE_DOUBLE) return (type_)number.full;                           \
        if (head->type == SPIDER_TYPE_UNSIGNED) return (type_)head->bits;                          \
        if (head->type == SPIDER_TYPE_NEGATIVE) return (type_)(int64_t)head->bits;                 \
        return (type_)spider__mismatch(in, #type_);                                                \
    }
SPIDER__FLOAT_READER(float)
SPIDER__FLOAT_READER(double)

spider_string spider_read_string(spider_reader *in) {
    spider_string value = {"", 0};
    const spider__head *head = spider__take(in, "string");
    if (head == NULL) return value;
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
const char *spider_read_cstring(spider_reader *in) {
    spider_string text = spider_read_string(in);
    if (memchr(text.data, '\0', text.size) != NULL)
        spider_reject(in, "a string without a NUL", "a NUL");
    void *copy = in->call->failed ? NULL : spider_alloc(&in->call->task, text.size + 1, 1);
    return copy == NULL ? "" : (const char *)memcpy(copy, text.data, text.size);
}

/* Enters a tuple or struct of `count` values. As binary it may be longer, as in Rust. NULL: it is
 * something else, or the task has failed. */
static spider__level *spider__enter_array(spider_reader *in, size_t count, const char *names) {
    uint32_t size = in->head.size;
    if (in->head.type == SPIDER_TYPE_ARRAY && size == count)
        return spider__enter(in, size, SPIDER__SEQUENCE, names);
    if (in->head.type != SPIDER_TYPE_BINARY || size < count) return NULL;
    spider__level *level = spider__enter(in, (uint32_t)count, SPIDER__BYTES, names);
    if (level != NULL) {
        level->after = in->position;
        level->ignored = size - level->count;
    }
    return level;
}
static spider__level *spider__read_array(spider_reader *in, const char *expected) {
    if (spider__take(in, expected) == NULL) return NULL;
    spider__level *level = spider__enter_array(in, in->head.size, NULL);
    if (level == NULL) spider__mismatch(in, expected);
    return level;
}
size_t spider_read_list(spider_reader *in) {
    const spider__level *level = spider__read_array(in, "list");
    return level != NULL ? level->count : 0;
}
spider_bytes spider_read_bytes(spider_reader *in) {
    spider_bytes value = {(const uint8_t *)"", 0};
    spider__level *level = spider__read_array(in, "Bytes");
    if (level == NULL) return value;
    uint32_t count = level->count;
    if (level->kind == SPIDER__BYTES) {
        level->left = 0;
        value.data = level->after - count;
        value.size = count;
        return value;
    }
    uint8_t *data = (uint8_t *)spider_alloc(&in->call->task, count, 1);
    for (uint32_t i = 0; i < count && !in->call->failed; i++) {
        const uint8_t *at = in->position;
        if (in->left > 0 && in->end - at >= 2 && *at == 0xcc) {
            data[i] = at[1];
            in->position = at + 2;
            in->left--;
        } else {
            data[i] = spider_read_uint8(in);
        }
    }
    if (!in->call->failed) {
        value.data = data;
        value.size = count;
    }
    return value;
}

size_t spider_read_map(spider_reader *in) {
    uint32_t count = spider__take_type(in, "map", SPIDER_TYPE_MAP) ? in->head.size : 0;
    return !in->call->failed && spider__enter(in, 2 * count, SPIDER__PAIRS, NULL) != NULL ? count
                                                                                          : 0;
}
void spider_read_tuple(spider_reader *in, size_t count) {
    const spider__head *head = spider__take(in, "tuple");
    if (head != NULL && spider__enter_array(in, count, NULL) == NULL) {
        char expected[48];
        snprintf(expected, sizeof expected, "a tuple of %zu", count);
        spider__mismatch(in, expected);
    }
}
SPIDER__SLOW void spider__read_struct(spider_reader *in, const char *names) {
    const spider__head *head = spider__take(in, "struct");
    uint32_t count = spider__count_names(&in->known, names);
    if (head != NULL && head->type == SPIDER_TYPE_MAP) {
        spider__enter_map_struct(in, names, count, head->size);
    } else if (head != NULL && spider__enter_array(in, count, names) == NULL) {
        char expected[160];
        snprintf(expected, sizeof expected, "a struct of %" PRIu32 " (%.90s%s)", count, names,
                 strlen(names) > 90 ? "..." : "");
        spider__mismatch(in, expected);
    }
}
size_t spider__read_variant(spider_reader *in, const char *names, uint64_t contents, bool known) {
    uint32_t index = 0;
    spider_string name;
    bool has_content;
    const spider__head *head = spider__take(in, names);
    if (head == NULL) return 0;
    const bool is_map = head->type == SPIDER_TYPE_MAP && head->size == 1;
    if (is_map && (spider__enter(in, 2, SPIDER__PAIRS, NULL) == NULL
                   || (head = spider__take(in, names)) == NULL))
        return 0;
    if (!spider__is_key(head) || (in->level->kind == SPIDER__BYTES && !is_map)) {
        spider__reject_variant(in, names, NULL, 0, NULL);
    } else if (!spider__find_variant(names, contents, head, &index, &name, &has_content)) {
        bool is_text = head->type != SPIDER_TYPE_UNSIGNED;
        spider__reject_variant(in, names, is_text ? "the name %.*s" : NULL, (int)head->size,
                               (const char *)head->body);
    } else if (has_content && !is_map) {
        spider__reject_variant(in, names, "%.*s without its content", (int)name.size, name.data);
    } else if (known ? has_content : is_map && in->position < in->end && *in->position != 0xc0) {
        in->level->names = name.data; /* in errors, in place of a key and a value */
        in->level->ignored = (uint32_t)(name.data - names);
        in->level->kind = known ? SPIDER__SEQUENCE : SPIDER__CONTENT;
        in->level->count = 1;
        return index;
    } else if (is_map && (head = spider__take(in, "nil")) != NULL
               && head->type != SPIDER_TYPE_NIL) {
        spider__reject_variant(in, names, "%.*s with content", (int)name.size, name.data);
    }
    return in->call->failed ? 0 : index;
}
size_t spider_read_variant(spider_reader *in, const char *names) {
    return spider__read_variant(in, names, 0, strchr(names, '(') != NULL);
}

/* ---- Writers -------------------------------------------------------------------------------- */

/* Is false. */
#define spider__fail_to_write(out, ...)                                                            \
    (spider_fail(&(out)->call->task, SPIDER_ERROR_SERIALIZATION, __VA_ARGS__), false)

/* The output in which an error is: the current one, or the one that would begin. */
static size_t spider__output_index(const spider_writer *out) {
    return out->pending == 0 && out->depth == 0 ? out->count : out->count - 1;
}

/* Makes room for `size` bytes more. After them, 16 bytes can always be written. Outputs have less
 * than 4 GiB, so that lengths and counts fit into 32 bits. */
SPIDER__SLOW static bool spider__grow(spider_writer *out, size_t size) {
    size_t used = (size_t)(out->at - out->data);
    bool fits = size <= UINT32_MAX - used;
    size_t capacity = 2 * used + size + 256;
    uint8_t *data = fits ? (uint8_t *)realloc(out->data, capacity + 16) : NULL;
    if (data == NULL)
        return spider__fail_to_write(out, "out of memory: no room for %zu more bytes of outputs",
                                     size);
    out->data = data;
    out->at = data + used;
    out->limit = data + capacity;
    return true;
}
static bool spider__reserve(spider_writer *out, size_t size) {
    return out->limit - out->at >= (ptrdiff_t)size || spider__grow(out, size);
}
static void spider__end_output(spider_writer *out) {
    if (out->count > 0) {
        uint8_t *length = out->data + out->start;
        spider__store_le32(length, (size_t)(out->at - length - 4));
    }
}

/* Makes room for `size` bytes of a value, which may be a new output or an element of an open list
 * or map. False after an error. */
SPIDER__SLOW bool spider__begin(spider_writer *out, size_t size) {
    if (out->call->failed) return false;
    if (out->pending == 0 && out->depth > 0) {
        out->open[out->depth - 1].count++;
        out->pending = 1;
    } else if (out->pending == 0) {
        if (out->count == out->announced)
            return spider__fail_to_write(
                out, "outputs: more values were written than announced: %zu%s%s", out->announced,
                out->announced == 1 ? " (several outputs need spider_write_count)" : "", out->hint);
        spider__end_output(out);
        if (!spider__reserve(out, 8)) return false;
        out->at += out->count == 0 ? 4 : 0; /* the payload's count */
        out->start = (size_t)(out->at - out->data);
        out->at += 4;
        out->count++;
        out->pending = 1;
    }
    return spider__reserve(out, size);
}
static bool spider__is_count(spider_writer *out, size_t count, const char *what) {
    return count <= UINT32_MAX
           || spider__fail_to_write(out, "outputs[%zu]: %zu %s are too many: at most 4294967295",
                                    spider__output_index(out), count, what);
}
void spider_write_count(spider_writer *out, size_t count) {
    if (!spider__is_count(out, count, "outputs")) return;
    if (out->count > 0)
        (void)spider__fail_to_write(out,
                                    "outputs: spider_write_count must precede the first output");
    out->announced = count;
    out->counted = true;
}
SPIDER__SLOW void spider__write_integer(spider_writer *out, uint64_t bits, bool is_negative) {
    if (!spider__begin_inline(out, 16)) return;
    out->pending--;
    if (bits < 0x80 || (is_negative && bits >= UINT64_MAX - 31)) {
        *out->at++ = (uint8_t)bits;
        return;
    }
    /* A negative number needs as many bits as its complement, and the sign. */
    uint64_t most = is_negative ? ~bits << 1 : bits;
    unsigned width = most <= UINT8_MAX ? 0 : most <= UINT16_MAX ? 1 : most <= UINT32_MAX ? 2 : 3;
    out->at = spider__store_be(out->at, (is_negative ? 0xd0 : 0xcc) + width, bits, 1u << width);
}
void spider_write_string(spider_writer *out, spider_string value) {
    if (spider__utf8_prefix(value.data, value.size) < value.size) {
        (void)spider__fail_to_write(out, "outputs[%zu]: a string that is not UTF-8",
                              spider__output_index(out));
    } else if (spider__begin_inline(out, value.size + 8)) {
        out->pending--;
        out->at = spider__store_size(out->at, 0xa0, value.size);
        if (value.size > 0) memcpy(out->at, value.data, value.size); /* `data` may be NULL */
        out->at += value.size;
    }
}
void spider_write_cstring(spider_writer *out, const char *value) {
    spider_string text = {value, value != NULL ? strlen(value) : 0};
    if (value == NULL)
        (void)spider__fail_to_write(out, "outputs[%zu]: NULL is not a string",
                                    spider__output_index(out));
    spider_write_string(out, text);
}
void spider_write_bytes(spider_writer *out, spider_bytes value) {
    size_t size = value.size;
    for (size_t i = 0; i < value.size; i++) size += value.data[i] >> 7; /* from 80, two bytes */
    if (!spider__begin(out, size + 8)) return;
    uint8_t *at = spider__store_size(out->at, 0x90, value.size);
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] >= 0x80) *at++ = 0xcc;
        *at++ = value.data[i];
    }
    out->at = at;
    out->pending--;
}

/* Begins an array (90) or a map (80). */
static void spider__write_size(spider_writer *out, size_t count, unsigned small) {
    const bool is_map = small == 0x80;
    if (spider__is_count(out, count, is_map ? "pairs" : "elements")
        && spider__begin_inline(out, 16)) {
        out->at = spider__store_size(out->at, small, count);
        out->pending += is_map ? 2 * (uint64_t)count : count;
        out->pending--;
    }
}
void spider_write_list(spider_writer *out, size_t count) { spider__write_size(out, count, 0x90); }
void spider_write_tuple(spider_writer *out, size_t count) { spider__write_size(out, count, 0x90); }
void spider_write_map(spider_writer *out, size_t count) { spider__write_size(out, count, 0x80); }
SPIDER__SLOW void spider__write_struct(spider_writer *out, const char *names) {
    spider_write_list(out, spider__count_names(&out->known, names));
}
bool spider__write_variant(spider_writer *out, const char *names, size_t index, uint64_t contents) {
    const spider__head key = {SPIDER_TYPE_UNSIGNED, 0, 0, index, NULL};
    uint32_t number;
    spider_string name;
    bool has_content;
    if (!spider__find_variant(names, contents, &key, &number, &name, &has_content)) {
        (void)spider__fail_to_write(out, "outputs[%zu]: no variant has the number %zu: %.200s",
                              spider__output_index(out), index, names);
        return true;
    }
    if (has_content) spider_write_map(out, 1);
    spider_write_string(out, name);
    return has_content;
}
void spider_write_variant(spider_writer *out, const char *names, size_t index) {
    if (!spider__write_variant(out, names, index, 0))
        out->hint = " (a variant that has content needs parentheses: \"Running()\")";
}

/* Makes room for all open lists and maps that are allowed. False after an error. */
SPIDER__COLD bool spider__grow_open(spider_writer *out) {
    spider__open *open = out->open;
    if (out->depth == SPIDER_TDL_OPEN_MAX)
        return spider__fail_to_write(out, "outputs[%zu]: more than 128 lists and maps of unknown "
                                     "length are open", spider__output_index(out));
    out->open = (spider__open *)spider_alloc(&out->call->task, SPIDER_TDL_OPEN_MAX, sizeof *open);
    return out->open != NULL && memcpy(out->open, open, sizeof out->first_open) != NULL;
}

/* One byte is left for the head, which is all that most need. */
static void spider__begin_open(spider_writer *out, bool is_map) {
    uint32_t limit = out->open == out->first_open ? (uint32_t)SPIDER__OPEN : SPIDER_TDL_OPEN_MAX;
    if (spider__begin(out, 16) && (out->depth < limit || spider__grow_open(out))) {
        spider__open open = {(size_t)(out->at - out->data), out->pending - 1, 0, is_map};
        out->open[out->depth++] = open;
        out->pending = 0;
        out->at++;
    }
}
static void spider__end_open(spider_writer *out, bool is_map) {
    const spider__open *open = out->depth > 0 ? &out->open[out->depth - 1] : NULL;
    size_t per_entry = is_map ? 2 : 1;
    if (out->call->failed) return;
    if (open == NULL || open->is_map != is_map || out->pending > 0
        || open->count % per_entry != 0) {
        const char *name = is_map ? "map" : "list";
        (void)spider__fail_to_write(out, "outputs[%zu]: spider_write_%s_end without "
                                    "spider_write_%s_begin, or before its last value%s",
                                    spider__output_index(out), name, name, out->hint);
        return;
    }
    uint8_t head[16];
    size_t count = open->count / per_entry;
    size_t head_size = (size_t)(spider__store_size(head, is_map ? 0x80 : 0x90, count) - head);
    if (spider__reserve(out, head_size)) {
        uint8_t *at = out->data + open->start;
        memmove(at + head_size, at + 1, (size_t)(out->at - at) - 1);
        memcpy(at, head, head_size);
        out->at += head_size - 1;
        out->pending = open->outer_pending;
        out->depth--;
    }
}
void spider_write_list_begin(spider_writer *out) { spider__begin_open(out, false); }
void spider_write_list_end(spider_writer *out) { spider__end_open(out, false); }
void spider_write_map_begin(spider_writer *out) { spider__begin_open(out, true); }
void spider_write_map_end(spider_writer *out) { spider__end_open(out, true); }

/* ---- The call ------------------------------------------------------------------------------- */

/* The large arrays are not cleared. */
SPIDER__SLOW static void spider__start(spider__call *call) {
    memset(call, 0, offsetof(spider__call, in));
    memset(&call->out, 0, offsetof(spider_writer, first_open));
    spider__start_reader(&call->in, call, "inputs");
    spider__start_reader(&call->graph_outputs, call, "graph_outputs");
    call->task.in = &call->in;
    call->task.graph_outputs = &call->graph_outputs;
    call->task.out = &call->out;
    call->out.call = call;
    call->out.announced = 1;
    call->out.hint = "";
    call->out.open = call->out.first_open;
    spider__open_payload(&call->in, (const uint8_t *)"", 0);
}
static void spider__decompress(spider_reader *in, const uint8_t *data, size_t size) {
    spider_task *task = &in->call->task;
#ifdef SPIDER_TDL_WITH_ZSTD
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer source = {data, size, 0};
    ZSTD_outBuffer target = {NULL, 0, 0};
    size_t state = 1; /* 0 at the end of a frame; another may follow */
    while (stream != NULL && !ZSTD_isError(state)
           && (source.pos < source.size || (state != 0 && target.pos == target.size))) {
        if (target.pos == target.size) { /* the data also declares a size, but it may be wrong */
            size_t larger = 4096 + 4 * size + 2 * target.size;
            void *grown = spider_alloc(task, larger, 1);
            if (grown == NULL) break;
            memcpy(grown, target.pos == 0 ? grown : target.dst, target.pos);
            target.dst = grown;
            target.size = larger;
        }
        state = ZSTD_decompressStream(stream, &target, &source);
    }
    ZSTD_freeDStream(stream);
    if (stream == NULL)
        spider_fail(task, SPIDER_ERROR_SERIALIZATION, "out of memory: no room for zstd");
    else if (state != 0)
        spider_fail(task, SPIDER_ERROR_DESERIALIZATION, "graph_outputs: expected zstd, found "
                    "damaged bytes: %s",
                    ZSTD_isError(state) ? ZSTD_getErrorName(state) : "truncated");
    else spider__open_payload(in, (const uint8_t *)target.dst, target.pos);
#else
    (void)data, (void)size;
    spider_fail(task, SPIDER_ERROR_INVALID_TASK_CONTEXT, "graph_outputs: they are zstd-compressed, "
                "and this package was compiled without SPIDER_TDL_WITH_ZSTD");
#endif
}

/* Called when a task first asks for graph outputs. */
SPIDER__COLD bool spider__open_graph_outputs(spider_reader *in) {
    spider__call *call = in->call;
    spider_bytes buffer = call->graph_buffer;
    if (buffer.data == NULL)
        spider_fail(&call->task, SPIDER_ERROR_INVALID_TASK_CONTEXT,
                    "graph_outputs: only a commit task has graph outputs");
    else if (buffer.size == 0 || buffer.data[0] > 1)
        spider_fail(&call->task, SPIDER_ERROR_DESERIALIZATION,
                    "graph_outputs: expected a first byte of 0 (plain) or 1 (zstd), found %s",
                    buffer.size == 0 ? "no bytes" : "another");
    else if (buffer.data[0] == 1) spider__decompress(in, buffer.data + 1, buffer.size - 1);
    else spider__open_payload(in, buffer.data + 1, buffer.size - 1);
    return !call->failed;
}
SPIDER__SLOW static void spider__read_context(spider__call *call, const uint8_t *data, size_t size)
{
    spider_task *task = &call->task;
    spider_reader *in = &call->graph_outputs; /* not needed yet for its purpose */
    in->label = "task";
    in->base->kind = SPIDER__SEQUENCE;
    in->base->names = "context";
    in->base->count = in->left = 1;
    in->position = data;
    in->end = in->limit = data + size;
    if (!spider__take_type(in, "an array of length 5", SPIDER_TYPE_ARRAY)) return;
    if (in->head.size != 5) {
        spider_reject(in, "an array of length 5", "one of length %" PRIu32 "%s", in->head.size,
                      in->head.size == 4 ? ", as an older Spider sends" : "");
        return;
    }
    spider__enter(in, 5, SPIDER__SEQUENCE,
                  "job_id, task_id, task_instance_id, resource_group_id, graph_outputs");
    task->job_id = spider_read_uint64(in);
    task->kind = (spider_task_kind)spider_read_variant(in, "Index(), Commit, Cleanup");
    task->index = task->kind == SPIDER_TASK_INDEX ? spider_read_uint64(in) : 0;
    task->instance_id = spider_read_uint64(in);
    task->resource_group_id = spider_read_uint64(in);
    if (spider_read_option(in)) call->graph_buffer = spider_read_bytes(in);
    spider__start_reader(in, call, "graph_outputs");
}

/* In C++, no exception leaves the package. */
static void spider__run(spider__call *call, spider_task_function function) {
#ifdef SPIDER__EXCEPTIONS
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
SPIDER__SLOW static void spider__end_outputs(spider_writer *out) {
    if (out->depth > 0) {
        (void)spider__fail_to_write(out, "outputs[%zu]: a list or map was begun, but not ended",
                              out->count - 1);
    } else if (out->pending > 0) {
        (void)spider__fail_to_write(out, "outputs[%zu]: %" PRIu64 " more value%s announced",
                              out->count - 1, out->pending, out->pending == 1 ? " was" : "s were");
    } else if (out->counted && out->count < out->announced) {
        (void)spider__fail_to_write(out, "outputs: %zu were announced, but only %zu written",
                              out->announced, out->count);
    } else if (!out->call->failed && (out->count > 0 || spider__reserve(out, 4))) {
        spider__end_output(out);
        out->at += out->count == 0 ? 4 : 0;
        spider__store_le32(out->data, out->count);
    }
}

/* Frees everything but the outputs or the error, which the executor frees. */
SPIDER__SLOW static spider__result spider__finish(spider__call *call) {
    while (call->memory != NULL) {
        spider__block *block = call->memory;
        call->memory = block->next;
        free(block);
    }
    spider__result result = {call->failed, call->out.data,
                             (size_t)(call->out.at - call->out.data)};
    if (result.pointer == NULL) result.pointer = (uint8_t *)1; /* Rust requires that it is not */
    return result;
}

/* ---- The package interface ------------------------------------------------------------------ */

#ifdef SPIDER_TDL_SEVERAL_FILES
__attribute__((__used__)) const char
    define_SPIDER_TDL_SEVERAL_FILES_in_the_file_that_declares_the_package = 1;
#endif

static const spider_task_entry *spider__find_task(const void *name, size_t size) {
    for (size_t i = 0; i < spider__this_package.task_count; i++) {
        const spider_task_entry *task = &spider__this_package.tasks[i];
        if (strlen(task->name) == size && memcmp(task->name, name, size) == 0) return task;
    }
    return NULL;
}
SPIDER__COLD void spider__check_tasks(spider_task *task) {
    for (size_t i = 0; i < spider__this_package.task_count; i++) {
        const spider_task_entry *entry = &spider__this_package.tasks[i];
        if (entry->name == NULL || entry->function == NULL
            || spider__find_task(entry->name, strlen(entry->name)) != entry) {
            spider_fail(task, SPIDER_ERROR_EXECUTION, "the package's task number %zu has no name, "
                        "no function, or the name of another task", i + 1);
            return;
        }
    }
}

#define SPIDER__EXPORT __attribute__((__visibility__("default")))
SPIDER__EXPORT spider__version __spider_tdl_package_get_version(void);
SPIDER__EXPORT spider__view __spider_tdl_package_get_name(void);
SPIDER__EXPORT spider__result __spider_tdl_package_init(void);
SPIDER__EXPORT spider__result __spider_tdl_package_execute(spider__view, spider__view,
                                                           spider__view);

spider__version __spider_tdl_package_get_version(void) {
    spider__version version = {{0, 1, 0}};
    return version;
}
spider__view __spider_tdl_package_get_name(void) { return spider__this_package.name; }
spider__result __spider_tdl_package_init(void) {
    spider__call call;
    spider__start(&call);
    call.out.announced = 0;
    spider__check_tasks(&call.task);
    if (!call.failed && spider__this_package.init != NULL)
        spider__run(&call, spider__this_package.init);
    return spider__finish(&call);
}
spider__result __spider_tdl_package_execute(spider__view task_name, spider__view context,
                                            spider__view inputs) {
    spider__call call;
    const spider_task_entry *task = spider__find_task(task_name.pointer, task_name.length);
    spider__start(&call);
    if (task == NULL) {
        char *at = spider__begin_error(&call, SPIDER_ERROR_TASK_NOT_FOUND, task_name.length);
        if (at != NULL) {
            memcpy(at, task_name.pointer, task_name.length);
            spider__end_error(&call, task_name.length);
        }
    } else {
        spider__read_context(&call, (const uint8_t *)context.pointer, context.length);
        spider__open_payload(&call.in, (const uint8_t *)inputs.pointer, inputs.length);
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
