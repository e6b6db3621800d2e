// SPDX-License-Identifier: Apache-2.0
// The plugin as NCCL sees it: functions that turn failures into codes and a line of the log, in two tables.
#include <exception>
#include <string>

#include "gin_loopback/connection.hpp"
#include "gin_loopback/log.hpp"
#include "gin_loopback/nccl_plugin.hpp"
#include "gin_loopback/transfers.hpp"

namespace nccl_ep::loopback {
namespace {

template <class Body>
ncclResult_t guarded(const char* call, Body&& body) noexcept {
  try {
    body();
    return ncclSuccess;
  } catch (const Error& error) {
    warn(std::string(call) + ": " + error.what());
    return error.code();
  } catch (const std::exception& error) {
    warn(std::string(call) + ": " + error.what());
    return ncclSystemError;
  }
}

Connection& connection_of(void* connection) { return *static_cast<Connection*>(connection); }
Contexts& contexts_of(void* contexts) { return *static_cast<Contexts*>(contexts); }
Region region(void* memory, uint64_t offset) { return {static_cast<const Memory*>(memory), offset}; }

// Nothing of ours belongs to an instance: communicators that are split off others share theirs.
ncclResult_t init(void** instance, uint64_t, Logger logger) {
  static char none;
  set_logger(logger);
  *instance = &none;
  return ncclSuccess;
}

ncclResult_t finalize(void*) { return ncclSuccess; }

ncclResult_t devices(int* count) {
  *count = 1;
  return ncclSuccess;
}

ncclResult_t get_properties(int, DeviceProperties* properties) {
  *properties = {};
  properties->name = "nccl_ep_loopback";
  properties->guid = 1;
  properties->pointer_support = kHostPointer | kCudaPointer;
  properties->speed = 100'000;
  properties->max_comms = 1 << 16;
  properties->max_recvs = 8;
  properties->net_device_type = kNetDeviceGinProxy;
  properties->virtual_device.num_devices = 1;
  properties->max_p2p_bytes = size_t{1} << 40;
  properties->max_coll_bytes = size_t{1} << 40;
  properties->max_multi_request_size = 1;
  properties->rail_id = kUndefinedId;
  properties->plane_id = kUndefinedId;
  return ncclSuccess;
}

ncclResult_t listen(void*, int, void* handle, void** listener) {
  return guarded("listen", [&] { *listener = new Listener(handle); });
}

ncclResult_t close_listener(void* listener) {
  delete static_cast<Listener*>(listener);
  return ncclSuccess;
}

ncclResult_t connect(void*, void* handles[], int num_ranks, int rank, void* listener, void** connection) {
  return guarded("connect", [&] {
    *connection = new Connection(*static_cast<Listener*>(listener), handles, num_ranks, rank);
    info("rank " + std::to_string(rank) + " of " + std::to_string(num_ranks) + " is connected, " +
         FaultOptions::from_environment().describe());
  });
}

ncclResult_t close_connection(void* connection) {
  return guarded("closeColl", [&] { delete static_cast<Connection*>(connection); });
}

ncclResult_t register_memory(void* connection, void* data, size_t bytes, int type, uint64_t flags, void** memory) {
  return guarded("regMrSym", [&] { *memory = &connection_of(connection).register_memory(data, bytes, type, flags); });
}

// Not reached: our properties do not offer it.
ncclResult_t register_dma_buf(void*, void*, size_t, int, uint64_t, int, uint64_t, void**) { return ncclInvalidUsage; }

ncclResult_t deregister(void* connection, void* memory) {
  return guarded("deregMrSym", [&] { connection_of(connection).deregister(*static_cast<Memory*>(memory)); });
}

ncclResult_t create_context(void* connection, RmaConfig* config, void** context) {
  return guarded("createContext", [&] { *context = new Contexts(connection_of(connection), config->num_contexts); });
}

ncclResult_t destroy_context(void* context) {
  return guarded("destroyContext", [&] { delete static_cast<Contexts*>(context); });
}

ncclResult_t put(void* context, int index, uint64_t src_offset, void* src, size_t bytes, uint64_t dst_offset, void* dst,
                 uint32_t rank, void** request) {
  return guarded("iput", [&] {
    *request = contexts_of(context).put(index, rank, region(dst, dst_offset), region(src, src_offset), bytes, nullptr);
  });
}

ncclResult_t put_signal(void* context, int index, uint64_t src_offset, void* src, size_t bytes, uint64_t dst_offset,
                        void* dst, uint32_t rank, uint64_t signal_offset, void* signal_memory, uint64_t value,
                        uint32_t op, bool is_strong, void** request) {
  return guarded("iputSignal", [&] {
    const PutSignal signal{region(signal_memory, signal_offset), op == kSignalInc ? 1 : value, is_strong};
    *request = contexts_of(context).put(index, rank, region(dst, dst_offset), region(src, src_offset), bytes, &signal);
  });
}

ncclResult_t get(void* context, int index, uint64_t remote_offset, void* remote, size_t bytes, uint64_t local_offset,
                 void* local, uint32_t rank, void** request) {
  return guarded("iget", [&] {
    *request = contexts_of(context).get(index, rank, region(local, local_offset), region(remote, remote_offset), bytes);
  });
}

// A get that is done can be seen.
ncclResult_t flush(void*, int, void*, uint32_t, void** request) {
  *request = nullptr;
  return ncclSuccess;
}

ncclResult_t test(void* connection, void* request, int* done) {
  if (connection_of(connection).has_failed()) return ncclUnhandledCudaError;  // progress() has said why
  Transfer* transfer = static_cast<Transfer*>(request);
  *done = transfer == nullptr || transfer->owner->test(transfer);
  return ncclSuccess;
}

ncclResult_t progress(void* context) {
  Contexts& contexts = contexts_of(context);
  if (contexts.connection().has_failed()) return ncclUnhandledCudaError;
  return guarded("progress", [&] { contexts.progress(); });
}

ncclResult_t query_last_error(void* context, bool* has_error) {
  Connection& connection = contexts_of(context).connection();
  const auto locked = connection.lock();
  *has_error = connection.has_failed() || connection.has_lost_a_rank();
  return ncclSuccess;
}

// ---- What differs in v13 ----

ncclResult_t create_context_v13(void* connection, GinConfig* config, void** context, void** device_handle) {
  if (device_handle != nullptr) *device_handle = nullptr;
  RmaConfig rma_config{config->num_contexts, config->traffic_class};
  return create_context(connection, &rma_config, context);
}

ncclResult_t register_memory_v13(void* connection, void* data, size_t bytes, int type, uint64_t flags, void** memory,
                                 void** device_memory) {
  const ncclResult_t result = register_memory(connection, data, bytes, type, flags, memory);
  *device_memory = *memory;
  return result;
}

ncclResult_t register_dma_buf_v13(void*, void*, size_t, int, uint64_t, int, uint64_t, void**, void**) {
  return ncclInvalidUsage;
}

ncclResult_t put_signal_v13(void* context, int index, uint64_t src_offset, void* src, size_t bytes, uint64_t dst_offset,
                            void* dst, uint32_t rank, uint64_t signal_offset, void* signal_memory, uint64_t value,
                            uint32_t op, void** request) {
  constexpr bool kStrong = true;
  return put_signal(context, index, src_offset, src, bytes, dst_offset, dst, rank, signal_offset, signal_memory, value,
                    op, kStrong, request);
}

constexpr SetUpFunctions kSetUp{"nccl_ep_loopback", init, devices, get_properties, listen, connect};
constexpr CloseFunctions kClose{deregister, destroy_context, close_connection, close_listener};
constexpr FinishFunctions kFinish{get, flush, test, progress, query_last_error, finalize};

}  // namespace
}  // namespace nccl_ep::loopback

using namespace nccl_ep::loopback;

extern "C" {
RmaPluginV14 ncclRmaPlugin_v14{kSetUp, create_context, register_memory, register_dma_buf, kClose,
                               put,    put_signal,     kFinish};
GinPluginV13 ncclGinPlugin_v13{
    kSetUp, create_context_v13, register_memory_v13, register_dma_buf_v13, kClose, put, put_signal_v13, kFinish};
}
