/* Sends a prebuilt frame to an executor, reads its reply, notes the time, and again.
 * Loaded with ctypes; everything that need not be exact happens in Python. */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 4, SHORTEST_REPLY = 28 };

static uint64_t read_clock(clockid_t clock) {
    struct timespec now = {0, 0};
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* CPU time that the process `pid` has used, in ns; 0 if there is no such process. */
uint64_t driver_cpu_ns(pid_t pid) {
    clockid_t clock;
    return clock_getcpuclockid(pid, &clock) == 0 ? read_clock(clock) : 0;
}

/* Sends `frame` `count` times, each time after the reply to the last one. For reply i,
 * round_trip_ns[i] is the time from before the first byte of the frame is written until
 * after the last byte of the reply is read, and elapsed_us[i] is what the executor says
 * of itself. `reply` holds the last reply. Returns its size, or a negative errno: EPIPE
 * if the executor ended, EBADMSG if the reply is not a success, EMSGSIZE if it does not
 * fit. */
int64_t driver_run(int to, int from, const uint8_t *frame, size_t size, size_t count,
                   uint8_t *reply, size_t capacity, uint64_t *round_trip_ns,
                   uint64_t *elapsed_us) {
    static const uint8_t success[8] = {0};
    size_t have = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t start = read_clock(CLOCK_MONOTONIC);
        for (size_t sent = 0; sent < size;) {
            ssize_t written = write(to, frame + sent, size - sent);
            if (written < 0) {
                return -errno;
            }
            sent += (size_t)written;
        }
        have = 0;
        for (size_t need = HEADER; have < need;) {
            ssize_t got = read(from, reply + have, capacity - have);
            if (got <= 0) {
                return got == 0 ? -EPIPE : -errno;
            }
            have += (size_t)got;
            if (have >= HEADER) {
                uint32_t body;
                memcpy(&body, reply, sizeof body);
                need = HEADER + (size_t)be32toh(body);
                if (need > capacity) {
                    return -EMSGSIZE;
                }
            }
        }
        round_trip_ns[i] = read_clock(CLOCK_MONOTONIC) - start;
        if (have < SHORTEST_REPLY || memcmp(reply + HEADER, success, sizeof success)) {
            return -EBADMSG;
        }
        memcpy(&elapsed_us[i], reply + have - sizeof *elapsed_us, sizeof *elapsed_us);
    }
    return (int64_t)have;
}
