// SPDX-License-Identifier: Apache-2.0
#include "sim/fiber.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

// ep_sim_switch(void** save, void* load) stores the callee-saved registers on the stack, the stack pointer at *save,
// and goes on where another call left off. A new fiber starts in ep_sim_fiber_entry, which calls the function in the
// first saved register with the second as its argument.
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.hidden ep_sim_switch
.globl ep_sim_switch
.type ep_sim_switch, @function
ep_sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ep_sim_switch, .-ep_sim_switch

.p2align 4
.hidden ep_sim_fiber_entry
.globl ep_sim_fiber_entry
.type ep_sim_fiber_entry, @function
ep_sim_fiber_entry:
  .cfi_startproc
  .cfi_undefined %rip
  movq %r14, %rdi
  callq *%r15
  ud2
  .cfi_endproc
.size ep_sim_fiber_entry, .-ep_sim_fiber_entry
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.hidden ep_sim_switch
.globl ep_sim_switch
.type ep_sim_switch, %function
ep_sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size ep_sim_switch, .-ep_sim_switch

.p2align 4
.hidden ep_sim_fiber_entry
.globl ep_sim_fiber_entry
.type ep_sim_fiber_entry, %function
ep_sim_fiber_entry:
  .cfi_startproc
  .cfi_undefined x30
  mov x0, x20
  blr x19
  brk #1
  .cfi_endproc
.size ep_sim_fiber_entry, .-ep_sim_fiber_entry
)");
#endif

#if !defined(EP_FIBER_UCONTEXT)
extern "C" void ep_sim_switch(void** save, void* load);
extern "C" void ep_sim_fiber_entry();
#endif

namespace nccl_ep::sim {

namespace {

constexpr size_t kSlabBytes = size_t{2} << 20;
constexpr uint64_t kCanary = 0x6b61747365657266;

}  // namespace

#if defined(EP_FIBER_UCONTEXT)

void Fiber::prepare(std::byte* stack, size_t stack_bytes, Entry entry, void* argument) {
  entry_ = entry;
  argument_ = argument;
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = stack_bytes;
  context_.uc_link = nullptr;
  const auto self = reinterpret_cast<uintptr_t>(this);
  // makecontext passes ints, so the pointer travels as two.
  const auto enter = [](unsigned low, unsigned high) {
    start(reinterpret_cast<Fiber*>(static_cast<uintptr_t>(uint64_t{high} << 32 | low)));
  };
  void (*function)(unsigned, unsigned) = enter;
  makecontext(&context_, reinterpret_cast<void (*)()>(function), 2, static_cast<unsigned>(self),
              static_cast<unsigned>(uint64_t{self} >> 32));
}

void Fiber::switch_to(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }

void Fiber::abandon_to(Fiber& to) {
  setcontext(&to.context_);
  __builtin_unreachable();
}

#else

void Fiber::prepare(std::byte* stack, size_t stack_bytes, Entry entry, void* argument) {
  entry_ = entry;
  argument_ = argument;
#if defined(__x86_64__)
  // As ep_sim_switch pops it: r15, r14, r13, r12, rbx, rbp, return address. What is left is aligned
  // to 16, as the entry needs it for its call.
  constexpr size_t kSaved = 7, kFunction = 0, kArgument = 1, kReturn = 6;
#else
  // x19 to x30, d8 to d15; x30 is where `ret` goes.
  constexpr size_t kSaved = 20, kFunction = 0, kArgument = 1, kReturn = 11;
#endif
  void** frame = reinterpret_cast<void**>(stack + stack_bytes) - kSaved;
  std::memset(frame, 0, kSaved * sizeof(void*));
  frame[kFunction] = reinterpret_cast<void*>(&Fiber::start);
  frame[kArgument] = this;
  frame[kReturn] = reinterpret_cast<void*>(&ep_sim_fiber_entry);
  stack_pointer_ = frame;
#if defined(__SANITIZE_ADDRESS__)
  stack_ = stack;
  stack_bytes_ = stack_bytes;
  fake_stack_ = nullptr;
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_, to.stack_bytes_);
#endif
  ep_sim_switch(&from.stack_pointer_, to.stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::abandon_to(Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, to.stack_, to.stack_bytes_);
#endif
  void* nobody;
  ep_sim_switch(&nobody, to.stack_pointer_);
  __builtin_unreachable();
}

#endif

void Fiber::start(Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber->fake_stack_, nullptr, nullptr);
#endif
  fiber->entry_(fiber->argument_);
}

void Fiber::use_own_stack() {
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  void* stack;
  pthread_attr_getstack(&attributes, &stack, &stack_bytes_);
  pthread_attr_destroy(&attributes);
  stack_ = stack;
#endif
}

StackPool::~StackPool() {
  for (void* slab : slabs_) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(slab, kSlabBytes);  // of fibers that never ended; whoever maps it next starts afresh
#endif
    munmap(slab, kSlabBytes);
  }
}

std::byte* StackPool::take() {
  if (free_.empty()) add_slab();
  std::byte* stack = free_.back();
  free_.pop_back();
  std::memcpy(stack, &kCanary, sizeof(kCanary));
  return stack;
}

void StackPool::give_back(std::byte* stack) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, stack_bytes_);
#endif
  free_.push_back(stack);
}

bool StackPool::is_intact(const std::byte* stack) { return std::memcmp(stack, &kCanary, sizeof(kCanary)) == 0; }

void StackPool::add_slab() {
  // Twice the size, then everything but an aligned slab is cut off.
  void* memory = mmap(nullptr, 2 * kSlabBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t slab = (begin + kSlabBytes - 1) / kSlabBytes * kSlabBytes;
  if (slab > begin) munmap(memory, slab - begin);
  if (slab < begin + kSlabBytes) {
    munmap(reinterpret_cast<void*>(slab + kSlabBytes), begin + kSlabBytes - slab);
  }
  madvise(reinterpret_cast<void*>(slab), kSlabBytes, MADV_HUGEPAGE);
  slabs_.push_back(reinterpret_cast<void*>(slab));
  // The last one is taken first, so that fibers made together lie together.
  for (size_t offset = kSlabBytes; offset >= stack_bytes_; offset -= stack_bytes_) {
    free_.push_back(reinterpret_cast<std::byte*>(slab + offset - stack_bytes_));
  }
}

}  // namespace nccl_ep::sim
