/* What C++ adds: iostream, exceptions, threads that are not joined. */
#include "abi.h"

#include <iostream>
#include <stdexcept>
#include <thread>

static Result print(View, long lines)
{
    for (long i = 0; i < lines; i++) {
        std::cout << "streamed line " << i << '\n';
    }
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

/* The destructor of a thread that was not joined calls std::terminate. */
static Result forget_thread(View, long)
{
    std::thread thread([] {});
    return number(1);
}

PACKAGE("cxx",
    {"print", print},
    {"print_unflushed", print_unflushed},
    {"uncaught", uncaught},
    {"forget_thread", forget_thread})
