/*
 * The tasks that executors are tested with: one that computes, and one for each way in which a task can end.
 *
 *     cc -shared -fPIC -o integration_test_tasks/libintegration_test_tasks.so integration_test_tasks.c
 */
#define _POSIX_C_SOURCE 200809L /* nanosleep */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static bool initialized;

static void initialize(spider_task *task)
{
    if (getenv("SPIDER_TEST_TDL_INIT_SHOULD_FAIL") != NULL) {
        spider_fail(task, SPIDER_ERROR_EXECUTION, "init failure requested");
        return;
    }
    initialized = true;
}

static uint64_t nth_fibonacci(uint64_t n)
{
    return n < 2 ? n : nth_fibonacci(n - 1) + nth_fibonacci(n - 2);
}

/* fibonacci(uint64) -> uint64, slowly. */
static void fibonacci(spider_task *task)
{
    uint64_t n = spider_read_uint64(task->in);
    if (spider_ready(task)) {
        spider_write_uint64(task->out, nth_fibonacci(n));
    }
}

static void always_fail(spider_task *task)
{
    if (spider_ready(task)) {
        spider_fail(task, SPIDER_ERROR_EXECUTION, "always_fail: intentional failure");
    }
}

/* Takes the process down. */
static void always_panic(spider_task *task)
{
    if (spider_ready(task)) {
        fputs("always_panic: intentional panic\n", stderr);
        abort();
    }
}

/* Microseconds: SPIDER_INSTRUMENT_SLEEP_US, or 50 if it is unset or not a number. */
static uint64_t sleep_time(void)
{
    const char *text = getenv("SPIDER_INSTRUMENT_SLEEP_US");
    if (text != NULL && text[0] >= '0' && text[0] <= '9') {
        char *end;
        unsigned long long value;
        errno = 0;
        value = strtoull(text, &end, 10);
        if (*end == '\0' && errno == 0) {
            return value;
        }
    }
    return 50;
}

/* sleep_and_echo(list<string>) -> list<string>. */
static void sleep_and_echo(spider_task *task)
{
    size_t count = spider_read_list(task->in);
    spider_string *strings = (spider_string *)spider_alloc(task, count, sizeof *strings);
    uint64_t time = sleep_time();
    struct timespec left;
    for (size_t i = 0; spider_ok(task) && i < count; i++) {
        strings[i] = spider_read_string(task->in);
    }
    if (!spider_ready(task)) {
        return;
    }
    left.tv_sec = (time_t)(time / 1000000);
    left.tv_nsec = (long)(time % 1000000 * 1000);
    while (time > 0 && nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    spider_write_list(task->out, count);
    for (size_t i = 0; i < count; i++) {
        spider_write_string(task->out, strings[i]);
    }
}

__extension__ typedef __int128 wide;
__extension__ typedef unsigned __int128 wide_magnitude;

/* A sum of 64-bit numbers can need more than 64 bits, and printf has no format for those. */
static const char *wide_text(wide value, char *end)
{
    wide_magnitude rest = value < 0 ? 0 - (wide_magnitude)value : (wide_magnitude)value;
    *--end = '\0';
    do {
        *--end = (char)('0' + (int)(rest % 10));
        rest /= 10;
    } while (rest > 0);
    if (value < 0) {
        *--end = '-';
    }
    return end;
}

/* A commit task: the graph's outputs are int64 and their sum is zero. */
static void assert_outputs_sum_zero(spider_task *task)
{
    size_t count;
    wide sum = 0;
    if (!spider_ready(task)) {
        return;
    }
    if (task->kind != SPIDER_TASK_COMMIT) {
        spider_fail(task, SPIDER_ERROR_EXECUTION, "assert_outputs_sum_zero: not a commit task");
        return;
    }
    count = spider_read_count(task->graph_outputs);
    if (count == 0) {
        spider_fail(task, SPIDER_ERROR_EXECUTION, "assert_outputs_sum_zero: outputs empty");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        sum += spider_read_int64(task->graph_outputs);
    }
    if (sum != 0) {
        char text[48];
        spider_fail(task, SPIDER_ERROR_EXECUTION, "assert_outputs_sum_zero: outputs do not sum to zero: got %s",
                    wide_text(sum, text + sizeof text));
    }
}

static void assert_initialized(spider_task *task)
{
    if (spider_ready(task) && !initialized) {
        spider_fail(task, SPIDER_ERROR_EXECUTION, "assert_initialized: the package is not initialized");
    }
}

SPIDER_TDL_PACKAGE("integration_test_tasks", initialize,
    {"fibonacci", fibonacci},
    {"always_fail", always_fail},
    {"always_panic", always_panic},
    {"sleep_and_echo", sleep_and_echo},
    {"assert_outputs_sum_zero", assert_outputs_sum_zero},
    {"assert_initialized", assert_initialized});
