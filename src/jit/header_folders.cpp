// SPDX-License-Identifier: Apache-2.0
#include "jit/header_folders.hpp"

#include <cstdlib>
#include <fstream>
#include <optional>

#include "runtime/error.hpp"
#include "runtime/library.hpp"
#include "runtime/nccl_library.hpp"

namespace nccl_ep::jit {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string list(const std::vector<fs::path>& paths) {
  std::string text;
  for (const fs::path& path : paths) text += (text.empty() ? "" : ", ") + path.lexically_normal().string();
  return text;
}

// What must be found, by a header that only it has.
struct Package {
  const char* what;
  const char* header;
  const char* wheel;
};
constexpr Package kRuntime{"CUDA's headers", "cuda_runtime.h", "nvidia-cuda-runtime"};
constexpr Package kLibcuxx{"libcu++", "cuda/atomic", "nvidia-cuda-cccl"};

// Wheels and toolkits keep libcu++ below include/cccl as of CUDA 13.
std::optional<fs::path> folder_with(const fs::path& include, const char* header) {
  for (const fs::path& folder : {include, include / "cccl"}) {
    if (is_there(folder / header)) return folder;
  }
  return std::nullopt;
}

[[noreturn]] void refuse_without(const Package& package, int major, const std::vector<fs::path>& candidates) {
  const std::string suffix = major < 13 ? "-cu" + std::to_string(major) : "";
  throw Error(ncclSystemError, std::string("kernels that use the network need ") + package.what + " (" +
                                   package.header + ") of CUDA " + std::to_string(major) +
                                   ", which were not found: pip install " + package.wheel + suffix +
                                   ", or name a toolkit in CUDA_HOME. Looked in " + list(candidates));
}

std::vector<fs::path> include_folders(const Settings& settings, const CompilerVersion& compiler) {
  const std::string wheels_of_13 = "nvidia/cu" + std::to_string(compiler.major) + "/include";
  std::vector<fs::path> folders;
  for (const fs::path& root : {fs::path(runtime::own_folder()), compiler.folder}) {
    for (const std::string& site : runtime::parents(root.string())) {
      for (const std::string& wheel :
           {wheels_of_13, std::string("nvidia/cuda_runtime/include"), std::string("nvidia/cuda_cccl/include")}) {
        if (is_there(fs::path(site) / wheel)) folders.push_back(fs::path(site) / wheel);
      }
    }
  }
  if (settings.cuda_home) folders.push_back(*settings.cuda_home / "include");
  folders.push_back(compiler.folder.parent_path() / "include");
  folders.push_back("/usr/local/cuda/include");
  return folders;
}

NcclFolder look_for_nccl_headers(const Settings& settings) {
  if (settings.nccl_include_dir) {
    const fs::path& folder = *settings.nccl_include_dir;
    if (is_there(folder / "nccl_device.h")) return {folder, defined_number(folder / "nccl.h", "NCCL_VERSION_CODE")};
    throw Error(ncclSystemError, "NCCL_EP_NCCL_INCLUDE_DIR: no nccl_device.h in " + folder.string());
  }
  const runtime::NcclLibrary library = runtime::nccl_library();
  const fs::path beside = fs::path(library.path).parent_path();
  const std::vector<fs::path> candidates = {beside.parent_path() / "include",
                                            beside.parent_path().parent_path() / "include"};
  for (const fs::path& folder : candidates) {
    if (!is_there(folder / "nccl_device.h")) continue;
    const NcclFolder headers{folder, defined_number(folder / "nccl.h", "NCCL_VERSION_CODE")};
    require_loaded_nccl(headers);
    return headers;
  }
  throw Error(ncclSystemError,
              "kernels that use the network need NCCL's headers (nccl_device.h) of the same version as " +
                  library.path + ": not found in " + list(candidates) +
                  ". The wheels nvidia-nccl-cu13 and -cu12 have both; NCCL_EP_NCCL_INCLUDE_DIR can name their folder");
}

}  // namespace

int defined_number(const fs::path& header, const std::string& macro) {
  const std::string begin = "#define " + macro + " ";
  std::ifstream stream(header);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with(begin)) return std::atoi(line.c_str() + begin.size());
  }
  return 0;
}

NcclFolder find_nccl_headers(const Settings& settings) {
  const NcclFolder headers = look_for_nccl_headers(settings);
  if (headers.version >= runtime::kMinNcclTeams) return headers;
  throw Error(ncclSystemError, "NCCL's headers in " + headers.path.string() + " are of " +
                                   runtime::version_text(headers.version) + ", kernels that use the network need " +
                                   runtime::version_text(runtime::kMinNcclTeams) + " or later");
}

void require_loaded_nccl(const NcclFolder& headers) {
  const runtime::NcclLibrary library = runtime::nccl_library();
  if (headers.version == library.version) return;
  throw Error(ncclSystemError, "NCCL's headers in " + headers.path.string() + " are of version code " +
                                   std::to_string(headers.version) + ", expected " + std::to_string(library.version) +
                                   ", that of " + library.path + ": kernels and library must be of one version");
}

CudaFolders choose_cuda_headers(const std::vector<fs::path>& candidates, int major) {
  std::optional<fs::path> runtime_headers, libcuxx;
  for (const fs::path& include : candidates) {
    const bool is_right_cuda = defined_number(include / "cuda.h", "CUDA_VERSION") / 1000 == major;
    if (!runtime_headers && is_right_cuda) runtime_headers = folder_with(include, kRuntime.header);
    if (!libcuxx) libcuxx = folder_with(include, kLibcuxx.header);
  }
  if (!runtime_headers) refuse_without(kRuntime, major, candidates);
  if (!libcuxx) refuse_without(kLibcuxx, major, candidates);
  const int cccl = defined_number(*libcuxx / "cuda/std/__cccl/version.h", "CCCL_VERSION");
  return {{*runtime_headers, *libcuxx},
          "CUDA_VERSION " + std::to_string(defined_number(*runtime_headers / "cuda.h", "CUDA_VERSION")) +
              ", CCCL_VERSION " + std::to_string(cccl)};
}

CudaFolders find_cuda_headers(const Settings& settings, const CompilerVersion& compiler) {
  return choose_cuda_headers(include_folders(settings, compiler), compiler.major);
}

}  // namespace nccl_ep::jit
