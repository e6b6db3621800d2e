// SPDX-License-Identifier: Apache-2.0
// Where the JIT finds and leaves its files. The JIT reads the environment here and nowhere else.
#pragma once

#include <filesystem>
#include <optional>

namespace nccl_ep::jit {

struct Settings {
  // $NCCL_EP_CACHE_DIR, else $XDG_CACHE_HOME/nccl_ep, else ~/.cache/nccl_ep; none when there is no home
  // either.
  std::optional<std::filesystem::path> cache_dir;
  bool cache_was_asked_for = false;  // by $NCCL_EP_CACHE_DIR: then trouble with it is an error
  // $NCCL_EP_TEMPLATE_DIR, else where they were installed with the library.
  std::filesystem::path template_dir;
  // $NCCL_EP_NCCL_INCLUDE_DIR: NCCL's headers, when they are not those beside the loaded libnccl.
  std::optional<std::filesystem::path> nccl_include_dir;
  // $CUDA_HOME
  std::optional<std::filesystem::path> cuda_home;
  // $NCCL_EP_JIT_DUMP: every kernel is compiled afresh, and what went in and came out is left there.
  std::optional<std::filesystem::path> dump_dir;
};

Settings read_settings();

}  // namespace nccl_ep::jit
