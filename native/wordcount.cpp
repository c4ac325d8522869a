/*
 * Counting words, in ordinary C++ functions: how a job splits the work over many tasks and brings it together.
 *
 *     wordcount::count(List<string>) -> Map<string, int64>      one task for each part of the text
 *     wordcount::merge(Map, Map) -> Map                         two counts into one
 *     wordcount::top(Map, uint64 n) -> List<Entry>              the n most frequent words, ties in the words' order
 *
 *     struct Entry { word: string, count: int64 }
 *
 *     c++ -std=c++17 -shared -fPIC -o wordcount/libwordcount.so wordcount.cpp
 */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.hpp"

#include <algorithm>

namespace {

using counts = std::map<std::string, std::int64_t>;

struct entry {
    std::string word;
    std::int64_t count;
};
SPIDER_STRUCT(entry, word, count);

/* Each string may hold several words, separated by white space. */
counts count(const std::vector<std::string_view> &lines)
{
    constexpr std::string_view blank = " \t\r\n\v\f";
    counts result;
    for (std::string_view line : lines) {
        for (std::size_t start; (start = line.find_first_not_of(blank)) != line.npos;) {
            line.remove_prefix(start);
            const std::string_view word = line.substr(0, line.find_first_of(blank));
            ++result[std::string(word)];
            line.remove_prefix(word.size());
        }
    }
    return result;
}

counts merge(counts total, const counts &more)
{
    for (const auto &[word, count] : more) {
        if (__builtin_add_overflow(total[word], count, &total[word])) {
            throw spider::task_error("the count of \"" + word + "\" does not fit into 64 bits");
        }
    }
    return total;
}

std::vector<entry> top(const counts &total, std::uint64_t n)
{
    std::vector<entry> result;
    for (const auto &[word, count] : total) {
        result.push_back({word, count});
    }
    std::stable_sort(result.begin(), result.end(), [](const entry &a, const entry &b) { return a.count > b.count; });
    result.resize(std::min<std::uint64_t>(n, result.size()));
    return result;
}

} // namespace

SPIDER_TDL_PACKAGE("wordcount", nullptr,
    {"wordcount::count", spider::typed<count>},
    {"wordcount::merge", spider::typed<merge>},
    {"wordcount::top", spider::typed<top>});
