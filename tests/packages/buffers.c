/*
 * Tasks that return every kind of buffer that a package may return, or should not.
 *
 *     echo                        the inputs as outputs
 *     echo_error:B                the inputs with B as the byte `is_error`
 *     zeros:N                     N zero bytes of outputs
 *     filled:N                    N bytes of outputs, each of them a function of its offset
 *     error_of_size:N             an error {"Custom": text} whose buffer has N bytes (at least 13)
 *     empty_dangling, empty_null, empty_error_dangling, empty_error_null    length 0
 *     null_with_length:N, null_error_with_length:N                          a NULL pointer with a length
 *     endless_outputs:B           a length that no buffer has, with B as `is_error`
 *     bad_error                   an error that free() must refuse
 *     sleep_and_fail:MS           an error after MS milliseconds
 */
#include "abi.h"

#include <unistd.h>

static Result echo(View inputs, long argument)
{
    return copied(0, inputs.pointer, inputs.length);
}

static Result echo_error(View inputs, long is_error)
{
    return copied((uint8_t)is_error, inputs.pointer, inputs.length);
}

static Result zeros(View inputs, long size)
{
    return owned(0, calloc((size_t)size, 1), (size_t)size);
}

static Result filled(View inputs, long size)
{
    uint8_t *bytes = malloc((size_t)size);
    for (long i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i % 251);
    return owned(0, bytes, (size_t)size);
}

static Result error_of_size(View inputs, long size)
{
    static const char head[] = "\x81\xa6" "Custom" "\xdb";
    uint8_t *error = malloc((size_t)size);
    memcpy(error, head, 9);
    for (int i = 0; i < 4; i++)
        error[9 + i] = (uint8_t)((unsigned long)(size - 13) >> (24 - 8 * i));
    memset(error + 13, 'e', (size_t)size - 13);
    return owned(1, error, (size_t)size);
}

static Result empty_dangling(View inputs, long argument)
{
    return (Result){0, (void *)1, 0};
}

static Result empty_null(View inputs, long argument)
{
    return (Result){0, NULL, 0};
}

static Result empty_error_dangling(View inputs, long argument)
{
    return (Result){1, (void *)1, 0};
}

static Result empty_error_null(View inputs, long argument)
{
    return (Result){1, NULL, 0};
}

static Result null_with_length(View inputs, long length)
{
    return (Result){0, NULL, (size_t)length};
}

static Result null_error_with_length(View inputs, long length)
{
    return (Result){1, NULL, (size_t)length};
}

static Result endless_outputs(View inputs, long is_error)
{
    return (Result){(uint8_t)is_error, calloc(16, 1), SIZE_MAX};
}

static Result bad_error(View inputs, long argument)
{
    static uint8_t memory[64] = "\0\0\0\0\0\0\0\0\x81\xa6" "Custom" "\xa1x";
    return (Result){1, memory + 8, 10};
}

static Result sleep_and_fail(View inputs, long milliseconds)
{
    usleep((useconds_t)milliseconds * 1000);
    return failure("Custom", "slept");
}

PACKAGE("buffers",
    {"echo", echo},
    {"echo_error", echo_error},
    {"zeros", zeros},
    {"filled", filled},
    {"error_of_size", error_of_size},
    {"empty_dangling", empty_dangling},
    {"empty_null", empty_null},
    {"empty_error_dangling", empty_error_dangling},
    {"empty_error_null", empty_error_null},
    {"null_with_length", null_with_length},
    {"null_error_with_length", null_error_with_length},
    {"endless_outputs", endless_outputs},
    {"bad_error", bad_error},
    {"sleep_and_fail", sleep_and_fail})
