/*
 * spider_tdl.hpp: write Spider task packages in C++17. From the spider-task-executor project.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A task is an ordinary function: its parameters are the arguments, its result is the output. A whole package:
 *
 *     #define SPIDER_TDL_IMPLEMENTATION
 *     #include "spider_tdl.hpp"
 *
 *     static std::int64_t add(std::int64_t a, std::int64_t b) { return a + b; }
 *
 *     SPIDER_TDL_PACKAGE("sums", nullptr, {"add", spider::typed<add>});
 *
 *     c++ -std=c++17 -O2 -shared -fPIC -o sums/libsums.so sums.cpp
 *
 * Results    A std::tuple is several outputs; void is none. Anything else is one output.
 * Types      bool, the integers, float, double, std::string, std::vector, std::array, std::pair, std::tuple,
 *            std::optional, std::map, std::unordered_map, and std::vector<std::uint8_t> for Bytes. std::string_view
 *            and spider_bytes are not copied; they are valid until the task returns.
 * Your own   SPIDER_STRUCT, below. For a type that is not a struct, write two functions in the namespace of the type
 *            or in the global one, with spider::read<T>(in), spider::write(out, value) and everything in
 *            spider_tdl.h:
 *                void spider_read(spider_reader *in, type &value);
 *                void spider_write(spider_writer *out, const type &value);
 * The call   A first parameter of type `spider_task &` or `const spider_task &` is the call itself, with its context.
 * Errors     `throw spider::task_error("no such key")`, or any other exception: see task_error in spider_tdl.h.
 * C          Tasks in the style of C, `void task(spider_task *task)`, can be in the same package.
 * Symbols    Put tasks, types and their functions in an unnamed namespace, or compile with -fvisibility=hidden. Then
 *            the library exports only the four symbols that Spider calls, and what the compiler instantiates of the
 *            standard library.
 */
#ifndef SPIDER_TDL_HPP
#define SPIDER_TDL_HPP

#include "spider_tdl.h"

#if __cplusplus < 201703L
#error "spider_tdl.hpp needs C++17; spider_tdl.h does not."
#endif
#if SPIDER_TDL_HEADER_VERSION != 100
#error "spider_tdl.hpp and spider_tdl.h are of different versions."
#endif

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#pragma GCC visibility push(hidden)

namespace spider {

namespace detail {

/* Whether a type is made from this template, such as std::vector. */
template <template <class...> class Template, class T>
constexpr bool is = false;
template <template <class...> class Template, class... Arguments>
constexpr bool is<Template, Template<Arguments...>> = true;

template <class T>
constexpr bool is_array = false;
template <class T, std::size_t N>
constexpr bool is_array<std::array<T, N>> = true;

template <class T>
constexpr bool is_byte_vector = false;
template <class A>
constexpr bool is_byte_vector<std::vector<std::uint8_t, A>> = true;

template <class T>
constexpr bool is_map = is<std::map, T> || is<std::unordered_map, T>;

template <class T>
constexpr bool is_product = is<std::tuple, T> || is<std::pair, T>;

/* An integer of a width that TDL has; not bool, and not a character such as char or wchar_t. */
template <class T>
constexpr bool is_integer()
{
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 8) {
        return std::is_same_v<T, std::make_signed_t<T>> || std::is_same_v<T, std::make_unsigned_t<T>>;
    }
    return false;
}

/* Whether there is a function spider_read or spider_write for a type. */
template <class T>
using read_result = decltype(spider_read(std::declval<spider_reader *>(), std::declval<T &>()));
template <class T>
using write_result = decltype(spider_write(std::declval<spider_writer *>(), std::declval<const T &>()));

template <class T, class = void>
constexpr bool has_read = false;
template <class T>
constexpr bool has_read<T, std::void_t<read_result<T>>> = true;

template <class T, class = void>
constexpr bool has_write = false;
template <class T>
constexpr bool has_write<T, std::void_t<write_result<T>>> = true;

template <class T>
constexpr bool unsupported = false;

template <class T>
T read_integer(spider_reader *in)
{
    constexpr std::size_t size = sizeof(T);
    if constexpr (std::is_signed_v<T>) {
        return static_cast<T>(size == 1   ? spider_read_int8(in)
                              : size == 2 ? spider_read_int16(in)
                              : size == 4 ? spider_read_int32(in)
                                          : spider_read_int64(in));
    } else {
        return static_cast<T>(size == 1   ? spider_read_uint8(in)
                              : size == 2 ? spider_read_uint16(in)
                              : size == 4 ? spider_read_uint32(in)
                                          : spider_read_uint64(in));
    }
}

template <class T>
void read_value(spider_reader *in, T &value);
template <class T>
void write_value(spider_writer *out, const T &value);

template <class... T>
void read_each([[maybe_unused]] spider_reader *in, T &...value)
{
    (read_value(in, value), ...);
}

template <class... T>
void write_each([[maybe_unused]] spider_writer *out, const T &...value)
{
    (write_value(out, value), ...);
}

template <class T>
void read_vector(spider_reader *in, T &value)
{
    std::size_t count = spider_read_list(in);
    value.clear();
    value.reserve(count < 1024 ? count : 1024); /* an element may be much larger than the byte that announced it */
    for (; count > 0 && spider__reader_ok(in); count--) {
        typename T::value_type element{};
        read_value(in, element);
        value.push_back(std::move(element));
    }
}

template <class T>
void read_map(spider_reader *in, T &value)
{
    value.clear();
    for (std::size_t count = spider_read_map(in); count > 0 && spider__reader_ok(in); count--) {
        typename T::key_type key{};
        typename T::mapped_type mapped{};
        read_value(in, key);
        read_value(in, mapped);
        value.insert_or_assign(std::move(key), std::move(mapped)); /* of two equal keys, the last counts, as in Rust */
    }
}

template <class T>
void read_value(spider_reader *in, T &value)
{
    if constexpr (std::is_same_v<T, bool>) {
        value = spider_read_boolean(in);
    } else if constexpr (is_integer<T>()) {
        value = read_integer<T>(in);
    } else if constexpr (std::is_same_v<T, float>) {
        value = spider_read_float(in);
    } else if constexpr (std::is_same_v<T, double>) {
        value = spider_read_double(in);
    } else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>) {
        const spider_string text = spider_read_string(in);
        value = T(text.data, text.size);
    } else if constexpr (std::is_same_v<T, spider_bytes>) {
        value = spider_read_bytes(in);
    } else if constexpr (is_byte_vector<T>) {
        const spider_bytes bytes = spider_read_bytes(in);
        value.assign(bytes.data, bytes.data + bytes.size);
    } else if constexpr (is<std::vector, T>) {
        read_vector(in, value);
    } else if constexpr (is_array<T>) {
        spider_read_tuple(in, value.size());
        for (auto &element : value) {
            read_value(in, element);
        }
    } else if constexpr (is_product<T>) {
        spider_read_tuple(in, std::tuple_size_v<T>);
        std::apply([in](auto &...element) { read_each(in, element...); }, value);
    } else if constexpr (is<std::optional, T>) {
        value.reset();
        if (spider_read_option(in)) {
            read_value(in, value.emplace());
        }
    } else if constexpr (is_map<T>) {
        read_map(in, value);
    } else if constexpr (has_read<T>) {
        spider_read(in, value);
    } else {
        static_assert(unsupported<T>, "a task cannot have an argument of this type T: it needs SPIDER_STRUCT or a "
                                      "function spider_read (see the top of spider_tdl.hpp)");
    }
}

template <class T>
void write_value(spider_writer *out, const T &value)
{
    using pointer = std::decay_t<T>;
    if constexpr (std::is_same_v<T, bool>) {
        spider_write_boolean(out, value);
    } else if constexpr (is_integer<T>() && std::is_signed_v<T>) {
        spider_write_int64(out, value);
    } else if constexpr (is_integer<T>()) {
        spider_write_uint64(out, value);
    } else if constexpr (std::is_same_v<T, float>) {
        spider_write_float(out, value);
    } else if constexpr (std::is_same_v<T, double>) {
        spider_write_double(out, value);
    } else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>) {
        spider_write_string(out, spider_string{value.data(), value.size()});
    } else if constexpr (std::is_same_v<pointer, const char *> || std::is_same_v<pointer, char *>) {
        spider_write_cstring(out, value);
    } else if constexpr (std::is_same_v<T, spider_bytes>) {
        spider_write_bytes(out, value);
    } else if constexpr (is_byte_vector<T>) {
        spider_write_bytes(out, spider_bytes{value.data(), value.size()});
    } else if constexpr (is<std::vector, T> || is_array<T>) {
        spider_write_list(out, value.size());
        for (const typename T::value_type &element : value) {
            write_value(out, element);
        }
    } else if constexpr (is_product<T>) {
        spider_write_tuple(out, std::tuple_size_v<T>);
        std::apply([out](const auto &...element) { write_each(out, element...); }, value);
    } else if constexpr (is<std::optional, T>) {
        if (spider_write_option(out, value.has_value())) {
            write_value(out, *value);
        }
    } else if constexpr (is_map<T>) {
        spider_write_map(out, value.size());
        for (const auto &[key, mapped] : value) {
            write_value(out, key);
            write_value(out, mapped);
        }
    } else if constexpr (has_write<T>) {
        spider_write(out, value);
    } else {
        static_assert(unsupported<T>, "a task cannot have an output of this type T: it needs SPIDER_STRUCT or a "
                                      "function spider_write (see the top of spider_tdl.hpp)");
    }
}

template <class T>
void write_outputs(spider_writer *out, const T &value)
{
    if constexpr (is<std::tuple, T>) {
        spider_write_count(out, std::tuple_size_v<T>);
        std::apply([out](const auto &...output) { write_each(out, output...); }, value);
    } else {
        write_value(out, value);
    }
}

template <class... Parameters, class Function>
void call(spider_task *task, Function function)
{
    std::tuple<std::decay_t<Parameters>...> arguments;
    std::apply([task](auto &...argument) { read_each(task->in, argument...); }, arguments);
    if (!spider_ready(task)) {
        return;
    }
    if constexpr (std::is_void_v<decltype(std::apply(function, std::move(arguments)))>) {
        std::apply(function, std::move(arguments));
    } else {
        write_outputs(task->out, std::apply(function, std::move(arguments)));
    }
}

template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(Parameters...))
{
    call<Parameters...>(task, function);
}

template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(spider_task &, Parameters...))
{
    call<Parameters...>(task, [=](auto &&...argument) { return function(*task, std::move(argument)...); });
}

template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(const spider_task &, Parameters...))
{
    call<Parameters...>(task, [=](auto &&...argument) { return function(*task, std::move(argument)...); });
}

} /* namespace detail */

/* Makes a task of a function. */
template <auto Function>
void typed(spider_task *task)
{
    detail::unpack(task, Function);
}

/* The next value, for example read<std::int64_t>(task.graph_outputs). */
template <class T>
T read(spider_reader *in)
{
    T value{};
    detail::read_value(in, value);
    return value;
}

/* Writes a value. A std::tuple is one value here. */
template <class T>
void write(spider_writer *out, const T &value)
{
    detail::write_value(out, value);
}

} /* namespace spider */

/*
 * SPIDER_STRUCT(point, x, y) makes the functions spider_read and spider_write of `struct point { double x, y; };`. It
 * names all fields, 1 to 64, in the order in which they are written, and is in the namespace of the struct or in the
 * global one. Fields must be public.
 */
#define SPIDER_STRUCT(type, ...) SPIDER__PASTE(SPIDER__STRUCT_, SPIDER__FITS(__VA_ARGS__))(type, __VA_ARGS__)
#define SPIDER__STRUCT_TOO_MANY(type, ...)                                              \
    static_assert(sizeof(type) == 0, "SPIDER_STRUCT takes at most 64 fields");          \
    void spider_read(spider_reader *, type &); /* so that there is only this error */   \
    void spider_write(spider_writer *, const type &)
#define SPIDER__STRUCT_OK(type, ...)                                                                                   \
    [[maybe_unused]] SPIDER__HIDDEN inline void spider_read(spider_reader *spider__in, type &spider__value);           \
    [[maybe_unused]] SPIDER__HIDDEN inline void spider_write(spider_writer *spider__out, const type &spider__value);   \
    inline void spider_read(spider_reader *spider__in, type &spider__value)                                            \
    {                                                                                                                  \
        spider_read_struct(spider__in, #__VA_ARGS__);                                                                  \
        spider::detail::read_each(spider__in, SPIDER__EACH(SPIDER__FIELD, __VA_ARGS__));                               \
    }                                                                                                                  \
    inline void spider_write(spider_writer *spider__out, const type &spider__value)                                    \
    {                                                                                                                  \
        /* Does not compile if a field is missing. */                                                                  \
        [[maybe_unused]] const auto &[SPIDER__EACH(SPIDER__BINDING, __VA_ARGS__)] = spider__value;                     \
        spider_write_struct(spider__out, #__VA_ARGS__);                                                                \
        spider::detail::write_each(spider__out, SPIDER__EACH(SPIDER__FIELD, __VA_ARGS__));                             \
    }                                                                                                                  \
    static_assert(true, "")

#define SPIDER__HIDDEN __attribute__((visibility("hidden")))
#define SPIDER__FIELD(name) spider__value.name
#define SPIDER__BINDING(name) spider__field_##name

/* SPIDER__EACH(f, a, b, c) is f(a), f(b), f(c). `()` after the names marks the end. A macro that occurs within itself
 * is expanded by the next scan only, so there are as many scans as names. */
#define SPIDER__EACH(f, ...) SPIDER__SCAN_64(SPIDER__STEP(f, __VA_ARGS__, (), ~))
#define SPIDER__STEP(f, name, next, ...) \
    f(name) SPIDER__PASTE(SPIDER__IF_END_, SPIDER__IS_END(next))(f, next, __VA_ARGS__)
#define SPIDER__IF_END_0(f, next, ...) , SPIDER__STEP_LATER SPIDER__NOTHING()()(f, next, __VA_ARGS__)
#define SPIDER__IF_END_1(f, next, ...)
#define SPIDER__STEP_LATER() SPIDER__STEP
#define SPIDER__NOTHING()
#define SPIDER__IS_END(next) SPIDER__SECOND(SPIDER__END next, 0, ~)
#define SPIDER__END() ~, 1
#define SPIDER__SECOND(...) SPIDER__SECOND_OF(__VA_ARGS__)
#define SPIDER__SECOND_OF(first, second, ...) second
#define SPIDER__PASTE(a, b) SPIDER__PASTE_NOW(a, b)
#define SPIDER__PASTE_NOW(a, b) a##b
#define SPIDER__SCAN_64(...) SPIDER__SCAN_16(SPIDER__SCAN_16(SPIDER__SCAN_16(SPIDER__SCAN_16(__VA_ARGS__))))
#define SPIDER__SCAN_16(...) SPIDER__SCAN_4(SPIDER__SCAN_4(SPIDER__SCAN_4(SPIDER__SCAN_4(__VA_ARGS__))))
#define SPIDER__SCAN_4(...) SPIDER__SCAN(SPIDER__SCAN(SPIDER__SCAN(SPIDER__SCAN(__VA_ARGS__))))
#define SPIDER__SCAN(...) __VA_ARGS__

/* OK for 1 to 64 names, TOO_MANY for 65 to 128. */
#define SPIDER__FITS(...) SPIDER__FITS_NOW(__VA_ARGS__, SPIDER__64(TOO_MANY), SPIDER__64(OK), ~)
#define SPIDER__FITS_NOW(...) SPIDER__FITS_OF(__VA_ARGS__)
#define SPIDER__64(x) SPIDER__16(x), SPIDER__16(x), SPIDER__16(x), SPIDER__16(x)
#define SPIDER__16(x) x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x
#define SPIDER__FITS_OF(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17, _18, _19, _20, \
                        _21, _22, _23, _24, _25, _26, _27, _28, _29, _30, _31, _32, _33, _34, _35, _36, _37, _38, \
                        _39, _40, _41, _42, _43, _44, _45, _46, _47, _48, _49, _50, _51, _52, _53, _54, _55, _56, \
                        _57, _58, _59, _60, _61, _62, _63, _64, _65, _66, _67, _68, _69, _70, _71, _72, _73, _74, \
                        _75, _76, _77, _78, _79, _80, _81, _82, _83, _84, _85, _86, _87, _88, _89, _90, _91, _92, \
                        _93, _94, _95, _96, _97, _98, _99, _100, _101, _102, _103, _104, _105, _106, _107, _108, \
                        _109, _110, _111, _112, _113, _114, _115, _116, _117, _118, _119, _120, _121, _122, _123, \
                        _124, _125, _126, _127, _128, result, ...) result

#pragma GCC visibility pop

#endif
