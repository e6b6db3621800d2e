// SPDX-License-Identifier: Apache-2.0
// Compares each access with what is remembered of the memory it touches. Internal to the checker.
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "sim/agents.hpp"
#include "sim/shadow.hpp"

namespace nccl_ep::sim::check {

enum class Reason : uint8_t {
  unordered,    // nothing orders the two accesses
  scope,        // both synchronise, but one's scope leaves the other's thread out
  proxy_fence,  // they are ordered, but no fence_proxy_async makes the earlier write visible to bulk copies
  mbar_fence,   // a bulk copy completes on an mbarrier whose initialisation it may not see
};

// Two accesses that conflict, or (mbar_fence) the single one that is wrong.
struct Finding {
  Reason reason;
  uintptr_t address;
  Access earlier, later;
  bool earlier_writes, later_writes;
  uint64_t num_repeats = 0;
};

class Races {
 public:
  Shadow shadow;

  // Where the user of a slot is from now on.
  void set_place(Slot slot, Place place);

  struct Request {
    uintptr_t address;
    size_t bytes;
    bool writes;
    Kind kind;
    bool async;  // by a bulk copy
    Pc pc;
    Epoch epoch;
    const Knowledge& known;
  };
  void access(const Agent& agent, const Request& request);

  // Another pair at the same two places of the code only counts as a repetition.
  void add(const Finding& finding);
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  // Whether `other` may come before what the agent does without being known to it.
  bool may_overlap(const Agent& agent, const Access& other, const Access& mine, Reason& reason) const;
  // Whether the agent may rely on what `other` did.
  bool is_known(const Agent& agent, const Request& request, const Access& other, bool other_writes) const;
  // False if the pair is harmless for what it is, which says nothing about the order of the two agents.
  bool check_pair(const Agent& agent, const Request& request, const Access& other, bool other_writes,
                  const Access& mine, uintptr_t address);
  void remember_read(const Agent& agent, Cell& cell, const Access& mine, const Clock& known);

  std::vector<Place> places_;  // of each slot
  std::vector<Finding> findings_;
  using Pair = std::tuple<Reason, uint64_t, uint64_t, bool, bool>;
  std::map<Pair, size_t> index_;  // into findings_
};

}  // namespace nccl_ep::sim::check
