// SPDX-License-Identifier: Apache-2.0
// The device primitives: everything a kernel may use. One contract, two implementations.
//
// cuda.cuh implements it with PTX (the only place where PTX lives), sim.hpp on the simulated GPU cluster. Kernels
// include this file alone. Every function below exists in both files under the same name with the same meaning,
// in namespace nccl_ep::dev; the litmus programs in tests/litmus hold the two implementations together.
//
// Identity      thread_idx() lane_idx() warp_idx() block_idx() num_threads() num_warps() num_blocks()
//               All uint32_t; blocks and grids are one-dimensional.
//
// Weak access   ld(p) ld_nc(p) st(p, v)               T of 1, 2, 4, 8 or 16 bytes, naturally aligned.
//               Plain loads and stores through raw pointers are allowed as well, except for stores to another
//               rank's memory, which must be st. ld_nc reads data that nobody writes while the kernel runs.
//               ld_nc_or(p, otherwise): the same of an int32_t; p may be null.
//               ld_shared(p) st_shared(p, v): as ld and st, for the block's shared memory alone; 16 bytes are loaded, 4 or 8
//               stored.
//
// Sync access   ld_relaxed<scope>(p) ld_acquire<scope>(p) st_relaxed<scope>(p, v) st_release<scope>(p, v)
//               atomic_add<order, scope>(p, v) atomic_or<order, scope>(p, v) atomic_exchange<order, scope>(p, v)
//               atomic_cas<order, scope>(p, expected, v)      each returns the old value
//               T is uint32_t or uint64_t. Flags, counters and whatever is polled use these and nothing else.
//               fence<scope>() is an acquire-release fence.
//               scope: Scope::block, Scope::gpu, Scope::system. order: Order::relaxed, acquire, release, acq_rel.
//
// Units         ld_unit(p) st_unit(p, u)              16 bytes that travel as one: a reader sees all of a unit or
//               nothing of it, so a tag inside the unit says that the other words have arrived. Relaxed, system
//               scope; no other data is published by it.
//
// Lines         ld_line(part) st_line(part, unit, active)
//               A line is eight units side by side, 128-byte aligned, that travel as one: ld_line sees all of what an
//               st_line has stored or nothing of it, in all eight lanes, so one tag serves the whole line. Relaxed,
//               system scope; no other data is published by it. All 32 lanes take part; that orders no memory.
//               Lanes 8n to 8n + 7 access one line: `part` is where it begins, plus lane % 8. The four lines need not
//               be neighbours, and may be loaded more than once. A line's lanes are all active or all inactive; inactive
//               ones store nothing, whatever `part` is.
//
// Warp          sync_warp() ballot(pred) shfl(v, lane) shfl_xor(v, mask) all(pred) any(pred) sum_warp(uint32_t)
//               max_warp(uint32_t) or_warp(uint32_t)
//               All 32 lanes take part. Shuffles and ballots order no memory; sync_warp does.
//               popc(bits) find_first(bits): number of set bits; index of the lowest set bit, or -1; 32 or 64 bits.
//
// Block         sync_block(); all_in_block(pred) -> bool: sync_block() that says whether all threads have said so
//               bar_sync(id, num_threads); bar_arrive(id, num_threads): named barriers 1 to 15.
//
// mbarrier      Mbarrier lives in shared memory, 8-byte aligned.
//               mbar_init(bar, arrivals) mbar_arrive(bar) mbar_arrive_expect_tx(bar, bytes)
//               mbar_test(bar, parity) -> bool      acquire at block scope when true
//               mbar_wait(bar, parity)              spins on mbar_test; only for the engine's own completions, which
//                                                   depend on no other rank
//               mbar_inval(bar) fence_mbar_init()
//
// Bulk copy     bulk_load(shared_dst, global_src, bytes, bar)   completes as `bytes` of transactions on bar
//               bulk_store(global_dst, shared_src, bytes)       joins the calling thread's open group
//               bulk_commit()  bulk_wait<N>()  bulk_wait_read<N>()
//               Addresses and sizes are multiples of 16. At most N of the thread's groups are unfinished after
//               bulk_wait<N> (bulk_wait_read: may still be read from shared memory). A kernel may not exit with
//               unread groups.
//
// Proxies       That a bulk copy has finished, as its mbarrier or bulk_wait tells, shows it to ordinary accesses, and to
//               other bulk copies of the block. Bulk copies that read or overwrite what ordinary accesses or another
//               block's bulk copies have written need fence_proxy_async(), by a thread of their block that knows of it,
//               between that and the copy: it orders all that the thread has done and acquired before later bulk copies
//               of its block. A kernel starts as if with one. What has only been read needs none.
//
// Shared memory EP_SHARED(T, name, [N])  static array;  EP_DYNAMIC_SHARED(name)  unsigned char*, 1024-byte aligned.
//
// Time          clock_ns(): nanoseconds of a clock that all blocks of a device share. pause(): be polite in a spin.
//               kPollsBeforeClock: so many polls of a spin are better spent without a look at the clock.
//
// Numbers       fma(a, b, c) add(a, b) mul(a, b) reciprocal(a): single IEEE operations, never contracted or
//               reassociated. max_abs(a, b): the larger of two magnitudes, NaN if one of them is.
//               Pack of 16 bytes of DType as floats: see numeric.hpp, which uses
//               float_from_bf16(uint16_t) bf16_from_float(float) float_from_fp16(uint16_t) fp16_from_float(float),
//               round to nearest even, NaN stays NaN; float_from_bits(uint32_t) bits_from_float(float).
//               e4m3x2_from_floats(low, high): two E4M3 bytes, round to nearest even; what is larger than 448, the
//               largest number, becomes 448, infinity too; NaN stays NaN. floats_from_e4m3x2(bits, low, high).
//               e2m1x8_from_floats(value[8]): a word of E2M1 numbers, the first in its lowest four bits, round to nearest
//               even; what is larger than 6, the largest number, becomes 6, infinity too; NaN becomes +6.
//               floats_from_e2m1x8(bits, value[8]).
//
// Functions are declared with EP_DEVICE, which inlines them.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#include "device/cuda.cuh"
#else
#include "device/sim.hpp"
#endif
