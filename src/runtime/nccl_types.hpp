// SPDX-License-Identifier: Apache-2.0
// The CUDA and NCCL types that the public API mentions, declared by us so that the build needs neither toolkit.
#pragma once

#ifndef NCCL_EP_OWN_TYPES
#define NCCL_EP_OWN_TYPES
#endif
#include "nccl_ep/own_types.h"
