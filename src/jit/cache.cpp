// SPDX-License-Identifier: Apache-2.0
#include "jit/cache.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "jit/sha256.hpp"
#include "runtime/error.hpp"

namespace nccl_ep::jit {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExtension = "cubin";
constexpr size_t kDigestBytes = 64;  // an entry is the binary, then the hash of the binary, which loaders ignore

[[noreturn]] void fail(const std::string& what, const fs::path& where) {
  throw Error(ncclSystemError, "kernel cache: " + what + " " + where.string() + ": " + std::strerror(errno));
}

void create_private(const fs::path& folder) {
  std::error_code unknown;  // as where the parent may not be looked at: mkdir says why
  if (folder.has_parent_path() && !fs::exists(folder.parent_path(), unknown)) create_private(folder.parent_path());
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) fail("cannot create", folder);
}

void check_private(const fs::path& folder) {
  struct stat info{};
  if (stat(folder.c_str(), &info) != 0) fail("cannot look at", folder);
  if (!S_ISDIR(info.st_mode)) throw Error(ncclSystemError, "kernel cache: " + folder.string() + " is not a folder");
  if (info.st_uid != geteuid()) {
    throw Error(ncclSystemError, "kernel cache: " + folder.string() + " belongs to user " +
                                     std::to_string(info.st_uid) + ", expected " + std::to_string(geteuid()) +
                                     "; name a folder of your own in NCCL_EP_CACHE_DIR");
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    throw Error(ncclSystemError, "kernel cache: other users may write to " + folder.string() +
                                     "; expected mode 0700 (chmod 700 " + folder.string() + ")");
  }
}

void wait_for_lock(int descriptor) {
  while (flock(descriptor, LOCK_EX) != 0 && errno == EINTR) {
  }
}

// A file that is written beside its final place, and removed unless it is put there. Locked meanwhile, which tells it
// from those of processes that were killed.
class NewFile {
 public:
  explicit NewFile(const fs::path& final_path) : final_(final_path) {
    while (!create_and_lock()) close(descriptor_);
  }
  ~NewFile() {
    if (descriptor_ < 0) return;
    close(descriptor_);
    unlink(path_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write_all(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write", path_);
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  void put_in_place() {
    if (rename(path_.c_str(), final_.c_str()) != 0) fail("cannot rename to", final_);
    close(descriptor_);
    descriptor_ = -1;
  }

 private:
  // False if somebody removed it between the two.
  bool create_and_lock() {
    path_ = final_.string() + ".XXXXXX";
    descriptor_ = mkostemp(path_.data(), O_CLOEXEC);
    if (descriptor_ < 0) fail("cannot create", path_);
    wait_for_lock(descriptor_);
    struct stat info{};
    return fstat(descriptor_, &info) == 0 && info.st_nlink != 0;
  }

  fs::path final_;
  std::string path_;
  int descriptor_;
};

// The key that a file's name spells, if it is an entry's.
std::optional<CacheKey> key_of(const fs::path& file) {
  std::istringstream parts(file.filename().string());
  CacheKey key;
  std::string extension;
  std::getline(std::getline(std::getline(std::getline(parts, key.name, '.'), key.arch, '.'), key.hash, '.'), extension);
  if (!parts || extension != kExtension) return std::nullopt;
  return key;
}

// A lock, or a file that was not put in place yet: an entry's name and something more.
bool is_work_on_an_entry(const fs::path& file) { return file.has_extension() && key_of(file.stem()).has_value(); }

void remove_if_nobody_holds(const fs::path& file) {
  const int descriptor = open(file.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return;
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0) unlink(file.c_str());
  close(descriptor);
}

}  // namespace

Cache::Cache(fs::path folder) : folder_(std::move(folder)) {
  if (folder_.filename().empty()) folder_ = folder_.parent_path();  // "dir/"
  create_private(folder_);
  check_private(folder_);
}

fs::path Cache::file(const CacheKey& key) const {
  return folder_ / (key.name + "." + key.arch + "." + key.hash + "." + kExtension);
}

std::optional<std::string> Cache::find(const CacheKey& key) const {
  std::ifstream stream(file(key), std::ios::binary);
  if (!stream) return std::nullopt;
  std::string bytes(std::istreambuf_iterator<char>(stream), {});
  if (bytes.size() < kDigestBytes) return std::nullopt;
  const std::string digest = bytes.substr(bytes.size() - kDigestBytes);
  bytes.resize(bytes.size() - kDigestBytes);
  if (digest != sha256(bytes)) return std::nullopt;
  return bytes;
}

void Cache::store(const CacheKey& key, std::string_view binary) const {
  NewFile entry(file(key));
  entry.write_all(binary);
  entry.write_all(sha256(binary));
  entry.put_in_place();
}

std::vector<CacheEntry> Cache::entries() const {
  std::vector<CacheEntry> found;
  for (const fs::directory_entry& item : fs::directory_iterator(folder_)) {
    const auto key = key_of(item.path());
    if (!key) continue;
    std::error_code error;
    const uintmax_t bytes = item.file_size(error);
    const bool is_gone_or_cut_short = error || bytes < kDigestBytes;
    if (!is_gone_or_cut_short) found.push_back({*key, bytes - kDigestBytes});
  }
  std::sort(found.begin(), found.end(),
            [&](const CacheEntry& a, const CacheEntry& b) { return file(a.key) < file(b.key); });
  return found;
}

size_t Cache::clear() const {
  size_t removed = 0;
  for (const fs::directory_entry& item : fs::directory_iterator(folder_)) {
    if (key_of(item.path())) removed += fs::remove(item.path());
    if (is_work_on_an_entry(item.path())) remove_if_nobody_holds(item.path());
  }
  return removed;
}

Cache::Lock::Lock(const Cache& cache, const CacheKey& key) : file_(cache.file(key).string() + ".lock") {
  descriptor_ = open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor_ < 0) return;
  wait_for_lock(descriptor_);
}

Cache::Lock::~Lock() {
  if (descriptor_ < 0) return;
  unlink(file_.c_str());
  close(descriptor_);
}

}  // namespace nccl_ep::jit
