#include "model/embedding_lookup.h"

#include <torch/autograd.h>
#include <torch/utils.h>

#include <tuple>

namespace albef {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr const char* kNumRows = "num_rows";
constexpr const char* kPaddingId = "padding_id";

class LookUpFunction : public torch::autograd::Function<LookUpFunction> {
 public:
  static Variable forward(AutogradContext* context, const Variable& weight_VD, const Variable& ids,
                          int64_t padding_id) {
    context->save_for_backward({ids});
    context->saved_data[kNumRows] = weight_VD.size(0);
    context->saved_data[kPaddingId] = padding_id;
    return at::embedding(weight_VD, ids, padding_id);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const torch::Tensor ids_N = context->get_saved_variables()[0].flatten();
    const torch::Tensor gradient_ND = gradients[0].reshape({ids_N.size(0), -1});
    const torch::Tensor kept =
        ids_N.ne(context->saved_data[kPaddingId].toInt()).nonzero().squeeze(1);
    const auto [row_U, slot, counts] =
        at::_unique2(ids_N.index_select(0, kept), /*sorted=*/true, /*return_inverse=*/true);
    torch::Tensor rows_UD =
        torch::zeros({row_U.size(0), gradient_ND.size(1)}, gradient_ND.options());
    rows_UD.index_add_(0, slot, gradient_ND.index_select(0, kept));
    return {at::_sparse_coo_tensor_unsafe(
                row_U.unsqueeze(0), rows_UD,
                {context->saved_data[kNumRows].toInt(), gradient_ND.size(1)},
                gradient_ND.options().layout(at::kSparse), /*is_coalesced=*/true),
            {},
            {}};
  }
};

}  // namespace

torch::Tensor LookUp(const torch::Tensor& weight_VD, const torch::Tensor& ids, int64_t padding_id) {
  if (!weight_VD.is_cpu()) return at::embedding(weight_VD, ids, padding_id);
  return LookUpFunction::apply(weight_VD, ids, padding_id);
}

}  // namespace albef
