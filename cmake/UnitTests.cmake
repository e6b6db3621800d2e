# SPDX-License-Identifier: Apache-2.0
# Unit tests of the host code, in one program: `ctest`, or bin/nccl_ep_unit_tests -tc='ll_*'.

find_package(doctest REQUIRED)

# Files named *_kernels.cpp hold kernels for the simulator.
file(GLOB unit_test_sources CONFIGURE_DEPENDS tests/unit/*.cpp)
set(unit_test_kernels ${unit_test_sources})
list(FILTER unit_test_kernels INCLUDE REGEX "_kernels\\.cpp$")
list(FILTER unit_test_sources EXCLUDE REGEX "_kernels\\.cpp$")
add_library(nccl_ep_unit_test_kernels OBJECT ${unit_test_kernels})
target_link_libraries(nccl_ep_unit_test_kernels PUBLIC nccl_ep_common PRIVATE nccl_ep_sim_kernel)

add_executable(nccl_ep_unit_tests ${unit_test_sources})
target_link_libraries(nccl_ep_unit_tests PRIVATE
  nccl_ep_objects nccl_ep_sim_objects nccl_ep_sim_instances nccl_ep_unit_test_kernels doctest::doctest)
enable_testing()
add_test(NAME unit COMMAND nccl_ep_unit_tests)
