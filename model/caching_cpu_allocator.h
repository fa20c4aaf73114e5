// Keeps the memory of freed CPU tensors for the next ones. A training step frees and takes the same
// sizes again and again, and the system's allocator gives large blocks back at once: every step
// then pays for new pages, which is an eighth of a full-size step's time on a virtual machine.
#ifndef ALBEF_MODEL_CACHING_CPU_ALLOCATOR_H_
#define ALBEF_MODEL_CACHING_CPU_ALLOCATOR_H_

#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace albef {

// Blocks of kSmallest bytes and more are kept, smaller ones are not.
//
// Used and kept blocks together never exceed the most that was in use at once, so keeping does not
// raise the peak: where they would, the blocks that were kept longest go first. Thread-safe.
class CachingCpuAllocator final : public c10::Allocator {
 public:
  static constexpr size_t kSmallest = size_t{1} << 16;

  CachingCpuAllocator() = default;
  // Gives back what is kept. Nothing that it allocated may outlive it.
  ~CachingCpuAllocator() override;

  // Without memory it throws what LibTorch's own allocator throws, after having given back what is
  // kept.
  c10::DataPtr allocate(size_t size) override;
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* destination, const void* source, size_t size) const override;

  // Of the blocks that are kept when they are freed.
  struct Bytes {
    size_t used = 0;
    size_t kept = 0;
    size_t most_used = 0;
  };
  Bytes bytes() const;

 private:
  // Stands in front of what is handed out, whose alignment it keeps.
  struct alignas(64) Block {
    CachingCpuAllocator* owner;  // null: not to be kept
    size_t size;                 // without this header
    uint64_t freed_at;           // counts blocks that were freed
  };

  static void Free(void* data);
  static void Release(const std::vector<Block*>& blocks);
  static Block* New(size_t size);
  Block* NewToKeep(size_t size);
  void Keep(Block* block);
  // A kept block of `size` bytes or up to an eighth more, the last one freed of the best fitting;
  // or null.
  Block* TakeKept(size_t size);
  // Counts `size` bytes as used, and removes the blocks that there is no room to keep beside them.
  std::vector<Block*> MakeRoom(size_t size);
  std::vector<Block*> TakeAllKept();

  // With mutex_ held. TakeOldest removes the longest kept until no more than `size` bytes are kept.
  std::vector<Block*> TakeOldest(size_t size);
  void Use(size_t size);
  void Forget(const Block& block);

  mutable std::mutex mutex_;
  Bytes bytes_;
  uint64_t num_freed_ = 0;
  std::map<uint64_t, Block*> kept_by_age_;
  std::map<std::pair<size_t, uint64_t>, Block*> kept_by_size_;  // of one size the last freed first
};

// From now on the process's CPU tensors come from one such allocator. Those that exist already stay
// with the one that made them. Later calls do nothing.
void CacheCpuMemory();

}  // namespace albef

#endif  // ALBEF_MODEL_CACHING_CPU_ALLOCATOR_H_
