// SPDX-License-Identifier: Apache-2.0
#include "jit/build.hpp"

#include <algorithm>
#include <vector>

#include "jit/files.hpp"
#include "jit/sha256.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::jit {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> template_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const fs::directory_entry& item : fs::recursive_directory_iterator(folder, error)) {
    if (item.is_regular_file()) files.push_back(item.path());
  }
  if (files.empty()) {
    throw Error(ncclSystemError, "kernel sources: nothing in " + folder.string() +
                                     ", expected the folder jit_templates; NCCL_EP_TEMPLATE_DIR can name another");
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Every field with its length before it, so that no two different inputs make the same text.
void append(std::string& text, const std::string& field) { text += std::to_string(field.size()) + ":" + field; }

void append(std::string& text, const NetworkHeaders& headers) {
  for (const auto& [name, content] : headers.in_memory) {
    append(text, name);
    append(text, content);
  }
  append(text, headers.folder_versions);
  for (const std::string& option : headers.options) append(text, option);
}

void dump(const fs::path& folder, const CompileJob& job, const Compiled& compiled) {
  fs::create_directories(folder);
  const fs::path stem = folder / (job.name + "." + job.arch);
  write_file(stem.string() + ".cu", job.source);
  write_file(stem.string() + ".ptx", compiled.ptx);
  write_file(stem.string() + ".cubin", compiled.binary);
  write_file(stem.string() + ".log", compiled.log);
}

// None when the user named no folder and the default one cannot be used: then kernels are compiled every
// time.
std::optional<Cache> usable_cache(const Settings& settings) {
  try {
    return user_cache(settings);
  } catch (const Error&) {
    if (settings.cache_was_asked_for) throw;
    return std::nullopt;
  }
}

}  // namespace

CacheKey cache_key(const CompileJob& job, const std::string& compiler) {
  std::string inputs;
  append(inputs, job.source);
  append(inputs, job.arch);
  append(inputs, compiler);
  for (const fs::path& file : template_files(job.template_dir)) {
    append(inputs, fs::relative(file, job.template_dir).string());
    append(inputs, read_file(file));
  }
  if (job.network) append(inputs, *job.network);
  return {job.name, job.arch, sha256(inputs)};
}

Build find_or_compile(const Cache& cache, const CacheKey& key, const std::function<std::string()>& compile_binary) {
  const auto from_cache = [&](std::string& binary) { return Build{std::move(binary), true, cache.file(key), {}}; };
  if (auto binary = cache.find(key)) return from_cache(*binary);
  const Cache::Lock lock(cache, key);
  if (auto binary = cache.find(key)) return from_cache(*binary);
  Build built{compile_binary(), false, {}, {}};
  try {
    cache.store(key, built.binary);
    built.file = cache.file(key);
  } catch (const Error& error) {
    built.store_error = error.what();
  }
  return built;
}

BuildInputs BuildInputs::read(bool uses_network) {
  BuildInputs inputs{read_settings(), {}};
  if (uses_network) inputs.network = load_network_headers(inputs.settings);
  return inputs;
}

Build build(const Variant& variant, const std::string& arch, const BuildInputs& inputs) {
  const Settings& settings = inputs.settings;
  CompileJob job{name(variant), source(variant), arch, settings.template_dir};
  if (variant.uses_network) job.network = &inputs.network.value();
  if (settings.dump_dir) {
    const Compiled compiled = compile(job);
    dump(*settings.dump_dir, job, compiled);
    return {compiled.binary, false, {}, {}};
  }
  const std::optional<Cache> cache = usable_cache(settings);
  if (!cache) return {compile(job).binary, false, {}, {}};
  return find_or_compile(*cache, cache_key(job, compiler_identity()), [&] { return compile(job).binary; });
}

Cache user_cache(const Settings& settings) {
  if (settings.cache_dir) return Cache(*settings.cache_dir);
  throw Error(ncclSystemError, "kernel cache: neither NCCL_EP_CACHE_DIR, XDG_CACHE_HOME nor HOME names a folder");
}

}  // namespace nccl_ep::jit
