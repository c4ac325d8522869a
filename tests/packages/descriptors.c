/*
 * Tasks that use descriptors: they print, read stdin, close what is not theirs, and list what is open.
 *
 *     print:N                 N lines by printf; print_unflushed: "unflushed" without a newline
 *     write:FD                one line by write(FD); the output is 0 or the errno
 *     write_by_default:FD     the same with the default action for SIGPIPE
 *     print_and_crash         printf("last words"), then abort
 *     read_stdin              1 if read(0) and getchar() see the end of the file
 *     close_standard, close_stdio, dup_over_standard, non_blocking    on the descriptors 0 to 2
 *     close_below:N           closes 3 to N-1
 *     list                    one line "FD TARGET" for each open descriptor
 *     list_of_child:HOW       the same of a program that is started by system() (0) or posix_spawn (1)
 *     read_file:FD            up to 100 bytes of what FD reads, or "errno N"
 */
#include "abi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static Result print(View inputs, long lines)
{
    for (long i = 0; i < lines; i++)
        printf("printed line %ld\n", i);
    return number((uint64_t)lines);
}

static Result print_unflushed(View inputs, long argument)
{
    printf("unflushed");
    return number(1);
}

static Result write_line(View inputs, long fd)
{
    static const char line[] = "written\n";
    return number(write((int)fd, line, sizeof line - 1) < 0 ? (uint64_t)errno : 0);
}

static Result write_by_default(View inputs, long fd)
{
    signal(SIGPIPE, SIG_DFL);
    return write_line(inputs, fd);
}

static Result print_and_crash(View inputs, long argument)
{
    printf("last words");
    abort();
}

static Result read_stdin(View inputs, long argument)
{
    char byte;
    ssize_t got = read(0, &byte, 1);
    return number(got == 0 && getchar() == EOF);
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
    for (long fd = 3; fd < limit; fd++)
        close((int)fd);
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
    for (int fd = 0; fd < 3; fd++)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return number(1);
}

static Result close_stdio(View inputs, long argument)
{
    fclose(stdin);
    fclose(stdout);
    return number(1);
}

static Result list(View inputs, long argument)
{
    char lines[1 << 16] = "", path[64], target[512];
    size_t used = 0;
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%.40s", entry->d_name);
        ssize_t size = readlink(path, target, sizeof target);
        used += (size_t)snprintf(
            lines + used, sizeof lines - used, "%s %.*s\n", entry->d_name, (int)(size < 0 ? 0 : size), target);
    }
    closedir(directory);
    return text(lines);
}

/* A subshell lists the descriptors of the shell, whose own are not redirected. */
static Result list_of_child(View inputs, long how)
{
    char path[] = "/tmp/descriptors-XXXXXX", command[600], lines[1 << 14] = "";
    close(mkstemp(path));
    snprintf(command, sizeof command,
             "(ls -l /proc/$$/fd | sed -n 's/.* \\([0-9]*\\) -> /\\1 /p' >%s); true", path);
    int status = -1;
    if (how == 0) {
        status = system(command);
    } else {
        char *arguments[] = {"sh", "-c", command, NULL};
        pid_t child;
        if (posix_spawnp(&child, "sh", NULL, NULL, arguments, environ) == 0)
            waitpid(child, &status, 0);
    }
    FILE *file = fopen(path, "r");
    size_t size = fread(lines, 1, sizeof lines - 1, file);
    fclose(file);
    unlink(path);
    return status == 0 && size > 0 ? text(lines) : failure("Custom", "the program has failed");
}

static Result read_file(View inputs, long fd)
{
    char bytes[128] = "";
    if (read((int)fd, bytes, 100) < 0)
        snprintf(bytes, sizeof bytes, "errno %d", errno);
    return text(bytes);
}

PACKAGE("descriptors",
    {"print", print},
    {"print_unflushed", print_unflushed},
    {"write", write_line},
    {"write_by_default", write_by_default},
    {"print_and_crash", print_and_crash},
    {"read_stdin", read_stdin},
    {"close_standard", close_standard},
    {"close_below", close_below},
    {"dup_over_standard", dup_over_standard},
    {"non_blocking", non_blocking},
    {"close_stdio", close_stdio},
    {"list", list},
    {"list_of_child", list_of_child},
    {"read_file", read_file})
