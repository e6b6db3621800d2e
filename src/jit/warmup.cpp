// SPDX-License-Identifier: Apache-2.0
#include "jit/warmup.hpp"

#include <algorithm>
#include <cctype>
#include <future>
#include <sstream>

#include "runtime/error.hpp"

namespace nccl_ep::jit {
namespace {

bool is_arch(const std::string& text) {
  const auto is_digit = [](unsigned char c) { return std::isdigit(c) != 0; };
  if (text.size() < 6 || !text.starts_with("sm_") || text.back() != 'a') return false;
  return std::all_of(text.begin() + 3, text.end() - 1, is_digit);
}

}  // namespace

std::vector<std::string> parse_archs(const std::string& list) {
  std::vector<std::string> archs;
  std::istringstream stream(list);
  for (std::string arch; std::getline(stream, arch, ',');) {
    if (!is_arch(arch)) {
      throw Error(ncclInvalidArgument, "archs: \"" + arch + "\", expected architectures such as sm_90a,sm_100a");
    }
    archs.push_back(arch);
  }
  if (archs.empty()) throw Error(ncclInvalidArgument, "archs: empty, expected architectures such as sm_90a,sm_100a");
  return archs;
}

void warm_up(const std::vector<std::string>& archs, Groups groups, const std::function<void(const WarmKernel&)>& done) {
  struct Pending {
    std::string name, arch;
    std::future<Build> build;
  };
  const BuildInputs inputs = BuildInputs::read(uses_network(groups));
  if (!inputs.settings.dump_dir) user_cache(inputs.settings);  // refuses before anything is compiled for nothing
  std::vector<Pending> pending;
  for (const std::string& arch : archs) {
    for (const Variant& variant : all_variants(groups)) {
      pending.push_back({name(variant), arch, std::async(std::launch::async, build, variant, arch, std::cref(inputs))});
    }
  }
  for (size_t i = 0; i < pending.size(); ++i) {
    const Build built = pending[i].build.get();
    if (!built.store_error.empty()) throw Error(ncclSystemError, built.store_error);
    done({pending[i].name, pending[i].arch, built.file, built.binary.size(), built.was_cached, i, pending.size()});
  }
}

}  // namespace nccl_ep::jit
