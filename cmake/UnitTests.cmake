# SPDX-License-Identifier: Apache-2.0
# Unit tests of the host code, in one program: `ctest`, or bin/nccl_ep_unit_tests -tc='ll_*'.

find_package(doctest REQUIRED)

file(GLOB unit_test_sources CONFIGURE_DEPENDS tests/unit/*.cpp)
add_executable(nccl_ep_unit_tests ${unit_test_sources})
target_link_libraries(nccl_ep_unit_tests PRIVATE
  nccl_ep_objects nccl_ep_sim_objects nccl_ep_sim_instances doctest::doctest)

# Files named *_kernels.cpp hold kernels for the simulator.
get_target_property(kernel_options nccl_ep_sim_kernel INTERFACE_COMPILE_OPTIONS)
set(unit_test_kernels ${unit_test_sources})
list(FILTER unit_test_kernels INCLUDE REGEX "_kernels\\.cpp$")
set_source_files_properties(${unit_test_kernels} PROPERTIES COMPILE_OPTIONS "${kernel_options}")

enable_testing()
add_test(NAME unit COMMAND nccl_ep_unit_tests)
