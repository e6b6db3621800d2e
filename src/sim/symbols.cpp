// SPDX-License-Identifier: Apache-2.0
#include "sim/symbols.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>

namespace nccl_ep::sim {

namespace {

constexpr size_t kPcsPerCall = 200;  // keeps the command line short

struct PipeCloser {
  void operator()(FILE* pipe) const { pclose(pipe); }
};

std::string quoted(const std::string& path) {
  std::string result = "'";
  for (const char c : path) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// addr2line prints, for each address: the address itself, then function and file:line of each inlined frame.
std::vector<std::string> ask_addr2line(const std::string& module, const std::vector<uint64_t>& offsets) {
  std::string command = "addr2line -a -f -i -C -e " + quoted(module);
  char text[4096];
  for (const uint64_t offset : offsets) {
    std::snprintf(text, sizeof text, " 0x%lx", static_cast<unsigned long>(offset));
    command += text;
  }
  command += " 2>/dev/null";
  std::vector<std::string> lines;
  const std::unique_ptr<FILE, PipeCloser> pipe(popen(command.c_str(), "r"));
  while (pipe != nullptr && std::fgets(text, sizeof text, pipe.get()) != nullptr) {
    lines.emplace_back(text);
    if (lines.back().ends_with('\n')) lines.back().pop_back();
  }
  return lines;
}

bool is_device_primitive(const std::string& file) { return file.ends_with("device/sim.hpp"); }

// "/path/rows.cuh:120 (discriminator 3)" into file and line.
void parse_position(const std::string& position, SourceLine& result) {
  const size_t colon = position.rfind(':', position.find(" ("));
  if (colon == std::string::npos || position.starts_with("??")) return;
  result.file = std::filesystem::path(position.substr(0, colon)).lexically_normal().string();
  result.line = static_cast<uint32_t>(std::strtoul(position.c_str() + colon + 1, nullptr, 10));
}

// "void ns::f<int>(int)" into "ns::f".
std::string short_name(const std::string& function) {
  std::string name = function.substr(0, function.find_first_of("<("));
  return name.substr(name.rfind(' ') + 1);
}

void fill(const std::string& module, const std::vector<uint64_t>& offsets,
          const std::map<uint64_t, SourceLine*>& targets) {
  const std::vector<std::string> lines = ask_addr2line(module, offsets);
  SourceLine* current = nullptr;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].starts_with("0x")) {
      const auto target = targets.find(std::strtoull(lines[i].c_str(), nullptr, 16));
      current = target != targets.end() ? target->second : nullptr;
      continue;
    }
    if (i + 1 == lines.size()) break;
    const std::string& function = lines[i];
    const std::string& position = lines[++i];
    if (current == nullptr || !(current->file.empty() || is_device_primitive(current->file))) continue;
    parse_position(position, *current);
    current->function = short_name(function);
  }
}

}  // namespace

std::string SourceLine::text() const {
  char number[32];
  if (file.empty()) {
    std::snprintf(number, sizeof number, "+0x%lx", static_cast<unsigned long>(module_offset));
    return std::filesystem::path(module).filename().string() + number;
  }
  const std::filesystem::path path(file);
  const std::string folder = path.parent_path().filename().string();
  std::snprintf(number, sizeof number, ":%u", line);
  return (folder.empty() ? "" : folder + "/") + path.filename().string() + number + " in " + function;
}

std::string SourceLine::read() const {
  std::ifstream source(file);
  std::string text;
  for (uint32_t i = 0; i < line && std::getline(source, text); ++i) {
  }
  return source ? text : "";
}

std::map<uintptr_t, SourceLine> find_source_lines(const std::vector<uintptr_t>& pcs) {
  std::map<uintptr_t, SourceLine> result;
  std::map<std::string, std::map<uint64_t, SourceLine*>> modules;
  for (const uintptr_t pc : pcs) {
    Dl_info info{};
    if (pc == 0 || dladdr(reinterpret_cast<void*>(pc), &info) == 0) continue;
    SourceLine& entry = result[pc];
    entry.module = info.dli_fname;
    entry.module_offset = pc - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase);
    modules[entry.module][entry.module_offset] = &entry;
  }
  for (const auto& [module, targets] : modules) {
    std::vector<uint64_t> offsets;
    for (const auto& target : targets) offsets.push_back(target.first);
    for (size_t i = 0; i < offsets.size(); i += kPcsPerCall) {
      const size_t end = std::min(offsets.size(), i + kPcsPerCall);
      fill(module, {offsets.begin() + static_cast<ptrdiff_t>(i), offsets.begin() + static_cast<ptrdiff_t>(end)},
           targets);
    }
  }
  return result;
}

}  // namespace nccl_ep::sim
