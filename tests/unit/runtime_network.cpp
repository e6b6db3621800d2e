// SPDX-License-Identifier: Apache-2.0
// NCCL's network: what is asked of each version, that its answer fits, and what users are told where there is none.
#include <doctest/doctest.h>

#include "runtime/cuda/network.hpp"
#include "runtime/cuda/network_support.hpp"
#include "runtime/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::runtime;
using namespace nccl_ep::runtime::cuda;

namespace {

using Reach = NetworkNeeds::Reach;

constexpr NetworkFacts kWorks{nccl_version(2, 32, 3), NCCL_GIN_TYPE_GDAKI, NCCL_GIN_TYPE_GDAKI, true, true, false};

NetworkFacts without_gin() {
  NetworkFacts facts = kWorks;
  facts.gin_type = facts.railed_gin_type = NCCL_GIN_TYPE_NONE;
  facts.has_proxy = false;
  return facts;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("runtime_network: 2.30 is asked for the layout of its own version") {
  const ncclDevCommRequirements needed = requirements(nccl_version(2, 30, 7), {}, {4, 100, 7});
  CHECK(needed.size == 96);
  CHECK(needed.magic == NCCL_API_MAGIC);
  CHECK(needed.version == 23007);
  CHECK(needed.ginConnectionType == NCCL_GIN_CONNECTION_FULL);
  CHECK(needed.ginContextCount == 4);
  CHECK(needed.ginSignalCount == 100);
  CHECK(needed.ginCounterCount == 7);
  CHECK(needed.ginTrafficClass == NCCL_CONFIG_UNDEF_INT);
  CHECK(needed.ginStrongSignalsRequired);
  CHECK(needed.ginVaSignalsRequired);
}

TEST_CASE("runtime_network: later versions are asked for their own layout in terms of 2.31.2") {
  ncclCommProperties properties{};
  properties.ginType = NCCL_GIN_TYPE_GDAKI;
  for (const int version : {nccl_version(2, 31, 2), nccl_version(2, 32, 3), nccl_version(2, 40, 0)}) {
    const ncclDevCommRequirements needed = requirements(version, properties, {0, 1, 0});
    CHECK(needed.size == sizeof(needed));
    CHECK(needed.version == 23102);
    CHECK(needed.useRuntimeVersion);
    CHECK(needed.ginCustomStride == 1);
    CHECK(needed.ginType == NCCL_GIN_TYPE_NONE);
    CHECK(needed.ginContextCount == 1);  // at least
  }
  CHECK(requirements(nccl_version(2, 31, 1), properties, {}).version == 23101);
}

TEST_CASE("runtime_network: where NCCL prefers a backend that kernels lack, the proxy is asked for") {
  constexpr int kEfaGda = 5;
  ncclCommProperties properties{};
  properties.ginType = kEfaGda;
  CHECK(requirements(nccl_version(2, 32, 3), properties, {}).ginType == NCCL_GIN_TYPE_PROXY);
  NetworkFacts facts = kWorks;
  facts.gin_type = kEfaGda;
  CHECK(why_no_network(facts, Reach::world).empty());
  facts.has_proxy = false;
  CHECK(contains(why_no_network(facts, Reach::world), "type 5, expected 2 (PROXY) or 3 (GDAKI)"));
  CHECK(contains(why_no_network(facts, Reach::world), "NCCL_GIN_TYPE=2"));
}

TEST_CASE("runtime_network: a device communicator larger than expected is noticed") {
  for (const size_t bytes : {size_t{0}, size_t{248}, size_t{4000}}) {
    DevCommBuffer buffer(bytes);
    CHECK(buffer.size() == (bytes == 0 ? 1024 : bytes));
    auto* memory = reinterpret_cast<unsigned char*>(buffer.get());
    std::fill_n(memory, buffer.size(), static_cast<unsigned char>(0));
    CHECK_NOTHROW(buffer.check());
    memory[buffer.size()] = 0;
    CHECK_THROWS_AS(buffer.check(), Error);
  }
}

TEST_CASE("runtime_network: each reason for having none comes with its remedy") {
  CHECK(why_no_network(kWorks, Reach::world).empty());
  CHECK(contains(why_no_network(without_gin(), Reach::world), "NCCL_RMA_PLUGIN"));
  CHECK(contains(why_no_network(without_gin(), Reach::world), "python -m nccl_ep.loopback"));

  NetworkFacts facts = without_gin();
  facts.gpu_has_rdma = false;
  CHECK(contains(why_no_network(facts, Reach::world), "110, is 0"));
  facts.railed_gin_type = NCCL_GIN_TYPE_PROXY;
  CHECK(contains(why_no_network(facts, Reach::world), "NCCL_CROSS_NIC=0"));
  facts.is_switched_off = true;
  CHECK(contains(why_no_network(facts, Reach::world), "NCCL_GIN_ENABLE is 0"));
  facts.nccl_version = nccl_version(2, 29, 7);
  CHECK(contains(why_no_network(facts, Reach::world), "NCCL is 2.29.7, expected 2.30.7 or later"));
}

TEST_CASE("runtime_network: rails are enough for who needs no more, and are asked for only where there is no more") {
  NetworkFacts facts = without_gin();
  facts.railed_gin_type = NCCL_GIN_TYPE_PROXY;
  CHECK(why_no_network(facts, Reach::rail).empty());
  CHECK(contains(why_no_network(facts, Reach::world), "along rails only"));
  CHECK(contains(why_no_network(without_gin(), Reach::rail), "NCCL_RMA_PLUGIN"));

  ncclCommProperties railed{};
  railed.railedGinType = NCCL_GIN_TYPE_GDAKI;
  ncclCommProperties whole = railed;
  whole.ginType = NCCL_GIN_TYPE_GDAKI;
  for (const int version : {nccl_version(2, 30, 7), nccl_version(2, 32, 3)}) {
    CHECK(requirements(version, railed, {1, 1, 0, Reach::rail}).ginConnectionType == NCCL_GIN_CONNECTION_RAIL);
    CHECK(requirements(version, whole, {1, 1, 0, Reach::rail}).ginConnectionType == NCCL_GIN_CONNECTION_FULL);
    CHECK(requirements(version, whole, {1, 1, 0, Reach::world}).ginConnectionType == NCCL_GIN_CONNECTION_FULL);
    CHECK(requirements(version, railed, {1, 1, 0, Reach::rail}).ginType == NCCL_GIN_TYPE_NONE);
  }
}
