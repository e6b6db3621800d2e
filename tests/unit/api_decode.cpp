// SPDX-License-Identifier: Apache-2.0
// Structs of older, newer and broken callers; descriptors that are well formed and not.
#include "api/decode.hpp"

#include <doctest/doctest.h>

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

// The message of what `call` throws, after checking its code.
template <class Call>
std::string refusal(Call&& call, ncclResult_t code = ncclInvalidArgument) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL("was accepted");
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("api_decode: an optional struct that is NULL is all defaults") {
  const auto config = decode_optional<ncclEpDispatchConfig_t>("config", nullptr);
  CHECK(config.size == sizeof(config));
  CHECK(config.magic == NCCL_EP_MAGIC);
  CHECK(config.send_only == 0);
  CHECK(config.quant_recipe == NCCL_EP_DISP_QUANT_NONE);
}

TEST_CASE("api_decode: a required struct that is NULL is refused by name") {
  const std::string message = refusal([] { decode_required<ncclEpGroupConfig_t>("config", nullptr); });
  CHECK(message == "config: is NULL, expected ncclEpGroupConfig_t");
}

TEST_CASE("api_decode: what lies behind an older caller's struct is not read") {
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  config.num_experts = 64;
  config.timeout_ns = 5;
  config.num_topk = 8;  // bytes that the caller's version does not have
  config.zero_copy = NCCL_EP_ZERO_COPY_ON;
  config.size = NCCL_EP_GROUP_CONFIG_V1_SIZE;
  const ncclEpGroupConfig_t current = decode_required("config", &config);
  CHECK(current.size == sizeof(current));
  CHECK(current.num_experts == 64);
  CHECK(current.timeout_ns == 5);
  CHECK(current.num_topk == 0);
  CHECK(current.zero_copy == NCCL_EP_ZERO_COPY_AUTO);
}

TEST_CASE("api_decode: the tail of a newer caller's struct is ignored") {
  struct Newer {
    ncclEpCombineConfig_t known;
    unsigned int unknown;
  } newer = {NCCL_EP_COMBINE_CONFIG_INIT, 7};
  newer.known.size = sizeof(newer);
  newer.known.send_only = 1;
  const ncclEpCombineConfig_t current = decode_optional("config", &newer.known);
  CHECK(current.size == sizeof(current));
  CHECK(current.send_only == 1);
}

TEST_CASE("api_decode: a struct without its header is refused with what was found") {
  ncclEpHandleConfig_t config = NCCL_EP_HANDLE_CONFIG_INIT;
  config.magic = 0x1234;
  CHECK(contains(refusal([&] { decode_optional("config", &config); }),
                 "config: magic is 0x00001234, expected 0xC00FFFEE"));
  config = NCCL_EP_HANDLE_CONFIG_INIT;
  config.size = 15;
  CHECK(contains(refusal([&] { decode_optional("config", &config); }), "config: size is 15, expected at least 16"));
}

TEST_CASE("api_decode: any number is refused that is no value of its enumeration") {
  ncclEpLayoutInfo_t info = NCCL_EP_LAYOUT_INFO_INIT;
  const int wrong = 9;
  std::memcpy(&info.recv_topk_idx_kind, &wrong, sizeof(wrong));
  CHECK(refusal([&] { decode_enum("kind", info.recv_topk_idx_kind, NCCL_EP_EXPERT_ID_GLOBAL); }) ==
        "kind: is 9, expected 0 to 2");
  info.recv_topk_idx_kind = NCCL_EP_EXPERT_ID_GLOBAL;
  CHECK(decode_enum("kind", info.recv_topk_idx_kind, NCCL_EP_EXPERT_ID_GLOBAL) == NCCL_EP_EXPERT_ID_GLOBAL);
}

TEST_CASE("api_decode: tensors need a header, extents and memory, in this order") {
  size_t sizes[] = {2, 3};
  float data[6];
  ncclEpTensor_t tensor = NCCL_EP_TENSOR_INIT;
  tensor.ndim = 2;
  tensor.sizes = sizes;
  tensor.data = data;
  CHECK(decode_tensor("t", &tensor) == &tensor);
  CHECK(decode_tensor("t", nullptr) == nullptr);
  CHECK(refusal([] { decode_required_tensor("t", nullptr); }) == "t: is NULL, expected a tensor");

  ncclEpTensor_t broken = tensor;
  broken.magic = NCCL_EP_MAGIC;
  CHECK(contains(refusal([&] { decode_tensor("t", &broken); }), "t: magic is 0xC00FFFEE, expected 0xCAFECAFE"));
  broken = tensor;
  broken.size = 40;
  CHECK(contains(refusal([&] { decode_tensor("t", &broken); }), "t: size is 40, expected at least 48"));
  broken = tensor;
  broken.ndim = 0;
  CHECK(refusal([&] { decode_tensor("t", &broken); }) == "t: ndim is 0, expected at least 1");
  broken = tensor;
  broken.sizes = nullptr;
  CHECK(refusal([&] { decode_tensor("t", &broken); }) == "t: sizes is NULL, expected 2 extents");
  broken = tensor;
  broken.data = nullptr;
  CHECK(contains(refusal([&] { decode_tensor("t", &broken); }), "t: data and win_hdl are NULL"));
}

TEST_CASE("api_decode: a window or a zero extent stands in for data") {
  size_t sizes[] = {2, 3};
  ncclEpTensor_t tensor = NCCL_EP_TENSOR_INIT;
  tensor.ndim = 2;
  tensor.sizes = sizes;
  tensor.win_hdl = reinterpret_cast<ncclWindow_t>(sizes);
  CHECK(decode_tensor("t", &tensor) == &tensor);
  tensor.win_hdl = nullptr;
  sizes[1] = 0;
  CHECK(decode_tensor("t", &tensor) == &tensor);
}
