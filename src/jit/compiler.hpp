// SPDX-License-Identifier: Apache-2.0
// NVRTC: CUDA C++ in, a binary for one GPU architecture out.
#pragma once

#include <filesystem>
#include <string>

namespace nccl_ep::jit {

struct NetworkHeaders;

struct CompileJob {
  std::string name;    // of the kernel
  std::string source;  // its few lines; they include templates
  std::string arch;    // "sm_90a"
  std::filesystem::path template_dir;
  const NetworkHeaders* network = nullptr;  // of a kernel that uses the network; others include our headers only
};

struct Compiled {
  std::string binary;
  std::string ptx;
  std::string log;  // warnings, and ptxas's account of registers and spills
};

struct CompilerVersion {
  int major;
  int minor;
  std::filesystem::path folder;  // of libnvrtc
};
// Throws Error(ncclSystemError) when there is no NVRTC.
CompilerVersion compiler_version();

// What binaries depend on besides the job: the compiler's version and its options.
std::string compiler_identity();

// Throws Error: ncclSystemError when there is no NVRTC, ncclInternalError with the log when the source is refused.
Compiled compile(const CompileJob& job);

}  // namespace nccl_ep::jit
