/* Tasks that return what a package may or should not return. */
#include "abi.h"

static Result empty_dangling(View inputs, long argument)
{
    Result result = {0, (void *)1, 0};
    return result;
}

static Result empty_null(View inputs, long argument)
{
    Result result = {0, NULL, 0};
    return result;
}

static Result null_with_length(View inputs, long length)
{
    Result result = {0, NULL, (size_t)length};
    return result;
}

static Result empty_error_dangling(View inputs, long argument)
{
    Result result = {1, (void *)1, 0};
    return result;
}

static Result empty_error_null(View inputs, long argument)
{
    Result result = {1, NULL, 0};
    return result;
}

static Result null_error_with_length(View inputs, long length)
{
    Result result = {1, NULL, (size_t)length};
    return result;
}

/* `size` bytes of outputs: a payload of no values, and zeros. */
static Result zeros(View inputs, long size)
{
    Result result = {0, calloc((size_t)size, 1), (size_t)size};
    return result;
}

/* A length that no buffer has. */
static Result endless_outputs(View inputs, long is_error)
{
    Result result = {(uint8_t)is_error, calloc(16, 1), SIZE_MAX};
    return result;
}

static Result echo(View inputs, long argument)
{
    return copied(0, inputs.pointer, inputs.length);
}

/* The inputs as the error, with `is_error` as the byte that says so. */
static Result echo_error(View inputs, long is_error)
{
    return copied((uint8_t)is_error, inputs.pointer, inputs.length);
}

/* {"Custom": text of `size` bytes} */
static Result large_error(View inputs, long size)
{
    static const char head[] = "\x81\xa6" "Custom" "\xdb";
    Result result = {1, malloc(13 + (size_t)size), 13 + (size_t)size};
    uint8_t *at = result.pointer;
    memcpy(at, head, 9);
    for (int i = 0; i < 4; i++) {
        at[9 + i] = (uint8_t)((unsigned long)size >> (24 - 8 * i));
    }
    memset(at + 13, 'e', (size_t)size);
    return result;
}

PACKAGE("buffers",
    {"empty_dangling", empty_dangling},
    {"empty_null", empty_null},
    {"null_with_length", null_with_length},
    {"empty_error_dangling", empty_error_dangling},
    {"empty_error_null", empty_error_null},
    {"null_error_with_length", null_error_with_length},
    {"zeros", zeros},
    {"endless_outputs", endless_outputs},
    {"echo", echo},
    {"echo_error", echo_error},
    {"large_error", large_error})
