// SPDX-License-Identifier: Apache-2.0
#include "jit/files.hpp"

#include <fstream>
#include <iterator>

#include "runtime/error.hpp"

namespace nccl_ep::jit {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(ncclSystemError, "cannot read " + path.string());
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream stream(path, std::ios::binary);
  if (!(stream << text << std::flush)) throw Error(ncclSystemError, "cannot write " + path.string());
}

}  // namespace nccl_ep::jit
