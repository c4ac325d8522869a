/* Tasks that print, read stdin, and do away with descriptors. */
#include "abi.h"

#include <fcntl.h>
#include <unistd.h>

static Result print(View inputs, long lines)
{
    for (long i = 0; i < lines; i++) {
        printf("printed line %ld\n", i);
    }
    return number((uint64_t)lines);
}

/* No newline, no fflush. */
static Result print_unflushed(View inputs, long argument)
{
    printf("unflushed");
    return number(1);
}

static Result write_to_1(View inputs, long argument)
{
    return number((uint64_t)write(1, "written to 1\n", 13));
}

static Result print_and_crash(View inputs, long argument)
{
    printf("last words");
    abort();
}

/* What read(0) and getchar() give: 0 and EOF. */
static Result read_stdin(View inputs, long argument)
{
    char byte;
    long got = read(0, &byte, 1);
    return number(got == 0 && getchar() == EOF ? 1 : 0);
}

static Result close_standard(View inputs, long argument)
{
    close(0);
    close(1);
    close(2);
    return number(1);
}

static Result close_below(View inputs, long limit)
{
    for (long fd = 3; fd < limit; fd++) {
        close((int)fd);
    }
    return number(1);
}

static Result dup_over_standard(View inputs, long argument)
{
    int ends[2], status = pipe(ends);
    dup2(ends[1], 0);
    dup2(ends[0], 1);
    dup2(ends[0], 2);
    close(ends[0]);
    close(ends[1]);
    return number(status == 0);
}

static Result non_blocking(View inputs, long argument)
{
    for (int fd = 0; fd < 3; fd++) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    return number(1);
}

static Result close_stdio(View inputs, long argument)
{
    fclose(stdin);
    fclose(stdout);
    return number(1);
}

PACKAGE("descriptors",
    {"print", print},
    {"print_unflushed", print_unflushed},
    {"write_to_1", write_to_1},
    {"print_and_crash", print_and_crash},
    {"read_stdin", read_stdin},
    {"close_standard", close_standard},
    {"close_below", close_below},
    {"dup_over_standard", dup_over_standard},
    {"non_blocking", non_blocking},
    {"close_stdio", close_stdio})
