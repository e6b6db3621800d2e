// SPDX-License-Identifier: Apache-2.0
// Up to a pack of bytes, at any address and of any number, in the largest pieces that they allow.
#pragma once

#include "device/numeric.hpp"

namespace nccl_ep {

namespace detail {

template <class Piece>
EP_DEVICE Pack load_pieces(const unsigned char* from, uint32_t bytes) {
  constexpr uint32_t kBits = 8 * sizeof(Piece);
  uint64_t low = 0, high = 0;
#pragma unroll 1
  for (uint32_t left = bytes; left > 0; left -= sizeof(Piece)) {
    high = high << kBits | low >> (64 - kBits);
    low = low << kBits | dev::ld_nc(reinterpret_cast<const Piece*>(from + left - sizeof(Piece)));
  }
  return {{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high),
           static_cast<uint32_t>(high >> 32)}};
}

template <class Piece>
EP_DEVICE void store_pieces(unsigned char* to, const Pack& pack, uint32_t bytes) {
  constexpr uint32_t kBits = 8 * sizeof(Piece);
  uint64_t low = uint64_t{pack.word[1]} << 32 | pack.word[0], high = uint64_t{pack.word[3]} << 32 | pack.word[2];
#pragma unroll 1
  for (uint32_t at = 0; at < bytes; at += sizeof(Piece)) {
    dev::st(reinterpret_cast<Piece*>(to + at), static_cast<Piece>(low));
    low = low >> kBits | high << (64 - kBits);
    high >>= kBits;
  }
}

}  // namespace detail

// From memory that nobody writes while the kernel runs. What is left of the pack is zero.
EP_DEVICE Pack load_ragged(const unsigned char* from, uint32_t bytes) {
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(from) | bytes;
  if (misaligned % sizeof(Pack) == 0) return dev::ld_nc(reinterpret_cast<const Pack*>(from));
  if (misaligned % sizeof(uint32_t) == 0) return detail::load_pieces<uint32_t>(from, bytes);
  return detail::load_pieces<uint8_t>(from, bytes);
}

EP_DEVICE void store_ragged(unsigned char* to, const Pack& pack, uint32_t bytes) {
  const uintptr_t misaligned = reinterpret_cast<uintptr_t>(to) | bytes;
  if (misaligned % sizeof(Pack) == 0) return dev::st(reinterpret_cast<Pack*>(to), pack);
  if (misaligned % sizeof(uint32_t) == 0) return detail::store_pieces<uint32_t>(to, pack, bytes);
  detail::store_pieces<uint8_t>(to, pack, bytes);
}

}  // namespace nccl_ep
