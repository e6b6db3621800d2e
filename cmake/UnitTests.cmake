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
if(NCCL_EP_SANITIZE)
  set(needs_instrumented_kernels "-tce=*: a raw spin loop hangs nobody")
endif()
add_test(NAME unit_library COMMAND nccl_ep_unit_tests -sfe=*/sim_*)
add_test(NAME unit_simulator COMMAND nccl_ep_unit_tests -sf=*/sim_* ${needs_instrumented_kernels})
# A simulation that fails leaves threads behind, with what they own.
set_tests_properties(unit_simulator PROPERTIES ENVIRONMENT ASAN_OPTIONS=detect_leaks=0)

# A sanitizer that sees nothing would pass all tests: it must notice kernels that write behind their memory.
if(NCCL_EP_SANITIZE MATCHES "address")
  add_executable(nccl_ep_out_of_bounds tests/sanitized/out_of_bounds.cpp)
  target_link_libraries(nccl_ep_out_of_bounds PRIVATE nccl_ep_sim_objects)
  set(place_number 0)
  foreach(place device_memory static_shared dynamic_shared)
    add_test(NAME inside_${place} COMMAND nccl_ep_out_of_bounds ${place_number} 99)
    add_test(NAME behind_${place} COMMAND nccl_ep_out_of_bounds ${place_number} 100)
    set_tests_properties(behind_${place} PROPERTIES
      PASS_REGULAR_EXPRESSION "use-after-poison.*WRITE of size 4.*write_one_word")
    math(EXPR place_number "${place_number} + 1")
  endforeach()
endif()
