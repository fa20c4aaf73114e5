#include "formats/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace albef {
namespace {

using namespace std::string_view_literals;
using Kind = PickleValue::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Pickle> Parse(std::string_view pickle, const PickleLimits& limits = {}) {
  return ParsePickle(std::as_bytes(std::span(pickle)), "x.pkl", limits);
}

PickleValue Root(std::string_view pickle) {
  const auto parsed = Parse(pickle);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? parsed->root : PickleValue();
}

std::string Error(std::string_view pickle, const PickleLimits& limits = {}) {
  const auto parsed = Parse(pickle, limits);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("x.pkl: pickle opcode "));
  return message;
}

TEST(Pickle, ReadsIntegersOfEveryOpcodeAndWidth) {
  EXPECT_EQ(*Root("K\xff."sv).AsInt(), 255);
  EXPECT_EQ(*Root("M\x01\x02."sv).AsInt(), 513);
  EXPECT_EQ(*Root("J\xfe\xff\xff\xff."sv).AsInt(), -2);
  EXPECT_EQ(*Root("\x8a\x00."sv).AsInt(), 0);
  EXPECT_EQ(*Root("\x8a\x01\xff."sv).AsInt(), -1);
  EXPECT_EQ(*Root("\x8a\x06\0\0\0\0\0\x01."sv).AsInt(), int64_t{1} << 40);
  EXPECT_EQ(*Root("\x8a\x08\0\0\0\0\0\0\0\x80."sv).AsInt(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*Root("\x8a\x0a\x05\0\0\0\0\0\0\0\0\0."sv).AsInt(), 5);
  EXPECT_EQ(*Root("\x8b\x02\0\0\0\x39\x30."sv).AsInt(), 12345);
  EXPECT_EQ(*Root("I-12\n."sv).AsInt(), -12);
  EXPECT_EQ(*Root("L1099511627776L\n."sv).AsInt(), int64_t{1} << 40);
}

TEST(Pickle, KeepsIntegersBeyond64BitsAsDigits) {
  const PickleValue magic = Root("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."sv);
  EXPECT_EQ(magic.kind(), Kind::kBigInt);
  EXPECT_EQ(magic.text(), "119547037146038801333356");
  EXPECT_FALSE(magic.AsInt().ok());
  EXPECT_EQ(Root("\x8a\x09\0\0\0\0\0\0\0\x80\0."sv).text(), "9223372036854775808");
  EXPECT_EQ(Root("\x8a\x09\0\0\0\0\0\0\0\0\xff."sv).text(), "-18446744073709551616");
  EXPECT_EQ(Root("L-123456789012345678901234567890L\n."sv).text(),
            "-123456789012345678901234567890");
}

TEST(Pickle, ReadsTheOtherScalars) {
  EXPECT_TRUE(Root("N.").is_none());
  EXPECT_TRUE(*Root("\x88."sv).AsBool());
  EXPECT_FALSE(*Root("\x89."sv).AsBool());
  EXPECT_TRUE(*Root("I01\n.").AsBool());
  EXPECT_EQ(*Root("G\x3f\xf8\0\0\0\0\0\0."sv).AsDouble(), 1.5);
  EXPECT_EQ(*Root("F-0.25\n.").AsDouble(), -0.25);
  EXPECT_EQ(*Root("K\x02."sv).AsDouble(), 2.0);
}

TEST(Pickle, ReadsTextAndBytesOfAllProtocols) {
  EXPECT_EQ(*Root("X\x05\0\0\0na\xc3\xaf\x65."sv).AsString(), "naïe");
  EXPECT_EQ(*Root("\x8c\x02hi."sv).AsString(), "hi");
  EXPECT_EQ(*Root("\x8d\x02\0\0\0\0\0\0\0hi."sv).AsString(), "hi");
  EXPECT_EQ(*Root("Va\\u00efb\\U0001F600\\n\xe9\n."sv).AsString(), "aïb😀\\né");
  EXPECT_EQ(*Root("S'it\\'s\\n\\x41'\n."sv).AsString(), "it's\nA");
  EXPECT_EQ(*Root("U\x02hi."sv).AsString(), "hi");
  EXPECT_EQ(Root("U\x01\xff."sv).kind(), Kind::kBytes);
  EXPECT_EQ(Root("C\x02\xff\0."sv).text(), "\xff\0"sv);
  const PickleValue encoded =
      Root("c_codecs\nencode\nX\x03\0\0\0\x41\xc3\xbfX\x06\0\0\0latin1\x86R."sv);
  EXPECT_EQ(encoded.kind(), Kind::kBytes);
  EXPECT_EQ(encoded.text(), "A\xff");
}

TEST(Pickle, ReadsContainersInInsertionOrder) {
  const PickleValue dict = Root("}(X\x01\0\0\0bK\x01X\x01\0\0\0aK\x02K\x07K\x03u."sv);
  ASSERT_EQ(dict.items().size(), 3u);
  EXPECT_EQ(dict.items()[0].first.text(), "b");
  EXPECT_EQ(*dict.Find("a")->AsInt(), 2);
  EXPECT_EQ(*dict.Find(7)->AsInt(), 3);
  EXPECT_THAT(std::string(dict.Find("c").status().message()),
              HasSubstr(R"(no key "c" among the 3)"));
  const PickleValue foreign = Root("}C\x03\xf4\xf4xK\x01s."sv);
  EXPECT_THAT(std::string(foreign.Find("c").status().message()),
              HasSubstr(R"(no key "c" among the 1 there are ("\xf4\xf4x"))"));

  const PickleValue list = Root(
      "](K\x01K\x02"
      "e."sv);
  EXPECT_EQ(list.kind(), Kind::kList);
  EXPECT_EQ(list.elements().size(), 2u);
  EXPECT_EQ(Root("(K\x01K\x02t."sv).kind(), Kind::kTuple);
  EXPECT_EQ(Root("K\x01\x85."sv).elements().size(), 1u);
  EXPECT_EQ(Root("(K\x01K\x02l."sv).kind(), Kind::kList);
  EXPECT_EQ(Root("(K\x01K\x02"
                 "d."sv)
                .kind(),
            Kind::kDict);
  EXPECT_EQ(Root("\x8f(K\x01K\x02\x90."sv).kind(), Kind::kSet);
  EXPECT_EQ(Root("c__builtin__\nset\n](K\x01K\x02"
                 "e\x85R."sv)
                .elements()
                .size(),
            2u);
}

TEST(Pickle, ReadsAnOrderedDictWithItsAttributes) {
  const PickleValue dict = Root(
      "\x80\x02"
      "ccollections\nOrderedDict\n)R(X\x01\0\0\0wK\x01u"
      "}X\x09\0\0\0_metadataK\x05sb."sv);
  EXPECT_TRUE(dict.is_ordered_dict());
  EXPECT_EQ(*dict.Find("w")->AsInt(), 1);
  EXPECT_EQ(*dict.state().Find("_metadata")->AsInt(), 5);
  // As Python 2 wrote it.
  const PickleValue old = Root(
      "ccollections\nOrderedDict\n(](](X\x01\0\0\0wK\x01"
      "eetR."sv);
  EXPECT_TRUE(old.is_ordered_dict());
  EXPECT_EQ(*old.Find("w")->AsInt(), 1);
}

TEST(Pickle, KeepsCallsAsInertObjects) {
  const auto parsed = Parse("cos\nsystem\nX\x09\0\0\0rm -rf / \x85R."sv);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->root.kind(), Kind::kObject);
  EXPECT_EQ(parsed->root.class_name(), "os.system");
  EXPECT_EQ(parsed->root.args().elements()[0].text(), "rm -rf / ");
  EXPECT_THAT(parsed->globals, ElementsAre("os.system"));

  const PickleValue space =
      Root("cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG\x3f\xf0\0\0\0\0\0\0sb."sv);
  EXPECT_EQ(space.class_name(), "argparse.Namespace");
  EXPECT_EQ(*space.state().Find("lr")->AsDouble(), 1.0);

  // Other ways to ask for a call.
  for (const std::string_view pickle :
       {"(S'ls'\nios\nsystem\n."sv, "(cos\nsystem\nS'ls'\no."sv,
        "\x8c\x02os\x8c\x06system\x93)R."sv, "cos\nsystem\n)}\x92."sv}) {
    EXPECT_EQ(Root(pickle).class_name(), "os.system");
  }
  // What a call returns is called in turn.
  EXPECT_EQ(Root("cbuiltins\ngetattr\n)R)R."sv).kind(), Kind::kObject);
}

TEST(Pickle, SharesWhatTheMemoShares) {
  const PickleValue root = Root(
      "(]q\0K\x05"
      "ah\0g0\nt."sv);
  ASSERT_EQ(root.elements().size(), 3u);
  EXPECT_EQ(root.elements()[0].elements().data(), root.elements()[2].elements().data());
}

TEST(Pickle, CutsCyclesAtTheReferenceBack) {
  const PickleValue list = Root(
      "]q\0h\0"
      "a."sv);
  ASSERT_EQ(list.elements().size(), 1u);
  EXPECT_EQ(list.elements()[0].kind(), Kind::kBackReference);
  const PickleValue object = Root("cm\nC\n)\x81q\0}X\x04\0\0\0selfh\0sb."sv);
  EXPECT_EQ(object.state().Find("self")->kind(), Kind::kBackReference);
  // A cycle that is not part of the result.
  EXPECT_EQ(*Root("]q\0h\0"
                  "a0K\x01."sv)
                 .AsInt(),
            1);
}

TEST(Pickle, EndsAtItsStop) {
  const auto parsed = Parse("K\x01.K\x02."sv);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->bytes, 3u);
}

TEST(Pickle, RefusesEveryTruncation) {
  const std::string_view pickle =
      "\x80\x04\x95\x20\0\0\0\0\0\0\0}\x94(\x8c\x01\x61K\x01\x8c\x01\x62](G\0\0\0\0\0\0\0\0K\x02"
      "e\x8c\x01\x63"
      "cm\nC\n)Ru."sv;
  ASSERT_TRUE(Parse(pickle).ok()) << Parse(pickle).status();
  for (size_t size = 0; size < pickle.size(); ++size) {
    EXPECT_FALSE(Parse(pickle.substr(0, size)).ok()) << size;
  }
}

struct Hostile {
  std::string_view pickle;
  std::string_view message;
};

TEST(Pickle, RefusesMalformedInputWithOpcodeAndPlace) {
  const std::string long_integer = std::string("\x8b\x01\x04\0\0"sv) + std::string(1025, 'x') + ".";
  const std::string long_key = std::string("}X\x01\0\x01\0"sv) + std::string(65537, 'k') + "Ns.";
  const std::string long_name = "c" + std::string(2000, 'm') + "\nx\n.";
  const Hostile cases[] = {
      {"", "the pickle is truncated"},
      {"N"sv, "the pickle is truncated"},
      {"\x80\x06."sv, "opcode PROTO (0x80) at byte 0: protocol 6"},
      {"N\xff."sv, "opcode UNKNOWN (0xff) at byte 1: not an opcode"},
      {"."sv, "opcode STOP (0x2e) at byte 0: the stack"},
      {"X\xff\xff\xff\xff."sv, "opcode BINUNICODE (0x58) at byte 0: its 4294967295 bytes"},
      {"\x8d\xff\xff\xff\xff\xff\xff\xff\xff."sv, "do not fit"},
      {"\x8e\0\0\0\0\0\0\0\x80."sv, "do not fit"},
      {"\x96\0\0\0\0\0\0\0\x80."sv, "do not fit"},
      {"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."sv, "its frame is longer than the file"},
      {"\x8b\xff\xff\xff\xff."sv, "do not fit"},
      {long_integer, "an integer of 1025 bytes"},
      {"X\x01\0\0\0\xff."sv, "not valid UTF-8"},
      {"V\\uD800\n."sv, "not valid UTF-8"},
      {"V\\u12\n."sv, "malformed escape"},
      {"V\\U00110000\n."sv, "malformed escape"},
      {"Sabc\n."sv, "not quoted"},
      {"S'\n."sv, "not quoted"},
      {"S'\\q'\n."sv, "has an escape"},
      {"I12"sv, "its line does not end"},
      {"I1x\n."sv, "not a decimal integer"},
      {"Fx\n."sv, "not a number"},
      {"h\0."sv, "memo 0 was never stored"},
      {"q\0."sv, "opcode BINPUT (0x71) at byte 0: the stack"},
      {"gx\n."sv, "not a number"},
      {"t."sv, "there is no mark"},
      {"K\x01(\x85."sv, "opcode TUPLE1 (0x85) at byte 3: the stack does not hold"},
      {"0."sv, "the stack does not hold"},
      {"2."sv, "the stack does not hold"},
      {"K\x01K\x02"
       "a."sv,
       "cannot add elements to a int"},
      {"](K\x01\x90."sv, "cannot add elements to a list"},
      {"]K\x01K\x02s."sv, "cannot set items of a list"},
      {"}(K\x01u."sv, "a key without a value"},
      {"}]Ns."sv, "a list cannot be a key"},
      {"}}Ns."sv, "a dict cannot be a key"},
      {"}(X\x01\0\0\0aNX\x01\0\0\0aNu."sv, "key \"a\" is given twice"},
      {"}(K\x03NK\x03Nu."sv, "key 3 is given twice"},
      {long_key, "a key of more than 65536 bytes"},
      {"c\nx\n."sv, "empty, too long or not UTF-8"},
      {long_name, "empty, too long or not UTF-8"},
      {"NN\x93."sv, "not a string"},
      {"N)R."sv, "cannot call a None"},
      {"cm\nf\nNR."sv, "its arguments are not a tuple"},
      {"(o."sv, "the stack does not hold"},
      {"]}b."sv, "a list has no state to set"},
      {"}}b."sv, "a dict has no state to set"},
      {"\x82\x01."sv, "opcode EXT1 (0x82) at byte 0: not supported"},
      {"\x97."sv, "opcode NEXT_BUFFER (0x97) at byte 0: not supported"},
  };
  for (const auto& [pickle, message] : cases) {
    SCOPED_TRACE(::testing::PrintToString(pickle.substr(0, 40)));
    EXPECT_THAT(Error(pickle), HasSubstr(message));
  }
}

TEST(Pickle, BoundsNesting) {
  const auto nested = [](size_t depth) {
    std::string pickle = "N";
    for (size_t i = 0; i < depth; ++i) pickle += "\x85";
    return pickle + ".";
  };
  EXPECT_TRUE(Parse(nested(200)).ok());
  EXPECT_THAT(Error(nested(201)), HasSubstr("nested more than 200 deep"));
  // Deep enough to overflow the stack of whatever recurses, also of destructors.
  EXPECT_THAT(Error(nested(100'000)), HasSubstr("nested more than 200 deep"));
  EXPECT_EQ(*Root(nested(100'000).substr(0, 100'001) + "0K\x01.").AsInt(), 1);
}

TEST(Pickle, BoundsTheWalkThroughSharedValues) {
  std::string pickle = "N";
  for (int i = 0; i < 40; ++i) pickle += "2\x86";  // a pair of what there is: 2^40 values
  EXPECT_THAT(Error(pickle + "."), HasSubstr("shared values make up more than 100000000"));
}

TEST(Pickle, BoundsTheWork) {
  PickleLimits limits;
  limits.max_steps = 100;
  std::string pickle = "(";
  for (int i = 0; i < 100; ++i) pickle += "N";
  EXPECT_THAT(Error(pickle + "t.", limits), HasSubstr("more than 100 steps"));
  // Copying a shared list again and again is work too.
  std::string copies(
      "(](NNNNNNNNNNNNNNNNNNNNe\x85q\0"
      "0"sv);
  for (int i = 0; i < 10; ++i) copies += "cbuiltins\nset\nh\0R"sv;
  EXPECT_THAT(Error(copies + "t.", limits), HasSubstr("more than 100 steps"));
}

TEST(ReplaceObjects, ReplacesInnerObjectsFirstEverywhere) {
  // outer(inner()) twice, by the memo.
  const PickleValue root = Root("(cm\nouter\ncm\ninner\n)R\x85Rq\0h\0t."sv);
  std::vector<std::string> seen;
  const absl::Status status = ReplaceObjects(
      root, [&seen](const PickleValue& object) -> absl::StatusOr<std::optional<PickleValue>> {
        seen.emplace_back(object.class_name());
        if (object.class_name() == "m.inner") return PickleValue::List({1, 2});
        return object.args().elements()[0];
      });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(seen, ElementsAre("m.inner", "m.outer"));
  for (const PickleValue& value : root.elements()) {
    EXPECT_EQ(value.kind(), Kind::kList);
    EXPECT_EQ(value.elements().size(), 2u);
  }
}

TEST(PickleValue, SaysWhatWasExpectedAndWhatIsThere) {
  EXPECT_EQ(std::string(PickleValue("x").AsInt().status().message()), "expected int, found str");
  EXPECT_EQ(std::string(PickleValue(1).Find("x").status().message()), "expected dict, found int");
  EXPECT_TRUE(PickleValue(1).elements().empty());
  EXPECT_TRUE(PickleValue().items().empty());
}

}  // namespace
}  // namespace albef
