#include "formats/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A file with this header and `data_bytes` zeros, in memory.
struct File {
  explicit File(std::string_view json, size_t data_bytes = 0,
                std::optional<uint64_t> stated_header_bytes = std::nullopt) {
    const uint64_t length = stated_header_bytes.value_or(json.size());
    content.resize(8);
    std::memcpy(content.data(), &length, 8);
    const auto text = std::as_bytes(std::span(json));
    content.insert(content.end(), text.begin(), text.end());
    content.resize(content.size() + data_bytes);
  }
  std::vector<std::byte> content;
};

// The header padded to a multiple of eight, as every current writer does.
File Padded(std::string json, size_t data_bytes) {
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return File(json, data_bytes);
}

std::string Error(const File& file) {
  const auto result = SafetensorsFile::Parse(file.content, "x.safetensors");
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(result.status().message());
  EXPECT_THAT(message, HasSubstr("x.safetensors: "));
  return message;
}

TEST(Safetensors, WhatIsWrittenIsReadBackWithAlignedViews) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.safetensors";
  const std::vector<uint8_t> mask = {1, 0, 1};
  const std::vector<float> weight = {1, 2, 3, 4, 5, 6};
  const std::vector<double> loss = {0.5};
  const std::vector<NamedTensor> tensors = {
      {"mask", {DType::kBool, {3}, std::as_bytes(std::span(mask))}},
      {"a \"quoted\" naïve\n name", {DType::kF32, {2, 3}, std::as_bytes(std::span(weight))}},
      {"loss", {DType::kF64, {}, std::as_bytes(std::span(loss))}},
      {"empty", {DType::kI64, {0, 7}, {}}},
  };
  ASSERT_TRUE(WriteSafetensors(path, tensors, {{"step", "12"}, {"", "é"}}).ok());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->metadata(), ElementsAre(std::pair("", "é"), std::pair("step", "12")));
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (const NamedTensor& expected : tensors) {
    const auto found = file->Find(expected.name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->dtype, expected.tensor.dtype);
    EXPECT_EQ(found->shape, expected.tensor.shape);
    EXPECT_TRUE(std::ranges::equal(found->bytes, expected.tensor.bytes));
    if (!found->bytes.empty()) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(found->bytes.data()) % ElementSize(found->dtype), 0u);
    }
  }
}

TEST(Safetensors, AMissingTensorNamesFileAndTensor) {
  const File file("{}");
  const auto parsed = SafetensorsFile::Parse(file.content, "x.safetensors");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const absl::Status status = parsed->Find("head.weight").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("x.safetensors"), HasSubstr("head.weight")));
}

TEST(Safetensors, RefusesTruncatedFilesAndAbsurdHeaderLengths) {
  File shorter("{}");
  shorter.content.resize(5);
  EXPECT_THAT(Error(shorter), HasSubstr("too few"));
  EXPECT_THAT(Error(File("{}", 0, 3)), HasSubstr("truncated"));
  EXPECT_THAT(Error(File("{}", 0, ~uint64_t{0})), HasSubstr("truncated"));
  EXPECT_THAT(Error(File("{}", 0, uint64_t{1} << 63)), HasSubstr("truncated"));
  EXPECT_THAT(Error(File("{}", 0, 0)), HasSubstr("does not begin with {"));
  EXPECT_THAT(Error(Padded(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7)),
              HasSubstr("tensor a ends at byte 8 of the data, but the file holds 7"));
}

TEST(Safetensors, RefusesHostileHeaders) {
  EXPECT_THAT(Error(File("[]")), HasSubstr("does not begin with {"));
  EXPECT_THAT(Error(File("{\"a\":")), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error(File("{} {}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error(File("{\"\xff\":1}")), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error(File("{\"a\":" + std::string(100'000, '['))), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error(File(R"({"a":1})")), HasSubstr("tensor a: its description is not an object"));
  EXPECT_THAT(Error(File(R"({"__metadata__":1})")), HasSubstr("__metadata__: not an object"));
  EXPECT_THAT(Error(File(R"({"__metadata__":{"k":1}})")), HasSubstr("k is not a string"));
}

struct BadEntry {
  std::string_view entry;
  std::string_view message;
};

TEST(Safetensors, RefusesEntriesThatDoNotDescribeTheirBytes) {
  const BadEntry cases[] = {
      {R"({"dtype":"F32","shape":[1]})", "must each be given once"},
      {R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})", "given once"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})", "unknown field x"},
      {R"({"dtype":"F4","shape":[1],"data_offsets":[0,4]})", "dtype F4 is not supported"},
      {R"({"dtype":4,"shape":[1],"data_offsets":[0,4]})", "dtype is not a string"},
      {R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", "shape is not an array"},
      {R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", "shape[0] is not an integer"},
      {R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})", "shape[0] is not an integer"},
      {R"({"dtype":"F32","shape":[1,"1"],"data_offsets":[0,4]})", "shape[1] is not an integer"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":4})", "not a pair"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})", "not a pair"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", "not a pair"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", "not a pair"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]})", "not valid JSON"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})", "needs 4 bytes"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", "2^63 bytes"},
      {R"({"dtype":"F64","shape":[1152921504606846976],"data_offsets":[0,0]})", "2^63 bytes"},
      {R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})", "2^63 bytes"},
  };
  for (const auto& [entry, message] : cases) {
    SCOPED_TRACE(entry);
    EXPECT_THAT(Error(Padded(fmt::format(R"({{"a":{}}})", entry), 8)), HasSubstr(message));
  }
}

// One F32 or U8 tensor per (begin, end).
std::string Layout(
    std::initializer_list<std::tuple<std::string_view, std::string_view, int, int>> entries) {
  std::string json = "{";
  for (const auto& [name, dtype, begin, end] : entries) {
    json += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        json.size() > 1 ? "," : "", name, dtype,
                        (end - begin) / static_cast<int>(ElementSize(*DTypeFromName(dtype))), begin,
                        end);
  }
  return json + "}";
}

TEST(Safetensors, RefusesOverlapsGapsAndUnalignedData) {
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 0, 8}, {"b", "F32", 4, 12}}), 12)),
              HasSubstr("tensor b begins at byte 4 of the data and overlaps"));
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 0, 8}, {"b", "F32", 0, 8}}), 8)),
              HasSubstr("overlaps"));
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 0, 4}, {"b", "F32", 8, 12}}), 12)),
              HasSubstr("leaves a gap"));
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 4, 8}}), 8)), HasSubstr("leaves a gap"));
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 0, 4}}), 8)), HasSubstr("belong to none"));
  EXPECT_THAT(Error(Padded(Layout({{"a", "U8", 0, 1}, {"b", "F32", 1, 5}}), 5)),
              HasSubstr("not aligned for F32"));
  // The same header, one byte longer: now the data begins at an odd byte.
  std::string json = Layout({{"a", "F32", 0, 4}});
  json.resize((json.size() + 7) / 8 * 8 + 1, ' ');
  EXPECT_THAT(Error(File(json, 4)), HasSubstr("not aligned for F32"));
}

TEST(Safetensors, RefusesNamesGivenTwice) {
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 0, 4}, {"a", "F32", 4, 8}}), 8)),
              HasSubstr("tensor a is given twice"));
  EXPECT_THAT(Error(Padded(Layout({{"a", "F32", 0, 4}, {"\\u0061", "F32", 4, 8}}), 8)),
              HasSubstr("tensor a is given twice"));
  EXPECT_THAT(Error(File(R"({"__metadata__":{"k":"1","k":"2"}})")), HasSubstr("k is given twice"));
  EXPECT_THAT(Error(File(R"({"__metadata__":{},"__metadata__":{}})")),
              HasSubstr("__metadata__ is given twice"));
}

TEST(SafetensorsHeader, RefusesWhatNoReaderWouldAccept) {
  const std::vector<std::byte> bytes(8);
  const std::span four = std::span(bytes).first(4);
  const auto error = [](std::vector<NamedTensor> tensors) {
    return std::string(SafetensorsHeader(tensors, {}).status().message());
  };
  EXPECT_THAT(error({{"a", {DType::kF32, {1}, four}}, {"a", {DType::kF32, {1}, four}}}),
              HasSubstr("unique"));
  EXPECT_THAT(error({{"\xff", {DType::kF32, {1}, four}}}), HasSubstr("UTF-8"));
  EXPECT_THAT(error({{"__metadata__", {DType::kF32, {1}, four}}}), HasSubstr("__metadata__"));
  EXPECT_THAT(error({{"a", {DType::kF32, {2}, four}}}), HasSubstr("does not describe its 4 bytes"));
  EXPECT_THAT(error({{"a", {DType::kF32, {-1}, four}}}), HasSubstr("does not describe"));
  EXPECT_THAT(error({{"a", {DType::kF32, {1}, four}}, {"b", {DType::kF64, {1}, bytes}}}),
              HasSubstr("would begin unaligned at byte 4"));
  EXPECT_FALSE(SafetensorsHeader({}, {{"k", "\xff"}}).ok());
}

TEST(WriteSafetensors, LeavesNothingBehindWhenItFails) {
  TemporaryDirectory directory;
  const std::vector<NamedTensor> wrong = {{"a", {DType::kF32, {1}, {}}}};
  EXPECT_FALSE(WriteSafetensors(directory.path() / "a.safetensors", wrong).ok());
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(Tensor, SizesThatOverflowHaveNoSize) {
  EXPECT_EQ(NumElements({}), 1);
  const std::vector<int64_t> empty = {int64_t{1} << 62, 0, int64_t{1} << 62};
  EXPECT_EQ(ByteSize(DType::kF64, empty), 0u);
  const std::vector<int64_t> overflows = {int64_t{1} << 62, 2};
  EXPECT_EQ(NumElements(overflows), std::nullopt);
  const std::vector<int64_t> negative = {0, -1};
  EXPECT_EQ(NumElements(negative), std::nullopt);
  const std::vector<int64_t> large = {int64_t{1} << 61};
  EXPECT_EQ(ByteSize(DType::kU8, large), size_t{1} << 61);
  EXPECT_EQ(ByteSize(DType::kF32, large), std::nullopt);
}

}  // namespace
}  // namespace albef
