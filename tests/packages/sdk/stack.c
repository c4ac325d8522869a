/* How much stack calls take: prints the bytes of each, of calls that succeed and of calls that fail. */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

/* Reads a struct, as an array or a map, and a string; writes a list of unknown length. */
static void all(spider_task *task)
{
    spider_read_struct(task->in, "number, text");
    spider_write_list_begin(task->out);
    spider_write_int64(task->out, spider_read_int64(task->in));
    spider_write_string(task->out, spider_read_string(task->in));
    spider_write_list_end(task->out);
}

SPIDER_TDL_PACKAGE("stack", NULL, {"all", all});

enum { PAINTED = 1 << 16, PAINT = 0xa5 };
static uintptr_t lowest; /* its address */

/* Paints the stack below its caller, or says how much of it has another colour now. */
static __attribute__((noinline)) size_t paint(bool look)
{
    volatile uint8_t stack[PAINTED];
    size_t i = 0;
    if (look) {
        while (((volatile uint8_t *)lowest)[i] == PAINT) {
            i++;
        }
        return PAINTED - i;
    }
    lowest = (uintptr_t)stack;
    for (i = 0; i < PAINTED; i++) {
        stack[i] = PAINT;
    }
    return 0;
}

static void call(const char *task, const void *inputs, size_t size)
{
    static const uint8_t context[] = {0x95, 1, 0x81, 0xa5, 'I', 'n', 'd', 'e', 'x', 7, 2, 3, 0xc0};
    spider__view views[3] = {{task, strlen(task)}, {context, sizeof context}, {inputs, size}};
    for (int round = 0; round < 2; round++) { /* the first one also binds functions of libc */
        paint(false);
        spider__result result = __spider_tdl_package_execute(views[0], views[1], views[2]);
        size_t bytes = paint(true);
        if (round == 1) {
            printf("%s %zu\n", result.is_error ? "error" : "success", bytes);
        }
        free(result.pointer);
    }
}

int main(void)
{
#define CALL(task, bytes) call(task, bytes, sizeof bytes - 1)
    CALL("all", "\1\0\0\0\6\0\0\0\x92\xcd\1\2\xa1x");
    CALL("all", "\1\0\0\0\x12\0\0\0\x82\xa4text\xa1x\xa6number\xcd\1\2");
    CALL("all", "\1\0\0\0\2\0\0\0\x91\1");
    CALL("all", "\1\0\0\0\x12\0\0\0\x82\xa4text\xa1\xff\xa6number\xcd\1\2");
    CALL("all", "\2\0\0\0");
    CALL("none", "\0\0\0\0");
    return 0;
}
