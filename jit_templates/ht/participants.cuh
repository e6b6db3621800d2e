// SPDX-License-Identifier: Apache-2.0
// Who takes part in an update of a group with masks: all that go on must be of one mind, since where rows lie depends on the
// counts of all ranks, and one may die when only some have its counts.
//
// Each rank has a word in its own window that says whether it takes part in an operation. The first who has an opinion
// decides: the rank itself, before it sends its counts to anybody, that it does; who has waited for it in vain, or has it
// masked, that it does not. So who has a rank's counts knows that it takes part. Who has not asks the word, and if the rank
// does, takes the counts from where the rank has left them for that: in its own window, before it said so.
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
// Block 0 finds all this out, and tells the others.
#pragma once

#include "ht/counts.cuh"

namespace nccl_ep::ht {

using MaskedOperation = Operation<Peers::masked_team>;

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

EP_DEVICE uint32_t* participation_of(const MaskedOperation& op, uint32_t rank) {
  return op.group.window.at<uint32_t>(rank, op.group.layout.participation_at());
}

// Says whether a rank takes part in this operation, unless somebody has said so before. Returns what holds.
EP_DEVICE Verdict settle(const MaskedOperation& op, uint32_t rank, Verdict mine) {
  uint32_t* word = participation_of(op, rank);
  Participation said{dev::ld_acquire<dev::Scope::system>(word)};
  while (said.ahead_of(op.epoch) < 0) {
    const Participation wanted = Participation::of(op.epoch, mine);
    const uint32_t before = dev::atomic_cas<dev::Order::acq_rel, dev::Scope::system>(word, said.word, wanted.word);
    if (before == said.word) return mine;
    said.word = before;
  }
  return said.verdict(op.epoch);
}

// Makes this rank take part, unless the others have gone on without it. False: they have, and must not get its counts. All
// threads of all blocks call it, and meet.
EP_DEVICE bool enter(const MaskedOperation& op, const UpdateScratch& scratch) {
  EP_SHARED(uint32_t, enters, [1]);
  const HtGroupState& group = op.group;
  if (dev::block_idx() == 0) {
    for_each_thread(group.num_ranks, [&](uint32_t peer) {
      if (op.await_peer(peer)) op.reaches(peer);  // or it is masked from now on
    });
    dev::sync_block();
    for_each_thread(group.num_ranks, [&](uint32_t peer) {
      if (op.reaches(peer) || has_failed(group)) return;
      settle(op, peer, Verdict::absent);
      say_hello(group, peer, op.epoch);
    });
    for_each_thread(group.layout.count_units(), [&](uint32_t u) {
      dev::st_unit(group.window.at<Unit>(group.rank, group.layout.counts_at(group.rank, u)),
                   count_unit(op, scratch, u));
    });
    dev::sync_block();
    if (dev::thread_idx() == 0 && !has_failed(group)) settle(op, group.rank, Verdict::present);
  }
  if (dev::thread_idx() == 0) {
    Participation mine{};
    const bool is_said = op.wait_for_own({Wait::source_counts, group.rank, 0}, [&] {
      mine.word = dev::ld_acquire<dev::Scope::system>(participation_of(op, group.rank));
      return mine.ahead_of(op.epoch) >= 0;
    });
    enters[0] = is_said && mine.verdict(op.epoch) == Verdict::present;
  }
  dev::sync_block();
  return enters[0];
}

// Whether a rank's counts are there. The whole warp calls it.
EP_DEVICE bool has_counts(const MaskedOperation& op, uint32_t source) {
  const HtGroupState& group = op.group;
  bool arrived = true;
  for (uint32_t u = dev::lane_idx(); u < group.layout.count_units(); u += 32) {
    Unit unit;
    arrived &= op.has_arrived(group.window.at<Unit>(group.rank, group.layout.counts_at(source, u)), unit);
  }
  return dev::all(arrived);
}

// Whether somebody has said that a rank does not take part. The whole warp calls it.
EP_DEVICE bool is_left_out(const MaskedOperation& op, uint32_t rank) {
  Participation said{};
  if (dev::lane_idx() == 0) said.word = dev::ld_acquire<dev::Scope::system>(participation_of(op, rank));
  said.word = dev::shfl(said.word, 0);
  return said.ahead_of(op.epoch) >= 0 && said.verdict(op.epoch) != Verdict::present;
}

// Waits for a rank's counts. False: they do not come. The whole warp calls it.
EP_DEVICE bool await_counts(const MaskedOperation& op, uint32_t source) {
  if (dev::any(is_masked(op.group, source))) return false;
  bool has_all = false;
  uint32_t polls = 0;
  const bool is_settled = op.wait_for<true>({Wait::source_counts, source, 0}, [&] {
    has_all = has_counts(op, source);
    return has_all || (++polls % dev::kPollsBeforeClock == 0 && is_left_out(op, source));
  });
  return is_settled && has_all;
}

// Takes a rank's counts from its own window. False: they are those of a later operation. The whole warp calls it.
EP_DEVICE bool fetch_counts(const MaskedOperation& op, uint32_t source) {
  const HtGroupState& group = op.group;
  bool has_all = true;
  for (uint32_t u = dev::lane_idx(); u < group.layout.count_units(); u += 32) {
    Unit unit;
    has_all &= op.has_arrived(group.window.at<Unit>(source, group.layout.counts_at(source, u)), unit);
    dev::st_unit(group.window.at<Unit>(group.rank, group.layout.counts_at(source, u)), unit);
  }
  return dev::all(has_all);
}

// Whether a rank takes part; if so its counts are here. The whole warp calls it.
EP_DEVICE Verdict find_verdict(const MaskedOperation& op, uint32_t rank) {
  const bool is_own = rank == op.group.rank;
  if (!is_own && await_counts(op, rank)) return Verdict::present;
  if (dev::any(has_failed(op.group))) return Verdict::past;  // who has given up has no opinion
  uint32_t verdict = 0;
  if (dev::lane_idx() == 0) {
    verdict = static_cast<uint32_t>(settle(op, rank, is_own ? Verdict::present : Verdict::absent));
  }
  verdict = dev::shfl(verdict, 0);
  dev::sync_warp();  // what one lane has acquired is for all to read
  if (is_own || verdict != static_cast<uint32_t>(Verdict::present)) return static_cast<Verdict>(verdict);
  return fetch_counts(op, rank) ? Verdict::present : Verdict::past;
}

EP_DEVICE uint32_t num_participant_words(const MaskedOperation& op) {
  return static_cast<uint32_t>(div_up(op.group.num_ranks, 32));
}

// Block 0, for all: a warp for each rank.
EP_DEVICE void find_participants(const MaskedOperation& op) {
  EP_SHARED(uint32_t, is_left_behind, [1]);
  const HtGroupState& group = op.group;
  uint32_t* words = participant_words();
  if (dev::thread_idx() == 0) is_left_behind[0] = 0;
  for_each_thread(num_participant_words(op), [&](uint32_t i) { words[i] = 0; });
  dev::sync_block();
  for (uint32_t rank = dev::warp_idx(); rank < group.num_ranks; rank += dev::num_warps()) {
    const Verdict verdict = find_verdict(op, rank);
    if (dev::lane_idx() != 0) continue;
    const bool is_present = verdict == Verdict::present;
    if (is_present) dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(words + rank / 32, 1u << rank % 32);
    if (verdict == Verdict::past || (rank == group.rank && !is_present)) {
      dev::st_relaxed<dev::Scope::block>(is_left_behind, 1u);
    }
  }
  dev::sync_block();
  if (is_left_behind[0]) {
    for_each_thread(num_participant_words(op),
                    [&](uint32_t i) { words[i] = i == group.rank / 32 ? 1u << group.rank % 32 : 0; });
    dev::sync_block();
  }
  for_each_thread(group.num_ranks, [&](uint32_t rank) {
    const bool is_present = words[rank / 32] >> rank % 32 & 1;
    if (!is_present) lose(group, op.epoch, {Wait::source_counts, rank, 0});
    const Participation said = Participation::of(op.epoch, is_present ? Verdict::present : Verdict::absent);
    dev::st_release<dev::Scope::gpu>(group.mask.verdicts + rank, said.word);
  });
}

// Finds out who takes part, for takes_part(), and has their counts. False: this rank has given up. All threads of all blocks
// call it, and meet.
EP_DEVICE bool agree(const MaskedOperation& op) {
  const HtGroupState& group = op.group;
  if (dev::block_idx() == 0) find_participants(op);
  bool ok = true;
  if (dev::warp_idx() == 0) {
    for (uint32_t base = 0; base < group.num_ranks; base += 32) {
      const uint32_t rank = base + dev::lane_idx();
      Participation said{};
      if (rank < group.num_ranks) {
        ok &= op.wait_for_own({Wait::source_counts, group.rank, 0}, [&] {
          said.word = dev::ld_acquire<dev::Scope::gpu>(group.mask.verdicts + rank);
          return said.ahead_of(op.epoch) == 0;
        });
      }
      const uint32_t bits = dev::ballot(said.word & 1);
      dev::sync_warp();  // in block 0 the word is about to be replaced
      if (dev::lane_idx() == 0) participant_words()[base / 32] = bits;
    }
  }
  ok = all_in_block(ok);
  dev::sync_block();
  return ok;
}

}  // namespace nccl_ep::ht
