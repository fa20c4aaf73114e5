# albef_library, albef_program and albef_test: the three kinds of targets, and the layering rule.
include(GoogleTest)

# A folder may depend only on folders before it.
set(ALBEF_LAYERS common proto formats dataloader checkpoint model comm coordinator worker tools benchmarks
    tests)

function(_albef_setup target torch deps)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE ${ALBEF_WARNINGS})
  target_link_libraries(${target} PUBLIC ${deps})
  if(ALBEF_SANITIZE)
    # Only what tests need; the compiler's own checks are done in the other builds.
    set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
  if(torch)
    # What the header was compiled with, else it does not fit.
    target_link_libraries(${target} PUBLIC torch::torch fmt::fmt spdlog::spdlog)
    target_precompile_headers(${target} REUSE_FROM albef_torch_pch)
  endif()
  # The first path component below the source root is the layer.
  file(RELATIVE_PATH path ${PROJECT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  string(REGEX MATCH "^[^/]+" layer "${path}")
  list(FIND ALBEF_LAYERS "${layer}" own)
  foreach(dep ${deps})
    if(dep MATCHES "^albef_(.+)$" AND NOT "${CMAKE_MATCH_1}" STREQUAL "${layer}")
      get_target_property(dep_dir ${dep} SOURCE_DIR)
      file(RELATIVE_PATH dep_path ${PROJECT_SOURCE_DIR} ${dep_dir})
      string(REGEX MATCH "^[^/]+" dep_layer "${dep_path}")
      list(FIND ALBEF_LAYERS "${dep_layer}" other)
      if(other GREATER own)
        message(FATAL_ERROR "${target} (${layer}/) may not depend on ${dep} (${dep_layer}/): "
          "dependencies point upwards in ALBEF_LAYERS, cmake/Targets.cmake")
      endif()
    endif()
  endforeach()
endfunction()

# albef_library(NAME [TORCH] SOURCES … [DEPS …]): static library NAME; TORCH adds LibTorch and its
# precompiled header.
function(albef_library name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  _albef_setup(${name} ${ARG_TORCH} "${ARG_DEPS}")
endfunction()

# albef_program(NAME [TORCH] SOURCES … [DEPS …]): executable bin/NAME.
function(albef_program name)
  cmake_parse_arguments(ARG "TORCH" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  _albef_setup(${name} ${ARG_TORCH} "${ARG_DEPS}")
endfunction()

# albef_test(NAME [TORCH] [WHOLE] [THREADS] SOURCES … [DEPS …] [LABELS …] [TIMEOUT seconds]): a GoogleTest
# program. Each TEST becomes a ctest case; with WHOLE (or TORCH, where starting costs more than a test) the
# program is one. Tests run with the source root as working directory. THREADS: what it tests has several
# threads; ThreadSanitizer's build has no others.
function(albef_test name)
  cmake_parse_arguments(ARG "TORCH;WHOLE;THREADS" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(ALBEF_SANITIZE MATCHES thread AND NOT ARG_THREADS)
    return()
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  _albef_setup(${name} ${ARG_TORCH} "${ARG_DEPS};GTest::gmock;GTest::gtest_main")
  set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL OFF)
  if(ALBEF_SANITIZE MATCHES thread)
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/tsan_setup.cc)
    target_link_libraries(${name} PRIVATE spdlog::spdlog)
  endif()
  if(ARG_TORCH OR ARG_WHOLE)
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  else()
    gtest_discover_tests(${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} DISCOVERY_TIMEOUT 60
      PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()
