// SPDX-License-Identifier: Apache-2.0
// Headers of kernels that use the network: what is changed in NCCL's, and where all of them are looked for.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "jit/build.hpp"
#include "jit/header_folders.hpp"
#include "jit/header_rewrite.hpp"
#include "runtime/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::jit;
namespace fs = std::filesystem;

namespace {

std::string rewrite(const std::string& text) { return rewrite_for_nvrtc({{"a.h", text}}).at("a.h"); }

class IncludeFolders {
 public:
  IncludeFolders() {
    std::string pattern = (fs::temp_directory_path() / "nccl_ep_test_XXXXXX").string();
    root_ = mkdtemp(pattern.data());
  }
  ~IncludeFolders() { fs::remove_all(root_); }
  fs::path operator/(const std::string& name) const { return root_ / name; }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }

 private:
  fs::path root_;
};

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    CHECK(error.code() == ncclSystemError);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("jit_headers: attributes behind a struct go in front of its name") {
  CHECK(rewrite("struct s { int x; } __attribute__((packed));") == "struct __attribute__((packed)) s { int x; } ;");
  CHECK(rewrite("typedef struct {\n  char c;\n} __attribute__((__aligned__(64))) name_t;") ==
        "typedef struct __attribute__((__aligned__(64))) {\n  char c;\n}  name_t;");
  CHECK(rewrite("struct s { int x; }\n __attribute__((packed)) __attribute__((aligned(8)));") ==
        "struct __attribute__((packed)) __attribute__((aligned(8))) s { int x; }\n ;");
}

TEST_CASE("jit_headers: each of nested structs keeps its own attributes") {
  CHECK(rewrite("typedef union { int raw; struct { int a:1; } __attribute__((packed)) flag; struct { int b; } plain; }"
                " __attribute__((aligned(16))) u;") ==
        "typedef union __attribute__((aligned(16))) { int raw; struct __attribute__((packed)) { int a:1; }  flag; "
        "struct { int b; } plain; }  u;");
}

TEST_CASE("jit_headers: what merely looks like a struct's attribute stays") {
  for (const std::string text : {
           "// struct s { int x; } __attribute__((packed));\n",
           "/* struct s { } __attribute__((packed)); */",
           "const char* text = \"struct s { } __attribute__((packed));\";",
           "struct __attribute__((packed)) s { int x; };",
           "void f() { g(); } __attribute__((noinline)) void h();",
           "struct s { int __attribute__((aligned(8))) x; };",
       }) {
    CHECK(rewrite(text) == text);
  }
  // A brace in a comment or a literal closes nothing.
  CHECK(rewrite("struct s { // }\n char c = '}'; const char* t = \"}\"; } __attribute__((packed));") ==
        "struct __attribute__((packed)) s { // }\n char c = '}'; const char* t = \"}\"; } ;");
}

TEST_CASE("jit_headers: prototypes, empty arrays and types of references") {
  CHECK(rewrite("NCCL_EXTERN_C __host__ int f(int);") == "NCCL_EXTERN_C int f(int);");
  CHECK(rewrite("uint64_t part[sizeof(T) / 8];") == "uint64_t part[(sizeof(T) + 8 - 1) / 8];");
  CHECK(rewrite("#define TYPEOF(x) decltype(x)\n") ==
        "#define TYPEOF(x) ::cuda::std::remove_reference_t<decltype(x)>\n");
}

TEST_CASE("jit_headers: includes name the file from the top, where there is one") {
  const Headers headers = rewrite_for_nvrtc({
      {"top.h", "#include \"folder/a.h\"\n#include <system.h>\n"},
      {"folder/a.h", "#include \"../top.h\"\n#include \"b.h\"\n#include \"folder/b.h\"\n#include \"elsewhere.h\"\n"},
      {"folder/b.h", ""},
  });
  CHECK(headers.at("top.h") == "#include \"folder/a.h\"\n#include <system.h>\n");
  CHECK(headers.at("folder/a.h") ==
        "#include \"top.h\"\n#include \"folder/b.h\"\n#include \"folder/b.h\"\n#include \"elsewhere.h\"\n");
}

TEST_CASE("jit_headers: NCCL's from the folder that the user names") {
  const IncludeFolders folders;
  Settings settings;
  settings.nccl_include_dir = folders / "include";
  CHECK(message_of([&] { find_nccl_headers(settings); }).find("NCCL_EP_NCCL_INCLUDE_DIR: no nccl_device.h in") == 0);
  folders.write("include/nccl_device.h", "");
  folders.write("include/nccl.h", "#define NCCL_MAJOR 2\n#define NCCL_VERSION_CODE 23203\n");
  CHECK(find_nccl_headers(settings).version == 23203);
  CHECK(find_nccl_headers(settings).path == folders / "include");
  folders.write("include/nccl.h", "#define NCCL_VERSION_CODE 22907\n");
  CHECK(message_of([&] { find_nccl_headers(settings); }).find("are of 2.29.7") != std::string::npos);
}

TEST_CASE("jit_headers: CUDA's of the compiler's major version, with libcu++ beside or below them") {
  const IncludeFolders folders;
  folders.write("12/cuda.h", "#define CUDA_VERSION 12090\n");
  folders.write("12/cuda_runtime.h", "");
  folders.write("12/cuda/atomic", "");
  folders.write("13/cuda.h", "#define CUDA_VERSION 13010\n");
  folders.write("13/cuda_runtime.h", "");
  const std::vector<fs::path> candidates = {folders / "none", folders / "12", folders / "13", folders / "more"};
  CHECK(choose_cuda_headers(candidates, 12).paths == std::vector<fs::path>{folders / "12", folders / "12"});
  CHECK(choose_cuda_headers(candidates, 13).paths == std::vector<fs::path>{folders / "13", folders / "12"});
  folders.write("none/cccl/cuda/atomic", "");
  folders.write("none/cccl/cuda/std/__cccl/version.h", "#define CCCL_VERSION 3000002\n");
  const CudaFolders chosen = choose_cuda_headers(candidates, 13);
  CHECK(chosen.paths == std::vector<fs::path>{folders / "13", folders / "none/cccl"});
  CHECK(chosen.versions == "CUDA_VERSION 13010, CCCL_VERSION 3000002");
}

TEST_CASE("jit_headers: a missing package is named as pip knows it") {
  const IncludeFolders folders;
  const auto choose = [&](int major) { return message_of([&] { choose_cuda_headers({folders / "include"}, major); }); };
  CHECK(choose(13).find("pip install nvidia-cuda-runtime, or") != std::string::npos);
  CHECK(choose(12).find("pip install nvidia-cuda-runtime-cu12, or") != std::string::npos);
  folders.write("include/cuda.h", "#define CUDA_VERSION 13000\n");
  folders.write("include/cuda_runtime.h", "");
  CHECK(choose(13).find(
            "need libcu++ (cuda/atomic) of CUDA 13, which were not found: pip install nvidia-cuda-cccl, or") !=
        std::string::npos);
  CHECK(choose(13).find((folders / "include").string()) != std::string::npos);
}

TEST_CASE("jit_headers: a binary's key depends on them, their versions and the options") {
  const IncludeFolders folders;
  folders.write("a.cuh", "");
  CompileJob job{"k", "source", "sm_90a", folders / "", {}};
  std::set<std::string> hashes{cache_key(job, "nvrtc").hash};
  NetworkHeaders headers;
  job.network = &headers;
  hashes.insert(cache_key(job, "nvrtc").hash);
  headers.in_memory["nccl.h"] = "one";
  hashes.insert(cache_key(job, "nvrtc").hash);
  headers.in_memory["nccl.h"] = "two";
  hashes.insert(cache_key(job, "nvrtc").hash);
  headers.folder_versions = "CUDA_VERSION 13000";
  hashes.insert(cache_key(job, "nvrtc").hash);
  headers.options.push_back("-DX");
  hashes.insert(cache_key(job, "nvrtc").hash);
  CHECK(hashes.size() == 6);
}
