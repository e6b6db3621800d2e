# SPDX-License-Identifier: Apache-2.0
# Everything stays findable when the prefix moves. In a wheel, the prefix is the Python package's own folder.

if(SKBUILD)
  set(CMAKE_INSTALL_LIBDIR lib)
  set(template_dir .)
  set(namelink NAMELINK_SKIP)  # wheels have no links
else()
  set(template_dir ${CMAKE_INSTALL_DATADIR}/nccl_ep)
endif()
set(cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nccl_ep)

install(TARGETS nccl_ep nccl_ep_sim EXPORT nccl_ep-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ${namelink})
install(TARGETS rma_loopback LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(DIRECTORY jit_templates DESTINATION ${template_dir} FILES_MATCHING PATTERN "*.cuh" PATTERN "*.hpp")

include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/nccl_ep-config.cmake.in nccl_ep-config.cmake INSTALL_DESTINATION ${cmake_dir})
write_basic_package_version_file(nccl_ep-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nccl_ep-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/nccl_ep-config-version.cmake
        DESTINATION ${cmake_dir})
install(EXPORT nccl_ep-targets NAMESPACE nccl_ep:: DESTINATION ${cmake_dir})

set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pkgconfig_prefix ${CMAKE_INSTALL_PREFIX}/${pkgconfig_dir} ${CMAKE_INSTALL_PREFIX})
foreach(library nccl_ep nccl_ep_sim)
  configure_file(cmake/${library}.pc.in ${library}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${library}.pc DESTINATION ${pkgconfig_dir})
endforeach()
