#include "model/tensor_io.h"

#include <gtest/gtest.h>

namespace albef {
namespace {

TEST(TensorIo, EveryStorableTypeComesBackEqual) {
  for (const at::ScalarType type :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong, at::kHalf, at::kBFloat16,
        at::kFloat, at::kDouble, at::kUInt16, at::kUInt32, at::kUInt64}) {
    const torch::Tensor tensor = torch::ones({2, 3}).to(type);
    const TensorView view = ViewTensor(tensor);
    EXPECT_EQ(view.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(view.bytes.size(), tensor.nbytes());
    const torch::Tensor copy = CopyTensor(view);
    EXPECT_EQ(copy.scalar_type(), type);
    EXPECT_TRUE(copy.equal(tensor)) << type;
    EXPECT_NE(copy.data_ptr(), tensor.data_ptr());
  }
}

TEST(TensorIo, ScalarsAndEmptyTensorsKeepTheirShape) {
  EXPECT_EQ(CopyTensor(ViewTensor(torch::zeros({}))).dim(), 0);
  EXPECT_EQ(CopyTensor(ViewTensor(torch::zeros({0, 4}))).sizes(), (at::IntArrayRef{0, 4}));
}

TEST(TensorIo, BytesThatDoNotFillTheShapeAreRefused) {
  const torch::Tensor tensor = torch::zeros({4});
  TensorView view = ViewTensor(tensor);
  view.shape = {5};
  EXPECT_THROW(CopyTensor(view), c10::Error);
}

TEST(TensorIo, OnlyContiguousMemoryCanBeViewed) {
  EXPECT_THROW(ViewTensor(torch::zeros({2, 3}).t()), c10::Error);
}

TEST(TensorIo, TypesThatFilesCannotHoldAreRefused) {
  EXPECT_THROW(ToDType(at::kComplexFloat), c10::Error);
}

}  // namespace
}  // namespace albef
