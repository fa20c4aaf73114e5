#include "model/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace albef {
namespace {

// The full-size model's trainable parameters in named order, from its state-dict listing.
std::vector<ParameterShape> FullSizeParameters() {
  std::ifstream file("tests/golden/keys.txt");
  EXPECT_TRUE(file.good());
  std::vector<ParameterShape> parameters;
  std::string line;
  while (std::getline(file, line)) {
    const std::string key = line.substr(0, line.find('\t'));
    const bool is_buffer = key.find("queue") != std::string::npos || key.ends_with("position_ids");
    const bool is_teacher = key.substr(0, key.find('.')).ends_with("_m");
    const bool is_second_name = key.find(".decoder.") != std::string::npos;
    if (is_buffer || is_teacher || is_second_name) continue;
    std::istringstream shape(line.substr(line.find('(') + 1));
    ParameterShape parameter{.key = key, .shape = {}};
    for (int64_t extent = 0; shape >> extent; shape.ignore()) parameter.shape.push_back(extent);
    parameters.push_back(std::move(parameter));
  }
  return parameters;
}

TEST(Layout, OfTheFullSizeModelHasTheAuthorsOptimizerOrder) {
  const Layout layout(FullSizeParameters(), sizeof(float));
  EXPECT_EQ(layout.num_values(), 209'937'725);

  std::ifstream file("tests/golden/optgroups.json");
  const nlohmann::json groups = nlohmann::json::parse(file);
  std::vector<std::string> expected = groups.at("no_decay");
  const size_t num_no_decay = expected.size();
  for (const std::string key : groups.at("decay")) expected.push_back(key);
  std::vector<std::string> actual;
  for (const LayoutEntry& entry : layout.entries()) {
    EXPECT_EQ(entry.group == ParameterGroup::kNoDecay, actual.size() < num_no_decay) << entry.key;
    actual.push_back(entry.key);
  }
  EXPECT_EQ(actual, expected);
}

TEST(Layout, EntriesAreAlignedAndDoNotOverlap) {
  for (const size_t element_bytes : {sizeof(float), sizeof(double)}) {
    const Layout layout(FullSizeParameters(), element_bytes);
    int64_t end = 0;
    for (const LayoutEntry& entry : layout.entries()) {
      EXPECT_EQ(entry.offset * static_cast<int64_t>(element_bytes) % kArenaAlignmentBytes, 0);
      EXPECT_GE(entry.offset, end) << entry.key;
      end = entry.offset + entry.num_values;
    }
    EXPECT_GE(layout.size(), end);
    EXPECT_LT(layout.size() - layout.num_values(), 419 * kArenaAlignmentBytes);
  }
}

TEST(Layout, GroupsAreTwoRangesThatCoverTheArena) {
  const Layout layout(FullSizeParameters(), sizeof(float));
  const ArenaRange first = layout.RangeOf(ParameterGroup::kNoDecay);
  const ArenaRange second = layout.RangeOf(ParameterGroup::kDecay);
  EXPECT_EQ(first.offset, 0);
  EXPECT_EQ(second.offset, first.size);
  EXPECT_EQ(second.offset + second.size, layout.size());
  for (const LayoutEntry& entry : layout.entries()) {
    EXPECT_EQ(entry.offset >= second.offset, entry.group == ParameterGroup::kDecay) << entry.key;
  }
}

TEST(Layout, DecaysScalarsAndTablesButNotVectorsAndBiases) {
  EXPECT_EQ(GroupOf("temp", {}), ParameterGroup::kDecay);
  EXPECT_EQ(GroupOf("visual_encoder.cls_token", std::vector<int64_t>{1, 1, 768}),
            ParameterGroup::kDecay);
  EXPECT_EQ(GroupOf("norm.weight", std::vector<int64_t>{768}), ParameterGroup::kNoDecay);
  EXPECT_EQ(GroupOf("odd.bias", std::vector<int64_t>{2, 3}), ParameterGroup::kNoDecay);
  EXPECT_EQ(GroupOf("fc.weight", std::vector<int64_t>{2, 3}), ParameterGroup::kDecay);
}

TEST(Layout, FindsByKeyAndRefusesDuplicates) {
  const std::vector<ParameterShape> parameters = {{"a.weight", {3, 5}}, {"a.bias", {3}}};
  const Layout layout(parameters, sizeof(float));
  ASSERT_NE(layout.Find("a.weight"), nullptr);
  EXPECT_EQ(layout.Find("a.weight")->offset, 64);
  EXPECT_EQ(layout.Find("b"), nullptr);
  const std::vector<ParameterShape> twice = {{"a", {3}}, {"a", {3}}};
  EXPECT_THROW(Layout(twice, sizeof(float)), std::invalid_argument);
}

}  // namespace
}  // namespace albef
