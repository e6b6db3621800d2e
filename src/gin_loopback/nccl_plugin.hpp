// SPDX-License-Identifier: Apache-2.0
// What NCCL and an RMA plugin say to each other: the part of NCCL's plugin interface that we implement, declared by
// us. NCCL 2.30.7 and later look for ncclRmaPlugin_v14, 2.30.3 and 2.30.4 for ncclGinPlugin_v13.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nccl_ep/own_types.h"

namespace nccl_ep::loopback {

enum class LogLevel : int { kWarn = 2, kInfo = 3 };
constexpr unsigned long kLogInit = 1;
constexpr unsigned long kLogNet = 16;
using Logger = void (*)(LogLevel level, unsigned long subsystems, const char* file, int line, const char* format, ...);

constexpr size_t kHandleBytes = 128;  // of what listen() gives to all ranks

// Memory types, and what a device says it supports.
enum PointerType : int { kHostPointer = 1, kCudaPointer = 2 };

// The memory holds signals that start at 0 and that nobody but the plugin writes.
constexpr uint64_t kSignalsNeverReset = 1 << 1;

enum SignalOp : uint32_t { kSignalInc = 1, kSignalAdd = 2 };

constexpr int kNetDeviceGinProxy = 2;
constexpr int16_t kUndefinedId = -1;

struct DeviceProperties {  // ncclNetProperties_v12_t
  const char* name;
  const char* pci_path;
  uint64_t guid;
  int pointer_support;
  int reg_is_global;
  int force_flush;
  int speed;  // Mbit/s
  int port;
  float latency;
  int max_comms;
  int max_recvs;  // 32 times this many requests can be outstanding for a peer and a context; a power of two
  int net_device_type;
  int net_device_version;
  struct {
    int num_devices;
    int devices[8];
  } virtual_device;
  size_t max_p2p_bytes;
  size_t max_coll_bytes;
  int max_multi_request_size;
  int16_t rail_id;
  int16_t plane_id;
};
static_assert(offsetof(DeviceProperties, net_device_type) == 56);
static_assert(offsetof(DeviceProperties, max_p2p_bytes) == 104);
static_assert(sizeof(DeviceProperties) == 128);

struct RmaConfig {  // ncclRmaConfig_v14_t, as far as all versions of it agree
  int num_contexts;
  int traffic_class;
};

struct GinConfig {  // ncclGinConfig_v13_t
  int num_signals;
  int num_counters;
  int num_contexts;
  int queue_depth;
  int traffic_class;
};
static_assert(offsetof(GinConfig, num_contexts) == 8);

// Functions of both tables, in their order.
struct SetUpFunctions {
  const char* name;
  ncclResult_t (*init)(void** instance, uint64_t comm_id, Logger);
  ncclResult_t (*devices)(int* count);
  ncclResult_t (*get_properties)(int device, DeviceProperties*);
  ncclResult_t (*listen)(void* instance, int device, void* handle, void** listener);
  ncclResult_t (*connect)(void* instance, void* handles[], int num_ranks, int rank, void* listener, void** connection);
};
struct CloseFunctions {
  ncclResult_t (*deregister)(void* connection, void* memory);
  ncclResult_t (*destroy_context)(void* context);
  ncclResult_t (*close_connection)(void* connection);
  ncclResult_t (*close_listener)(void* listener);
};
using PutFunction = ncclResult_t (*)(void* context, int index, uint64_t src_offset, void* src, size_t bytes,
                                     uint64_t dst_offset, void* dst, uint32_t rank, void** request);
struct FinishFunctions {
  ncclResult_t (*get)(void* context, int index, uint64_t remote_offset, void* remote, size_t bytes,
                      uint64_t local_offset, void* local, uint32_t rank, void** request);
  ncclResult_t (*flush)(void* context, int index, void* memory, uint32_t rank, void** request);
  ncclResult_t (*test)(void* connection, void* request, int* done);
  ncclResult_t (*progress)(void* context);
  ncclResult_t (*query_last_error)(void* context, bool* has_error);
  ncclResult_t (*finalize)(void* instance);
};

struct RmaPluginV14 {  // ncclRma_v14_t
  SetUpFunctions set_up;
  ncclResult_t (*create_context)(void* connection, RmaConfig*, void** context);
  ncclResult_t (*register_memory)(void* connection, void* data, size_t bytes, int type, uint64_t flags, void** memory);
  ncclResult_t (*register_dma_buf)(void* connection, void* data, size_t bytes, int type, uint64_t offset, int fd,
                                   uint64_t flags, void** memory);
  CloseFunctions close;
  PutFunction put;
  ncclResult_t (*put_signal)(void* context, int index, uint64_t src_offset, void* src, size_t bytes,
                             uint64_t dst_offset, void* dst, uint32_t rank, uint64_t signal_offset, void* signal_memory,
                             uint64_t value, uint32_t op, bool is_strong, void** request);
  FinishFunctions finish;
};
static_assert(offsetof(RmaPluginV14, put) == 13 * sizeof(void*));
static_assert(sizeof(RmaPluginV14) == 21 * sizeof(void*));

struct GinPluginV13 {  // ncclGin_v13_t, whose signals are all strong
  SetUpFunctions set_up;
  ncclResult_t (*create_context)(void* connection, GinConfig*, void** context, void** device_handle);
  ncclResult_t (*register_memory)(void* connection, void* data, size_t bytes, int type, uint64_t flags, void** memory,
                                  void** device_memory);
  ncclResult_t (*register_dma_buf)(void* connection, void* data, size_t bytes, int type, uint64_t offset, int fd,
                                   uint64_t flags, void** memory, void** device_memory);
  CloseFunctions close;
  PutFunction put;
  ncclResult_t (*put_signal)(void* context, int index, uint64_t src_offset, void* src, size_t bytes,
                             uint64_t dst_offset, void* dst, uint32_t rank, uint64_t signal_offset, void* signal_memory,
                             uint64_t value, uint32_t op, void** request);
  FinishFunctions finish;
};
static_assert(offsetof(GinPluginV13, put) == 13 * sizeof(void*));
static_assert(sizeof(GinPluginV13) == 21 * sizeof(void*));

}  // namespace nccl_ep::loopback
