// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4), for naming cached binaries by what they were made from.
#pragma once

#include <string>
#include <string_view>

namespace nccl_ep::jit {

// 64 lower-case hexadecimal digits.
std::string sha256(std::string_view bytes);

}  // namespace nccl_ep::jit
