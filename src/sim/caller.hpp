// SPDX-License-Identifier: Apache-2.0
// Where the kernel calls a device primitive. To be used in the primitive itself: elsewhere it names another caller.
#pragma once

#include "sim/checker.hpp"

#define EP_CALLER reinterpret_cast<nccl_ep::sim::check::Pc>(__builtin_return_address(0))
