#include "model/dropout.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <mutex>

#include "common/random.h"
#include "common/simd.h"
#include "model/simd_math.h"

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Elements that share a key, and the least that a thread is given.
constexpr int64_t kBlockSize = 1 << 14;

struct Key {
  uint32_t before;
  uint32_t between;
};

// A hash of 32 bits in two rounds (Wellons, "Prospecting for Hash Functions": lowbias32) with a key
// before each.
inline int32_t Draw31(int32_t index, Key key) {
  uint32_t x = static_cast<uint32_t>(index) + key.before;
  x = (x ^ (x >> 16)) * 0x7feb352dU;
  x ^= key.between;
  x = (x ^ (x >> 15)) * 0x846ca68bU;
  return static_cast<int32_t>((x ^ (x >> 16)) >> 1);
}

ALBEF_SIMD_CLONES void DropBlock(const float* x, float* y, int32_t first, int32_t size, Key key,
                                 int32_t drop_below, double scale) {
  const auto kept = static_cast<float>(scale);
  for (int32_t i = 0; i < size; ++i) {
    y[i] = x[i] * (Draw31(first + i, key) < drop_below ? 0.0F : kept);
  }
}

ALBEF_SIMD_CLONES void DropBlock(const uint16_t* x, uint16_t* y, int32_t first, int32_t size,
                                 Key key, int32_t drop_below, double scale) {
  const float kept = FromBf16(ToBf16(static_cast<float>(scale)));
  for (int32_t i = 0; i < size; ++i) {
    y[i] = ToBf16(FromBf16(x[i]) * (Draw31(first + i, key) < drop_below ? 0.0F : kept));
  }
}

void DropBlock(const at::BFloat16* x, at::BFloat16* y, int32_t first, int32_t size, Key key,
               int32_t drop_below, double scale) {
  DropBlock(reinterpret_cast<const uint16_t*>(x), reinterpret_cast<uint16_t*>(y), first, size, key,
            drop_below, scale);
}

void DropBlock(const double* x, double* y, int32_t first, int32_t size, Key key, int32_t drop_below,
               double scale) {
  for (int32_t i = 0; i < size; ++i) {
    y[i] = x[i] * (Draw31(first + i, key) < drop_below ? 0.0 : scale);
  }
}

template <typename T>
torch::Tensor Drop(const torch::Tensor& x, const DropoutMask& mask) {
  const torch::Tensor from = x.contiguous();
  const torch::Tensor to = at::empty_like(from);
  const T* values = from.const_data_ptr<T>();
  T* results = to.mutable_data_ptr<T>();
  at::parallel_for(0, from.numel(), kBlockSize, [&](int64_t begin, int64_t end) {
    mask.Apply(values + begin, results + begin, begin, end - begin);
  });
  return to;
}

torch::Tensor Drop(const torch::Tensor& x, const DropoutMask& mask) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return Drop<float>(x, mask);
    case at::kDouble:
      return Drop<double>(x, mask);
    case at::kBFloat16:
      return Drop<at::BFloat16>(x, mask);
    default:
      TORCH_CHECK(false, "dropout: expected float32, float64 or bfloat16, got ", x.scalar_type());
  }
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& x, double probability,
                          int64_t seed) {
    context->saved_data["probability"] = probability;
    context->saved_data["seed"] = seed;
    return Drop(x, DropoutMask(probability, static_cast<uint64_t>(seed)));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const DropoutMask mask(context->saved_data["probability"].toDouble(),
                           static_cast<uint64_t>(context->saved_data["seed"].toInt()));
    return {Drop(gradients[0], mask), {}, {}};
  }
};

}  // namespace

DropoutMask::DropoutMask(double probability, uint64_t seed)
    : seed_(seed),
      drop_below_(static_cast<int32_t>(std::lround(std::ldexp(probability, 31)))),
      scale_(1.0 / (1.0 - probability)) {}

template <typename T>
void DropoutMask::Apply(const T* x, T* y, int64_t begin, int64_t size) const {
  for (int64_t done = 0; done < size;) {
    const int64_t block = (begin + done) / kBlockSize;
    const int64_t first = (begin + done) % kBlockSize;
    const int64_t count = std::min(kBlockSize - first, size - done);
    RandomStream keys(seed_, RandomPurpose::kDropout, static_cast<uint64_t>(block));
    const Key key{.before = keys.Next32(), .between = keys.Next32()};
    DropBlock(x + done, y + done, static_cast<int32_t>(first), static_cast<int32_t>(count), key,
              drop_below_, scale_);
    done += count;
  }
}

template void DropoutMask::Apply(const float*, float*, int64_t, int64_t) const;
template void DropoutMask::Apply(const double*, double*, int64_t, int64_t) const;
template void DropoutMask::Apply(const at::BFloat16*, at::BFloat16*, int64_t, int64_t) const;

uint64_t DrawDropoutSeed() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard lock(generator.mutex());
  return at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
}

torch::Tensor Dropout(const torch::Tensor& x, double probability, bool training) {
  if (!training || probability == 0 || !x.is_cpu() || probability == 1) {
    return at::dropout(x, probability, training);
  }
  return DropoutFunction::apply(x, probability, static_cast<int64_t>(DrawDropoutSeed()));
}

}  // namespace albef
