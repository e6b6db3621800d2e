// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/memory.hpp"

#include <string>
#include <utility>

#include "gin_loopback/log.hpp"

namespace nccl_ep::loopback {
namespace {

// A reference to an allocation.
class Allocation {
 public:
  explicit Allocation(CUmemGenericAllocationHandle handle) : handle_(handle) {}
  ~Allocation() { driver().cuMemRelease(handle_); }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  CUmemGenericAllocationHandle handle() const { return handle_; }

 private:
  CUmemGenericAllocationHandle handle_;
};

}  // namespace

File export_memory(CUdeviceptr address, MemoryOffer* offer) {
  CUdeviceptr base = 0;
  size_t mapped_bytes = 0;
  CUmemGenericAllocationHandle handle = 0;
  void* pointer = reinterpret_cast<void*>(address);
  if (driver().cuMemGetAddressRange(&base, &mapped_bytes, address) != CUDA_SUCCESS) return {};
  if (driver().cuMemRetainAllocationHandle(&handle, pointer) != CUDA_SUCCESS) return {};
  const Allocation allocation(handle);
  int fd = -1;
  if (driver().cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) != CUDA_SUCCESS) {
    return {};
  }
  offer->offset = address - base;
  offer->mapped_bytes = mapped_bytes;
  return File(fd);
}

Mapping::Mapping(const File& file, uint64_t bytes) {
  CUmemGenericAllocationHandle handle = 0;
  void* fd = reinterpret_cast<void*>(static_cast<intptr_t>(file.fd()));
  check(driver().cuMemImportFromShareableHandle(&handle, fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "cuMemImportFromShareableHandle");
  const Allocation allocation(handle);  // the mapping holds a reference of its own
  Mapping made;                         // so that a failure gives back what there is by then
  made.bytes_ = bytes;
  check(driver().cuMemAddressReserve(&made.address_, bytes, 0, 0, 0), "cuMemAddressReserve");
  check(driver().cuMemMap(made.address_, bytes, 0, handle, 0), "cuMemMap");
  made.is_mapped_ = true;
  CUmemAccessDesc access = {};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  check(driver().cuCtxGetDevice(&access.location.id), "cuCtxGetDevice");
  check(driver().cuMemSetAccess(made.address_, bytes, &access, 1), "cuMemSetAccess");
  *this = std::move(made);
}

Mapping::Mapping(Mapping&& other) noexcept { *this = std::move(other); }

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(is_mapped_, other.is_mapped_);
  return *this;
}

Mapping::~Mapping() {
  if (is_mapped_) driver().cuMemUnmap(address_, bytes_);
  if (address_ != 0) driver().cuMemAddressFree(address_, bytes_);
}

Memory::Memory(int rank, int num_ranks, uint64_t address, uint64_t bytes, bool is_host, bool never_reset)
    : rank_(rank), is_host_(is_host), places_(num_ranks), signal_values_(never_reset ? bytes / sizeof(uint64_t) : 0) {
  places_[rank].address = address;
  places_[rank].bytes = bytes;
}

void Memory::map_peer(int peer, const MemoryOffer& offer, const File& file) {
  Place& place = places_[peer];
  place.bytes = offer.bytes;
  if (!file) return;
  place.mapping = Mapping(file, offer.mapped_bytes);
  place.address = place.mapping.address() + offer.offset;
}

CUdeviceptr Memory::at(int rank, uint64_t offset, uint64_t bytes) const {
  const Place& place = places_.at(rank);
  if (offset > place.bytes || bytes > place.bytes - offset) {
    throw Error(ncclInvalidArgument, std::to_string(bytes) + " bytes at " + std::to_string(offset) + " of memory " +
                                         std::to_string(id_) + " of rank " + std::to_string(rank) + ", which has " +
                                         std::to_string(place.bytes) + " bytes");
  }
  if (place.address == 0) {
    throw Error(ncclInvalidArgument, "memory " + std::to_string(id_) + " of rank " + std::to_string(rank) +
                                         " cannot be mapped by other ranks: expected memory of ncclMemAlloc, or of "
                                         "cuMemCreate with handles that are POSIX file descriptors");
  }
  return place.address + offset;
}

CUdeviceptr Memory::signal_at(uint64_t offset) const {
  if (offset % sizeof(uint64_t) != 0) {
    throw Error(ncclInvalidArgument, "a signal at offset " + std::to_string(offset) + ", expected a multiple of 8");
  }
  return at(rank_, offset, sizeof(uint64_t));
}

}  // namespace nccl_ep::loopback
