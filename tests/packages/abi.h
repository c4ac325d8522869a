/*
 * The package ABI without the SDK: these packages do what the SDK keeps a package from doing. A package is a table of
 * tasks:
 *
 *     static Result answer(View inputs, long argument) { return number(42); }
 *     PACKAGE("name", {"answer", answer})
 *
 * A request for the task "answer:7" calls `answer` with 7 as its argument.
 *
 * Results:  number(n), numbers(values, count), text(string), copied(is_error, data, size), failure(variant, text),
 *           owned(is_error, pointer, size)
 */
#ifndef ABI_H
#define ABI_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
#define EXPORT extern "C" __attribute__((visibility("default")))
#else
#define EXPORT __attribute__((visibility("default")))
#endif

typedef struct { uint32_t major, minor, patch; } Version;
typedef struct { const void *pointer; size_t length; } View;
typedef struct { uint8_t is_error; void *pointer; size_t length; } Result;
typedef struct { const char *name; Result (*run)(View inputs, long argument); } Task;

/* preload/buffers.c defines it, and counts what is freed. */
EXPORT void watch_buffer(void *pointer, size_t length) __attribute__((weak));

/* A buffer from malloc, which the executor is to free. */
static inline Result owned(uint8_t is_error, void *pointer, size_t length)
{
    Result result = {is_error, pointer, length};
    if (watch_buffer != NULL)
        watch_buffer(pointer, length);
    return result;
}

/* A copy of `data` as outputs or as an error. Without any data, the pointer is one that must not be freed. */
static inline Result copied(uint8_t is_error, const void *data, size_t length)
{
    if (length == 0) {
        Result nothing = {is_error, (void *)1, 0};
        return nothing;
    }
    void *pointer = malloc(length);
    memcpy(pointer, data, length);
    return owned(is_error, pointer, length);
}

/* One output for each value, as an unsigned integer. */
static inline Result numbers(const uint64_t *values, uint32_t count)
{
    size_t size = 4 + (size_t)count * 13;
    uint8_t *payload = (uint8_t *)calloc(size, 1), *at = payload + 4;
    memcpy(payload, &count, 4); /* little-endian, as these machines are */
    for (uint32_t i = 0; i < count; i++) {
        *at = 9;
        at[4] = 0xcf;
        for (int byte = 0; byte < 8; byte++)
            at[5 + byte] = (uint8_t)(values[i] >> (56 - 8 * byte));
        at += 13;
    }
    return owned(0, payload, size);
}

static inline Result number(uint64_t value)
{
    return numbers(&value, 1);
}

/* One output: a string. */
static inline Result text(const char *string)
{
    uint32_t length = (uint32_t)strlen(string), value_size = length + 5;
    uint8_t *payload = (uint8_t *)calloc(8 + (size_t)value_size, 1);
    payload[0] = 1;
    memcpy(payload + 4, &value_size, 4);
    payload[8] = 0xdb;
    for (int byte = 0; byte < 4; byte++)
        payload[9 + byte] = (uint8_t)(length >> (24 - 8 * byte));
    memcpy(payload + 13, string, length);
    return owned(0, payload, 8 + (size_t)value_size);
}

/* The error {variant: text}. */
static inline Result failure(const char *variant, const char *text)
{
    uint8_t error[600];
    size_t variant_size = strlen(variant), text_size = strlen(text) > 255 ? 255 : strlen(text);
    uint8_t *at = error;
    *at++ = 0x81;
    *at++ = (uint8_t)(0xa0 | variant_size);
    memcpy(at, variant, variant_size);
    at += variant_size;
    *at++ = 0xd9;
    *at++ = (uint8_t)text_size;
    memcpy(at, text, text_size);
    return copied(1, error, (size_t)(at - error) + text_size);
}

static inline Result run_task(const Task *tasks, size_t count, View name, View inputs)
{
    const char *text = (const char *)name.pointer;
    const char *colon = (const char *)memchr(text, ':', name.length);
    size_t size = colon ? (size_t)(colon - text) : name.length;
    for (size_t i = 0; i < count; i++) {
        if (strlen(tasks[i].name) == size && memcmp(tasks[i].name, text, size) == 0) {
            long argument = 0;
            for (const char *at = colon ? colon + 1 : text + name.length; at < text + name.length; at++)
                argument = (long)((unsigned long)argument * 10 + (unsigned long)(*at - '0'));
            return tasks[i].run(inputs, argument);
        }
    }
    char shown[256];
    snprintf(shown, sizeof shown, "%.*s", (int)(name.length < 200 ? name.length : 200), text);
    return failure("TaskNotFound", shown);
}

#define PACKAGE(declared, ...) \
    EXPORT Version __spider_tdl_package_get_version(void) { Version version = {0, 1, 0}; return version; } \
    EXPORT View __spider_tdl_package_get_name(void) { View name = {declared, sizeof declared - 1}; return name; } \
    EXPORT Result __spider_tdl_package_execute(View name, View context, View inputs) \
    { \
        static const Task tasks[] = {__VA_ARGS__}; \
        (void)context; \
        return run_task(tasks, sizeof tasks / sizeof *tasks, name, inputs); \
    }

#endif
