// SPDX-License-Identifier: Apache-2.0
// SHA-256 gives the digests of FIPS 180-4's examples, and handles every length around a block.
#include "jit/sha256.hpp"

#include <doctest/doctest.h>

#include <set>

using nccl_ep::jit::sha256;

TEST_CASE("jit_sha256: published digests") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("jit_sha256: lengths around the block size all differ") {
  std::set<std::string> digests;
  for (size_t length = 0; length < 200; ++length) digests.insert(sha256(std::string(length, '\0')));
  CHECK(digests.size() == 200);
}
