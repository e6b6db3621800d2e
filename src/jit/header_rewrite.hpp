// SPDX-License-Identifier: Apache-2.0
// NCCL's device headers are written for nvcc. This makes NVRTC see in them what nvcc sees.
#pragma once

#include <map>
#include <string>

namespace nccl_ep::jit {

// Header files in memory. A name is what #include says: the path below the include folder.
using Headers = std::map<std::string, std::string>;

// The same headers, changed where NVRTC would refuse them or, worse, silently lay a struct out differently. Includes of
// each other become full names, since NVRTC looks headers in memory up by what an #include says and nothing else.
Headers rewrite_for_nvrtc(const Headers& headers);

}  // namespace nccl_ep::jit
