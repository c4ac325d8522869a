/*
 * Tasks that use what C++ adds.
 *
 *     print:N                 N lines by iostream; print_unflushed: "unflushed" without a newline
 *     uncaught                an exception that nobody catches
 *     forget_thread           the destructor of a thread that was not joined: std::terminate
 *     wait_in_a_destructor    from now on, the destructor of a static object prints "waiting" on stderr and waits for ever
 */
#include "abi.h"

#include <iostream>
#include <stdexcept>
#include <thread>
#include <unistd.h>

static Result print(View, long lines)
{
    for (long i = 0; i < lines; i++)
        std::cout << "streamed line " << i << '\n';
    return number(static_cast<uint64_t>(lines));
}

static Result print_unflushed(View, long)
{
    std::cout << "unflushed";
    return number(1);
}

static Result uncaught(View, long)
{
    throw std::runtime_error("nobody catches this");
}

static Result forget_thread(View, long)
{
    std::thread thread([] {});
    return number(1);
}

static struct Waiter {
    bool waits = false;

    ~Waiter()
    {
        if (!waits)
            return;
        fputs("waiting\n", stderr);
        for (;;)
            pause();
    }
} waiter;

static Result wait_in_a_destructor(View, long)
{
    waiter.waits = true;
    return number(1);
}

PACKAGE("cxx",
    {"print", print},
    {"print_unflushed", print_unflushed},
    {"uncaught", uncaught},
    {"forget_thread", forget_thread},
    {"wait_in_a_destructor", wait_in_a_destructor})
