/* A library for LD_PRELOAD whose monotonic clock is a second earlier at each look. */
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static time_t back;
    int status = (int)syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_MONOTONIC && status == 0)
        time->tv_sec += 1000000 - back++;
    return status;
}
