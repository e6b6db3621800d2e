// SPDX-License-Identifier: Apache-2.0
// Kernels for sim_lines.cpp.
#include "device/device.hpp"
#include "sim_executor_kernels.hpp"

namespace {

using namespace nccl_ep;
using dev::Scope;
using test::Args;

Unit* unit(const Args& args, uint32_t rank, uint32_t index) {
  return args.memory.at<Unit>(rank, uint64_t{index} * sizeof(Unit));
}
uint32_t* word(const Args& args, uint32_t rank, uint32_t index) { return args.memory.at<uint32_t>(rank, 4 * index); }
Unit tagged() { return Unit{{dev::lane_idx(), 0, 0}, 1}; }

// ---- well used

// Rank 0 sends two of four lines.
void send_two_lines(const Args& args) {
  if (args.rank != 0 || dev::warp_idx() != 0) return;
  const uint32_t line = dev::lane_idx() / 8;
  dev::st_line(unit(args, 1, dev::lane_idx()), tagged(), line % 2 == 1);
}

// One lane of rank 0 takes many steps before each of its warp's eight lines, one at a time. A warp of rank 1 looks at all
// of them, and at flags that nobody raises, until they are there; each lane says how often.
void send_lines_slowly(const Args& args) {
  constexpr uint32_t kLines = 8, kFlag = 4096;
  if (dev::warp_idx() != 0) return;
  const uint32_t lane = dev::lane_idx(), part = lane % 8;
  if (args.rank == 0) {
    for (uint32_t next = 0; next < kLines; ++next) {
      for (uint32_t i = 0; lane == 0 && i < 500; ++i) {
        dev::atomic_add<dev::Order::relaxed, Scope::gpu>(word(args, 0, 0), 1u);
      }
      dev::st_line(unit(args, 1, next * 8 + part), tagged(), lane / 8 == next % 4);
    }
    return;
  }
  uint32_t num_looks = 0, raised = 0;
  for (bool all_have_come = false; !all_have_come; ++num_looks) {
    const Unit first = dev::ld_line(unit(args, 1, lane));
    const Unit second = dev::ld_line(unit(args, 1, 32 + lane));
    raised |= dev::ld_relaxed<Scope::system>(word(args, 1, kFlag + lane));
    all_have_come = dev::all(first.epoch == 1 && second.epoch == 1);
    dev::pause();
  }
  dev::st(word(args, 1, kFlag + 100 + lane), raised == 0 ? num_looks : 0);
}

// A unit that one of the lanes waits for ends the wait of all.
void wait_for_any_unit(const Args& args) {
  if (dev::warp_idx() != 0) return;
  const uint32_t lane = dev::lane_idx();
  if (args.rank == 0) {
    for (uint32_t i = 0; lane == 0 && i < 2000; ++i) {
      dev::atomic_add<dev::Order::relaxed, Scope::gpu>(word(args, 0, 0), 1u);
    }
    if (lane == 0) dev::st_unit(unit(args, 1, 17), tagged());
    return;
  }
  while (!dev::any(dev::ld_unit(unit(args, 1, lane)).epoch == 1)) dev::pause();
  dev::st(word(args, 1, 1000 + lane), 1u);
}

// Rank 1 looks at one line again and again before it looks at the other, which is the one that rank 0 sends.
void look_often_at_one_line(const Args& args) {
  if (dev::warp_idx() != 0) return;
  const uint32_t lane = dev::lane_idx(), part = lane % 8;
  if (args.rank == 0) {
    for (uint32_t i = 0; lane == 0 && i < 2000; ++i) {
      dev::atomic_add<dev::Order::relaxed, Scope::gpu>(word(args, 0, 0), 1u);
    }
    dev::st_line(unit(args, 1, 8 + part), tagged(), lane < 8);
    return;
  }
  for (bool has_come = false; !has_come; dev::pause()) {
    for (uint32_t i = 0; i < 5; ++i) dev::ld_line(unit(args, 1, part));
    has_come = dev::all(dev::ld_line(unit(args, 1, 8 + part)).epoch == 1);
  }
  dev::st(word(args, 1, 1000 + lane), 1u);
}

void wait_for_line(const Args& args) {
  if (args.rank != 1 || dev::warp_idx() != 0) return;
  const uint32_t lane = dev::lane_idx();
  while (dev::any(dev::ld_line(unit(args, 1, lane % 8)).epoch == 0)) dev::pause();
}

// ---- misused; the barriers behind it keep the compiler from making it the last jump of a kernel

void shift_part(const Args& args) {
  dev::st_line(unit(args, 1, dev::lane_idx() + 1), tagged(), dev::lane_idx() >= 24);
  dev::sync_warp();
}

void swap_lines(const Args& args) {
  const uint32_t lane = dev::lane_idx();
  dev::ld_line(unit(args, 1, lane == 10 ? lane + 8 : lane));
  dev::sync_warp();
}

void leave_lane_out(const Args& args) {
  dev::st_line(unit(args, 1, dev::lane_idx()), tagged(), dev::lane_idx() != 19);
  dev::sync_warp();
}

void exit_before_line(const Args& args) {
  if (dev::lane_idx() == 30) return;
  dev::st_line(unit(args, 1, dev::lane_idx()), tagged(), true);
  dev::sync_warp();
}

void meet_elsewhere(const Args& args) {
  if (dev::lane_idx() == 3) dev::ballot(true);
  dev::ld_line(unit(args, 1, dev::lane_idx()));
  dev::sync_warp();
}

void load_shared_line(const Args&) {
  EP_DYNAMIC_SHARED(shared);
  dev::ld_line(reinterpret_cast<Unit*>(shared) + dev::lane_idx());
  dev::sync_warp();
}

void load_null_line(const Args& args) {
  dev::ld_line(dev::lane_idx() == 16 ? nullptr : unit(args, 1, dev::lane_idx()));
  dev::sync_warp();
}

}  // namespace

EP_SIM_KERNEL("test_send_two_lines", send_two_lines, Args)
EP_SIM_KERNEL("test_send_lines_slowly", send_lines_slowly, Args)
EP_SIM_KERNEL("test_wait_for_any_unit", wait_for_any_unit, Args)
EP_SIM_KERNEL("test_look_often_at_one_line", look_often_at_one_line, Args)
EP_SIM_KERNEL("test_wait_for_line", wait_for_line, Args)
EP_SIM_KERNEL("test_shift_part", shift_part, Args)
EP_SIM_KERNEL("test_swap_lines", swap_lines, Args)
EP_SIM_KERNEL("test_leave_lane_out", leave_lane_out, Args)
EP_SIM_KERNEL("test_exit_before_line", exit_before_line, Args)
EP_SIM_KERNEL("test_meet_elsewhere", meet_elsewhere, Args)
EP_SIM_KERNEL("test_load_shared_line", load_shared_line, Args)
EP_SIM_KERNEL("test_load_null_line", load_null_line, Args)
