/*
 * What the SDK costs: one task that takes a list of strings and returns it, thousands of times, beside one malloc
 * and memcpy of the same bytes, and beside a malloc and memcpy of each string. Medians. Text that is not all ASCII takes
 * longer: its characters are checked one by one.
 *
 *     cc -O2 -o bench_sdk tests/sdk/bench_sdk.c && ./bench_sdk
 */
#define _POSIX_C_SOURCE 200809L
#include "../../native/spider_tdl.h"

#include <time.h>

static void echo(spider_task *task)
{
    uint32_t count = spider_read_list(task->in);
    spider_write_list(task->out, count);
    while (count-- > 0) {
        spider_write_string(task->out, spider_read_string(task->in));
    }
}

SPIDER_TDL_PACKAGE("bench", NULL, {"echo", echo});

static const uint8_t context[] = {0x95, 1, 0x81, 0xa5, 'I', 'n', 'd', 'e', 'x', 7, 2, 3, 0xc0};

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

static double median(double *times, size_t count)
{
    qsort(times, count, sizeof *times, compare);
    return times[count / 2];
}

static spider_view view(const void *pointer, size_t length)
{
    spider_view made;
    made.pointer = pointer;
    made.length = length;
    return made;
}

/* The payload of one list of strings, made by the writers themselves. */
static spider_result make_payload(uint32_t count, size_t size, const char *pattern)
{
    size_t period = strlen(pattern);
    spider__call call;
    char *text = (char *)malloc(size + 1);
    uint32_t i;
    if (text == NULL) {
        exit(1);
    }
    spider__start(&call, &spider__the_package);
    spider_write_list(&call.out, count);
    for (i = 0; i < count; i++) {
        size_t at;
        for (at = 0; at < size; at++) { /* characters are whole: the size is a multiple of the pattern's */
            text[at] = pattern[at % period];
        }
        text[size] = '\0';
        if (size < 100) {
            snprintf(text, size + 1, "/var/log/spider/worker-%03u/part-%08u.clp", (unsigned)i, (unsigned)i * 7919u);
        }
        spider_write_cstring(&call.out, text);
    }
    free(text);
    return spider__finish(&call);
}

/* A malloc and a memcpy, which the compiler cannot see through. */
static void *copy(const uint8_t *data, size_t size)
{
    void *made = malloc(size);
    if (made == NULL) {
        exit(1);
    }
    memcpy(made, data, size);
    __asm__ volatile("" : : "r"(made) : "memory");
    return made;
}

static spider_result call_task(spider_result payload)
{
    return __spider_tdl_package_execute(view("echo", 4), view(context, sizeof context),
                                        view(payload.pointer, payload.length));
}

static double time_task(spider_result payload)
{
    double start = now();
    spider_result result = call_task(payload);
    double time = now() - start;
    free(result.pointer);
    return time;
}

static void check_task(spider_result payload)
{
    spider_result result = call_task(payload);
    if (result.is_error || result.length != payload.length
        || memcmp(result.pointer, payload.pointer, result.length) != 0) {
        fprintf(stderr, "the task does not echo\n");
        exit(1);
    }
    free(result.pointer);
}

static double time_block(spider_result payload)
{
    double start = now();
    void *made = copy(payload.pointer, payload.length);
    double time = now() - start;
    free(made);
    return time;
}

static double time_each(spider_result payload, uint32_t count, size_t size)
{
    void *made[1000];
    double start = now();
    double time;
    uint32_t i;
    for (i = 0; i < count; i++) {
        made[i] = copy(payload.pointer + i * (payload.length / count), size);
    }
    time = now() - start;
    while (i > 0) {
        free(made[--i]);
    }
    return time;
}

/* In batches, so that each has the caches to itself, and all have the machine's better and worse moments. The payload
 * lies elsewhere in each, as it does in a request: where input and output are to each other makes a difference. */
static void measure(uint32_t count, size_t size, const char *pattern, const char *name)
{
    enum { BATCHES = 40, BATCH = 100, ROUNDS = BATCHES * BATCH };
    static double times[3][ROUNDS];
    spider_result made = make_payload(count, size, pattern);
    spider_result payload = made;
    uint8_t *room = (uint8_t *)malloc(made.length + 4096);
    double task;
    double block;
    double each;
    size_t batch;
    size_t i;
    if (room == NULL) {
        exit(1);
    }
    check_task(made);
    for (batch = 0; batch < ROUNDS; batch += BATCH) {
        payload.pointer = room + batch / BATCH * 4096 / BATCHES;
        memcpy(payload.pointer, made.pointer, made.length);
        for (i = batch; i < batch + BATCH; i++) {
            times[0][i] = time_task(payload);
        }
        for (i = batch; i < batch + BATCH; i++) {
            times[1][i] = time_block(payload);
        }
        for (i = batch; i < batch + BATCH; i++) {
            times[2][i] = time_each(payload, count, size);
        }
    }
    task = median(times[0], ROUNDS);
    block = median(times[1], ROUNDS);
    each = median(times[2], ROUNDS);
    printf("| %5u x %4u bytes, %-8s | %8.0f | %7.1f | %8.0f | %5.2f | %8.0f | %5.2f |\n", (unsigned)count,
           (unsigned)size, name, task, task / count, block, task / block, each, task / each);
    free(room);
    free(made.pointer);
}

int main(void)
{
    printf("| list of strings              | task, ns | ns each | one copy | ratio | per each | ratio |\n");
    printf("|------------------------------|---------:|--------:|---------:|------:|---------:|------:|\n");
    measure(100, 41, "x", "paths");
    measure(1000, 1000, "x", "ASCII");
    measure(1000, 1000, "caf\xc3\xa9 noir", "Latin");
    measure(1000, 1000, "\xd1\x81\xd0\xbb\xd0\xbe\xd0\xb2\xd0\xb0 \xd0\xb8 \xd0\xb4\xd0\xb0, ", "Cyrillic");
    return 0;
}
