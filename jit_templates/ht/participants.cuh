// SPDX-License-Identifier: Apache-2.0
// Who takes part in an update of a group with masks: all that go on must be of one mind, since where rows lie depends on the
// counts of all ranks, and one may die when only some have its counts.
//
// Each rank has a word in its own window that says whether it takes part in an operation. The first who has an opinion
// decides: the rank itself, before it sends its counts to anybody, that it does; who has waited for it in vain, or has it
// masked, that it does not. So who has a rank's counts knows that it takes part. Who has not asks the word, and if the rank
// does, takes the counts from where the rank has left them for that: in its own window, before it said so. For a rank of another
// LSA team all of this is done, and kept, by its rail peer in this one (update_remote.cuh).
//
// A rank speaks of an operation when all ranks that it has not masked have started it. They have then finished those before,
// and nobody asks for what the word said of these; but one that has been masked may find the word, or the counts, those of a
// later operation. It then cannot know what the others have found, and neither can a rank that is said to be absent: it masks all
// others and goes on alone, until masks are cleaned.
//
// Masked ranks hear that this one has started when it has said that they are absent: who is well says of itself that it is present
// only when all have started, and so learns that it is masked. Otherwise it would be counted, and wait for one that does
// not answer while others wait for it.
//
// As long as all answer nobody asks: each block sees the counts of all come. A block that misses some asks block 0, which has
// found out who takes part, for all blocks of its rank. Those that have seen all counts have found the same: whoever has sent
// them has said that it is present, and block 0 looks for them last of all. Only where ranks have stood still in the middle
// of this may blocks of one that is left behind be of several minds, of which nobody else learns.
#pragma once

#include "ht/rank_counts.cuh"

namespace nccl_ep::ht {

enum class Verdict : uint32_t { absent = 0, present = 1, past = 2 };  // past: the word speaks of a later operation

// What words say: an operation and whether somebody takes part in it.
struct Participation {
  uint32_t word;

  EP_DEVICE static Participation of(uint32_t epoch, Verdict verdict) {
    return {epoch << 1 | static_cast<uint32_t>(verdict)};
  }
  // How many operations ahead it speaks of; below 0: it has not been said yet.
  EP_DEVICE int32_t ahead_of(uint32_t epoch) const { return static_cast<int32_t>((word & ~1u) - (epoch << 1)); }
  EP_DEVICE Verdict verdict(uint32_t epoch) const {
    if (ahead_of(epoch) > 0) return Verdict::past;
    return word & 1 ? Verdict::present : Verdict::absent;
  }
};

template <Peers kPeers>
EP_DEVICE uint32_t* participation_of(const Operation<kPeers>& op, uint32_t rank) {
  const HtLayout& layout = op.group.layout;
  return op.group.window.template at<uint32_t>(op.deals_with(rank), layout.participation_at(rank / layout.team_size));
}

// Where a rank's counts are kept for those that miss them.
template <Peers kPeers>
EP_DEVICE Unit* kept_counts(const Operation<kPeers>& op, uint32_t rank, uint32_t u) {
  const HtLayout& layout = op.group.layout;
  return op.group.window.template at<Unit>(op.deals_with(rank), layout.kept_at(rank / layout.team_size, u));
}

// Says something in a word, unless somebody has spoken of this operation before. `said` is what the word has been. Returns
// what holds.
template <dev::Scope kScope, dev::Order kOrder = dev::Order::acq_rel>
EP_DEVICE Verdict settle(uint32_t* word, uint32_t epoch, Verdict mine, Participation said) {
  while (said.ahead_of(epoch) < 0) {
    const uint32_t wanted = Participation::of(epoch, mine).word;
    const uint32_t before = dev::atomic_cas<kOrder, kScope>(word, said.word, wanted);
    if (before == said.word) return mine;
    said.word = before;
  }
  return said.verdict(epoch);
}
// Says whether a rank takes part in this operation.
template <Peers kPeers>
EP_DEVICE Verdict settle(const Operation<kPeers>& op, uint32_t rank, Verdict mine, Participation said) {
  return settle<dev::Scope::system>(participation_of(op, rank), op.epoch, mine, said);
}
template <Peers kPeers>
EP_DEVICE Participation said_of(const Operation<kPeers>& op, uint32_t rank) {
  return {dev::ld_acquire<dev::Scope::system>(participation_of(op, rank))};
}

// Says of ranks that are masked that they are absent, and greets them. All have started that are not.
template <Peers kPeers>
EP_DEVICE void leave_out_masked(const Operation<kPeers>& op) {
  const HtGroupState& group = op.group;
  for_each_thread(group.layout.team_size, [&](uint32_t i) {
    const uint32_t peer = group.first_rank + i;
    if (op.reaches(peer) || has_failed(group)) return;
    settle(op, peer, Verdict::absent, said_of(op, peer));
    say_hello(group, peer, op.epoch);
  });
}

// Makes this rank take part, unless the others have gone on without it. False: they have, and must not get its counts. Each
// block that sends some says so for itself. All have started that are not masked. All threads of the block call it, and meet.
template <Peers kPeers>
EP_DEVICE bool enter(const Operation<kPeers>& op, const UpdateScratch& scratch) {
  const HtGroupState& group = op.group;
  Participation mine{};
  bool failed = false;
  if (dev::thread_idx() == 0) {  // both on their way meanwhile
    failed = has_failed(group);
    mine.word = dev::ld_relaxed<dev::Scope::system>(participation_of(op, group.rank));
  }
  for_each_thread(group.layout.count_units(), [&](uint32_t u) {
    const Unit unit = count_unit(op, scratch, u);
    dev::st_unit(group.window.template at<Unit>(group.rank, group.layout.counts_at(group.rank, u)), unit);
    dev::st_unit(kept_counts(op, group.rank, u), unit);
  });
  dev::sync_block();
  // The word publishes nothing, since to release something to the system takes longer than all else here: who reads the counts
  // sees by their number whether they have arrived. And it tells this rank nothing of the others' memory.
  const auto say_so = [&] {
    uint32_t* word = participation_of(op, group.rank);
    return settle<dev::Scope::system, dev::Order::relaxed>(word, op.epoch, Verdict::present, mine);
  };
  return dev::all_in_block(dev::thread_idx() != 0 || (!failed && say_so() == Verdict::present));
}

// Whether a rank's counts are there. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE bool has_counts(const Operation<kPeers>& op, uint32_t source) {
  const HtGroupState& group = op.group;
  bool arrived = true;
  for (uint32_t u = dev::lane_idx(); u < group.layout.count_units(); u += 32) {
    Unit unit;
    arrived &= op.has_arrived(group.window.template at<Unit>(group.rank, group.layout.counts_at(source, u)), unit);
  }
  return dev::all(arrived);
}

// Whether somebody has said that a rank does not take part.
template <Peers kPeers>
EP_DEVICE bool is_left_out(const Operation<kPeers>& op, uint32_t rank) {
  const Participation said = said_of(op, rank);
  return said.ahead_of(op.epoch) >= 0 && said.verdict(op.epoch) != Verdict::present;
}

// Waits for a rank's counts. False: they do not come. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE bool await_counts(const Operation<kPeers>& op, uint32_t source) {
  const uint32_t peer = op.deals_with(source);
  if (dev::any(is_masked(op.group, peer))) return false;
  bool has_all = false;
  uint32_t polls = 0;
  const bool is_settled = op.template wait_for<true>({Wait::source_counts, peer, 0}, [&] {
    has_all = has_counts(op, source);
    return has_all || (++polls % dev::kPollsBeforeClock == 0 && dev::any(is_left_out(op, source)));
  });
  return is_settled && has_all;
}

// Takes a rank's counts from where they are kept. They have been sent there before the rank was said to be present, but may be
// on their way still. False: they are those of a later operation. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE bool fetch_counts(const Operation<kPeers>& op, uint32_t source) {
  const HtGroupState& group = op.group;
  const uint64_t start = dev::clock_ns();
  bool has_all = true;
  for (uint32_t u = dev::lane_idx(); u < group.layout.count_units(); u += 32) {
    Unit unit;
    has_all &= op.wait_for_own({Wait::source_counts, op.deals_with(source), 0}, [&] {
      const bool has = op.has_arrived(kept_counts(op, source, u), unit);
      return has || static_cast<int32_t>(unit.epoch - op.epoch) > 0 || dev::clock_ns() - start > group.timeout_ns;
    });
    if (unit.epoch != op.epoch) has_all = false;
    if (has_all) dev::st_unit(group.window.template at<Unit>(group.rank, group.layout.counts_at(source, u)), unit);
  }
  return dev::all(has_all);
}

// Whether another rank takes part; if so its counts are here. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE Verdict find_verdict(const Operation<kPeers>& op, uint32_t rank) {
  if (await_counts(op, rank)) return Verdict::present;
  if (dev::any(has_failed(op.group))) return Verdict::past;  // who has given up has no opinion
  uint32_t lane_verdict = 0;
  if (dev::lane_idx() == 0) {
    lane_verdict = static_cast<uint32_t>(settle(op, rank, Verdict::absent, said_of(op, rank)));
  }
  const Verdict verdict = static_cast<Verdict>(dev::shfl(lane_verdict, 0));
  dev::sync_warp();  // what one lane has acquired is for all to read
  if (verdict == Verdict::absent) return verdict;
  if (verdict == Verdict::present && fetch_counts(op, rank)) return verdict;
  return has_counts(op, rank) ? Verdict::present : Verdict::past;  // it may have sent them before it went on
}

// A rank takes no part. It is masked if this one deals with it itself.
template <Peers kPeers, class OtherTeams>
EP_DEVICE void do_without(const Operation<kPeers>& op, const OtherTeams& others, uint32_t rank) {
  dev::st_relaxed<dev::Scope::system>(&op.group.faults->lacks_ranks, 1u);
  if (others.deal_with(op, rank)) lose(op.group, op.epoch, {Wait::source_counts, rank, 0});
}

// Block 0, for all: a warp for each rank.
template <Peers kPeers, class OtherTeams>
EP_DEVICE void find_participants(const Operation<kPeers>& op, const OtherTeams& others, bool enters) {
  EP_SHARED(uint32_t, is_left_behind, [1]);
  const HtGroupState& group = op.group;
  const uint32_t own_word = group.rank / 32, own_bit = 1u << group.rank % 32;
  uint32_t* words = participant_words();
  if (dev::thread_idx() == 0) is_left_behind[0] = !enters;
  for_each_thread(num_participant_words(op), [&](uint32_t i) { words[i] = i == own_word ? own_bit : 0; });
  dev::sync_block();
  for (uint32_t rank = dev::warp_idx(); enters && rank < group.num_ranks; rank += dev::num_warps()) {
    if (rank == group.rank) continue;
    const Verdict verdict = find_verdict(op, rank);
    if (dev::lane_idx() != 0 || verdict == Verdict::absent) continue;
    if (verdict == Verdict::past) dev::st_relaxed<dev::Scope::block>(is_left_behind, 1u);  // whatever else is found
    dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(words + rank / 32, 1u << rank % 32);
  }
  dev::sync_block();
  if (is_left_behind[0]) {
    for_each_thread(num_participant_words(op), [&](uint32_t i) { words[i] = i == own_word ? own_bit : 0; });
    dev::sync_block();
  }
  for_each_thread(group.num_ranks, [&](uint32_t rank) {
    const bool is_present = words[rank / 32] >> rank % 32 & 1;
    if (!is_present) do_without(op, others, rank);
    const Participation said = Participation::of(op.epoch, is_present ? Verdict::present : Verdict::absent);
    dev::st_release<dev::Scope::gpu>(group.mask.verdicts + rank, said.word);
  });
}

// What block 0 has found of a rank.
template <Peers kPeers>
EP_DEVICE Participation found_of(const Operation<kPeers>& op, uint32_t rank) {
  return {dev::ld_acquire<dev::Scope::gpu>(op.group.mask.verdicts + rank)};
}

// Finds out who takes part, for takes_part(), and has their counts. False: this rank has given up. All threads of the block
// call it, and meet.
template <Peers kPeers, class OtherTeams>
EP_DEVICE bool agree(const Operation<kPeers>& op, const OtherTeams& others, bool enters) {
  const HtGroupState& group = op.group;
  if (dev::block_idx() == 0) find_participants(op, others, enters);
  bool ok = true;
  if (dev::warp_idx() == 0) {
    for (uint32_t base = 0; base < group.num_ranks; base += 32) {
      const uint32_t rank = base + dev::lane_idx();
      Participation said{};
      if (rank < group.num_ranks) {
        ok &= op.wait_for_own({Wait::source_counts, group.rank, 0}, [&] {
          said = found_of(op, rank);
          return said.ahead_of(op.epoch) == 0;
        });
      }
      const uint32_t bits = dev::ballot(said.word & 1);
      dev::sync_warp();  // in block 0 the word is about to be replaced
      if (dev::lane_idx() == 0) participant_words()[base / 32] = bits;
    }
  }
  return dev::all_in_block(ok);
}

// Waits for the counts of all ranks, as add_ranks() wants it: as long as `ready` says that some are missing, and whose. False:
// there is more to be asked. Block 0 is to find that out, so its waits have an end.
template <Peers kPeers, class Ready>
EP_DEVICE bool await_all_counts(const Operation<kPeers>& op, const Awaited& awaited, const uint32_t& missing,
                                Ready ready) {
  bool has_all = false;
  uint32_t polls = 0;
  const auto looks_further = [&] { return ++polls % dev::kPollsBeforeClock == 0; };
  if (dev::block_idx() == 0) {
    wait_patiently<false, true>(op.life(), op.epoch, awaited, [&] {
      has_all = ready();
      return has_all || (looks_further() && is_left_out(op, missing));
    });
  } else {
    op.wait_for_own(awaited, [&] {
      has_all = ready();
      return has_all || (looks_further() && found_of(op, op.group.rank).ahead_of(op.epoch) == 0);
    });
  }
  return has_all;
}

// The others have gone on without this rank. All threads of the block call it.
template <Peers kPeers, class OtherTeams>
EP_DEVICE void lose_all_others(const Operation<kPeers>& op, const OtherTeams& others) {
  for_each_thread(op.group.num_ranks, [&](uint32_t rank) {
    if (rank != op.group.rank) do_without(op, others, rank);
  });
}

// The ranks tell each other their counts, and go on with those of all that take part. False: this rank has given up. All threads
// of all blocks call it, and meet.
template <Peers kPeers, class OtherTeams>
EP_DEVICE bool exchange_masked_counts(const Operation<kPeers>& op, const HtUpdateArgs& args,
                                      const UpdateScratch& scratch, const OtherTeams& others) {
  bool enters = true;
  if (dev::block_idx() < others.num_senders()) {
    enters = enter(op, scratch);
    if (dev::block_idx() == 0) {
      if (enters) send_counts(op, scratch);
      leave_out_masked(op);
    }
    if (enters) others.exchange_counts(op, scratch);
  }
  for_each_thread(num_participant_words(op), [&](uint32_t i) { participant_words()[i] = ~0u; });
  const auto note = [&](uint32_t source, uint32_t counter, uint32_t before, uint32_t count) {
    others.note_count(scratch, source, counter, before, count);
  };
  // If the others have gone on without this rank when all counts had come, its blocks have seen them, and block 0 does as
  // they do, so that all give the same rows.
  const bool is_left_behind = dev::block_idx() == 0 && !enters;
  const bool has_all = add_ranks(
      op, args.handle, scratch, [](uint32_t) { return true; },
      [&](const Awaited& awaited, const uint32_t& missing, auto ready) {
        return is_left_behind ? ready() : await_all_counts(op, awaited, missing, ready);
      },
      note);
  if (dev::all_in_block(has_all)) {
    if (is_left_behind) lose_all_others(op, others);
    return true;
  }
  if (!agree(op, others, enters) || !add_blocks(op, args, scratch, others)) return false;
  return dev::all_in_block(add_ranks(
      op, args.handle, scratch, [&](uint32_t rank) { return takes_part(op, rank); },
      [&](const Awaited& awaited, const uint32_t&, auto ready) { return op.wait_for(awaited, ready); }, note));
}

}  // namespace nccl_ep::ht
