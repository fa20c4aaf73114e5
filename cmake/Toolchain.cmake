# Language level, warnings, sanitizers, and ccache and mold where the machine has them.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
# Line tables are enough for a stack trace, and keep objects and binaries small.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")

find_program(ALBEF_CCACHE ccache)
if(ALBEF_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # A precompiled header needs the two sloppiness flags; base_dir lets several checkouts share hits.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}/.. CCACHE_NOHASHDIR=1 ${ALBEF_CCACHE})
endif()
find_program(ALBEF_MOLD mold)
if(ALBEF_MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_link_options(-fuse-ld=mold)
endif()

if(ALBEF_SANITIZE)
  if(ALBEF_TORCH)
    message(FATAL_ERROR "ALBEF_SANITIZE=${ALBEF_SANITIZE} needs ALBEF_TORCH=OFF: LibTorch is not instrumented")
  endif()
  add_compile_options(-fsanitize=${ALBEF_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${ALBEF_SANITIZE})
endif()

# On our own targets only (cmake/Targets.cmake); dependencies come in as system headers.
set(ALBEF_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast
    -Woverloaded-virtual -Wno-missing-field-initializers -Werror)
