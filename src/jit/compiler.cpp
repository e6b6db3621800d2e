// SPDX-License-Identifier: Apache-2.0
#include "jit/compiler.hpp"

#include <dlfcn.h>

#include <array>
#include <vector>

#include "jit/network_headers.hpp"
#include "runtime/error.hpp"
#include "runtime/library.hpp"

namespace nccl_ep::jit {
namespace {

using nvrtcProgram = struct _nvrtcProgram*;
using nvrtcResult = int;  // 0 is success

// No contraction: kernels say fma where they mean it, so that sums are the same bits everywhere.
constexpr std::array<const char*, 4> kOptions = {"-std=c++17", "-default-device", "-fmad=false", "--ptxas-options=-v"};

struct Nvrtc {
  nvrtcResult (*nvrtcVersion)(int*, int*) = nullptr;
  const char* (*nvrtcGetErrorString)(nvrtcResult) = nullptr;
  nvrtcResult (*nvrtcCreateProgram)(nvrtcProgram*, const char*, const char*, int, const char* const*,
                                    const char* const*) = nullptr;
  nvrtcResult (*nvrtcDestroyProgram)(nvrtcProgram*) = nullptr;
  nvrtcResult (*nvrtcCompileProgram)(nvrtcProgram, int, const char* const*) = nullptr;
  nvrtcResult (*nvrtcGetProgramLogSize)(nvrtcProgram, size_t*) = nullptr;
  nvrtcResult (*nvrtcGetProgramLog)(nvrtcProgram, char*) = nullptr;
  nvrtcResult (*nvrtcGetCUBINSize)(nvrtcProgram, size_t*) = nullptr;
  nvrtcResult (*nvrtcGetCUBIN)(nvrtcProgram, char*) = nullptr;
  nvrtcResult (*nvrtcGetPTXSize)(nvrtcProgram, size_t*) = nullptr;
  nvrtcResult (*nvrtcGetPTX)(nvrtcProgram, char*) = nullptr;

  int major = 0;
  int minor = 0;
  std::string version;  // "13.0"
  std::string path;
};

// NVRTC opens its built-in headers by name alone; in a wheel they are found only if they are loaded already.
void load_builtins(const Nvrtc& nvrtc) {
  const std::filesystem::path folder = std::filesystem::path(nvrtc.path).parent_path();
  dlopen((folder / ("libnvrtc-builtins.so." + nvrtc.version)).c_str(), RTLD_LAZY | RTLD_GLOBAL);
}

Nvrtc load_nvrtc() {
  const runtime::Library library = runtime::Library::open(
      {"NVRTC, which compiles the kernels,",
       {"libnvrtc.so.13", "libnvrtc.so.12"},
       {"nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"},
       "nvrtcVersion",
       "pip install nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 with a CUDA 12 driver), or put its folder in "
       "LD_LIBRARY_PATH"});
  Nvrtc nvrtc;
  nvrtc.path = library.path();
  library.bind(nvrtc.nvrtcVersion, "nvrtcVersion");
  library.bind(nvrtc.nvrtcGetErrorString, "nvrtcGetErrorString");
  library.bind(nvrtc.nvrtcCreateProgram, "nvrtcCreateProgram");
  library.bind(nvrtc.nvrtcDestroyProgram, "nvrtcDestroyProgram");
  library.bind(nvrtc.nvrtcCompileProgram, "nvrtcCompileProgram");
  library.bind(nvrtc.nvrtcGetProgramLogSize, "nvrtcGetProgramLogSize");
  library.bind(nvrtc.nvrtcGetProgramLog, "nvrtcGetProgramLog");
  library.bind(nvrtc.nvrtcGetCUBINSize, "nvrtcGetCUBINSize");
  library.bind(nvrtc.nvrtcGetCUBIN, "nvrtcGetCUBIN");
  library.bind(nvrtc.nvrtcGetPTXSize, "nvrtcGetPTXSize");
  library.bind(nvrtc.nvrtcGetPTX, "nvrtcGetPTX");
  nvrtc.nvrtcVersion(&nvrtc.major, &nvrtc.minor);
  nvrtc.version = std::to_string(nvrtc.major) + "." + std::to_string(nvrtc.minor);
  // 16-byte units need the 128-bit system-scope accesses of PTX 8.4.
  if (nvrtc.major < 12 || (nvrtc.major == 12 && nvrtc.minor < 4)) {
    throw Error(ncclSystemError, "NVRTC is " + nvrtc.version + " (" + nvrtc.path + "), expected 12.4 or later");
  }
  load_builtins(nvrtc);
  return nvrtc;
}

const Nvrtc& nvrtc() {
  static const Nvrtc loaded = load_nvrtc();
  return loaded;
}

class Program {
 public:
  explicit Program(const CompileJob& job) {
    std::vector<const char*> texts, names;
    if (job.network) {
      for (const auto& [name, text] : job.network->in_memory) {
        names.push_back(name.c_str());
        texts.push_back(text.c_str());
      }
    }
    check(nvrtc().nvrtcCreateProgram(&program_, job.source.c_str(), (job.name + ".cu").c_str(),
                                     static_cast<int>(names.size()), texts.data(), names.data()),
          "nvrtcCreateProgram");
  }
  ~Program() { nvrtc().nvrtcDestroyProgram(&program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  nvrtcResult compile(const std::vector<std::string>& options) {
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());
    return nvrtc().nvrtcCompileProgram(program_, static_cast<int>(pointers.size()), pointers.data());
  }

  std::string log() { return text(nvrtc().nvrtcGetProgramLogSize, nvrtc().nvrtcGetProgramLog, "the log"); }
  std::string ptx() { return text(nvrtc().nvrtcGetPTXSize, nvrtc().nvrtcGetPTX, "the PTX"); }

  std::string binary() {
    size_t bytes = 0;
    check(nvrtc().nvrtcGetCUBINSize(program_, &bytes), "nvrtcGetCUBINSize");
    std::string binary(bytes, '\0');
    check(nvrtc().nvrtcGetCUBIN(program_, binary.data()), "nvrtcGetCUBIN");
    return binary;
  }

  static void check(nvrtcResult result, const char* what) {
    if (result == 0) return;
    throw Error(ncclInternalError, std::string(what) + ": " + nvrtc().nvrtcGetErrorString(result));
  }

 private:
  // NVRTC's texts end in a null character, which their size includes.
  std::string text(nvrtcResult (*size)(nvrtcProgram, size_t*), nvrtcResult (*get)(nvrtcProgram, char*),
                   const char* what) {
    size_t bytes = 0;
    check(size(program_, &bytes), what);
    if (bytes == 0) return {};
    std::string text(bytes, '\0');
    check(get(program_, text.data()), what);
    text.pop_back();
    return text;
  }

  nvrtcProgram program_ = nullptr;
};

}  // namespace

CompilerVersion compiler_version() {
  return {nvrtc().major, nvrtc().minor, std::filesystem::path(nvrtc().path).parent_path()};
}

std::string compiler_identity() {
  std::string identity = "nvrtc " + nvrtc().version;
  for (const char* option : kOptions) identity += std::string(" ") + option;
  return identity;
}

Compiled compile(const CompileJob& job) {
  std::vector<std::string> options(kOptions.begin(), kOptions.end());
  options.push_back("-arch=" + job.arch);
  options.push_back("-I" + job.template_dir.string());
  if (job.network) {
    options.insert(options.end(), job.network->options.begin(), job.network->options.end());
    for (const std::filesystem::path& folder : job.network->folders) options.push_back("-I" + folder.string());
  }
  Program program(job);
  const nvrtcResult result = program.compile(options);
  const std::string log = program.log();
  if (result != 0) {
    throw Error(ncclInternalError, "kernel " + job.name + " does not compile for " + job.arch + " with NVRTC " +
                                       nvrtc().version + " (" + nvrtc().path +
                                       "): " + nvrtc().nvrtcGetErrorString(result) + "\n" + log);
  }
  return {program.binary(), program.ptx(), log};
}

}  // namespace nccl_ep::jit
