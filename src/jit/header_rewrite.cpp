// SPDX-License-Identifier: Apache-2.0
#include "jit/header_rewrite.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string_view>
#include <vector>

namespace nccl_ep::jit {
namespace {

namespace fs = std::filesystem;

constexpr auto kNowhere = std::string_view::npos;

struct Edit {
  size_t at;
  size_t length;
  std::string replacement;
};

// Edits are of the text as it was, and do not overlap.
std::string apply(std::string text, std::vector<Edit> edits) {
  std::sort(edits.begin(), edits.end(), [](const Edit& a, const Edit& b) { return a.at > b.at; });
  for (const Edit& edit : edits) text.replace(edit.at, edit.length, edit.replacement);
  return text;
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Whether the word begins at `at`.
bool has_word(std::string_view text, size_t at, std::string_view word) {
  if (text.compare(at, word.size(), word) != 0 || (at > 0 && is_word(text[at - 1]))) return false;
  return at + word.size() == text.size() || !is_word(text[at + word.size()]);
}

size_t skip_space(std::string_view text, size_t at) {
  return std::min(text.find_first_not_of(" \t\r\n", at), text.size());
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != kNowhere; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

// The text with comments and literals blanked out, character for character.
std::string code_of(std::string_view text) {
  std::string code(text);
  const auto blank_until = [&](size_t at, std::string_view end) {
    const size_t found = text.find(end, at);
    const size_t stop = found == kNowhere ? text.size() : found + end.size();
    for (; at < stop; ++at) {
      if (code[at] != '\n') code[at] = ' ';
    }
    return stop;
  };
  const auto blank_literal = [&](size_t at) {
    const char quote = text[at];
    size_t stop = at + 1;
    while (stop < text.size() && text[stop] != quote && text[stop] != '\n') stop += text[stop] == '\\' ? 2 : 1;
    stop = std::min(stop + 1, text.size());
    std::fill(code.begin() + static_cast<ptrdiff_t>(at), code.begin() + static_cast<ptrdiff_t>(stop), ' ');
    return stop;
  };
  for (size_t at = 0; at < text.size();) {
    if (text.compare(at, 2, "//") == 0) {
      at = blank_until(at, "\n");
    } else if (text.compare(at, 2, "/*") == 0) {
      at = blank_until(at, "*/");
    } else if (text[at] == '"' || (text[at] == '\'' && (at == 0 || !is_word(text[at - 1])))) {
      at = blank_literal(at);
    } else {
      ++at;
    }
  }
  return code;
}

// Where attributes that begin at `at` end, or `at` if there are none.
size_t end_of_attributes(std::string_view code, size_t at) {
  size_t end = at;
  for (size_t next = at; has_word(code, next, "__attribute__"); next = skip_space(code, end)) {
    size_t depth = 0;
    for (end = code.find('(', next); end < code.size(); ++end) {
      if (code[end] == '(') ++depth;
      if (code[end] == ')' && --depth == 0) break;
    }
    end = std::min(end + 1, code.size());
  }
  return end;
}

// Behind the keyword of the struct or union whose body opens at `open`; kNowhere if something else opens there.
size_t end_of_keyword(std::string_view code, size_t open) {
  const size_t before = open == 0 ? kNowhere : code.find_last_of(";{}", open - 1);
  for (size_t at = before == kNowhere ? 0 : before + 1; at < open; ++at) {
    for (const std::string_view keyword : {"struct", "union"}) {
      if (has_word(code, at, keyword)) return at + keyword.size();
    }
  }
  return kNowhere;
}

// NVRTC ignores attributes behind the body of a struct, `struct {...} __attribute__((packed))`, with a mere warning, and
// then pads what must have no padding. It honours them in front: `struct __attribute__((packed)) {...}`.
std::string attributes_in_front(const std::string& text) {
  const std::string code = code_of(text);
  std::vector<Edit> edits;
  std::vector<size_t> open;
  for (size_t at = 0; at < code.size(); ++at) {
    if (code[at] == '{') open.push_back(at);
    if (code[at] != '}' || open.empty()) continue;
    const size_t body = open.back();
    open.pop_back();
    const size_t begin = skip_space(code, at + 1);
    const size_t end = end_of_attributes(code, begin);
    const size_t keyword = end == begin ? kNowhere : end_of_keyword(code, body);
    if (keyword == kNowhere) continue;
    edits.push_back({keyword, 0, std::string(" ").append(text, begin, end - begin)});
    edits.push_back({begin, end - begin, ""});
  }
  return apply(text, edits);
}

// Prototypes of host functions are "not allowed in JIT mode". Without the word they are prototypes that nobody calls.
std::string without_host_functions(const std::string& text) {
  return replace_all(text, "NCCL_EXTERN_C __host__ ", "NCCL_EXTERN_C ");
}

// T part[sizeof(T) / N] has no elements where T is smaller than N, in branches that are compiled though never taken.
std::string without_empty_arrays(const std::string& text) {
  constexpr std::string_view kBegin = "[sizeof(T) / ";
  std::vector<Edit> edits;
  for (size_t at = 0; (at = text.find(kBegin, at)) != kNowhere; at += kBegin.size()) {
    const size_t number = at + kBegin.size();
    const size_t end = text.find(']', number);
    const std::string divisor = text.substr(number, end - number);
    edits.push_back({at, end + 1 - at, "[(sizeof(T) + " + divisor + " - 1) / " + divisor + "]"});
  }
  return apply(text, edits);
}

// decltype(*p) is a reference, to which there is no pointer. NCCL includes libcu++, which has the remedy, before this.
std::string typeof_without_reference(const std::string& text) {
  return replace_all(text, "#define TYPEOF(x) decltype(x)",
                     "#define TYPEOF(x) ::cuda::std::remove_reference_t<decltype(x)>");
}

std::string with_full_includes(const std::string& name, const std::string& text, const Headers& headers) {
  constexpr std::string_view kBegin = "#include \"";
  std::vector<Edit> edits;
  for (size_t at = 0; (at = text.find(kBegin, at)) != kNowhere; at += kBegin.size()) {
    const size_t begin = at + kBegin.size();
    const size_t end = text.find('"', begin);
    const std::string beside = (fs::path(name).parent_path() / text.substr(begin, end - begin)).lexically_normal();
    if (headers.contains(beside)) edits.push_back({begin, end - begin, beside});
  }
  return apply(text, edits);
}

}  // namespace

Headers rewrite_for_nvrtc(const Headers& headers) {
  Headers rewritten;
  for (const auto& [name, text] : headers) {
    std::string changed = attributes_in_front(text);
    changed = without_host_functions(changed);
    changed = without_empty_arrays(changed);
    changed = typeof_without_reference(changed);
    rewritten[name] = with_full_includes(name, changed, headers);
  }
  return rewritten;
}

}  // namespace nccl_ep::jit
