// The tasks of native/kitchen_sink.c as ordinary functions, and what only C++ has: exceptions and authors' types.
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.hpp"

#include <stdexcept>

namespace {

template <class T>
T echo(T value)
{
    return value;
}

struct record {
    std::uint64_t id;
    std::string name;
    std::vector<std::uint8_t> data;
};
SPIDER_STRUCT(record, id, name, data);

std::tuple<std::string, std::int64_t> swap(const std::int64_t &number, std::string &&text) noexcept
{
    return {std::move(text), number};
}

std::tuple<std::tuple<bool, std::string>> tuple(std::tuple<bool, std::string> value)
{
    return {value};
}

std::tuple<std::uint64_t, const char *, std::uint64_t, std::uint64_t, std::uint64_t> context(const spider_task &task)
{
    const char *kind = task.kind == SPIDER_TASK_INDEX    ? "index"
                       : task.kind == SPIDER_TASK_COMMIT ? "commit"
                                                         : "cleanup";
    return {task.job_id, kind, task.index, task.instance_id, task.resource_group_id};
}

std::string fail(spider_task &task, std::uint8_t kind, const std::string &message)
{
    if (kind <= SPIDER_ERROR_CUSTOM) {
        spider_write_cstring(task.out, "lost");
        throw spider::task_error(message, static_cast<spider_error_kind>(kind));
    }
    return message;
}

std::int64_t sum_of_outputs(spider_task &task)
{
    std::int64_t sum = 0;
    while (spider_peek(task.graph_outputs) != SPIDER_TYPE_END) {
        sum += spider::read<std::int64_t>(task.graph_outputs);
    }
    return sum;
}

// An author's class, with conversions of its own, in its own namespace.
namespace geometry {
class point {
public:
    double x = 0;
    double y = 0;
};

void spider_read(spider_reader *in, point &value)
{
    spider_read_struct(in, "x, y");
    value.x = spider_read_double(in);
    value.y = spider_read_double(in);
}

void spider_write(spider_writer *out, const point &value)
{
    spider_write_tuple(out, 2);
    spider_write_double(out, value.x);
    spider_write_double(out, value.y);
}

struct path {
    std::optional<std::string> name;
    std::vector<point> points;
    std::array<bool, 2> flags;
};
SPIDER_STRUCT(path, name, points, flags);
} // namespace geometry

using paths = std::unordered_map<std::string, std::vector<geometry::path>>;

paths reversed(paths all)
{
    for (auto &[key, list] : all) {
        for (geometry::path &path : list) {
            path.points = {path.points.rbegin(), path.points.rend()};
        }
    }
    return all;
}

// A type that contains itself.
struct tree {
    std::vector<tree> children;
};
SPIDER_STRUCT(tree, children);

std::uint64_t depth(const tree &node)
{
    std::uint64_t deepest = 0;
    for (const tree &child : node.children) {
        deepest = std::max(deepest, depth(child));
    }
    return deepest + 1;
}

std::pair<std::vector<bool>, std::map<int, long long>> odds(std::string_view text, spider_bytes data)
{
    std::vector<bool> bits;
    for (char c : text) {
        bits.push_back(c == '1');
    }
    std::map<int, long long> histogram;
    for (std::size_t i = 0; i < data.size; i++) {
        histogram[data.data[i]]--;
    }
    return {bits, histogram};
}

struct wide_record {
    int f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16, f17, f18, f19, f20, f21, f22, f23, f24,
        f25, f26, f27, f28, f29, f30, f31, f32, f33, f34, f35, f36, f37, f38, f39, f40, f41, f42, f43, f44, f45, f46, f47,
        f48, f49, f50, f51, f52, f53, f54, f55, f56, f57, f58, f59, f60, f61, f62, f63;
};
SPIDER_STRUCT(wide_record, f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16, f17, f18, f19, f20,
              f21, f22, f23, f24, f25, f26, f27, f28, f29, f30, f31, f32, f33, f34, f35, f36, f37, f38, f39, f40, f41, f42,
              f43, f44, f45, f46, f47, f48, f49, f50, f51, f52, f53, f54, f55, f56, f57, f58, f59, f60, f61, f62, f63);

// Fields may have any name: those that this file, the SDK and its macros use, too. They are written in another order.
[[maybe_unused]] int local;
struct shadows {
    int depth, local, value, out, in, level, package, call, head, block, vector, task, spider, name, type, T, size, index,
        count, text, form, open, error, point, read, write, string, element, function, Parameters, result, detail;
};
SPIDER_STRUCT(shadows, local, depth, value, out, in, level, package, call, head, block, vector, task, spider, name, type,
              T, size, index, count, text, form, open, error, point, read, write, string, element, function, Parameters,
              result, detail);

// Enums: without content, and with all kinds of it.
enum class state { Idle = 3, Running = -1, Done = 7 };
SPIDER_ENUM(state, Idle, Running, Done);

struct circle {
    double radius;
};
SPIDER_STRUCT(circle, radius);

using shape = std::variant<std::monostate, circle, std::pair<std::int64_t, std::string>, std::optional<bool>, state>;
SPIDER_VARIANT(shape, Dot, Circle, Label, Maybe, State);

struct place {
    double x, y;
};
SPIDER_STRUCT(place, x, y);

using motion = std::variant<std::monostate, std::int64_t, place>;
SPIDER_VARIANT(motion, Idle, Running, Moved);

using enums = std::map<std::string, std::vector<std::optional<shape>>>;

// More alternatives than a word of 32 bits has.
#define EIGHT(type) type, type, type, type, type, type, type, type
using choice = std::variant<EIGHT(std::monostate), EIGHT(state), EIGHT(state), EIGHT(std::monostate), state>;
SPIDER_VARIANT(choice, a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3, c4, c5, c6, c7, d0,
               d1, d2, d3, d4, d5, d6, d7, e0);

state no_state()
{
    return static_cast<state>(100);
}

// What was in the members before does not matter.
struct filled {
    std::vector<int> list = {1, 2};
    std::optional<int> option = 5;
    std::map<int, int> map = {{1, 2}};
    std::string text = "before";
    std::vector<std::uint8_t> bytes = {1};
};
SPIDER_STRUCT(filled, list, option, map, text, bytes);

// A task does not run if an argument is wrong, missing, or one too many.
std::uint64_t runs_so_far = 0;

std::uint64_t run(std::int64_t)
{
    return ++runs_so_far;
}

std::uint64_t runs()
{
    return runs_so_far;
}

// Types that are written, and not copied when they are read.
using borrowed = std::tuple<std::string_view, spider_bytes, const char *, std::vector<bool>>;

borrowed borrow(std::string_view text, spider_bytes bytes, const std::vector<bool> &bits)
{
    return {text, bytes, "literal", bits};
}

// Of two equal keys, the last counts.
using unordered = std::unordered_map<std::string, int>;

// A conversion that adds to what is there.
struct total {
    std::int64_t sum = 0;
};
void spider_read(spider_reader *in, total &value)
{
    value.sum += spider_read_int64(in);
}
void spider_write(spider_writer *out, const total &value)
{
    spider_write_int64(out, value.sum);
}

// An element of a list may be much larger than the byte that announces it.
struct large {
    std::array<std::uint32_t, 16384> room; // 64 KiB
};
void spider_read(spider_reader *in, large &value)
{
    value.room[0] = spider_read_uint8(in);
}

std::uint64_t large_list(const std::vector<large> &values)
{
    return values.size();
}

void nothing()
{
}

std::tuple<> empty(std::tuple<>)
{
    return {};
}

void throw_exception()
{
    throw std::out_of_range("the reason");
}
void throw_number()
{
    throw 42;
}
void throw_default(const std::string &text)
{
    throw spider::task_error(text);
}

void throw_after_fail(spider_task *task)
{
    spider_write_cstring(task->out, "lost");
    spider_fail(task, SPIDER_ERROR_CUSTOM, "the first");
    throw std::runtime_error("the second");
}

void throw_after_bad_argument(spider_task *task)
{
    spider_read_int64(task->in);
    throw std::runtime_error("the second");
}

void exhaust()
{
    std::vector<char>(std::size_t(-1) / 2 + 1).at(0) = 'x'; // more than max_size()
}

void initialize(spider_task *)
{
    if (std::getenv("SPIDER_TEST_TYPED_INIT_THROWS") != nullptr) {
        throw std::runtime_error("init has thrown");
    }
}

} // namespace

SPIDER_TDL_PACKAGE("typed", initialize,
    {"int8", spider::typed<echo<std::int8_t>>},
    {"int16", spider::typed<echo<std::int16_t>>},
    {"int32", spider::typed<echo<std::int32_t>>},
    {"int64", spider::typed<echo<std::int64_t>>},
    {"uint8", spider::typed<echo<std::uint8_t>>},
    {"uint16", spider::typed<echo<std::uint16_t>>},
    {"uint32", spider::typed<echo<std::uint32_t>>},
    {"uint64", spider::typed<echo<std::uint64_t>>},
    {"float", spider::typed<echo<float>>},
    {"double", spider::typed<echo<double>>},
    {"boolean", spider::typed<echo<bool>>},
    {"string", spider::typed<echo<std::string>>},
    {"bytes", spider::typed<echo<std::vector<std::uint8_t>>>},
    {"list", spider::typed<echo<std::vector<std::int64_t>>>},
    {"map", spider::typed<echo<std::map<std::string, double>>>},
    {"struct", spider::typed<echo<record>>},
    {"tuple", spider::typed<tuple>},
    {"option", spider::typed<echo<std::optional<std::string>>>},
    {"swap", spider::typed<swap>},
    {"context", spider::typed<context>},
    {"fail", spider::typed<fail>},
    {"sum_of_outputs", spider::typed<sum_of_outputs>},
    {"reversed", spider::typed<reversed>},
    {"depth", spider::typed<depth>},
    {"odds", spider::typed<odds>},
    {"wide", spider::typed<echo<wide_record>>},
    {"shadows", spider::typed<echo<shadows>>},
    {"unordered", spider::typed<echo<unordered>>},
    {"totals", spider::typed<echo<std::map<std::string, total>>>},
    {"enum", spider::typed<echo<motion>>},
    {"state", spider::typed<echo<state>>},
    {"no_state", spider::typed<no_state>},
    {"shape", spider::typed<echo<shape>>},
    {"enums", spider::typed<echo<enums>>},
    {"choice", spider::typed<echo<choice>>},
    {"filled", spider::typed<echo<filled>>},
    {"run", spider::typed<run>},
    {"runs", spider::typed<runs>},
    {"borrow", spider::typed<borrow>},
    {"large_list", spider::typed<large_list>},
    {"nothing", spider::typed<nothing>},
    {"empty", spider::typed<empty>},
    {"throw_exception", spider::typed<throw_exception>},
    {"throw_number", spider::typed<throw_number>},
    {"throw_default", spider::typed<throw_default>},
    {"throw_after_fail", throw_after_fail},
    {"throw_after_bad_argument", throw_after_bad_argument},
    {"exhaust", spider::typed<exhaust>});
