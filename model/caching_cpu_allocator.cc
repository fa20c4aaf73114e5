#include "model/caching_cpu_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <new>

namespace albef {
namespace {

// An order in which of one size the last freed comes first.
uint64_t NewestFirst(uint64_t freed_at) { return ~freed_at; }

}  // namespace

CachingCpuAllocator::~CachingCpuAllocator() { Release(TakeOldest(0)); }

c10::DataPtr CachingCpuAllocator::allocate(size_t size) {
  void* data = nullptr;
  if (size > 0) {
    Block* block = size < kSmallest ? New(size) : TakeKept(size);
    if (block == nullptr) block = NewToKeep(size);
    data = block + 1;
    c10::profiledCPUMemoryReporter().New(data, size);
  }
  return {data, data, &Free, c10::Device(c10::DeviceType::CPU)};
}

void CachingCpuAllocator::copy_data(void* destination, const void* source, size_t size) const {
  default_copy_data(destination, source, size);
}

CachingCpuAllocator::Bytes CachingCpuAllocator::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

CachingCpuAllocator::Block* CachingCpuAllocator::New(size_t size) {
  return new (c10::alloc_cpu(sizeof(Block) + size)) Block{.owner = nullptr, .size = size};
}

CachingCpuAllocator::Block* CachingCpuAllocator::NewToKeep(size_t size) {
  Release(MakeRoom(size));
  Block* block = nullptr;
  try {
    block = New(size);
  } catch (const c10::Error&) {
    Release(TakeAllKept());
    try {
      block = New(size);
    } catch (const c10::Error&) {
      const std::lock_guard lock(mutex_);
      bytes_.used -= size;
      throw;
    }
  }
  block->owner = this;
  return block;
}

void CachingCpuAllocator::Release(const std::vector<Block*>& blocks) {
  for (Block* block : blocks) c10::free_cpu(block);
}

void CachingCpuAllocator::Free(void* data) {
  if (data == nullptr) return;
  c10::profiledCPUMemoryReporter().Delete(data);
  Block* block = static_cast<Block*>(data) - 1;
  if (block->owner != nullptr) {
    block->owner->Keep(block);
  } else {
    c10::free_cpu(block);
  }
}

void CachingCpuAllocator::Keep(Block* block) {
  const std::lock_guard lock(mutex_);
  block->freed_at = ++num_freed_;
  kept_by_age_[block->freed_at] = block;
  kept_by_size_[{block->size, NewestFirst(block->freed_at)}] = block;
  bytes_.used -= block->size;
  bytes_.kept += block->size;
}

CachingCpuAllocator::Block* CachingCpuAllocator::TakeKept(size_t size) {
  const std::lock_guard lock(mutex_);
  const auto found = kept_by_size_.lower_bound({size, 0});
  if (found == kept_by_size_.end() || found->first.first > size + size / 8) return nullptr;
  Block* block = found->second;
  Forget(*block);
  Use(block->size);
  return block;
}

std::vector<CachingCpuAllocator::Block*> CachingCpuAllocator::MakeRoom(size_t size) {
  const std::lock_guard lock(mutex_);
  Use(size);
  return TakeOldest(bytes_.most_used - bytes_.used);
}

void CachingCpuAllocator::Use(size_t size) {
  bytes_.used += size;
  bytes_.most_used = std::max(bytes_.most_used, bytes_.used);
}

std::vector<CachingCpuAllocator::Block*> CachingCpuAllocator::TakeAllKept() {
  const std::lock_guard lock(mutex_);
  return TakeOldest(0);
}

std::vector<CachingCpuAllocator::Block*> CachingCpuAllocator::TakeOldest(size_t size) {
  std::vector<Block*> taken;
  while (bytes_.kept > size) {
    taken.push_back(kept_by_age_.begin()->second);
    Forget(*taken.back());
  }
  return taken;
}

void CachingCpuAllocator::Forget(const Block& block) {
  kept_by_age_.erase(block.freed_at);
  kept_by_size_.erase({block.size, NewestFirst(block.freed_at)});
  bytes_.kept -= block.size;
}

void CacheCpuMemory() {
  // Never destroyed: tensors may outlive main().
  static const auto* const installed = [] {
    auto* allocator = new CachingCpuAllocator;
    c10::SetCPUAllocator(allocator, /*priority=*/1);
    return allocator;
  }();
  static_cast<void>(installed);
}

}  // namespace albef
