// SPDX-License-Identifier: Apache-2.0
// Types of the device primitives' contract (device.hpp), for both implementations.
#pragma once

#include "shared/types.hpp"

namespace nccl_ep::dev {

enum class Scope { block, gpu, system };
enum class Order { relaxed, acquire, release, acq_rel };

struct alignas(8) Mbarrier {
  uint64_t state;
};

namespace detail {

template <class T>
struct Same {
  using Type = T;
};
// Keeps an argument out of template deduction, so that a literal converts to the type of what is pointed at.
template <class T>
using SameAs = typename Same<T>::Type;

template <class T>
constexpr bool kIsWord = false;
template <>
inline constexpr bool kIsWord<uint32_t> = true;
template <>
inline constexpr bool kIsWord<uint64_t> = true;

}  // namespace detail

}  // namespace nccl_ep::dev
