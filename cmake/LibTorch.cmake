# Imported target torch::torch from a LibTorch folder or a PyPI torch wheel.
#
# Not find_package(Torch): with the CUDA wheel it demands the CUDA toolkit, which neither a CPU build nor
# linking a GPU build needs.
if(NOT ALBEF_LIBTORCH)
  if(DEFINED ENV{ALBEF_CACHE})
    set(_cache $ENV{ALBEF_CACHE})
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(_cache $ENV{XDG_CACHE_HOME}/albef)
  else()
    set(_cache $ENV{HOME}/.cache/albef)
  endif()
  file(READ ${PROJECT_SOURCE_DIR}/deploy/libtorch-version.txt _version)
  string(STRIP "${_version}" _version)
  set(_libtorch ${_cache}/libtorch-${_version})
  if(ALBEF_CUDA)
    string(APPEND _libtorch -cuda)
  endif()
else()
  set(_libtorch ${ALBEF_LIBTORCH})
endif()
# A wheel keeps LibTorch in its package folder, beside the NVIDIA libraries.
if(EXISTS ${_libtorch}/torch/lib/libtorch_cpu.so)
  set(_nvidia ${_libtorch}/nvidia)
  set(_libtorch ${_libtorch}/torch)
endif()
if(NOT EXISTS ${_libtorch}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "No LibTorch in ${_libtorch} (lib/libtorch_cpu.so is missing). Run "
    "deploy/install-deps.sh, or pass -DALBEF_LIBTORCH=DIR for one of your own (>= 2.8).")
endif()
message(STATUS "LibTorch: ${_libtorch}")

# The wheel's include folder also holds its own protobuf and fmt, which must not shadow the system's.
set(_include ${PROJECT_BINARY_DIR}/torch_include)
file(REMOVE_RECURSE ${_include})
file(MAKE_DIRECTORY ${_include})
foreach(_folder ATen c10 caffe2 torch)
  file(CREATE_LINK ${_libtorch}/include/${_folder} ${_include}/${_folder} SYMBOLIC)
endforeach()

foreach(_library c10 torch_cpu)
  add_library(torch::${_library} SHARED IMPORTED)
  set_target_properties(torch::${_library} PROPERTIES
    IMPORTED_LOCATION ${_libtorch}/lib/lib${_library}.so)
endforeach()
add_library(torch::torch INTERFACE IMPORTED)
target_include_directories(torch::torch SYSTEM INTERFACE
  ${_include} ${_include}/torch/csrc/api/include)
target_link_libraries(torch::torch INTERFACE torch::torch_cpu torch::c10)
# Without it at::parallel_for, a template, calls its function in one thread.
target_compile_options(torch::torch INTERFACE -fopenmp)
target_link_options(torch::torch INTERFACE -fopenmp)
if(_nvidia)
  # libtorch_cpu.so itself needs CUDA libraries that only its own RPATH names.
  target_link_options(torch::torch INTERFACE -Wl,-rpath-link,${_nvidia}/cu13/lib
    -Wl,--allow-shlib-undefined)
endif()

if(ALBEF_CUDA)
  foreach(_library c10_cuda torch_cuda)
    if(NOT EXISTS ${_libtorch}/lib/lib${_library}.so)
      message(FATAL_ERROR "ALBEF_CUDA=ON, but ${_libtorch}/lib/lib${_library}.so is missing: "
        "run deploy/install-deps.sh --cuda, or pass -DALBEF_LIBTORCH=DIR for a LibTorch with CUDA.")
    endif()
    add_library(torch::${_library} SHARED IMPORTED)
    set_target_properties(torch::${_library} PROPERTIES
      IMPORTED_LOCATION ${_libtorch}/lib/lib${_library}.so)
  endforeach()
  find_path(ALBEF_CUDA_INCLUDE cuda_runtime_api.h REQUIRED
    HINTS ${_nvidia}/cu13/include PATHS /usr/local/cuda/include)
  target_include_directories(torch::torch SYSTEM INTERFACE ${ALBEF_CUDA_INCLUDE})
  target_compile_definitions(torch::torch INTERFACE ALBEF_CUDA)
  # No symbol of ours refers to libtorch_cuda: its kernels register themselves when it is loaded.
  target_link_options(torch::torch INTERFACE
    "LINKER:--push-state,--no-as-needed" ${_libtorch}/lib/libtorch_cuda.so "LINKER:--pop-state")
  target_link_libraries(torch::torch INTERFACE torch::torch_cuda torch::c10_cuda)
endif()

# The headers of LibTorch that most files need, parsed once: 20 s per file without it. Not torch/torch.h: the
# templates that all of it leaves to be instantiated cost each file another 6 s, precompiled or not. The rest costs
# nothing beside it; without LibTorch a precompiled header saves less than loading it takes.
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/torch_pch.cc CONTENT "")
add_library(albef_torch_pch OBJECT ${PROJECT_BINARY_DIR}/torch_pch.cc)
target_link_libraries(albef_torch_pch PUBLIC torch::torch fmt::fmt spdlog::spdlog)
target_precompile_headers(albef_torch_pch PRIVATE <torch/autograd.h> <torch/nn/module.h>
  <torch/nn/pimpl.h> <torch/types.h> <torch/utils.h> <absl/status/statusor.h>
  <filesystem> <fmt/format.h> <gmock/gmock.h> <gtest/gtest.h> <span> <spdlog/spdlog.h>)
target_compile_options(albef_torch_pch PRIVATE ${ALBEF_WARNINGS})
target_include_directories(albef_torch_pch PRIVATE ${PROJECT_SOURCE_DIR})
