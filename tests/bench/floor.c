/* The floor: the least that a child can do for one request. Read the frame, find its
 * fields, look the package up (once), call it, write the reply, free. It trusts its
 * input, answers successes alone, and stops at anything else. What an executor costs
 * above it is the price of the language, the checks, the logs and the guards. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 4, LARGEST_BODY = 8 << 20, PIPE_SIZE = 1 << 20, REPLY_HEAD = 20 };

typedef struct {
    const void *pointer;
    size_t length;
} View;

typedef struct {
    bool is_error;
    uint8_t *pointer;
    size_t length;
} Result;

typedef Result Execute(View task_name, View raw_ctx, View raw_inputs);

static uint8_t buffer[HEADER + LARGEST_BODY];

static void stop(const char *why) {
    fprintf(stderr, "floor: %s\n", why);
    exit(1);
}

static View field(const uint8_t **cursor) {
    uint64_t length;
    memcpy(&length, *cursor, sizeof length);
    View view = {*cursor + sizeof length, length};
    *cursor += sizeof length + length;
    return view;
}

/* The function of the package asked for last: the bench asks for one package only. */
static Execute *find(View package) {
    static char last[NAME_MAX];
    static size_t last_length;
    static Execute *execute;
    if (execute != NULL && package.length == last_length &&
        memcmp(package.pointer, last, last_length) == 0) {
        return execute;
    }
    if (package.length > sizeof last) {
        stop("the package's name is too long");
    }
    const char *directory = getenv("SPIDER_TDL_PACKAGE_DIR");
    if (directory == NULL) {
        stop("SPIDER_TDL_PACKAGE_DIR is not set");
    }
    char path[PATH_MAX];
    int length = (int)package.length;
    const char *name = package.pointer;
    snprintf(path, sizeof path, "%s/%.*s/lib%.*s.so", directory, length, name, length,
             name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        stop(dlerror());
    }
    execute = (Execute *)dlsym(library, "__spider_tdl_package_execute");
    if (execute == NULL) {
        stop(dlerror());
    }
    memcpy(last, name, package.length);
    last_length = package.length;
    return execute;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Up to this size one write of a copy is cheaper than a writev of three parts. */
#define COPY_MAX 32768

static void reply(const Result *result, uint64_t elapsed_us) {
    static uint8_t copy[REPLY_HEAD + COPY_MAX + sizeof elapsed_us];
    uint8_t head[REPLY_HEAD] = {0};
    uint64_t length = result->length;
    uint32_t body = (uint32_t)(REPLY_HEAD - HEADER + length + sizeof elapsed_us);
    body = htobe32(body);
    memcpy(head, &body, sizeof body);
    memcpy(head + 12, &length, sizeof length);
    struct iovec parts[] = {{head, sizeof head},
                            {result->pointer, result->length},
                            {&elapsed_us, sizeof elapsed_us}};
    struct iovec *part = parts;
    int left = 3;
    if (length <= COPY_MAX) {
        memcpy(copy, head, sizeof head);
        if (length > 0) {
            memcpy(copy + sizeof head, result->pointer, length);
        }
        memcpy(copy + sizeof head + length, &elapsed_us, sizeof elapsed_us);
        parts[0] = (struct iovec){copy, sizeof head + length + sizeof elapsed_us};
        left = 1;
    }
    while (left > 0) {
        ssize_t written = left == 1
                              ? write(STDOUT_FILENO, part->iov_base, part->iov_len)
                              : writev(STDOUT_FILENO, part, left);
        if (written < 0) {
            stop("writing the reply failed");
        }
        while (left > 0 && (size_t)written >= part->iov_len) {
            written -= (ssize_t)part->iov_len;
            part++;
            left--;
        }
        if (left > 0) {
            part->iov_base = (uint8_t *)part->iov_base + written;
            part->iov_len -= (size_t)written;
        }
    }
}

int main(void) {
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    fcntl(STDIN_FILENO, F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(STDOUT_FILENO, F_SETPIPE_SZ, PIPE_SIZE);
    size_t have = 0;
    for (;;) {
        size_t need = HEADER;
        while (have < need) {
            ssize_t count = read(STDIN_FILENO, buffer + have, sizeof buffer - have);
            if (count <= 0) {
                return count == 0 && have == 0 ? 0 : 1;
            }
            have += (size_t)count;
            if (have >= HEADER) {
                uint32_t body;
                memcpy(&body, buffer, sizeof body);
                need = HEADER + be32toh(body);
                if (need > sizeof buffer) {
                    stop("the frame is too large");
                }
            }
        }
        uint32_t tag;
        memcpy(&tag, buffer + HEADER, sizeof tag);
        if (tag != 0) {
            return 0;
        }
        const uint8_t *cursor = buffer + HEADER + sizeof tag;
        View package = field(&cursor);
        View task_name = field(&cursor);
        View raw_ctx = field(&cursor);
        View raw_inputs = field(&cursor);
        uint64_t start = now_ns();
        Result result = find(package)(task_name, raw_ctx, raw_inputs);
        uint64_t elapsed_us = (now_ns() - start + 500) / 1000;
        if (result.is_error) {
            stop("the task failed");
        }
        reply(&result, elapsed_us);
        if (result.length > 0) {
            free(result.pointer);
        }
        have = 0;
    }
}
