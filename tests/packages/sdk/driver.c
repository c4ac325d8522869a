/*
 * Calls a package's exported symbols directly, without an executor, so that the sanitizers come first in the process.
 *
 *     driver replay   LIBRARY CASES               every case gives the outcome that is noted with it
 *     driver starve   LIBRARY CASES               every case, with every single allocation, and all from it on, refused
 *     driver threads  LIBRARY CASES               every case in each of four threads at once
 *     driver fuzz     LIBRARY CASES SEED COUNT    COUNT calls with inputs and contexts made from those of the cases
 *
 * A case in the file CASES: a byte 0 (success) or 1 (failure), then the task's name, the context, the inputs and the
 * outcome's bytes, each after a u32 LE length. Inputs are passed in memory of exactly their size. Whatever the call,
 * its result must be a complete payload of complete msgpack values, or the msgpack of a TdlError with a text in UTF-8.
 */

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What crosses the boundary between executor and package. */
typedef struct view {
    const void *pointer;
    size_t length;
} view;

typedef struct result {
    bool is_error;
    uint8_t *pointer;
    size_t length;
} result;

typedef struct bytes {
    uint8_t *data;
    size_t size;
} bytes;

typedef struct outcome {
    bool is_error;
    bytes data; /* to be freed */
} outcome;

typedef struct testcase {
    bool is_error;
    bytes name;
    bytes context;
    bytes inputs;
    bytes expected;
} testcase;

static result (*execute)(view, view, view);
static testcase *cases;
static size_t case_count;

/* ---- Allocations that fail on demand: packages compiled with tests/packages/sdk/starved.h call these ---- */

static long allowed = -1; /* allocations until one is refused; -1: no end */
static bool refuse_rest;
static bool refused;

static bool refuse(void)
{
    if (allowed < 0 || (allowed > 0 && allowed-- > 0)) {
        return false;
    }
    if (!refuse_rest) {
        allowed = -1;
    }
    refused = true;
    return true;
}

void *starved_malloc(size_t size);
void *starved_calloc(size_t count, size_t size);
void *starved_realloc(void *pointer, size_t size);

void *starved_malloc(size_t size)
{
    return refuse() ? NULL : malloc(size);
}

void *starved_calloc(size_t count, size_t size)
{
    return refuse() ? NULL : calloc(count, size);
}

void *starved_realloc(void *pointer, size_t size)
{
    return refuse() ? NULL : realloc(pointer, size);
}

/* ---- Checks ---- */

static void dump(const char *what, bytes data)
{
    size_t i;
    fprintf(stderr, "  %s: ", what);
    for (i = 0; i < data.size && i < 400; i++) {
        bool plain = data.data[i] >= ' ' && data.data[i] <= '~' && data.data[i] != '\\';
        fprintf(stderr, plain ? "%c" : "\\x%02x", data.data[i]);
    }
    fprintf(stderr, "%s\n", i < data.size ? " ..." : "");
}

static void fail(const char *why, const testcase *call, outcome got)
{
    fprintf(stderr, "%s\n", why);
    dump("task", call->name);
    dump("context", call->context);
    dump("inputs", call->inputs);
    dump(got.is_error ? "error" : "outputs", got.data);
    exit(1);
}

static uint32_t le32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put_le32(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
    at[2] = (uint8_t)(value >> 16);
    at[3] = (uint8_t)(value >> 24);
}

static bool is_utf8(const uint8_t *at, size_t size)
{
    size_t i = 0;
    while (i < size) {
        uint32_t code = at[i];
        size_t more = code < 0x80 ? 0 : code >> 5 == 6 ? 1 : code >> 4 == 14 ? 2 : code >> 3 == 30 ? 3 : 9;
        size_t j;
        if (more == 9 || more > size - i - 1) {
            return false;
        }
        code &= more == 0 ? 0x7fu : 0x3fu >> more;
        for (j = 1; j <= more; j++) {
            if (at[i + j] >> 6 != 2) {
                return false;
            }
            code = code << 6 | (at[i + j] & 0x3fu);
        }
        if ((more == 1 && code < 0x80) || (more == 2 && code < 0x800) || (more == 3 && code < 0x10000)
            || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
            return false;
        }
        i += more + 1;
    }
    return true;
}

/* The size of the msgpack value at `at`; 0 if it is not complete, or not as rmp-serde would write it. */
static size_t value_size(const uint8_t *at, size_t size)
{
    uint64_t open = 1;
    size_t i = 0;
    for (; open > 0; open--) {
        uint8_t marker;
        uint64_t argument = 0;
        size_t width = 0;
        size_t j;
        if (i >= size) {
            return 0;
        }
        marker = at[i++];
        if (marker == 0xc1 || (marker >= 0xc4 && marker <= 0xc9) || (marker >= 0xd4 && marker <= 0xd8)) {
            return 0; /* bin and ext are never written */
        }
        width = marker == 0xca                     ? 4
                : marker == 0xcb                   ? 8
                : marker >= 0xcc && marker <= 0xd3 ? (size_t)1 << (marker & 3)
                : marker >= 0xd9 && marker <= 0xdb ? (size_t)1 << (marker - 0xd9)
                : marker >= 0xdc && marker <= 0xdf ? (size_t)2 << (marker & 1)
                                                   : 0;
        if (width > size - i) {
            return 0;
        }
        for (j = 0; j < width; j++) {
            argument = argument << 8 | at[i++];
        }
        if ((marker >= 0xcc && marker <= 0xcf && argument >> (width == 1 ? 7 : 4 * width) == 0)
            || (marker >= 0xd0 && marker <= 0xd3 && argument >> (8 * width - 1) == 0)) {
            return 0; /* a smaller form, or an unsigned one, would do */
        }
        if (marker >= 0xa0 && marker < 0xc0) {
            argument = marker & 0x1f;
        } else if (marker >= 0x80 && marker < 0xa0) {
            argument = marker & 0x0f;
        }
        if ((marker >= 0xa0 && marker < 0xc0) || (marker >= 0xd9 && marker <= 0xdb)) {
            if (argument > size - i || !is_utf8(at + i, (size_t)argument)) {
                return 0;
            }
            i += (size_t)argument;
        } else if ((marker >= 0x90 && marker < 0xa0) || marker == 0xdc || marker == 0xdd) {
            open += argument;
        } else if ((marker >= 0x80 && marker < 0x90) || marker == 0xde || marker == 0xdf) {
            open += 2 * argument;
        }
    }
    return i;
}

static bool is_payload(bytes data)
{
    size_t at = 4;
    uint32_t count;
    if (data.size < 4) {
        return false;
    }
    for (count = le32(data.data); count > 0; count--) {
        uint32_t size;
        if (data.size - at < 4) {
            return false;
        }
        size = le32(data.data + at);
        at += 4;
        if (size > data.size - at || value_size(data.data + at, size) != size || size == 0) {
            return false;
        }
        at += size;
    }
    return at == data.size;
}

static bool is_kind(outcome got, const char *name)
{
    size_t size = strlen(name);
    return got.is_error && got.data.size > 2 + size && got.data.data[1] == (0xa0 | size)
           && memcmp(got.data.data + 2, name, size) == 0;
}

/* Two errors, of whatever texts. */
static bool same_kind(bytes error, bytes other)
{
    size_t size = 2 + (size_t)(error.data[1] & 0x1f);
    return other.size >= size && memcmp(error.data, other.data, size) == 0;
}

static bool is_tdl_error(outcome got)
{
    static const char *const names[] = {"TaskNotFound",   "DeserializationError", "SerializationError",
                                        "ExecutionError", "InvalidTaskContext",   "Custom"};
    size_t i;
    for (i = 0; i < 6; i++) {
        size_t head = 2 + strlen(names[i]);
        if (is_kind(got, names[i])) {
            uint8_t marker = got.data.data[head];
            return got.data.data[0] == 0x81 && value_size(got.data.data, got.data.size) == got.data.size
                   && ((marker >= 0xa0 && marker < 0xc0) || (marker >= 0xd9 && marker <= 0xdb));
        }
    }
    return false;
}

static view exact_copy(bytes data, void **memory)
{
    view copy;
    *memory = malloc(data.size == 0 ? 1 : data.size);
    if (*memory == NULL) {
        exit(2);
    }
    if (data.size > 0) {
        memcpy(*memory, data.data, data.size);
    }
    copy.pointer = *memory;
    copy.length = data.size;
    return copy;
}

static outcome call(const testcase *what)
{
    void *memory[3];
    view name = exact_copy(what->name, &memory[0]);
    view context = exact_copy(what->context, &memory[1]);
    view inputs = exact_copy(what->inputs, &memory[2]);
    result got_result = execute(name, context, inputs);
    outcome got;
    got.is_error = got_result.is_error;
    got.data.data = got_result.length == 0 ? NULL : got_result.pointer;
    got.data.size = got_result.length;
    free(memory[0]);
    free(memory[1]);
    free(memory[2]);
    if (got_result.pointer == NULL) {
        fail("a result's pointer is NULL", what, got);
    }
    if (got_result.length == 0 && !(got_result.is_error && refused)) { /* without memory, there may be none for the error */
        fail("an empty result", what, got);
    }
    if (got_result.length > 0 && (got.is_error ? !is_tdl_error(got) : !is_payload(got.data))) {
        fail("not a well-formed result", what, got);
    }
    return got;
}

/* ---- Modes ---- */

static void replay(void)
{
    size_t wrong = 0;
    size_t i;
    for (i = 0; i < case_count; i++) {
        const testcase *what = &cases[i];
        outcome got = call(what);
        if (got.is_error != what->is_error || got.data.size != what->expected.size
            || memcmp(got.data.data, what->expected.data, got.data.size) != 0) {
            dump(what->is_error ? "expected the error" : "expected", what->expected);
            dump(got.is_error ? "found the error" : "found", got.data);
            dump("in", what->inputs);
            wrong++;
        }
        free(got.data.data);
    }
    if (wrong > 0) {
        fprintf(stderr, "%zu of %zu cases are wrong\n", wrong, case_count);
        exit(1);
    }
}

static void *replay_in_thread(void *unused)
{
    replay();
    return unused;
}

static void replay_in_threads(void)
{
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        if (pthread_create(&threads[i], NULL, replay_in_thread, NULL) != 0) {
            exit(2);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void starve(void)
{
    size_t count = 0;
    size_t i;
    for (i = 0; i < case_count; i++) {
        int rest;
        for (rest = 0; rest < 2; rest++) {
            long nth = 0;
            do {
                outcome got;
                allowed = nth++;
                refuse_rest = rest != 0;
                refused = false;
                got = call(&cases[i]);
                allowed = -1;
                if (refused && !got.is_error) {
                    fail("a success without memory", &cases[i], got);
                }
                if (refused && got.data.size > 0 && !is_kind(got, "SerializationError")
                    && !(cases[i].is_error && same_kind(got.data, cases[i].expected))) {
                    fail("not a SerializationError without memory", &cases[i], got);
                }
                if (!refused && got.is_error != cases[i].is_error) {
                    fail("not the expected outcome", &cases[i], got);
                }
                free(got.data.data);
                count += refused ? 1 : 0;
            } while (refused);
        }
    }
    printf("%zu refused allocations\n", count);
}

static uint64_t state;

static uint32_t below(size_t limit)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 33) % limit);
}

enum { ROOM = 1 << 16 };
static const uint8_t markers[] = {0x00, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x91, 0x92, 0x9f, 0xa0, 0xa1, 0xbf, 0xc0, 0xc1,
                                  0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1,
                                  0xd2, 0xd3, 0xd4, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff};

/* A value that may be valid, and may be nested. */
static size_t make_value(uint8_t *at, size_t room, int depth)
{
    uint8_t marker = markers[below(sizeof markers)];
    size_t size = 1;
    size_t i;
    size_t follow = marker >= 0xcc && marker <= 0xd3 ? (size_t)1 << (marker & 3)
                    : marker == 0xca                 ? 4
                    : marker == 0xcb                 ? 8
                                                     : 0;
    size_t children = marker >= 0x80 && marker < 0x90   ? 2 * (size_t)(marker & 15)
                      : marker >= 0x90 && marker < 0xa0 ? marker & 15u
                                                        : 0;
    if (room < 64 || depth == 0) {
        *at = (uint8_t)below(0x80);
        return 1;
    }
    *at = marker;
    if (marker >= 0xa0 && marker < 0xc0) {
        follow = marker & 0x1f;
    } else if (marker == 0xd9 || marker == 0xc4) {
        follow = below(20);
        at[size++] = (uint8_t)follow;
    } else if (marker == 0xdc || marker == 0xde) {
        children = below(20) * (marker == 0xde ? 2u : 1u);
        at[size++] = 0;
        at[size++] = (uint8_t)(marker == 0xde ? children / 2 : children);
    }
    for (i = 0; i < follow; i++) {
        at[size++] = (uint8_t)(marker == 0xca || marker == 0xcb || (marker >= 0xcc && marker <= 0xd3) ? below(256)
                                                                                                      : below(128));
    }
    for (i = 0; i < children && size < room - 64; i++) {
        size += make_value(at + size, room - size, depth - 1);
    }
    return size;
}

static size_t mutate(uint8_t *at, size_t size)
{
    uint32_t edits = 1 + below(3);
    while (edits-- > 0) {
        size_t where = below(size + 1);
        size_t length = 1 + below(8);
        switch (below(6)) {
        case 0: /* another byte */
            if (where < size) {
                at[where] = below(2) == 0 ? markers[below(sizeof markers)] : (uint8_t)below(256);
            }
            break;
        case 1: /* a bit */
            if (where < size) {
                at[where] ^= (uint8_t)(1u << below(8));
            }
            break;
        case 2: /* fewer bytes */
            length = length < size - where ? length : size - where;
            memmove(at + where, at + where + length, size - where - length);
            size -= length;
            break;
        case 3: /* some bytes twice */
            length = length < size - where ? length : size - where;
            if (size + length < ROOM / 2) {
                memmove(at + where + length, at + where, size - where);
                size += length;
            }
            break;
        case 4: /* the end */ size = where; break;
        default: /* a value more */
            if (size < ROOM / 4) {
                uint8_t value[1024];
                length = make_value(value, sizeof value, 3);
                memmove(at + where + length, at + where, size - where);
                memcpy(at + where, value, length);
                size += length;
            }
            break;
        }
    }
    return size;
}

/* Changes one value of a payload and corrects the length before it. */
static size_t mutate_value(uint8_t *at, size_t size)
{
    uint8_t value[ROOM];
    uint32_t count = size < 4 ? 0 : le32(at);
    uint32_t which = count == 0 ? 0 : below(count);
    size_t start = 4;
    size_t old_size;
    size_t new_size;
    while (count > 0 && size - start >= 4 && le32(at + start) <= size - start - 4) {
        old_size = le32(at + start);
        start += 4;
        if (which-- == 0) {
            memcpy(value, at + start, old_size);
            new_size = below(4) == 0 ? make_value(value, 1024, 4) : mutate(value, old_size);
            memmove(at + start + new_size, at + start + old_size, size - start - old_size);
            memcpy(at + start, value, new_size);
            put_le32(at + start - 4, new_size);
            return size - old_size + new_size;
        }
        start += old_size;
    }
    return mutate(at, size);
}

static void fuzz(uint64_t seed, size_t count)
{
    static uint8_t inputs[4 * ROOM];
    static uint8_t context[4 * ROOM];
    size_t successes = 0;
    size_t i;
    state = seed;
    for (i = 0; i < count; i++) {
        const testcase *origin = &cases[below(case_count)];
        testcase what = *origin;
        outcome got;
        if (origin->inputs.size > ROOM / 8 || origin->context.size > ROOM / 8 || (origin->is_error && below(8) > 0)) {
            i--;
            continue;
        }
        if (below(8) == 0) {
            what.name = cases[below(case_count)].name;
        }
        memcpy(inputs, what.inputs.data, what.inputs.size);
        memcpy(context, what.context.data, what.context.size);
        what.inputs.data = inputs;
        what.context.data = context;
        if (below(8) == 0) {
            what.context.size = mutate(context, what.context.size);
        } else if (below(4) == 0) {
            what.inputs.size = mutate(inputs, what.inputs.size);
        } else {
            what.inputs.size = mutate_value(inputs, what.inputs.size);
        }
        got = call(&what);
        if (!got.is_error) {
            successes++;
            if (what.name.size == 3
                && (memcmp(what.name.data, "any", 3) == 0 || memcmp(what.name.data, "all", 3) == 0)) {
                outcome again;
                what.inputs = got.data;
                again = call(&what);
                if (again.is_error || again.data.size != got.data.size
                    || memcmp(again.data.data, got.data.data, got.data.size) != 0) {
                    fail("a copy's copy differs", &what, again);
                }
                free(again.data.data);
            }
        }
        free(got.data.data);
    }
    printf("%zu payloads, %zu of them accepted\n", count, successes);
}

static bytes take(const bytes *file, size_t *at)
{
    bytes part;
    part.size = le32(file->data + *at);
    part.data = file->data + *at + 4;
    *at += 4 + part.size;
    return part;
}

static bytes read_file(const char *path)
{
    FILE *stream = fopen(path, "rb");
    bytes file = {NULL, 0};
    long size;
    if (stream == NULL || fseek(stream, 0, SEEK_END) != 0 || (size = ftell(stream)) < 0) {
        perror(path);
        exit(2);
    }
    rewind(stream);
    file.size = (size_t)size;
    file.data = (uint8_t *)malloc(file.size);
    if (file.data == NULL || fread(file.data, 1, file.size, stream) != file.size) {
        perror(path);
        exit(2);
    }
    fclose(stream);
    return file;
}

int main(int argc, char **argv)
{
    result (*init)(void);
    result ready;
    void *library;
    void *symbol;
    bytes file;
    size_t at;
    if (argc != 4 && argc != 6) {
        fprintf(stderr,
                "usage: driver replay|starve|threads LIBRARY CASES | driver fuzz LIBRARY CASES SEED COUNT\n");
        return 2;
    }
    library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    symbol = dlsym(library, "__spider_tdl_package_execute");
    memcpy(&execute, &symbol, sizeof execute);
    symbol = dlsym(library, "__spider_tdl_package_init");
    memcpy(&init, &symbol, sizeof init);
    ready = init();
    if (ready.is_error || ready.length != 0 || ready.pointer == NULL) {
        fprintf(stderr, "the package does not initialize\n");
        return 1;
    }
    file = read_file(argv[3]);
    for (at = 0; at < file.size; case_count++) {
        testcase *what;
        cases = (testcase *)realloc(cases, (case_count + 1) * sizeof *cases);
        if (cases == NULL) {
            return 2;
        }
        what = &cases[case_count];
        what->is_error = file.data[at++] != 0;
        what->name = take(&file, &at);
        what->context = take(&file, &at);
        what->inputs = take(&file, &at);
        what->expected = take(&file, &at);
    }
    if (strcmp(argv[1], "replay") == 0) {
        replay();
        printf("%zu cases\n", case_count);
    } else if (strcmp(argv[1], "threads") == 0) {
        replay_in_threads();
        printf("%zu cases\n", case_count);
    } else if (strcmp(argv[1], "starve") == 0) {
        starve();
    } else if (strcmp(argv[1], "fuzz") == 0 && argc == 6) {
        fuzz(strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
    } else {
        return 2;
    }
    free(cases);
    free(file.data);
    return 0;
}
