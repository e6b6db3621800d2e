// SPDX-License-Identifier: Apache-2.0
#include "jit/network_headers.hpp"

#include <fstream>
#include <utility>

#include "jit/compiler.hpp"
#include "jit/files.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::jit {
namespace {

namespace fs = std::filesystem;

// NVRTC has none of the C and C++ libraries' headers, which NCCL includes. What device code needs of them is in libcu++
// or built in.
constexpr std::pair<const char*, const char*> kStandIns[] = {
    {"algorithm", ""},
    {"assert.h", ""},
    {"cassert", ""},
    {"cstddef", "#include <cuda/std/cstddef>\n"},
    {"cstdint", "#include <cuda/std/cstdint>\n"},
    {"cstring", ""},
    {"errno.h", "#define EIO 5\n#define EBUSY 16\n#define EINVAL 22\n"},
    {"limits.h", "#include <cuda/std/climits>\n"},
    {"linux/types.h",
     "#include <cuda/std/cstdint>\n"
     "using __be16 = uint16_t;\nusing __be32 = uint32_t;\nusing __be64 = uint64_t;\n"},
    {"math.h", ""},
    {"new", ""},
    {"stdbool.h", ""},
    {"stddef.h", "#include <cuda/std/cstddef>\n"},
    {"stdint.h", "#include <cuda/std/cstdint>\n"},
    {"stdio.h", ""},
    {"stdlib.h", ""},
    {"string.h", ""},
    {"type_traits", "#include <cuda/std/type_traits>\nnamespace std {\nusing namespace cuda::std;\n}\n"},
};

// Backends that NVRTC cannot compile are left out. Attributes that it ignores would change a struct's layout, so what it
// merely warns of otherwise is an error.
constexpr const char* kOptions[] = {"-DNCCL_GIN_GPI_ENABLE=0", "-DNCCL_GIN_EFA_GDA_ENABLE=0", "--diag-error=1835,1866"};

Headers read_nccl_headers(const fs::path& include) {
  Headers headers;
  for (const char* name : {"nccl.h", "nccl_device.h"}) headers[name] = read_file(include / name);
  for (const fs::directory_entry& item : fs::recursive_directory_iterator(include / "nccl_device")) {
    if (item.is_regular_file()) headers[fs::relative(item.path(), include).string()] = read_file(item.path());
  }
  return headers;
}

}  // namespace

NetworkHeaders load_network_headers(const Settings& settings) {
  NetworkHeaders headers;
  headers.nccl = find_nccl_headers(settings);
  headers.in_memory = rewrite_for_nvrtc(read_nccl_headers(headers.nccl.path));
  for (const auto& [name, text] : kStandIns) headers.in_memory[name] = text;
  // nccl.h includes stdint.h inside extern "C", where libcu++'s templates are not allowed: they come before it.
  headers.in_memory["nccl.h"].insert(0, "#include <cuda/std/cstdint>\n");
  CudaFolders cuda = find_cuda_headers(settings, compiler_version());
  headers.folders = std::move(cuda.paths);
  headers.folder_versions = std::move(cuda.versions);
  headers.options.assign(std::begin(kOptions), std::end(kOptions));
  return headers;
}

std::vector<std::string> export_network_headers(const NetworkHeaders& headers, const fs::path& folder) {
  for (const auto& [name, text] : headers.in_memory) {
    fs::create_directories((folder / name).parent_path());
    write_file(folder / name, text);
  }
  std::vector<std::string> options = headers.options;
  options.push_back("-I" + folder.string());
  for (const fs::path& other : headers.folders) options.push_back("-I" + other.string());
  return options;
}

}  // namespace nccl_ep::jit
