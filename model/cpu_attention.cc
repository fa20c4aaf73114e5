#include "model/cpu_attention.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "model/bf16_kernels.h"
#include "model/blas.h"
#include "model/dropout.h"
#include "model/softmax_rows.h"

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Tensors (B,A,rows,d) whose last dimension is contiguous.
class Heads {
 public:
  explicit Heads(const torch::Tensor& x_BATd)
      : data_(static_cast<char*>(const_cast<void*>(x_BATd.const_data_ptr()))),
        element_size_(static_cast<int64_t>(x_BATd.element_size())),
        batch_stride_(x_BATd.stride(0)),
        head_stride_(x_BATd.stride(1)),
        row_stride_(x_BATd.stride(2)),
        heads_(x_BATd.size(1)),
        rows_(x_BATd.size(2)),
        width_(x_BATd.size(3)) {}

  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }

  template <typename Stored>
  MatrixView<Stored> At(int64_t head) const {
    const int64_t offset = head / heads_ * batch_stride_ + head % heads_ * head_stride_;
    return {reinterpret_cast<Stored*>(data_ + offset * element_size_), row_stride_};
  }

 private:
  char* data_;
  int64_t element_size_;
  int64_t batch_stride_, head_stride_, row_stride_;
  int64_t heads_, rows_, width_;
};

// How elements are stored, and what is computed in.
template <typename T>
struct Plain {
  using Stored = T;
  using Computed = T;
};
struct Bf16 {
  using Stored = uint16_t;
  using Computed = float;
};

// Memory of one task of a parallel loop, from LibTorch's allocator, which keeps it for the next.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : memory_(at::empty({size}, c10::CppTypeToScalarType<T>::value)) {}
  T* data() const { return memory_.mutable_data_ptr<T>(); }

 private:
  torch::Tensor memory_;
};

// One head's matrices for the products: in place, or as a copy in the type that is computed in.
template <typename Type>
class Matrices {
 public:
  using Stored = typename Type::Stored;
  using Computed = typename Type::Computed;

  // Room for as many elements of copies.
  explicit Matrices(int64_t elements) : copies_(kInPlace ? 0 : elements) {}

  void NextHead() { used_ = 0; }

  MatrixView<const Computed> Read(const Heads& heads, int64_t head) {
    const MatrixView<Stored> stored = heads.At<Stored>(head);
    if constexpr (kInPlace) {
      return {stored.data, stored.stride};
    } else {
      const MatrixView<Computed> copy = Take(heads);
      for (int64_t row = 0; row < heads.rows(); ++row) {
        LoadRow(stored.data + row * stored.stride, copy.data + row * copy.stride, heads.width());
      }
      return {copy.data, copy.stride};
    }
  }

  // Where to write a result that Finish() then brings to where it belongs.
  MatrixView<Computed> Write(const Heads& heads, int64_t head) {
    if constexpr (kInPlace) return heads.At<Stored>(head);
    return Take(heads);
  }
  void Finish(MatrixView<Computed> result, const Heads& heads, int64_t head) {
    if constexpr (!kInPlace) {
      const MatrixView<Stored> stored = heads.At<Stored>(head);
      for (int64_t row = 0; row < heads.rows(); ++row) {
        StoreRow(result.data + row * result.stride, stored.data + row * stored.stride,
                 heads.width());
      }
    }
  }

 private:
  static constexpr bool kInPlace = std::is_same_v<Stored, Computed>;

  MatrixView<Computed> Take(const Heads& heads) {
    Computed* const begin = copies_.data() + used_;
    used_ += heads.rows() * heads.width();
    return {begin, heads.width()};
  }

  Scratch<Computed> copies_;
  int64_t used_ = 0;
};

// Queries, keys and values, or their gradients.
struct Projections {
  torch::Tensor query_BATd, key_BASd, value_BASd;
};

struct Shape {
  explicit Shape(const Projections& inputs)
      : batch(inputs.query_BATd.size(0)),
        heads(inputs.query_BATd.size(1)),
        queries(inputs.query_BATd.size(2)),
        keys(inputs.key_BASd.size(2)),
        width(inputs.query_BATd.size(3)) {}

  int64_t num_heads() const { return batch * heads; }
  int64_t num_scores() const { return queries * keys; }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(width)); }

  int64_t batch, heads, queries, keys, width;
};

// What both directions need besides the tensors.
struct MaskAndDropout {
  torch::Tensor mask_BS;  // in the type that is computed in; undefined without
  std::optional<DropoutMask> dropout;

  template <typename T>
  const T* MaskOf(int64_t batch) const {
    return mask_BS.defined() ? mask_BS.const_data_ptr<T>() + batch * mask_BS.size(1) : nullptr;
  }
};

template <typename Type>
void Forward(const Projections& inputs, const MaskAndDropout& rules, const torch::Tensor& out_BATd,
             const torch::Tensor& log_sum_BAT) {
  using Computed = typename Type::Computed;
  const Shape shape(inputs);
  const Heads query(inputs.query_BATd), key(inputs.key_BASd), value(inputs.value_BASd),
      out(out_BATd);
  auto* log_sums = log_sum_BAT.mutable_data_ptr<Computed>();
  const auto scale = static_cast<Computed>(shape.scale());
  at::parallel_for(0, shape.num_heads(), 1, [&](int64_t begin, int64_t end) {
    const SerialBlas serial;
    Matrices<Type> matrices(2 * (shape.queries + shape.keys) * shape.width);
    const Scratch<Computed> probs(shape.num_scores());
    const MatrixView<Computed> probs_TS{probs.data(), shape.keys};
    for (int64_t head = begin; head < end; ++head) {
      matrices.NextHead();
      MultiplySmall(shape.queries, shape.keys, shape.width, scale, matrices.Read(query, head),
                    Transposed::kNo, matrices.Read(key, head), Transposed::kYes, probs_TS);
      SoftmaxRows(probs.data(), rules.MaskOf<Computed>(head / shape.heads),
                  log_sums + head * shape.queries, shape.queries, shape.keys);
      if (rules.dropout) {
        rules.dropout->Apply(probs.data(), probs.data(), head * shape.num_scores(),
                             shape.num_scores());
      }
      const MatrixView<Computed> out_Td = matrices.Write(out, head);
      MultiplySmall(shape.queries, shape.width, shape.keys, Computed(1), {probs.data(), shape.keys},
                    Transposed::kNo, matrices.Read(value, head), Transposed::kNo, out_Td);
      matrices.Finish(out_Td, out, head);
    }
  });
}

template <typename Type>
void Backward(const Projections& inputs, const MaskAndDropout& rules,
              const torch::Tensor& log_sum_BAT, const torch::Tensor& gradient_BATd,
              const Projections& gradients) {
  using Computed = typename Type::Computed;
  const Shape shape(inputs);
  const Heads query(inputs.query_BATd), key(inputs.key_BASd), value(inputs.value_BASd);
  const Heads to_query(gradients.query_BATd), to_key(gradients.key_BASd),
      to_value(gradients.value_BASd), out(gradient_BATd);
  const auto* log_sums = log_sum_BAT.const_data_ptr<Computed>();
  const auto scale = static_cast<Computed>(shape.scale());
  constexpr Computed kOne = 1;
  at::parallel_for(0, shape.num_heads(), 1, [&](int64_t begin, int64_t end) {
    const SerialBlas serial;
    Matrices<Type> matrices((3 * shape.queries + 4 * shape.keys) * shape.width);
    const Scratch<Computed> probs(shape.num_scores());
    const Scratch<Computed> scratch(shape.num_scores());
    const MatrixView<Computed> probs_TS{probs.data(), shape.keys};
    const MatrixView<Computed> scratch_TS{scratch.data(), shape.keys};
    const auto drop = [&](const Scratch<Computed>& from, int64_t head) {
      rules.dropout->Apply(from.data(), scratch.data(), head * shape.num_scores(),
                           shape.num_scores());
    };
    for (int64_t head = begin; head < end; ++head) {
      matrices.NextHead();
      const auto query_Td = matrices.Read(query, head);
      const auto key_Sd = matrices.Read(key, head);
      const auto out_Td = matrices.Read(out, head);
      MultiplySmall(shape.queries, shape.keys, shape.width, scale, query_Td, Transposed::kNo,
                    key_Sd, Transposed::kYes, probs_TS);
      SoftmaxRowsAgain(probs.data(), rules.MaskOf<Computed>(head / shape.heads),
                       log_sums + head * shape.queries, shape.queries, shape.keys);

      if (rules.dropout) drop(probs, head);
      const Computed* const dropped = (rules.dropout ? scratch : probs).data();
      const auto value_gradient_Sd = matrices.Write(to_value, head);
      MultiplySmall(shape.keys, shape.width, shape.queries, kOne, {dropped, shape.keys},
                    Transposed::kYes, out_Td, Transposed::kNo, value_gradient_Sd);
      matrices.Finish(value_gradient_Sd, to_value, head);

      MultiplySmall(shape.queries, shape.keys, shape.width, kOne, out_Td, Transposed::kNo,
                    matrices.Read(value, head), Transposed::kYes, scratch_TS);
      if (rules.dropout) drop(scratch, head);
      SoftmaxRowsBackward(probs.data(), scratch.data(), shape.queries, shape.keys);
      const MatrixView<const Computed> scores_gradient_TS{scratch.data(), shape.keys};
      const auto query_gradient_Td = matrices.Write(to_query, head);
      MultiplySmall(shape.queries, shape.width, shape.keys, scale, scores_gradient_TS,
                    Transposed::kNo, key_Sd, Transposed::kNo, query_gradient_Td);
      matrices.Finish(query_gradient_Td, to_query, head);
      const auto key_gradient_Sd = matrices.Write(to_key, head);
      MultiplySmall(shape.keys, shape.width, shape.queries, scale, scores_gradient_TS,
                    Transposed::kYes, query_Td, Transposed::kNo, key_gradient_Sd);
      matrices.Finish(key_gradient_Sd, to_key, head);
    }
  });
}

// Calls function(Type()) for how the elements of x are stored.
template <typename Function>
void Dispatch(const torch::Tensor& x, const Function& function) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return function(Plain<float>());
    case at::kDouble:
      return function(Plain<double>());
    case at::kBFloat16:
      return function(Bf16());
    default:
      TORCH_CHECK(false, "attention: expected float32, float64 or bfloat16, got ", x.scalar_type());
  }
}

torch::ScalarType ComputedType(const torch::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A new (B,A,T,d) that lies in memory as (B,T,A,d).
torch::Tensor NewHeads(const torch::Tensor& like_BATd) {
  return at::empty({like_BATd.size(0), like_BATd.size(2), like_BATd.size(1), like_BATd.size(3)},
                   like_BATd.options())
      .transpose(1, 2);
}

torch::Tensor WithContiguousRows(const torch::Tensor& x_BATd) {
  return x_BATd.stride(3) == 1 ? x_BATd : x_BATd.contiguous();
}

// For profiles and for counts of operations.
std::vector<c10::IValue> Recorded(const Projections& inputs) {
  return {inputs.query_BATd, inputs.key_BASd, inputs.value_BASd};
}

struct Output {
  torch::Tensor out_BATd;
  torch::Tensor log_sum_BAT;
};

Output Compute(const Projections& inputs, const MaskAndDropout& rules) {
  const torch::Tensor& query_BATd = inputs.query_BATd;
  RECORD_FUNCTION("albef::attention", Recorded(inputs));
  Output output{.out_BATd = NewHeads(query_BATd),
                .log_sum_BAT = at::empty(query_BATd.sizes().slice(0, 3),
                                         query_BATd.options().dtype(ComputedType(query_BATd)))};
  Dispatch(query_BATd, [&](auto type) {
    Forward<decltype(type)>(inputs, rules, output.out_BATd, output.log_sum_BAT);
  });
  return output;
}

void ComputeGradients(const Projections& inputs, const MaskAndDropout& rules,
                      const torch::Tensor& log_sum_BAT, const torch::Tensor& gradient_BATd,
                      const Projections& gradients) {
  RECORD_FUNCTION("albef::attention_backward", Recorded(inputs));
  Dispatch(inputs.query_BATd, [&](auto type) {
    Backward<decltype(type)>(inputs, rules, log_sum_BAT, WithContiguousRows(gradient_BATd),
                             gradients);
  });
}

// The dropout of a call; its probability is 0 without.
struct Dropped {
  double probability;
  int64_t seed;
};

MaskAndDropout MakeMaskAndDropout(const torch::Tensor& mask_BS, const Dropped& dropped) {
  MaskAndDropout rules{.mask_BS = mask_BS, .dropout = std::nullopt};
  if (dropped.probability > 0) {
    rules.dropout.emplace(dropped.probability, static_cast<uint64_t>(dropped.seed));
  }
  return rules;
}

constexpr const char* kProbability = "probability";
constexpr const char* kSeed = "seed";
constexpr const char* kHeads = "heads";

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& query_BATd,
                          const Variable& key_BASd, const Variable& value_BASd,
                          const std::optional<torch::Tensor>& mask_BS, const Dropped& dropped) {
    const torch::Tensor mask = mask_BS.value_or(torch::Tensor());
    const Output output =
        Compute({query_BATd, key_BASd, value_BASd}, MakeMaskAndDropout(mask, dropped));
    context->save_for_backward({query_BATd, key_BASd, value_BASd, output.log_sum_BAT, mask});
    context->saved_data[kProbability] = dropped.probability;
    context->saved_data[kSeed] = dropped.seed;
    return output.out_BATd;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Projections results{NewHeads(saved[0]), NewHeads(saved[1]), NewHeads(saved[2])};
    const Dropped dropped{.probability = context->saved_data[kProbability].toDouble(),
                          .seed = context->saved_data[kSeed].toInt()};
    ComputeGradients({saved[0], saved[1], saved[2]}, MakeMaskAndDropout(saved[4], dropped),
                     saved[3], gradients[0], results);
    return {results.query_BATd, results.key_BASd, results.value_BASd, {}, {}};
  }
};

// Views of what stands side by side.
Projections Unpack(const torch::Tensor& qkv_BTE, int64_t heads) {
  const torch::Tensor parts_BT3Ad = qkv_BTE.unflatten(2, {3, heads, -1});
  const auto part = [&](int64_t i) { return parts_BT3Ad.select(2, i).transpose(1, 2); };
  return {part(0), part(1), part(2)};
}

class SelfAttentionFunction : public torch::autograd::Function<SelfAttentionFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& qkv_BTE, int64_t heads) {
    const Output output = Compute(Unpack(qkv_BTE, heads), {});
    context->save_for_backward({qkv_BTE, output.log_sum_BAT});
    context->saved_data[kHeads] = heads;
    return MergeHeads(output.out_BATd);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const int64_t heads = context->saved_data[kHeads].toInt();
    const torch::Tensor gradient_BTE = at::empty_like(saved[0], at::MemoryFormat::Contiguous);
    ComputeGradients(Unpack(saved[0], heads), {}, saved[1], SplitHeads(gradients[0], heads),
                     Unpack(gradient_BTE, heads));
    return {gradient_BTE, {}};
  }
};

}  // namespace

torch::Tensor CpuAttention(const torch::Tensor& query_BATd, const torch::Tensor& key_BASd,
                           const torch::Tensor& value_BASd, const AttentionOptions& options) {
  const Projections inputs{WithContiguousRows(query_BATd), WithContiguousRows(key_BASd),
                           WithContiguousRows(value_BASd)};
  std::optional<torch::Tensor> mask_BS;
  if (options.mask_B11S) {
    mask_BS = options.mask_B11S->flatten(1).to(ComputedType(query_BATd)).contiguous();
  }
  Dropped dropped{.probability = options.dropout, .seed = 0};
  if (options.dropout > 0) dropped.seed = static_cast<int64_t>(DrawDropoutSeed());
  if (torch::GradMode::is_enabled()) {
    return AttentionFunction::apply(inputs.query_BATd, inputs.key_BASd, inputs.value_BASd, mask_BS,
                                    dropped);
  }
  return Compute(inputs, MakeMaskAndDropout(mask_BS.value_or(torch::Tensor()), dropped)).out_BATd;
}

torch::Tensor CpuSelfAttention(const torch::Tensor& qkv_BTE, int64_t heads) {
  if (torch::GradMode::is_enabled()) return SelfAttentionFunction::apply(qkv_BTE, heads);
  return MergeHeads(Compute(Unpack(qkv_BTE, heads), {}).out_BATd);
}

}  // namespace albef
