#include "benchmarks/executed_flops.h"

#include <ATen/core/ivalue.h>
#include <c10/util/ArrayRef.h>
#include <torch/types.h>

#include <memory>
#include <string_view>

namespace albef {
namespace {

// Rows, columns and depth of the product that `left` and `right` are factors of, all matrices of a
// batch together.
int64_t Product(const c10::IValue& left, const c10::IValue& right) {
  return 2 * left.toTensor().numel() * right.toTensor().size(-1);
}

int64_t Attention(const c10::IValue& query_BATd, const c10::IValue& key_BASd) {
  return 2 * query_BATd.toTensor().numel() * key_BASd.toTensor().size(2);
}

int64_t FlopsOf(std::string_view name, c10::ArrayRef<const c10::IValue> inputs) {
  if (name == "aten::mm" || name == "aten::bmm") return Product(inputs[0], inputs[1]);
  if (name == "aten::addmm" || name == "aten::baddbmm") return Product(inputs[1], inputs[2]);
  if (name.starts_with("aten::_scaled_dot_product_")) {
    return name.ends_with("_backward") ? 5 * Attention(inputs[1], inputs[2])
                                       : 2 * Attention(inputs[0], inputs[1]);
  }
  if (name == "albef::attention") return 2 * Attention(inputs[0], inputs[1]);
  if (name == "albef::attention_backward") return 5 * Attention(inputs[0], inputs[1]);
  return 0;
}

}  // namespace

std::atomic<int64_t> ExecutedFlops::count_ = 0;

ExecutedFlops::ExecutedFlops()
    : callback_(at::addGlobalCallback(
          at::RecordFunctionCallback(
              [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
                count_ += FlopsOf(function.name(), function.inputs());
                return nullptr;
              })
              .needsInputs(true)
              .scopes({at::RecordScope::FUNCTION}))) {
  count_ = 0;
}

ExecutedFlops::~ExecutedFlops() { at::removeCallback(callback_); }

}  // namespace albef
