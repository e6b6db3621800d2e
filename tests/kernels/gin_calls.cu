// SPDX-License-Identifier: Apache-2.0
// A kernel for each call of device/gin.hpp, as kernels make it: what an action is, is known when it is compiled.
#include "device/gin.hpp"

using namespace nccl_ep;

struct Args {
  GinComm comm;
  ncclWindow_vidmem* window;
  uint64_t* out;
  uint64_t bytes;
  uint32_t peer;
  uint32_t id;
};

#define KERNEL(name) extern "C" __global__ void gin_##name(const __grid_constant__ Args args)
#define GIN dev::Gin(args.comm, args.id)
#define DST (dev::WindowAddress{args.window, 0})
#define SRC (dev::WindowAddress{args.window, args.bytes})
#define SIGNAL dev::signal(args.id)
#define WORD dev::signal(dev::WindowAddress{args.window, 8})

KERNEL(put) { GIN.put(args.peer, DST, SRC, args.bytes); }
KERNEL(put_weak) { GIN.put(args.peer, DST, SRC, args.bytes, dev::weak(SIGNAL)); }
KERNEL(put_strong) { GIN.put(args.peer, DST, SRC, args.bytes, dev::strong(SIGNAL, args.bytes)); }
KERNEL(put_weak_word) { GIN.put(args.peer, DST, SRC, args.bytes, dev::weak(WORD)); }
KERNEL(put_strong_word) { GIN.put(args.peer, DST, SRC, args.bytes, dev::strong(WORD)); }
KERNEL(put_counted) { GIN.put(args.peer, DST, SRC, args.bytes, {}, args.id); }
KERNEL(put_strong_counted) { GIN.put(args.peer, DST, SRC, args.bytes, dev::strong(SIGNAL), args.id); }
KERNEL(put_value_1) { GIN.put_value(args.peer, DST, args.bytes, 1); }
KERNEL(put_value_2) { GIN.put_value(args.peer, DST, args.bytes, 2, dev::weak(SIGNAL)); }
KERNEL(put_value_4) { GIN.put_value(args.peer, DST, args.bytes, 4, dev::strong(SIGNAL)); }
KERNEL(put_value_8) { GIN.put_value(args.peer, DST, args.bytes, 8, dev::strong(WORD)); }
KERNEL(signal_strong) { GIN.signal(args.peer, dev::strong(SIGNAL)); }
KERNEL(signal_weak_word) { GIN.signal(args.peer, dev::weak(WORD)); }
KERNEL(get) { GIN.get(args.peer, SRC, DST, args.bytes); }
KERNEL(flush) { GIN.flush(); }
KERNEL(flush_within) { *args.out = GIN.flush_within(args.bytes); }
KERNEL(read_signal) { *args.out = GIN.read_signal(SIGNAL); }
KERNEL(read_word) { *args.out = GIN.read_signal(WORD); }
KERNEL(wait_signal) { GIN.wait_signal(SIGNAL, args.bytes); }
KERNEL(reset_signal) { GIN.reset_signal(SIGNAL); }
KERNEL(reset_word) { GIN.reset_signal(WORD); }
KERNEL(read_counter) { *args.out = GIN.read_counter(args.id); }
KERNEL(wait_counter) { GIN.wait_counter(args.id, args.bytes); }
KERNEL(reset_counter) { GIN.reset_counter(args.id); }
