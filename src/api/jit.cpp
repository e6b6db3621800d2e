// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "api/error.hpp"
#include "jit/network_headers.hpp"
#include "jit/warmup.hpp"
#include "nccl_ep_jit.h"
#include "runtime/visible_gpus.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

jit::Groups decode(ncclEpJitGroups_t groups) {
  switch (groups) {
    case NCCL_EP_JIT_ONE_TEAM: return jit::Groups::one_team;
    case NCCL_EP_JIT_SEVERAL_TEAMS: return jit::Groups::several_teams;
    case NCCL_EP_JIT_MASKED: return jit::Groups::masked;
    case NCCL_EP_JIT_EXACT: return jit::Groups::exact;
    case NCCL_EP_JIT_MASKED_TEAMS: return jit::Groups::masked_teams;
    case NCCL_EP_JIT_EXACT_TEAMS: return jit::Groups::exact_teams;
  }
  refuse(ncclInvalidArgument, "groups",
         "is " + std::to_string(static_cast<int>(groups)) +
             ", expected NCCL_EP_JIT_ONE_TEAM (0) to NCCL_EP_JIT_EXACT_TEAMS (5)");
}

}  // namespace

extern "C" ncclResult_t ncclEpJitWarmup(const char* archs, ncclEpJitGroups_t groups, ncclEpJitVisitor_t visit,
                                        void* context) {
  return guarded("ncclEpJitWarmup", nullptr, [&] {
    const jit::Groups wanted = decode(groups);
    const std::vector<std::string> known = archs ? jit::parse_archs(archs) : runtime::visible_archs();
    jit::warm_up(known, wanted, [&](const jit::WarmKernel& kernel) {
      const ncclEpJitKernel_t seen{kernel.name.c_str(),
                                   kernel.arch.c_str(),
                                   kernel.file.c_str(),
                                   kernel.bytes,
                                   kernel.was_cached,
                                   static_cast<unsigned int>(kernel.index),
                                   static_cast<unsigned int>(kernel.count)};
      if (visit) visit(&seen, context);
    });
  });
}

extern "C" ncclResult_t ncclEpJitList(ncclEpJitVisitor_t visit, void* context) {
  return guarded("ncclEpJitList", nullptr, [&] {
    require("visit", reinterpret_cast<const void*>(visit), "a function");
    const jit::Cache cache = jit::user_cache(jit::read_settings());
    const std::vector<jit::CacheEntry> entries = cache.entries();
    unsigned int index = 0;
    for (const jit::CacheEntry& entry : entries) {
      const std::string file = cache.file(entry.key).string();
      const ncclEpJitKernel_t seen{entry.key.name.c_str(),
                                   entry.key.arch.c_str(),
                                   file.c_str(),
                                   entry.bytes,
                                   1,
                                   index++,
                                   static_cast<unsigned int>(entries.size())};
      visit(&seen, context);
    }
  });
}

extern "C" ncclResult_t ncclEpJitNetworkHeaders(const char* folder, ncclEpJitOption_t visit, void* context) {
  return guarded("ncclEpJitNetworkHeaders", nullptr, [&] {
    const jit::NetworkHeaders headers = jit::load_network_headers(jit::read_settings());
    if (!folder) return;
    for (const std::string& option : jit::export_network_headers(headers, folder)) {
      if (visit) visit(option.c_str(), context);
    }
  });
}

extern "C" ncclResult_t ncclEpJitClear(size_t* removed) {
  return guarded("ncclEpJitClear", nullptr, [&] {
    const size_t count = jit::user_cache(jit::read_settings()).clear();
    if (removed) *removed = count;
  });
}
