#include "formats/pth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "formats/zip.h"

namespace albef {
namespace {

using namespace std::string_literals;
namespace fs = std::filesystem;
using Kind = PickleValue::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Entries = std::vector<std::pair<std::string, std::string>>;

std::string Archive(const Entries& entries) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.pth";
  auto zip = ZipWriter::Create(path);
  EXPECT_TRUE(zip.ok()) << zip.status();
  for (const auto& [name, content] : entries) {
    EXPECT_TRUE(zip->Add("archive/" + name, std::as_bytes(std::span(content))).ok());
  }
  EXPECT_TRUE(zip->Commit().ok());
  return *ReadFile(path);
}

absl::StatusOr<PthFile> Parse(const std::string& file) {
  return PthFile::Parse(std::as_bytes(std::span(file)), "x.pth");
}

std::string Error(const std::string& file) {
  const absl::Status status = Parse(file).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("x.pth"));
  return std::string(status.message());
}

// Pieces of pickles.
std::string Int(int64_t value) {
  std::string pickle = "\x8a\x08";
  pickle.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return pickle;
}

std::string Str(const std::string& text) {
  return "U" + std::string(1, static_cast<char>(text.size())) + text;
}

std::string Tuple(const std::vector<int64_t>& values) {
  std::string pickle = "(";
  for (const int64_t value : values) pickle += Int(value);
  return pickle + "t";
}

struct Tensor {
  std::string storage = "FloatStorage";
  std::string key = "0";
  std::string device = "cpu";
  int64_t elements = 6;
  int64_t offset = 0;
  std::vector<int64_t> shape = {2, 3};
  std::vector<int64_t> strides = {3, 1};
  std::string view = "";  // the sixth part of the id, of the old format
};

std::string TensorPickle(const Tensor& tensor) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + Str("storage") + "ctorch\n" + tensor.storage +
         "\n" + Str(tensor.key) + Str(tensor.device) + Int(tensor.elements) + tensor.view + "tQ" +
         Int(tensor.offset) + Tuple(tensor.shape) + Tuple(tensor.strides) +
         "\x89"
         "ccollections\nOrderedDict\n)RtR";
}

const std::string kSixFloats = [] {
  const float values[] = {0, 1, 2, 3, 4, 5};
  return std::string(reinterpret_cast<const char*>(values), sizeof(values));
}();

std::string Zip(const std::string& pickle, const std::string& storage = kSixFloats) {
  return Archive({{"data.pkl", pickle + "."}, {"data/0", storage}});
}

std::string ZipOf(const Tensor& tensor) { return Zip(TensorPickle(tensor)); }

std::string Old(const std::string& pickle, const std::string& keys, const std::string& storages) {
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.}"s +
         Str("little_endian") + "\x88s." + pickle + "." + keys + "." + storages;
}

std::string OldStorage(int64_t elements, const std::string& bytes) {
  return std::string(reinterpret_cast<const char*>(&elements), sizeof(elements)) + bytes;
}

std::vector<float> Floats(const PickleValue& value) {
  const auto tensor = value.AsTensor();
  EXPECT_TRUE(tensor.ok()) << tensor.status();
  if (!tensor.ok()) return {};
  EXPECT_EQ((*tensor)->view.dtype, DType::kF32);
  const auto bytes = (*tensor)->view.bytes;
  std::vector<float> floats(bytes.size() / sizeof(float));
  std::ranges::copy(bytes, std::as_writable_bytes(std::span(floats)).begin());
  return floats;
}

template <typename T>
PickleValue MakeTensor(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  return PickleValue::Tensor({.view = {.dtype = dtype,
                                       .shape = std::move(shape),
                                       .bytes = std::as_bytes(std::span(values))},
                              .storage_key = {},
                              .storage_offset = 0,
                              .requires_grad = false,
                              .owned = {}});
}

TEST(Pth, WhatIsWrittenIsReadBack) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.pth";
  const std::vector<float> weight = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> step = {int64_t{1} << 40};
  const std::vector<uint16_t> half = {0x3c00};
  const std::vector<float> none;
  const PickleValue root = PickleValue::Dict({
      {"model", PickleValue::OrderedDict(
                    {{"a.weight", MakeTensor(DType::kF32, {2, 3}, weight)},
                     {"tied.weight", MakeTensor(DType::kF32, {2, 3}, weight)},
                     {"flat", MakeTensor(DType::kF32, {6}, weight)},
                     {"row", PickleValue::Tensor(
                                 {.view = {.dtype = DType::kF32,
                                           .shape = {3},
                                           .bytes = std::as_bytes(std::span(weight)).subspan(12)},
                                  .storage_key = {},
                                  .storage_offset = 0,
                                  .requires_grad = true,
                                  .owned = {}})},
                     {"empty", MakeTensor(DType::kF32, {0, 3}, none)},
                     {"scalar", MakeTensor(DType::kI64, {}, step)}},
                    PickleValue::Dict({{"_metadata", PickleValue::OrderedDict({})}}))},
      {"half", MakeTensor(DType::kF16, {1}, half)},
      {"bfloat16", MakeTensor(DType::kBF16, {1}, half)},
      {"numbers",
       PickleValue::List({-1, int64_t{1} << 40, std::numeric_limits<int64_t>::min(), 0.1})},
      {"betas", PickleValue::Tuple({0.9, 0.999})},
      {"other", PickleValue::Dict({{3, "drei é"}, {"none", PickleValue()}, {"yes", true}})},
  });
  const absl::Status status = WritePth(path, root);
  ASSERT_TRUE(status.ok()) << status;

  const auto file = PthFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->unknown_classes(), IsEmpty());
  const PickleValue model = *file->root().Find("model");
  EXPECT_TRUE(model.is_ordered_dict());
  EXPECT_TRUE(model.state().Find("_metadata")->is_ordered_dict());
  EXPECT_EQ(Floats(*model.Find("a.weight")), weight);
  const auto& tensor = **model.Find("a.weight")->AsTensor();
  const auto& tied = **model.Find("tied.weight")->AsTensor();
  EXPECT_EQ(tensor.view.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensor.storage_key, tied.storage_key);
  EXPECT_EQ(tensor.view.bytes.data(), tied.view.bytes.data());
  EXPECT_EQ((*model.Find("flat")->AsTensor())->storage_key, tensor.storage_key);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.view.bytes.data()) % 64, 0u);
  EXPECT_EQ(tensor.owned, nullptr) << "mapped, not copied";
  EXPECT_THAT(Floats(*model.Find("row")), ElementsAre(4, 5, 6));
  EXPECT_TRUE((*model.Find("row")->AsTensor())->requires_grad);
  EXPECT_NE((*model.Find("row")->AsTensor())->storage_key, tensor.storage_key);
  EXPECT_EQ((*model.Find("empty")->AsTensor())->view.shape, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ((*model.Find("scalar")->AsTensor())->view.dtype, DType::kI64);
  EXPECT_THAT((*model.Find("scalar")->AsTensor())->view.shape, IsEmpty());
  EXPECT_EQ((*file->root().Find("half")->AsTensor())->view.dtype, DType::kF16);
  EXPECT_EQ((*file->root().Find("bfloat16")->AsTensor())->view.dtype, DType::kBF16);
  const PickleValue numbers = *file->root().Find("numbers");
  EXPECT_EQ(*numbers.elements()[0].AsInt(), -1);
  EXPECT_EQ(*numbers.elements()[1].AsInt(), int64_t{1} << 40);
  EXPECT_EQ(*numbers.elements()[2].AsInt(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*numbers.elements()[3].AsDouble(), 0.1);
  EXPECT_EQ(file->root().Find("betas")->kind(), Kind::kTuple);
  EXPECT_EQ(*file->root().Find("other")->Find(3)->AsString(), "drei é");
  EXPECT_TRUE(*file->root().Find("other")->Find("yes")->AsBool());
}

TEST(WritePth, NamesThePlaceOfWhatItCannotWriteAndLeavesNothing) {
  TemporaryDirectory directory;
  const auto error = [&directory](const PickleValue& root) {
    const absl::Status status = WritePth(directory.path() / "a.pth", root);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  const std::vector<uint16_t> small = {1};
  EXPECT_THAT(
      error(
          PickleValue::Dict({{"a", PickleValue::List({1, MakeTensor(DType::kU16, {1}, small)})}})),
      HasSubstr("a.pth: cannot write root[\"a\"][1]: PyTorch has no storage class for U16"));
  EXPECT_THAT(error(MakeTensor(DType::kF16, {2}, small)), HasSubstr("does not describe"));
  EXPECT_THAT(error(PickleValue::Dict({{"a", 1}, {"a", 2}})),
              HasSubstr("[\"a\"]: this key is there twice"));
  EXPECT_THAT(error(PickleValue::Dict({{PickleValue::List({}), 1}})),
              HasSubstr("a list cannot be a key"));
  const std::string inert = Zip("cos\nsystem\n)R");
  EXPECT_THAT(error(Parse(inert)->root()), HasSubstr("a object cannot be written"));
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(Pth, ReadsStoragesOfAnyDeviceAndTensorsWithStrides) {
  const std::string file =
      Zip("(" + TensorPickle({.device = "cuda:0"}) +
          TensorPickle({.device = "cuda:0", .shape = {3, 2}, .strides = {1, 3}}) +
          TensorPickle({.device = "cuda:0", .shape = {3, 2}, .strides = {1, 3}}) +
          TensorPickle({.offset = 5, .shape = {}, .strides = {}}) +
          TensorPickle({.offset = 1, .shape = {2, 1, 2}, .strides = {2, 7, 1}}) +
          TensorPickle({.shape = {0, 4}, .strides = {4, 1}}) +
          TensorPickle({.offset = 2, .shape = {3}, .strides = {0}}) + "t");
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto tensors = parsed->root().elements();
  ASSERT_EQ(tensors.size(), 7u);
  EXPECT_THAT(Floats(tensors[0]), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(Floats(tensors[1]), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_EQ((*tensors[1].AsTensor())->view.bytes.data(),
            (*tensors[2].AsTensor())->view.bytes.data())
      << "tied tensors stay tied when they are copied";
  EXPECT_THAT(Floats(tensors[3]), ElementsAre(5));
  EXPECT_THAT(Floats(tensors[4]), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Floats(tensors[5]), IsEmpty());
  EXPECT_THAT(Floats(tensors[6]), ElementsAre(2, 2, 2));
}

TEST(Pth, ReadsTheOldFormat) {
  const std::string pickle = "(" + TensorPickle({.view = "N"}) +
                             TensorPickle({.storage = "LongStorage",
                                           .key = "1",
                                           .elements = 1,
                                           .shape = {},
                                           .strides = {},
                                           .view = "N"}) +
                             "t";
  const int64_t number = int64_t{1} << 40;
  const std::string file =
      Old(pickle, "](" + Str("1") + Str("0") + "e",
          OldStorage(1, std::string(reinterpret_cast<const char*>(&number), sizeof(number))) +
              OldStorage(6, kSixFloats));
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(Floats(parsed->root().elements()[0]), ElementsAre(0, 1, 2, 3, 4, 5));
  const auto& scalar = **parsed->root().elements()[1].AsTensor();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(scalar.view.bytes.data()) % alignof(int64_t), 0u);
  EXPECT_EQ(std::memcmp(scalar.view.bytes.data(), &number, sizeof(number)), 0);
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(Parse(file.substr(0, size)).ok()) << size;
  }
}

TEST(Pth, KeepsUnknownClassesInertAndListsThem) {
  const std::string file = Zip(
      "}(" + Str("weight") + TensorPickle({}) + Str("args") + "cargparse\nNamespace\n)\x81}" +
      Str("lr") + "K\x01sb" + Str("evil") + "cos\nsystem\n" + Str("touch /tmp/owned") + "\x85R" +
      Str("complex") + TensorPickle({.storage = "ComplexFloatStorage", .key = "7"}) + "u");
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->unknown_classes(),
              ElementsAre("argparse.Namespace", "os.system", "torch.ComplexFloatStorage"));
  EXPECT_THAT(Floats(*parsed->root().Find("weight")), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(*parsed->root().Find("args")->state().Find("lr")->AsInt(), 1);
  EXPECT_EQ(parsed->root().Find("evil")->class_name(), "os.system");
  EXPECT_EQ(parsed->root().Find("complex")->kind(), Kind::kObject);
}

TEST(Pth, ReadsParametersSizesAndTensorsWithTheirOwnElementType) {
  const std::string parameter =
      "ctorch._utils\n_rebuild_parameter\n(" + TensorPickle({}) + "\x88}tR";
  const std::string size = "ctorch\nSize\n(" + Tuple({2, 3}) + "tR";
  const std::string third = "ctorch._utils\n_rebuild_tensor_v3\n((" + Str("storage") +
                            "ctorch.storage\nUntypedStorage\n" + Str("1") + Str("cpu") + Int(4) +
                            "tQ" + Int(0) + Tuple({2}) + Tuple({1}) + "\x89}ctorch\nuint16\ntR";
  const std::string file = Archive({{"data.pkl", "(" + parameter + size + third + "t."},
                                    {"data/0", kSixFloats},
                                    {"data/1", "\x01\0\x02\0"s}});
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->unknown_classes(), IsEmpty());
  EXPECT_TRUE((*parsed->root().elements()[0].AsTensor())->requires_grad);
  EXPECT_EQ(parsed->root().elements()[1].kind(), Kind::kTuple);
  EXPECT_EQ((*parsed->root().elements()[2].AsTensor())->view.dtype, DType::kU16);
}

TEST(Pth, RefusesTensorsOutsideTheirStorage) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const Tensor outside[] = {
      {.offset = 1},
      {.offset = 6, .shape = {}, .strides = {}},
      {.offset = kMax, .shape = {}, .strides = {}},
      {.shape = {7}, .strides = {1}},
      {.shape = {2, 3}, .strides = {4, 1}},
      {.shape = {2}, .strides = {kMax}},
      {.shape = {3}, .strides = {kMax}},
      {.offset = kMax - 1, .shape = {2, 2}, .strides = {1, 1}},
  };
  for (const Tensor& tensor : outside) {
    EXPECT_THAT(Error(ZipOf(tensor)), HasSubstr("reach outside its 24 bytes"));
  }
  const Tensor impossible[] = {
      {.offset = -1},
      {.shape = {2, 3}, .strides = {3}},
      {.shape = {kMax, 2}, .strides = {0, 0}},
      {.shape = {kMax / 2}, .strides = {0}},
  };
  for (const Tensor& tensor : impossible) {
    EXPECT_THAT(Error(ZipOf(tensor)),
                HasSubstr("tensor in storage \"0\": offset, shape or strides"));
  }
  EXPECT_THAT(Error(ZipOf({.shape = {-2, 3}})), HasSubstr("a negative size or stride -2"));
  EXPECT_THAT(Error(ZipOf({.strides = {-3, 1}})), HasSubstr("a negative size or stride -3"));
  EXPECT_THAT(Error(ZipOf({.shape = std::vector<int64_t>(65, 1)})), HasSubstr("more than 64"));
}

TEST(Pth, RefusesStoragesThatAreNotAsLongAsTheyClaim) {
  EXPECT_THAT(Error(ZipOf({.elements = 7})), HasSubstr("should have 28 bytes, the file has 24"));
  EXPECT_THAT(Error(ZipOf({.elements = 5, .shape = {5}, .strides = {1}})),
              HasSubstr("should have 20"));
  EXPECT_THAT(Error(ZipOf({.elements = -1})), HasSubstr("size is not in [0, 2^63)"));
  EXPECT_THAT(Error(ZipOf({.elements = std::numeric_limits<int64_t>::max()})), HasSubstr("2^63"));
  EXPECT_THAT(Error(ZipOf({.key = "1"})), HasSubstr("no entry \"archive/data/1\""));
  EXPECT_THAT(Error(Zip("(" + TensorPickle({}) + TensorPickle({.elements = 3}) + "t")),
              HasSubstr("storage \"0\" has two descriptions"));
  EXPECT_THAT(Error(ZipOf({.view = Tuple({1})})), HasSubstr("a view of another"));
}

TEST(Pth, RefusesTensorsMadeLargeByStrides) {
  EXPECT_THAT(Error(ZipOf({.shape = {int64_t{1} << 40}, .strides = {0}})),
              HasSubstr("much larger than the file"));
  // Many that are each small enough.
  std::string many = "(";
  for (int64_t i = 0; i < 6; ++i)
    many += TensorPickle({.offset = i, .shape = {60'000}, .strides = {0}});
  EXPECT_THAT(Error(Zip(many + "t")), HasSubstr("much larger than the file"));
}

TEST(Pth, RefusesDamagedStorages) {
  std::string file = ZipOf({});
  const size_t at = file.find(kSixFloats);
  file[at] = static_cast<char>(file[at] ^ 1);
  EXPECT_THAT(Error(file), HasSubstr("entry \"archive/data/0\" is damaged"));
}

TEST(Pth, RefusesWhatIsNotAFileOfTorchSave) {
  EXPECT_THAT(Error(""), HasSubstr("neither a zip archive nor a pickle"));
  EXPECT_THAT(Error("GIF89a"), HasSubstr("neither a zip archive nor a pickle"));
  EXPECT_THAT(Error("\x80\x02K\x01."), HasSubstr("a pickle, but not of torch.save"));
  EXPECT_THAT(Error(std::string(257, '\0') + "ustar\0"s + std::string(300, '\0')),
              HasSubstr("tar format"));
  EXPECT_THAT(Error(Archive({{"x", ""}})), HasSubstr("no data.pkl"));
  EXPECT_THAT(Error(Archive({{"data.pkl", "N."}, {"constants.pkl", ""}})),
              HasSubstr("TorchScript"));
  EXPECT_THAT(Error(Archive({{"data.pkl", "N."}, {"byteorder", "big"}})), HasSubstr("big-endian"));
  EXPECT_THAT(Error(Archive({{"data.pkl", "oops"}})), HasSubstr("x.pth (data.pkl): pickle opcode"));
}

TEST(Pth, RefusesDamagedOldFiles) {
  const std::string tensor = TensorPickle({.view = "N"});
  const std::string key = "](" + Str("0") + "e";
  EXPECT_TRUE(Parse(Old(tensor, key, OldStorage(6, kSixFloats))).ok());
  EXPECT_THAT(Error(Old(tensor, key, OldStorage(5, kSixFloats))),
              HasSubstr("truncated or damaged"));
  EXPECT_THAT(Error(Old(tensor, key, OldStorage(-1, kSixFloats))),
              HasSubstr("truncated or damaged"));
  EXPECT_THAT(Error(Old(tensor, "]", "")), HasSubstr("storage \"0\" is not in the file"));
  EXPECT_THAT(Error(Old(tensor, "}", "")), HasSubstr("storage keys are not a list"));
  EXPECT_THAT(Error(Old("N", key, "")), HasSubstr("is not referred to"));
  EXPECT_THAT(Error(Old(tensor, "](C\x03\xf4\xf4xe", "")),
              HasSubstr("storage \"\\xf4\\xf4x\" is not referred to"));
  EXPECT_THAT(Error(Old(tensor, "](" + Str("0") + Str("0") + "e",
                        OldStorage(6, kSixFloats) + OldStorage(6, kSixFloats))),
              HasSubstr("is there twice"));
}

}  // namespace
}  // namespace albef
