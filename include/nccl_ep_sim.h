// SPDX-License-Identifier: Apache-2.0
// A simulated cluster of GPUs in one process, for running nccl_ep without a GPU (libnccl_ep_sim.so).
//
// Conventions:
//  1. Every function returns an ncclResult_t and never aborts, throws or exits. ncclEpSimGetLastError() has the message of
//     the calling thread's last failing call. A failing call leaves its out-parameters zero.
//  2. Functions about one GPU take (cluster, rank). Rank r is GPU r % gpus_per_node of node r / gpus_per_node.
//  3. Ranks are threads of the caller's. A thread enters the ranks it acts for, works, and leaves them. The simulated
//     GPUs move only while every rank has entered (or has left again) and every thread that is still inside waits in a
//     call, so the same seed gives the same run, bit for bit, however the host schedules the threads. Once all ranks have
//     left, they may enter again.
//  4. Work is asynchronous: kernels, copies and fills take effect when the GPUs get to them. Device memory is ordinary
//     memory of this process and may be read and written through its pointer, but not while work on it is pending.
//     Freeing memory does not wait for pending work either, and takes it from later work only.
//  5. The first failure on a GPU (a race, a deadlock, a bad access, ...) ends the simulation: from then on, work and waits
//     of all ranks return ncclInternalError with its report. Memory and objects can still be freed.
//  6. A cluster belongs to the process that made it: after fork() the child's calls return ncclInvalidUsage.
//  7. Calls on one cluster may come from any thread. Those that wait (marked so) need the rank to have been entered by the
//     calling thread.
#ifndef NCCL_EP_SIM_H_
#define NCCL_EP_SIM_H_

#include <stddef.h>
#include <stdint.h>

#ifdef NCCL_EP_OWN_TYPES
#include "nccl_ep/own_types.h"
#else
#include <nccl.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define NCCL_EP_SIM_MAGIC 0x51A0C1A5u

typedef struct ncclEpSimCluster* ncclEpSimCluster_t;
typedef struct ncclEpSimEvent* ncclEpSimEvent_t;
typedef struct ncclEpSimGraph* ncclEpSimGraph_t;

// The message of the calling thread's last failing call; "" if there was none. Valid until that thread's next failure.
const char* ncclEpSimGetLastError(void);

// ---- The cluster

typedef enum { NCCL_EP_SIM_SWITCH_AUTO = 0, NCCL_EP_SIM_SWITCH_OFF = 1, NCCL_EP_SIM_SWITCH_ON = 2 } ncclEpSimSwitch_t;

// How far the network between LSA teams reaches.
typedef enum {
  NCCL_EP_SIM_NETWORK_AUTO = 0,  // all ranks
  NCCL_EP_SIM_NETWORK_OFF = 1,   // there is none
  NCCL_EP_SIM_NETWORK_ON = 2,    // every rank reaches every other one
  NCCL_EP_SIM_NETWORK_RAILS = 3  // a rank reaches those with its place in other teams, as with NCCL_CROSS_NIC=0
} ncclEpSimNetwork_t;

// When stores to other ranks' memory become visible there.
typedef enum {
  NCCL_EP_SIM_STORES_AUTO = 0,    // drawn from the seed among the last two
  NCCL_EP_SIM_STORES_DIRECT = 1,  // at once
  NCCL_EP_SIM_STORES_RANDOM = 2,  // at random times; a system-scope release waits for those it covers
  NCCL_EP_SIM_STORES_LATE = 3     // only when a system-scope release, or the end of the kernel, makes them
} ncclEpSimStores_t;

// Which of the runnable threads runs next.
typedef enum {
  NCCL_EP_SIM_SCHEDULE_AUTO = 0,     // drawn from the seed
  NCCL_EP_SIM_SCHEDULE_WARPS = 1,    // a warp runs until it waits
  NCCL_EP_SIM_SCHEDULE_BURSTS = 2,   // a warp runs for a random time
  NCCL_EP_SIM_SCHEDULE_UNIFORM = 3,  // any thread, at every step
  NCCL_EP_SIM_SCHEDULE_STARVE = 4    // random ranks, blocks, warps or lanes run only when nothing else can
} ncclEpSimSchedule_t;

// Zero means the default in every field.
typedef struct {
  uint32_t size;                   // sizeof(ncclEpSimConfig_t)
  uint32_t magic;                  // NCCL_EP_SIM_MAGIC
  uint32_t num_nodes;              // 1
  uint32_t gpus_per_node;          // 8
  uint32_t lsa_team_size;          // gpus_per_node; must divide it
  uint32_t sms_per_gpu;            // 4, at most 1024
  uint64_t seed;                   // of everything random. 0: environment variable NCCL_EP_SIM_SEED, else 1
  uint32_t max_threads_per_block;  // 128, at most 1024
  uint32_t max_shared_bytes;       // dynamic shared memory of a block: 227 KiB, at most 1 MiB
  uint64_t memory_bytes;           // device memory of each GPU: 1 GiB, at most 128 TiB. Only what is touched is used
  uint64_t step_limit;             // scheduling steps until the simulation is declared hung. 0: no limit
  ncclEpSimSwitch_t checker;       // happens-before checker; AUTO is ON
  ncclEpSimStores_t stores;
  ncclEpSimSchedule_t schedule;
  uint32_t num_gin_contexts;  // contexts of a network, each with a queue to every peer: 4
  uint32_t num_gin_signals;   // most signals of a context that a network may ask for: no limit
  uint32_t num_gin_counters;  // most counters of a context that a network may ask for: no limit
  ncclEpSimNetwork_t network;
} ncclEpSimConfig_t;

#ifdef __cplusplus
constexpr ncclEpSimConfig_t ncclEpSimConfigInit() {
  ncclEpSimConfig_t config{};
  config.size = sizeof(ncclEpSimConfig_t);
  config.magic = NCCL_EP_SIM_MAGIC;
  return config;
}
#define NCCL_EP_SIM_CONFIG_INIT (ncclEpSimConfigInit())
#else
#define NCCL_EP_SIM_CONFIG_INIT \
  ((ncclEpSimConfig_t){.size = (uint32_t)sizeof(ncclEpSimConfig_t), .magic = NCCL_EP_SIM_MAGIC})
#endif

// `config` may be NULL: all defaults.
ncclResult_t ncclEpSimClusterCreate(ncclEpSimCluster_t* cluster, const ncclEpSimConfig_t* config);
// All ranks must have left. Frees everything that still belongs to the cluster.
ncclResult_t ncclEpSimClusterDestroy(ncclEpSimCluster_t cluster);
// The configuration in force: defaults, the seed and what was drawn from it filled in.
ncclResult_t ncclEpSimGetConfig(ncclEpSimCluster_t cluster, ncclEpSimConfig_t* config);

// The communicator of all ranks as seen by `rank`, to be passed to ncclEpCreateGroup. Belongs to the cluster.
ncclResult_t ncclEpSimGetComm(ncclEpSimCluster_t cluster, int rank, ncclComm_t* comm);

// From here to Leave the calling thread acts for `rank`. A thread may enter several ranks, but then it cannot
// make collective calls, since it would wait for itself.
ncclResult_t ncclEpSimRankEnter(ncclEpSimCluster_t cluster, int rank);
ncclResult_t ncclEpSimRankLeave(ncclEpSimCluster_t cluster, int rank);

// ---- Memory

// Device memory, 256-byte aligned. What frees must match what allocated. NULL is free to free.
ncclResult_t ncclEpSimMalloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t bytes);
ncclResult_t ncclEpSimFree(ncclEpSimCluster_t cluster, int rank, void* memory);
// Device memory that can back a window, as ncclMemAlloc's.
ncclResult_t ncclEpSimMemAlloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t bytes);
ncclResult_t ncclEpSimMemFree(ncclEpSimCluster_t cluster, int rank, void* memory);
// Pinned host memory: kernels of this rank's GPU may use it too. Freed under them it stays theirs until they are done, or
// until the cluster is destroyed.
ncclResult_t ncclEpSimHostAlloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t bytes);
ncclResult_t ncclEpSimHostFree(ncclEpSimCluster_t cluster, int rank, void* memory);
// Memory as ncclEpElasticAlloc's (nccl_ep_elastic.h): one piece of device memory, of which the end counts as the host's
// and takes nothing of memory_bytes, though all that a GPU allocates must find room in as many addresses. Kernels use
// both parts alike, and neither is slower. Numbers of bytes are rounded up to multiples of 4096 and written back. Freed
// by ncclEpSimFree.
ncclResult_t ncclEpSimElasticAlloc(ncclEpSimCluster_t cluster, int rank, void** memory, size_t* gpu_bytes,
                                   size_t* host_bytes);

// Collective; waits. All ranks register in the same order. `memory` comes from ncclEpSimMemAlloc.
ncclResult_t ncclEpSimWindowRegister(ncclEpSimCluster_t cluster, int rank, void* memory, size_t bytes,
                                     ncclWindow_t* window);
// Every rank calls it, in any order; does not wait.
ncclResult_t ncclEpSimWindowDeregister(ncclEpSimCluster_t cluster, int rank, ncclWindow_t window);
// Where the window's memory on `peer`, a world rank of the same LSA team, is for kernels of `rank`.
ncclResult_t ncclEpSimWindowPeer(ncclEpSimCluster_t cluster, int rank, ncclWindow_t window, int peer, void** memory);

typedef struct {
  uint64_t device_bytes;  // allocated with ncclEpSimMalloc or ncclEpSimMemAlloc, or by nccl_ep
  uint64_t host_bytes;    // pinned, or at the end of ncclEpSimElasticAlloc's
  uint32_t num_device_allocations;
  uint32_t num_host_allocations;
  uint32_t num_windows;
  uint32_t num_streams;  // the default stream not counted
  uint32_t num_events;
  uint32_t num_graphs;
  uint32_t num_networks;  // between LSA teams, that groups have open
} ncclEpSimUsage_t;

// What is allocated on `rank` at the moment.
ncclResult_t ncclEpSimGetUsage(ncclEpSimCluster_t cluster, int rank, ncclEpSimUsage_t* usage);

// ---- Streams, events, graphs
// `stream` NULL is the rank's default stream, a stream like the others that always exists.

ncclResult_t ncclEpSimStreamCreate(ncclEpSimCluster_t cluster, int rank, cudaStream_t* stream);
// Pending work is still done.
ncclResult_t ncclEpSimStreamDestroy(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream);
// Waits.
ncclResult_t ncclEpSimStreamSynchronize(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream);
// ncclSuccess if the stream is idle, ncclInProgress if not. Yields to the simulation for a moment, so it may be polled.
ncclResult_t ncclEpSimStreamQuery(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream);
// Waits for all streams of the rank.
ncclResult_t ncclEpSimDeviceSynchronize(ncclEpSimCluster_t cluster, int rank);

// Both pointers may be host or device memory; nothing is staged, so both must stay as they are until it is done.
ncclResult_t ncclEpSimMemcpyAsync(ncclEpSimCluster_t cluster, int rank, void* dst, const void* src, size_t bytes,
                                  cudaStream_t stream);
ncclResult_t ncclEpSimMemsetAsync(ncclEpSimCluster_t cluster, int rank, void* dst, int value, size_t bytes,
                                  cudaStream_t stream);

// Launches a kernel compiled into the library, by its name. `args` are copied before the call returns.
ncclResult_t ncclEpSimLaunch(ncclEpSimCluster_t cluster, int rank, const char* kernel, uint32_t num_blocks,
                             uint32_t num_threads, size_t shared_bytes, const void* args, size_t args_bytes,
                             cudaStream_t stream);

ncclResult_t ncclEpSimEventCreate(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t* event);
ncclResult_t ncclEpSimEventDestroy(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t event);
ncclResult_t ncclEpSimEventRecord(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t event, cudaStream_t stream);
// Work put on `stream` later waits for what the event's last record covered. Never recorded: waits for
// nothing.
ncclResult_t ncclEpSimStreamWaitEvent(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream,
                                      ncclEpSimEvent_t event);
// Waits.
ncclResult_t ncclEpSimEventSynchronize(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t event);
// ncclSuccess if what the last record covered is done, ncclInProgress if not. Yields like
// ncclEpSimStreamQuery.
ncclResult_t ncclEpSimEventQuery(ncclEpSimCluster_t cluster, int rank, ncclEpSimEvent_t event);

// From begin to end, work put on `stream`, and on streams that wait for its events, is recorded and not done.
// Those other streams must be joined to `stream` by events before the end. Not the default stream.
ncclResult_t ncclEpSimStreamBeginCapture(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream);
ncclResult_t ncclEpSimStreamEndCapture(ncclEpSimCluster_t cluster, int rank, cudaStream_t stream,
                                       ncclEpSimGraph_t* graph);
// Each launch runs the graph's work in a random order that its dependencies allow.
ncclResult_t ncclEpSimGraphLaunch(ncclEpSimCluster_t cluster, int rank, ncclEpSimGraph_t graph, cudaStream_t stream);
ncclResult_t ncclEpSimGraphDestroy(ncclEpSimCluster_t cluster, int rank, ncclEpSimGraph_t graph);

// ---- Between the ranks' hosts

// Collective; wait. out has num_ranks * bytes, rank r's contribution at r * bytes.
ncclResult_t ncclEpSimBarrier(ncclEpSimCluster_t cluster, int rank);
ncclResult_t ncclEpSimAllGather(ncclEpSimCluster_t cluster, int rank, const void* in, void* out, size_t bytes);

// ---- What happened

// What went from one GPU to another: loads and stores of kernels inside an LSA team, GIN operations
// everywhere.
typedef struct {
  uint64_t bytes;   // written to dst by src: stores, atomics, bulk copies, puts
  uint64_t stores;  // store and atomic instructions, per thread
  uint64_t bulk_copies;
  uint64_t read_bytes;  // read from dst by src: loads of data that changed hands, and gets
  uint64_t gin_puts;
  uint64_t gin_put_bytes;  // part of `bytes`
  uint64_t gin_gets;
  uint64_t gin_signals;  // alone or riding on a put
} ncclEpSimLinkCounters_t;

// Of the link from rank `src` to rank `dst`, since the start or the last reset.
ncclResult_t ncclEpSimGetLinkCounters(ncclEpSimCluster_t cluster, int src, int dst, ncclEpSimLinkCounters_t* counters);
ncclResult_t ncclEpSimResetCounters(ncclEpSimCluster_t cluster);

typedef enum {
  NCCL_EP_SIM_FAILURE_NONE = 0,
  NCCL_EP_SIM_FAILURE_RACE = 1,           // the checker found unordered accesses
  NCCL_EP_SIM_FAILURE_DEADLOCK = 2,       // kernels wait and nothing can wake them
  NCCL_EP_SIM_FAILURE_HOST_DEADLOCK = 3,  // all hosts wait and the GPUs are idle
  NCCL_EP_SIM_FAILURE_FAULT = 4,          // a bad access, or a device primitive used wrongly
  NCCL_EP_SIM_FAILURE_STEP_LIMIT = 5,
  NCCL_EP_SIM_FAILURE_LIMIT = 6  // more than the simulator can do: the report says of what, and what helps
} ncclEpSimFailure_t;

// The first failure, with a report that names the seed, the place and the source line. The text belongs to
// the cluster; "" without a failure.
ncclResult_t ncclEpSimGetFailure(ncclEpSimCluster_t cluster, ncclEpSimFailure_t* failure, const char** report);

// A digest of all scheduling decisions so far. Two runs with equal digests were the same run.
ncclResult_t ncclEpSimGetScheduleHash(ncclEpSimCluster_t cluster, uint64_t* hash);

// Simulated nanoseconds since the start, which end time-outs: what kernels read as their clock. It goes on by steps, and
// in leaps while all wait, so it tells nothing about speed.
ncclResult_t ncclEpSimGetClock(ncclEpSimCluster_t cluster, uint64_t* ns);

// ---- Faults to inject
// They take effect at once on work that has not finished, and are off by default.

// The rank's GPU stops: its kernels no longer run, queued work never starts, its network queues stand still.
// Waits of its own host end with ncclSystemError. Collective calls of its host still work.
ncclResult_t ncclEpSimSilenceRank(ncclEpSimCluster_t cluster, int rank);
// The same when this many more scheduling steps have passed, wherever its kernels are then.
ncclResult_t ncclEpSimSilenceRankAfter(ncclEpSimCluster_t cluster, int rank, uint64_t steps);
// So many steps later some warps of the rank's kernels stand still, in later kernels too: those from `first_warp` on in all
// blocks from `first_block` on. The others run on, and a kernel that has none of them ends as ever.
ncclResult_t ncclEpSimStopWarpsAfter(ncclEpSimCluster_t cluster, int rank, uint32_t first_block, uint32_t first_warp,
                                     uint64_t steps);
// The GPU goes on where it stopped, or where some of its warps did.
ncclResult_t ncclEpSimWakeRank(ncclEpSimCluster_t cluster, int rank);
// The same when this many more scheduling steps have passed, or when nothing can go on without the rank.
ncclResult_t ncclEpSimWakeRankAfter(ncclEpSimCluster_t cluster, int rank, uint64_t steps);
// Work queued from now on starts up to `steps` scheduling steps later, and its network is as late. 0: as
// usual.
ncclResult_t ncclEpSimDelayRank(ncclEpSimCluster_t cluster, int rank, uint64_t steps);
// All ranks of the node fall silent, and what is in flight to and from its network is lost.
ncclResult_t ncclEpSimLoseNode(ncclEpSimCluster_t cluster, int node);

#ifdef __cplusplus
}
#endif

#endif
