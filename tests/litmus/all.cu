// SPDX-License-Identifier: Apache-2.0
// All litmus programs that run everywhere, as one module: for the host compiler and for NVRTC.
#include "blocks.cuh"
#include "bulk.cuh"
#include "lines.cuh"
#include "messages.cuh"
#include "numbers.cuh"
#include "peers.cuh"
#include "warps.cuh"
