/*
 * The package ABI, raw: these packages do what the SDK keeps a package from doing. A package is a table of tasks:
 *
 *     static Result answer(View inputs, long argument) { return number(42); }
 *     PACKAGE("name", {"answer", answer})
 *
 * A request for "answer:7" calls `answer` with 7 as its argument. Results are malloc'ed, as the ABI wants it.
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

/* A copy of `data` as outputs or as an error. */
static inline Result copied(uint8_t is_error, const void *data, size_t length)
{
    Result result = {is_error, malloc(length), length};
    memcpy(result.pointer, data, length);
    return result;
}

/* One output: an unsigned integer. */
static inline Result number(uint64_t value)
{
    uint8_t payload[17] = {1, 0, 0, 0, 9, 0, 0, 0, 0xcf};
    for (int i = 0; i < 8; i++) {
        payload[9 + i] = (uint8_t)(value >> (56 - 8 * i));
    }
    return copied(0, payload, sizeof payload);
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
            for (const char *at = colon ? colon + 1 : text + name.length; at < text + name.length; at++) {
                argument = argument * 10 + (*at - '0');
            }
            return tasks[i].run(inputs, argument);
        }
    }
    char shown[256];
    snprintf(shown, sizeof shown, "%.*s", (int)(name.length < 200 ? name.length : 200), text);
    return failure("TaskNotFound", shown);
}

#define PACKAGE(declared, ...)                                                                                          \
    EXPORT Version __spider_tdl_package_get_version(void) { Version version = {0, 1, 0}; return version; }              \
    EXPORT View __spider_tdl_package_get_name(void) { View name = {declared, sizeof declared - 1}; return name; }       \
    EXPORT Result __spider_tdl_package_execute(View name, View context, View inputs)                                    \
    {                                                                                                                   \
        static const Task tasks[] = {__VA_ARGS__};                                                                      \
        (void)context;                                                                                                  \
        return run_task(tasks, sizeof tasks / sizeof *tasks, name, inputs);                                             \
    }

#endif
