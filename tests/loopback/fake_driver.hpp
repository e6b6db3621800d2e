// SPDX-License-Identifier: Apache-2.0
// A CUDA driver for tests, of the functions that the loopback plugin uses. GPU memory is the host's; what streams are
// given to do happens late, in pieces, and in any order that streams allow. The functions are strict: an address that
// the driver did not give out, or a thread without a context, is an error.
#pragma once

#include <cstdint>
#include <string>

#include "gin_loopback/driver.hpp"

namespace fake {

using nccl_ep::loopback::CUcontext;

struct Options {
  uint64_t seed = 1;
  uint32_t usual_delay_us = 100;   // less than this, for most pieces of work; some take 30 times as long
  bool events_come_early = false;  // as though work were done as soon as it is asked for
};

// Starts a GPU of this process. It is there until the process ends.
CUcontext start_device(const Options& options);
void set_current(CUcontext context);

// Zeroed memory of the current GPU.
uint64_t allocate(uint64_t bytes, bool is_exportable);
void deallocate(uint64_t address);

// Streams, events, mappings and the like that have not been given back, as text; empty if there are none.
std::string leftovers();

}  // namespace fake
