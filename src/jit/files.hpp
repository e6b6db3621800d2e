// SPDX-License-Identifier: Apache-2.0
// Whole files as text. Failures are Error(ncclSystemError) that names the file.
#pragma once

#include <filesystem>
#include <string>

namespace nccl_ep::jit {

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& text);

}  // namespace nccl_ep::jit
