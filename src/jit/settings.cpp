// SPDX-License-Identifier: Apache-2.0
#include "jit/settings.hpp"

#include <cstdlib>

#include "runtime/library.hpp"

namespace nccl_ep::jit {
namespace {

std::optional<std::filesystem::path> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

// In a wheel and in a build folder: beside the library's folder. Installed elsewhere: below share.
std::filesystem::path installed_templates() {
  const std::filesystem::path prefix = std::filesystem::path(runtime::own_folder()).parent_path();
  const std::filesystem::path beside = prefix / "jit_templates";
  const std::filesystem::path shared = prefix / "share" / "nccl_ep" / "jit_templates";
  std::error_code ignored;
  return !std::filesystem::exists(beside, ignored) && std::filesystem::exists(shared, ignored) ? shared : beside;
}

}  // namespace

Settings read_settings() {
  Settings settings;
  settings.cache_dir = variable("NCCL_EP_CACHE_DIR");
  settings.cache_was_asked_for = settings.cache_dir.has_value();
  if (!settings.cache_dir) {
    if (const auto xdg = variable("XDG_CACHE_HOME")) {
      settings.cache_dir = *xdg / "nccl_ep";
    } else if (const auto home = variable("HOME")) {
      settings.cache_dir = *home / ".cache" / "nccl_ep";
    }
  }
  settings.template_dir = variable("NCCL_EP_TEMPLATE_DIR").value_or(installed_templates());
  settings.nccl_include_dir = variable("NCCL_EP_NCCL_INCLUDE_DIR");
  settings.cuda_home = variable("CUDA_HOME");
  settings.dump_dir = variable("NCCL_EP_JIT_DUMP");
  return settings;
}

}  // namespace nccl_ep::jit
