// SPDX-License-Identifier: Apache-2.0
// Parcels on their way to and from rail peers, in chunks.
#pragma once

#include "ht/rails.cuh"

namespace nccl_ep::ht {

template <Peers kPeers>
struct ParcelBoxes {
  const Rails<kPeers>& rails;
  const HtParcels& parcels;

  EP_DEVICE uint32_t chunk_parcels() const { return rails.network.layout.chunk_parcels; }
  EP_DEVICE uint32_t chunk_of(uint32_t parcel) const { return parcel / chunk_parcels(); }
  // Parcels of a chunk, if there are so many in all.
  EP_DEVICE uint32_t size_of_chunk(uint32_t chunk, uint32_t num_parcels) const {
    const uint32_t rest = num_parcels - chunk * chunk_parcels();
    return rest < chunk_parcels() ? rest : chunk_parcels();
  }

  EP_DEVICE unsigned char* outgoing(uint32_t i, uint32_t parcel) const {
    return rails.template out<unsigned char>(i, offset(parcel));
  }
  EP_DEVICE const unsigned char* incoming(uint32_t i, uint32_t parcel) const {
    return rails.template in<unsigned char>(i, offset(parcel));
  }
  EP_DEVICE float* weights(unsigned char* parcel) const { return reinterpret_cast<float*>(parcel + parcels.row_bytes); }
  EP_DEVICE const float* weights(const unsigned char* parcel) const {
    return reinterpret_cast<const float*>(parcel + parcels.row_bytes);
  }

  // One lane calls it, after all that have written the chunk have met.
  EP_DEVICE void put(const Operation<kPeers>& op, uint32_t i, uint32_t chunk, uint32_t num_parcels) const {
    rails.put(op, i, HtRemoteLayout::kFirstChunk + chunk, offset(chunk * chunk_parcels()),
              uint64_t{size_of_chunk(chunk, num_parcels)} * parcels.stride());
  }
  // The same if parcels are not full: each leaves by itself, with so many bytes, and one of the threads that have put those
  // of a chunk tells when these have met.
  EP_DEVICE void put_parcel(uint32_t i, uint32_t parcel, uint64_t bytes) const {
    rails.put_part(i, HtRemoteLayout::kFirstChunk + chunk_of(parcel), offset(parcel), bytes);
  }
  EP_DEVICE void tell(const Operation<kPeers>& op, uint32_t i, uint32_t chunk) const {
    rails.tell(op, i, HtRemoteLayout::kFirstChunk + chunk);
  }
  // Waits for a parcel: each thread for itself.
  EP_DEVICE bool await(const Operation<kPeers>& op, uint32_t i, uint32_t parcel) const {
    return rails.await(op, Wait::remote_rows, i, HtRemoteLayout::kFirstChunk + chunk_of(parcel));
  }
  // Waits for all that come from a team, whether or not anybody needs them: then the boxes are free. One warp calls it. False:
  // the operation has failed.
  EP_DEVICE bool await_all(const Operation<kPeers>& op, uint32_t i, uint32_t num_parcels) const {
    bool ok = true;
    for (uint32_t parcel = chunk_parcels() * dev::lane_idx(); parcel < num_parcels; parcel += 32 * chunk_parcels()) {
      ok = ok && await(op, i, parcel);
    }
    return dev::all(ok) || op.warp_goes_on();
  }

 private:
  EP_DEVICE uint64_t offset(uint32_t parcel) const {
    return rails.network.layout.parcels + uint64_t{parcel} * parcels.stride();
  }
};

}  // namespace nccl_ep::ht
