// SPDX-License-Identifier: Apache-2.0
// Plain types that host and device share. NVRTC has no standard headers, so this file spells out what it needs.
#pragma once

#if defined(__CUDACC_RTC__)
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
using uintptr_t = unsigned long long;
using size_t = decltype(sizeof(0));
#else
#include <cstddef>
#include <cstdint>
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define EP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define EP_HOST_DEVICE inline
#endif

namespace nccl_ep {

// A symmetric window as every rank of the LSA team sees it: rank r's copy starts at base + r * stride.
struct PeerWindow {
  uint64_t base;
  uint64_t stride;

  template <class T>
  EP_HOST_DEVICE T* at(uint32_t lsa_rank, uint64_t offset) const {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(base + lsa_rank * stride + offset));
  }
};

// Sixteen bytes that are written and read as one; the last word is the epoch that tags it.
struct alignas(16) Unit {
  uint32_t word[3];
  uint32_t epoch;
};

EP_HOST_DEVICE constexpr uint64_t div_up(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
EP_HOST_DEVICE constexpr uint64_t align_up(uint64_t a, uint64_t b) { return div_up(a, b) * b; }

}  // namespace nccl_ep
