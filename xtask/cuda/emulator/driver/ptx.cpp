#include <cctype>
#include <cstdlib>

#include "module.h"

namespace emulator {
namespace {

// The text after `word` from `from` on, if `word` comes before `end`; else null.
const char* after(const std::string& text, const char* word, size_t from, size_t end) {
    size_t found = text.find(word, from);
    return found < end ? text.c_str() + found + std::string(word).size() : nullptr;
}

// `.shared .align 4 .b8 name[4096];` and the like, up to `end`.
size_t shared_bytes(const std::string& ptx, size_t from, size_t end) {
    size_t bytes = 0;
    while (const char* declaration = after(ptx, ".shared .align ", from, end)) {
        from = declaration - ptx.c_str();
        size_t line_end = ptx.find(';', from);
        size_t bracket = ptx.find('[', from);
        const char* type = after(ptx, ".b", from, line_end);
        if (!type) continue;
        size_t count = bracket < line_end ? std::strtoull(ptx.c_str() + bracket + 1, nullptr, 10) : 1;
        bytes += count * std::strtoull(type, nullptr, 10) / 8;
    }
    return bytes;
}

unsigned most_threads(const std::string& ptx, size_t from, size_t end) {
    const char* number = after(ptx, ".maxntid ", from, end);
    if (!number) return 1024;
    unsigned product = 1;
    for (char* rest; *number != '\n' && *number != '{'; number = *rest == ',' ? rest + 1 : rest) {
        unsigned factor = std::strtoul(number, &rest, 10);
        if (rest == number) break;
        product *= factor;
    }
    return product;
}

}  // namespace

std::map<std::string, PtxEntry> entries_of_ptx(const std::string& ptx) {
    const std::string keyword = ".entry ";
    std::map<std::string, PtxEntry> entries;
    for (size_t at = ptx.find(keyword); at != std::string::npos;) {
        size_t name = at + keyword.size(), name_end = name;
        while (std::isalnum(static_cast<unsigned char>(ptx[name_end])) || ptx[name_end] == '_' || ptx[name_end] == '$') ++name_end;
        size_t next = ptx.find(keyword, name_end);
        size_t end = next == std::string::npos ? ptx.size() : next;
        PtxEntry& entry = entries[ptx.substr(name, name_end - name)];
        size_t body = ptx.find('{', name_end);
        entry.static_shared_bytes = shared_bytes(ptx, name_end, end);
        entry.most_threads = most_threads(ptx, name_end, body < end ? body : end);
        at = next;
    }
    return entries;
}

}  // namespace emulator
