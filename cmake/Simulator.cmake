# SPDX-License-Identifier: Apache-2.0
# libnccl_ep_sim.so: the simulated cluster and the kernels compiled for it.

file(GLOB sim_sources CONFIGURE_DEPENDS src/sim/*.cpp)
add_library(nccl_ep_sim_objects OBJECT ${sim_sources})
target_link_libraries(nccl_ep_sim_objects PUBLIC nccl_ep_common)

# What compiles a kernel for the simulator. ThreadSanitizer's compiler pass tells the checker of every load and store;
# its run-time library is not linked, since the simulator defines the functions that the pass calls. The pass excludes
# other sanitizers, so a sanitized build has the kernels without it.
add_library(nccl_ep_sim_kernel INTERFACE)
target_compile_options(nccl_ep_sim_kernel INTERFACE
  -O2 -g1 -ffp-contract=off -fno-strict-aliasing -Wno-unknown-pragmas)  # unroll is for the GPUs' compiler
if(NOT NCCL_EP_SANITIZE)
  target_compile_options(nccl_ep_sim_kernel INTERFACE
    -fsanitize=thread --param tsan-instrument-func-entry-exit=0 -Wno-tsan)
endif()

file(GLOB sim_instances CONFIGURE_DEPENDS src/sim/instances/*.cpp)
add_library(nccl_ep_sim_instances OBJECT ${sim_instances})
target_link_libraries(nccl_ep_sim_instances PUBLIC nccl_ep_common PRIVATE nccl_ep_sim_kernel)

add_library(nccl_ep_sim SHARED)
add_library(nccl_ep::nccl_ep_sim ALIAS nccl_ep_sim)
target_link_libraries(nccl_ep_sim PRIVATE nccl_ep_sim_objects nccl_ep_sim_instances)
nccl_ep_finish_library(nccl_ep_sim)
