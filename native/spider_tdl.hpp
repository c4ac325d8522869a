/*
 * spider_tdl.hpp: write Spider task packages in C++17. From the spider-task-executor project.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A task is an ordinary function: its parameters are the arguments, its result is the output. A
 * whole package:
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
 * Parameters Values, or const references: they refer to copies that live until the task returns. If
 *            the first one is `spider_task &` or `const spider_task &`, it receives the call and
 *            its context; it is not an argument.
 * Results    A std::tuple is several outputs; void is none. Anything else is one output.
 * Types      bool, integers, float, double, std::string, std::vector, std::array, std::pair,
 *            std::tuple, std::optional, std::map, std::unordered_map, std::vector<std::uint8_t> for
 *            Bytes. std::string_view and spider_bytes are valid until the task returns.
 * Your own   SPIDER_STRUCT, SPIDER_ENUM and SPIDER_VARIANT, below. For another type, write two
 *            functions in its namespace or in the global one, with spider::read<T>(in),
 *            spider::write(out, value) and everything in spider_tdl.h:
 *                void spider_read(spider_reader *in, type &value);
 *                void spider_write(spider_writer *out, const type &value);
 * Errors     `throw spider::task_error("no such key")`, or any other exception.
 * C          Tasks in the style of C, `void task(spider_task *task)`, can be in the same package.
 * Symbols    Put tasks, types and their functions in an unnamed namespace, or compile with
 *            -fvisibility=hidden. Then the library exports only the four symbols that Spider calls,
 *            and what the compiler instantiates of the standard library.
 */
#ifndef SPIDER_TDL_HPP
#define SPIDER_TDL_HPP

#include "spider_tdl.h"

#if __cplusplus < 201703L
#error "spider_tdl.hpp needs C++17; spider_tdl.h does not."
#endif
#if SPIDER_TDL_HEADER_VERSION != 200
#error "spider_tdl.hpp and spider_tdl.h are of different versions."
#endif

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace spider __attribute__((__visibility__("hidden"))) {
namespace detail {
/* Whether a type is made from this template, such as std::vector. */
template <template <class...> class Template, class T> constexpr bool is = false;
template <template <class...> class Template, class... Arguments>
constexpr bool is<Template, Template<Arguments...>> = true;
template <class T> constexpr bool is_array = false;
template <class T, std::size_t N> constexpr bool is_array<std::array<T, N>> = true;
template <class T> constexpr bool is_byte_vector = false;
template <class A> constexpr bool is_byte_vector<std::vector<std::uint8_t, A>> = true;
template <class T> constexpr bool is_map = is<std::map, T> || is<std::unordered_map, T>;
template <class T> constexpr bool is_product = is<std::tuple, T> || is<std::pair, T>;

/* An integer of a width that TDL has; not bool, and not a character such as char or wchar_t. */
template <class T> constexpr bool is_integer() {
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 8) {
        return std::is_same_v<T, std::make_signed_t<T>>
               || std::is_same_v<T, std::make_unsigned_t<T>>;
    }
    return false;
}
/* Whether there is a function spider_read or spider_write for a type. */
template <class T, class = void> constexpr bool has_read = false;
template <class T>
constexpr bool has_read<T, std::void_t<decltype(spider_read(std::declval<spider_reader *>(),
                                                            std::declval<T &>()))>> = true;
template <class T, class = void> constexpr bool has_write = false;
template <class T>
constexpr bool has_write<T, std::void_t<decltype(spider_write(std::declval<spider_writer *>(),
                                                              std::declval<const T &>()))>> = true;
template <class T> constexpr bool unsupported = false;

template <class T> void read_value(spider_reader *in, T &value);
template <class T> void write_value(spider_writer *out, const T &value);

template <class... T>
void read_each([[maybe_unused]] spider_reader *in, T &...value) { (read_value(in, value), ...); }
template <class... T> void write_each([[maybe_unused]] spider_writer *out, const T &...value) {
    (write_value(out, value), ...);
}
template <class T> void read_integer(spider_reader *in, T &value) {
#define SPIDER__READ(name, min, max)                                                               \
    if constexpr (sizeof(T) == sizeof(name##_t) && std::is_signed_v<T> == (min < 0)) {             \
        value = spider_read_##name(in);                                                            \
    }
    SPIDER__INTEGERS(SPIDER__READ)
#undef SPIDER__READ
}

/* Memory is reserved for at most 1,024 elements: one may be much larger than the byte that
 * announced it. */
template <class T> void read_vector(spider_reader *in, T &value) {
    std::size_t count = spider_read_list(in);
    value.clear();
    value.reserve(count < 1024 ? count : 1024);
    for (; count > 0 && spider__reader_ok(in); count--) {
        if constexpr (std::is_same_v<typename T::value_type, bool>) {
            value.push_back(spider_read_boolean(in));
        } else {
            read_value(in, value.emplace_back());
        }
    }
}

/* Keys mostly come in order. Of two equal keys, the last counts, as in Rust. */
template <class T> void read_map(spider_reader *in, T &value) {
    std::size_t count = spider_read_map(in);
    value.clear();
    if constexpr (is<std::unordered_map, T>) value.reserve(count < 1024 ? count : 1024);
    for (; count > 0 && spider__reader_ok(in); count--) {
        const std::size_t before = value.size();
        typename T::key_type key{};
        read_value(in, key);
        auto &mapped = value.emplace_hint(value.end(), std::piecewise_construct,
                                          std::forward_as_tuple(std::move(key)),
                                          std::forward_as_tuple())->second;
        if (value.size() == before) mapped = {};
        read_value(in, mapped);
    }
}
template <class T> void read_value(spider_reader *in, T &value) {
    if constexpr (std::is_same_v<T, bool>) {
        value = spider_read_boolean(in);
    } else if constexpr (is_integer<T>()) {
        read_integer(in, value);
    } else if constexpr (std::is_same_v<T, float>) {
        value = spider_read_float(in);
    } else if constexpr (std::is_same_v<T, double>) {
        value = spider_read_double(in);
    } else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>) {
        const spider_string text = spider_read_string(in);
        value = std::string_view(text.data, text.size);
    } else if constexpr (std::is_same_v<T, spider_bytes>) {
        value = spider_read_bytes(in);
    } else if constexpr (is_byte_vector<T>) {
        const spider_bytes bytes = spider_read_bytes(in);
        value.assign(bytes.data, bytes.data + bytes.size);
    } else if constexpr (is<std::vector, T>) {
        read_vector(in, value);
    } else if constexpr (is_array<T>) {
        spider_read_tuple(in, value.size());
        for (auto &element : value) read_value(in, element);
    } else if constexpr (is_product<T>) {
        spider_read_tuple(in, std::tuple_size_v<T>);
        std::apply([in](auto &...element) { read_each(in, element...); }, value);
    } else if constexpr (is<std::optional, T>) {
        value.reset();
        if (spider_read_option(in)) read_value(in, value.emplace());
    } else if constexpr (is_map<T>) {
        read_map(in, value);
    } else if constexpr (has_read<T>) {
        spider_read(in, value);
    } else {
        static_assert(unsupported<T>,
                      "a task cannot have an argument of this type T: it needs SPIDER_STRUCT or a "
                      "function spider_read (see the top of spider_tdl.hpp)");
    }
}
template <class T> void write_value(spider_writer *out, const T &value) {
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
        for (const typename T::value_type &element : value) write_value(out, element);
    } else if constexpr (is_product<T>) {
        spider_write_tuple(out, std::tuple_size_v<T>);
        std::apply([out](const auto &...element) { write_each(out, element...); }, value);
    } else if constexpr (is<std::optional, T>) {
        if (spider_write_option(out, value.has_value())) write_value(out, *value);
    } else if constexpr (is_map<T>) {
        spider_write_map(out, value.size());
        for (const auto &[key, mapped] : value) {
            write_value(out, key);
            write_value(out, mapped);
        }
    } else if constexpr (has_write<T>) {
        spider_write(out, value);
    } else {
        static_assert(unsupported<T>,
                      "a task cannot have an output of this type T: it needs SPIDER_STRUCT or a "
                      "function spider_write (see the top of spider_tdl.hpp)");
    }
}

/* The number of a value of an enum; N: it has none. */
template <class T, std::size_t N> std::size_t index_of(const T (&values)[N], T value) {
    std::size_t index = 0;
    while (index < N && values[index] != value) index++;
    return index;
}

/* The alternatives of a std::variant that have content, as bits. */
template <class T, std::size_t... I> constexpr std::uint64_t contents(std::index_sequence<I...>) {
    return ((std::uint64_t{!std::is_empty_v<std::variant_alternative_t<I, T>>} << I) | ...);
}
template <std::size_t I, class Variant> bool read_alternative(spider_reader *in, Variant &value) {
    [[maybe_unused]] auto &content = value.template emplace<I>();
    if constexpr (!std::is_empty_v<std::variant_alternative_t<I, Variant>>) {
        read_value(in, content);
    }
    return true;
}
template <std::size_t I, class Variant>
bool write_alternative(spider_writer *out, const Variant &value) {
    if constexpr (!std::is_empty_v<std::variant_alternative_t<I, Variant>>) {
        write_value(out, std::get<I>(value));
    }
    return true;
}
template <class Variant, std::size_t... I>
void read_variant(spider_reader *in, const char *names, Variant &value,
                  std::index_sequence<I...> indices) {
    const std::size_t index = spider__read_variant(in, names, contents<Variant>(indices), true);
    (void)((index == I && read_alternative<I>(in, value)) || ...);
}
template <class Variant, std::size_t... I>
void write_variant(spider_writer *out, const char *names, const Variant &value,
                   std::index_sequence<I...> indices) {
    spider__write_variant(out, names, value.index(), contents<Variant>(indices));
    (void)((value.index() == I && write_alternative<I>(out, value)) || ...);
}
template <class T> void write_outputs(spider_writer *out, const T &value) {
    if constexpr (is<std::tuple, T>) {
        spider_write_count(out, std::tuple_size_v<T>);
        std::apply([out](const auto &...output) { write_each(out, output...); }, value);
    } else {
        write_value(out, value);
    }
}
template <class T> constexpr bool is_parameter =
    !std::is_lvalue_reference_v<T> || std::is_const_v<std::remove_reference_t<T>>;

template <class... Parameters, class Function> void call(spider_task *task, Function function) {
    static_assert((is_parameter<Parameters> && ...),
                  "a parameter of a task must be a value or a const reference; only the first one "
                  "may be a `spider_task &`");
    if constexpr ((is_parameter<Parameters> && ...)) {
        std::tuple<std::decay_t<Parameters>...> arguments;
        std::apply([task](auto &...argument) { read_each(task->in, argument...); }, arguments);
        if (!spider_ready(task)) return;
        if constexpr (std::is_void_v<decltype(std::apply(function, std::move(arguments)))>) {
            std::apply(function, std::move(arguments));
        } else {
            write_outputs(task->out, std::apply(function, std::move(arguments)));
        }
    }
}
template <class Result, class... Parameters>
void unpack(spider_task *task, Result (*function)(Parameters...)) {
    call<Parameters...>(task, function);
}
template <class Result, class Task, class... Parameters,
          class = std::enable_if_t<std::is_same_v<const Task, const spider_task>>>
void unpack(spider_task *task, Result (*function)(Task &, Parameters...)) {
    call<Parameters...>(task, [=](auto &&...argument) {
        return function(*task, std::move(argument)...);
    });
}

} /* namespace detail */

/* Makes a task of a function. */
template <auto Function> void typed(spider_task *task) { detail::unpack(task, Function); }

/* The next value, for example read<std::int64_t>(task.graph_outputs). */
template <class T> T read(spider_reader *in) {
    T value{};
    detail::read_value(in, value);
    return value;
}

/* Writes a value. A std::tuple is one value here. */
template <class T>
void write(spider_writer *out, const T &value) { detail::write_value(out, value); }

} /* namespace spider */

/* Compilers report mistakes in the macros below where they are used. */
#pragma GCC system_header
/*
 * These three make the functions spider_read and spider_write of a type. They stand in the
 * namespace of the type or in the global one.
 *
 * SPIDER_STRUCT(point, x, y)       `struct point { double x, y; };`. It names all fields, 1 to 64,
 *                                  in the order in which they are written. Fields must be public.
 * SPIDER_ENUM(state, Idle, Done)   `enum class state { Idle, Done };`. It names 1 to 64 values as
 *                                  the variants of an enum, in the order in which Rust has them.
 * SPIDER_VARIANT(shape, Dot, Box)  `using shape = std::variant<dot, box>;`. It names the variants,
 *                                  all of them. An empty class, such as std::monostate, is a
 *                                  variant without content. One of the types must be your own.
 */
#define SPIDER_STRUCT(type, ...)                                                                   \
    SPIDER__PASTE(SPIDER__STRUCT_, SPIDER__FITS(__VA_ARGS__))(type, __VA_ARGS__)
#define SPIDER__STRUCT_0(type, ...)                                                                \
    static_assert(sizeof(type) == 0, "SPIDER_STRUCT takes at most 64 fields");                     \
    void spider_read(spider_reader *, type &); /* so that there is only this error */              \
    void spider_write(spider_writer *, const type &)
#define SPIDER__STRUCT_1(type, ...)                                                                \
    SPIDER__FUNCTIONS(type)                                                                        \
    inline void spider_read(spider_reader *spider__in, type &spider__value) {                      \
        spider_read_struct(spider__in, #__VA_ARGS__);                                              \
        spider::detail::read_each(spider__in, SPIDER__EACH(SPIDER__FIELD, __VA_ARGS__));           \
    }                                                                                              \
    inline void spider_write(spider_writer *spider__out, const type &spider__value) {              \
        /* Does not compile if a field is missing. */                                              \
        [[maybe_unused]] const auto &[SPIDER__EACH(SPIDER__BINDING, __VA_ARGS__)] = spider__value; \
        spider_write_struct(spider__out, #__VA_ARGS__);                                            \
        spider::detail::write_each(spider__out, SPIDER__EACH(SPIDER__FIELD, __VA_ARGS__));         \
    }                                                                                              \
    static_assert(true, "")
#define SPIDER_ENUM(type, ...)                                                                     \
    SPIDER__FUNCTIONS(type)                                                                        \
    inline void spider_read(spider_reader *spider__in, type &spider__value) {                      \
        using spider__enum = type;                                                                 \
        constexpr type spider__values[] = {SPIDER__EACH(SPIDER__ENUMERATOR, __VA_ARGS__)};         \
        spider__value = spider__values[spider__read_variant(spider__in, #__VA_ARGS__, 0, true)];   \
    }                                                                                              \
    inline void spider_write(spider_writer *spider__out, const type &spider__value) {              \
        using spider__enum = type;                                                                 \
        constexpr type spider__values[] = {SPIDER__EACH(SPIDER__ENUMERATOR, __VA_ARGS__)};         \
        spider__write_variant(spider__out, #__VA_ARGS__,                                           \
                              spider::detail::index_of(spider__values, spider__value), 0);         \
    }                                                                                              \
    static_assert(true, "")
#define SPIDER_VARIANT(type, ...)                                                                  \
    SPIDER__FUNCTIONS(type)                                                                        \
    inline void spider_read(spider_reader *spider__in, type &spider__value) {                      \
        constexpr const char *spider__names[] = {SPIDER__EACH(SPIDER__TEXT, __VA_ARGS__)};         \
        constexpr std::size_t spider__count = std::variant_size_v<type>;                           \
        static_assert(sizeof spider__names / sizeof *spider__names == spider__count,               \
                      "SPIDER_VARIANT names each alternative of the std::variant");                \
        spider::detail::read_variant(spider__in, #__VA_ARGS__, spider__value,                      \
                                     std::make_index_sequence<spider__count>());                   \
    }                                                                                              \
    inline void spider_write(spider_writer *spider__out, const type &spider__value) {              \
        spider::detail::write_variant(spider__out, #__VA_ARGS__, spider__value,                    \
                                      std::make_index_sequence<std::variant_size_v<type>>());      \
    }                                                                                              \
    static_assert(true, "")
#define SPIDER__FUNCTIONS(type)                                                                    \
    [[maybe_unused]] SPIDER__HIDDEN inline void spider_read(spider_reader *, type &);              \
    [[maybe_unused]] SPIDER__HIDDEN inline void spider_write(spider_writer *, const type &);
#define SPIDER__FIELD(name) spider__value.name
#define SPIDER__BINDING(name) spider__field_##name
#define SPIDER__ENUMERATOR(name) spider__enum::name
#define SPIDER__TEXT(name) #name

/* SPIDER__EACH(f, a, b, c) is f(a), f(b), f(c). `()` after the names marks the end. A macro that
 * occurs within itself is expanded by the next scan only, so there are as many scans as names. */
#define SPIDER__EACH(f, ...) SPIDER__SCAN_64(SPIDER__STEP(f, __VA_ARGS__, (), ~))
#define SPIDER__STEP(f, name, next, ...)                                                           \
    f(name) SPIDER__PASTE(SPIDER__IF_END_, SPIDER__IS_END(next))(f, next, __VA_ARGS__)
#define SPIDER__IF_END_0(f, next, ...)                                                             \
    , SPIDER__STEP_LATER SPIDER__NOTHING()()(f, next, __VA_ARGS__)
#define SPIDER__IF_END_1(f, next, ...)
#define SPIDER__STEP_LATER() SPIDER__STEP
#define SPIDER__NOTHING()
#define SPIDER__IS_END(next) SPIDER__SECOND(SPIDER__END next, 0, ~)
#define SPIDER__END() ~, 1
#define SPIDER__SECOND(...) SPIDER__SECOND_OF(__VA_ARGS__)
#define SPIDER__SECOND_OF(first, second, ...) second
#define SPIDER__PASTE(a, b) SPIDER__PASTE_NOW(a, b)
#define SPIDER__PASTE_NOW(a, b) a##b
#define SPIDER__SCAN_64(...)                                                                       \
    SPIDER__SCAN_16(SPIDER__SCAN_16(SPIDER__SCAN_16(SPIDER__SCAN_16(__VA_ARGS__))))
#define SPIDER__SCAN_16(...)                                                                       \
    SPIDER__SCAN_4(SPIDER__SCAN_4(SPIDER__SCAN_4(SPIDER__SCAN_4(__VA_ARGS__))))
#define SPIDER__SCAN_4(...) SPIDER__SCAN(SPIDER__SCAN(SPIDER__SCAN(SPIDER__SCAN(__VA_ARGS__))))
#define SPIDER__SCAN(...) __VA_ARGS__

/* 1 for 1 to 64 names, 0 for more: whether the 65th of the names and 64 marks is a mark. */
#define SPIDER__FITS(...) SPIDER__FITS_NOW(__VA_ARGS__, SPIDER__MARKS, ~)
#define SPIDER__FITS_NOW(...) SPIDER__IS_END(SPIDER__65TH(__VA_ARGS__))
#define SPIDER__MARKS SPIDER__16, SPIDER__16, SPIDER__16, SPIDER__16
#define SPIDER__16 (), (), (), (), (), (), (), (), (), (), (), (), (), (), (), ()
#define SPIDER__65TH(a1, a2, a3, a4, a5, a6, a7, a8, b1, b2, b3, b4, b5, b6, b7, b8, c1, c2, c3,   \
                     c4, c5, c6, c7, c8, d1, d2, d3, d4, d5, d6, d7, d8, e1, e2, e3, e4, e5, e6,   \
                     e7, e8, f1, f2, f3, f4, f5, f6, f7, f8, g1, g2, g3, g4, g5, g6, g7, g8, h1,   \
                     h2, h3, h4, h5, h6, h7, h8, nth, ...) nth
#endif
