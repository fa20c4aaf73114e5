#include "model/caching_cpu_allocator.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace albef {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

TEST(CachingCpuAllocator, AFreedBlockServesTheNextThatNearlyFillsIt) {
  CachingCpuAllocator allocator;
  const void* const first = allocator.allocate(kMiB).get();
  EXPECT_EQ(allocator.bytes().kept, kMiB);
  EXPECT_EQ(allocator.allocate(kMiB).get(), first);
  EXPECT_EQ(allocator.allocate(kMiB - 100'000).get(), first);
  const c10::DataPtr smaller = allocator.allocate(kMiB / 2);
  EXPECT_EQ(allocator.bytes().used, kMiB / 2);
  const c10::DataPtr larger = allocator.allocate(kMiB + 1);
  EXPECT_EQ(allocator.bytes().used, kMiB / 2 + kMiB + 1);
}

TEST(CachingCpuAllocator, OfSeveralThatFitItTakesTheLastFreed) {
  CachingCpuAllocator allocator;
  auto first = std::make_unique<c10::DataPtr>(allocator.allocate(kMiB));
  auto second = std::make_unique<c10::DataPtr>(allocator.allocate(kMiB));
  const void* const last = first->get();
  second.reset();
  first.reset();
  EXPECT_EQ(allocator.allocate(kMiB).get(), last);
}

TEST(CachingCpuAllocator, SmallBlocksAndNoneAreNotKept) {
  CachingCpuAllocator allocator;
  {
    const c10::DataPtr small = allocator.allocate(CachingCpuAllocator::kSmallest - 1);
    std::memset(small.get(), 1, CachingCpuAllocator::kSmallest - 1);
    EXPECT_EQ(allocator.allocate(0).get(), nullptr);
  }
  EXPECT_EQ(allocator.bytes().most_used, 0);
  EXPECT_EQ(allocator.bytes().kept, 0);
}

TEST(CachingCpuAllocator, MemoryIsAlignedForVectors) {
  CachingCpuAllocator allocator;
  for (const size_t size : {size_t{1}, size_t{100}, kMiB, kMiB + 1}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(allocator.allocate(size).get()) % 64, 0) << size;
  }
}

TEST(CachingCpuAllocator, RawMemoryComesBackToo) {
  CachingCpuAllocator allocator;
  for (const size_t size : {size_t{100}, kMiB}) {
    void* const raw = allocator.raw_allocate(size);
    std::memset(raw, 1, size);
    allocator.raw_deallocate(raw);
  }
  EXPECT_EQ(allocator.bytes().kept, kMiB);
}

TEST(CachingCpuAllocator, UsedAndKeptNeverExceedTheMostThatWasUsed) {
  CachingCpuAllocator allocator;
  std::mt19937 random(1);
  std::vector<c10::DataPtr> used;
  for (int i = 0; i < 5000; ++i) {
    if (used.size() > 12 || (!used.empty() && random() % 2 == 0)) {
      used.erase(used.begin() + static_cast<long>(random() % used.size()));
    } else {
      used.push_back(allocator.allocate(CachingCpuAllocator::kSmallest + random() % kMiB));
    }
    const CachingCpuAllocator::Bytes bytes = allocator.bytes();
    ASSERT_LE(bytes.used + bytes.kept, bytes.most_used) << i;
  }
  used.clear();
  EXPECT_EQ(allocator.bytes().used, 0);
}

TEST(CachingCpuAllocator, WhenMemoryIsOutItGivesUpWhatItKeepsAndSaysSo) {
  CachingCpuAllocator allocator;
  const c10::DataPtr used = allocator.allocate(2 * kMiB);
  static_cast<void>(allocator.allocate(kMiB));
  EXPECT_THROW(allocator.allocate(size_t{1} << 55), c10::Error);
  EXPECT_EQ(allocator.bytes().kept, 0);
  EXPECT_EQ(allocator.bytes().used, 2 * kMiB);
}

TEST(CachingCpuAllocator, ThreadsNeverShareABlock) {
  CachingCpuAllocator allocator;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&allocator, thread] {
      for (int i = 0; i < 300; ++i) {
        const size_t size = CachingCpuAllocator::kSmallest + static_cast<size_t>(i % 7) * 4096;
        const c10::DataPtr block = allocator.allocate(size);
        auto* const bytes = static_cast<unsigned char*>(block.get());
        std::memset(bytes, thread, size);
        std::this_thread::yield();
        for (size_t at = 0; at < size; at += 1021) ASSERT_EQ(bytes[at], thread);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(allocator.bytes().used, 0);
  EXPECT_LE(allocator.bytes().kept, allocator.bytes().most_used);
}

}  // namespace
}  // namespace albef
