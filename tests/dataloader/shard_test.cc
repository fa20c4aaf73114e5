#include "dataloader/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"
#include "dataloader/indexed_samples.h"
#include "tests/dataloader/tar_builder.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A sample as text: "NAME=CONTENT: captions", "NAME missing: captions".
class Shards : public ::testing::Test {
 protected:
  absl::Status Read(std::string_view bytes) {
    EXPECT_TRUE(WriteFileAtomic(path_, bytes).ok());
    samples_.clear();
    const auto file = OpenRegularFile(path_);
    EXPECT_TRUE(file.ok()) << file.status();
    const auto summary =
        ReadShard(*file, path_, bytes.size(),
                  [&](const ArchiveMember& image, std::span<const std::string> captions) {
                    std::string text = image.name + " missing";
                    if (image.offset != 0) {
                      text = image.name + "=" + std::string(bytes.substr(image.offset, image.size));
                    }
                    for (const std::string& caption : captions) text += ": " + caption;
                    samples_.push_back(text);
                    return absl::OkStatus();
                  });
    if (!summary.ok()) return summary.status();
    EXPECT_EQ(summary->num_samples, static_cast<int64_t>(samples_.size()));
    is_cut_short_ = summary->is_cut_short;
    return absl::OkStatus();
  }
  std::string Error(std::string_view bytes) {
    const absl::Status status = Read(bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  TemporaryDirectory directory_;
  const fs::path path_ = directory_.path() / "shard.tar";
  std::vector<std::string> samples_;
  bool is_cut_short_ = false;
};

TEST_F(Shards, GroupMembersByNameAsImg2datasetWritesThem) {
  ASSERT_TRUE(Read(TarBuilder()
                       .Add("000000000.jpg", "J0")
                       .Add("000000000.json", R"({"caption": "from json", "key": "000000000"})")
                       .Add("000000000.txt", "from txt")
                       .Add("a/1.PNG", "P1")
                       .Add("a/1.json", R"({"caption": ["one", "two"]})")
                       .Add("2.txt", "before its image")
                       .Add("2.webp", "W2")
                       .End())
                  .ok());
  EXPECT_FALSE(is_cut_short_);
  EXPECT_THAT(samples_, ElementsAre("000000000.jpg=J0: from txt", "a/1.PNG=P1: one: two",
                                    "2.webp=W2: before its image"));
}

TEST_F(Shards, KeepSamplesThatLackAPartAndPassOverTheRest) {
  ASSERT_TRUE(Read(TarBuilder()
                       .Add("a.jpg", "A")
                       .Add("b.txt", "no image")
                       .Add("c.jpg", "")
                       .Add("c.txt", "")
                       .Add("d.json", R"({"caption": null, "status": "failed"})")
                       .Add("e.jpg", "E")
                       .Add("e.json", R"({"caption": "cut)")
                       .Add("README", "x")
                       .Add("f.cls", "7")
                       .Add("._g.jpg", "mac")
                       .Add("__h.x__", "meta")
                       .Add("i.jpg", "first")
                       .Add("i.png", "second")
                       .Add("i.seg.png", "mask")
                       .Add("i.txt", "two images")
                       .End())
                  .ok());
  EXPECT_THAT(samples_, ElementsAre("a.jpg=A", "b missing: no image", "c.jpg=: ", "e.jpg=E",
                                    "i.jpg=first: two images"));
}

TEST_F(Shards, ARepeatedKeyIsAnotherSample) {
  ASSERT_TRUE(Read(TarBuilder()
                       .Add("a.jpg", "1")
                       .Add("a.txt", "one")
                       .Add("a.jpg", "2")
                       .Add("a.txt", "two")
                       .Add("b.jpg", "3")
                       .Add("b.txt", "three")
                       .Add("a.jpg", "4")
                       .Add("a.txt", "four")
                       .End())
                  .ok());
  EXPECT_THAT(samples_,
              ElementsAre("a.jpg=1: one", "a.jpg=2: two", "b.jpg=3: three", "a.jpg=4: four"));
}

TEST_F(Shards, PassOverWhatIsNoRegularFile) {
  TarBuilder tar;
  for (const char type : {'1', '2', '3', '4', '6'}) {
    // Links may say the size of what they point to; no bytes follow.
    tar.Raw(TarBuilder::Header("link.jpg", "00000000777", type));
  }
  tar.Add("folder/", "", '5').Add("old_folder.d/", "").Add("volume.jpg", "x", 'V');
  std::string sparse = TarBuilder::Header("sparse.jpg", "00000000003", 'S');
  tar.Raw(sparse).Raw("abc" + std::string(509, '\0'));
  tar.AddPax(TarBuilder::PaxRecord("GNU.sparse.major", "1"), "sparse2.jpg", "x");
  tar.Add("a.jpg", "A", '7').Raw(TarBuilder::Header("a.txt", "00000000001", '\0'));
  tar.Raw("t" + std::string(511, '\0'));
  ASSERT_TRUE(Read(tar.End()).ok());
  EXPECT_THAT(samples_, ElementsAre("a.jpg=A: t"));
}

TEST_F(Shards, KnowNamesAndSizesOfEveryFormat) {
  const std::string folder(150, 'd'), key = folder + "/" + std::string(120, 'k');
  TarBuilder tar;
  tar.AddGnuLong(key + "1.jpg", "1").AddGnuLong(key + "1.txt", "gnu");
  tar.AddPax(TarBuilder::PaxRecord("path", key + "2.jpg") + TarBuilder::PaxRecord("mtime", "1.5"),
             "short", "2");
  tar.AddPax(TarBuilder::PaxRecord("path", key + "2.txt"), "short", "pax");
  tar.Raw(TarBuilder::Header("3.jpg", "00000000001 ", '0', folder))
      .Raw("3" + std::string(511, '\0'));
  tar.Raw(TarBuilder::Header("3.txt", std::string_view("\x80\0\0\0\0\0\0\0\0\0\0\5", 12), '0',
                             folder))
      .Raw("ustar" + std::string(507, '\0'));
  // The size of a pax header counts, not that of the member's own.
  tar.Add("PaxHeaders/x", TarBuilder::PaxRecord("size", "4"), 'x');
  tar.Raw(TarBuilder::Header("4.jpg", "00000000000", '0')).Raw("four" + std::string(508, '\0'));
  // A global header names no member.
  tar.Add("pax_global_header", TarBuilder::PaxRecord("path", "evil.jpg"), 'g');
  tar.Add("4.txt", "end");
  ASSERT_TRUE(Read(tar.End()).ok());
  EXPECT_THAT(samples_, ElementsAre(key + "1.jpg=1: gnu", key + "2.jpg=2: pax",
                                    folder + "/3.jpg=3: ustar", "4.jpg=four: end"));
}

TEST_F(Shards, AreReadAsTheSystemsTarWritesThem) {
  const fs::path folder = directory_.path() / "in";
  ASSERT_TRUE(CreateDirectories(folder / std::string(90, 'x')).ok());
  const std::string name = std::string(90, 'x') + "/" + std::string(60, 'y');
  ASSERT_TRUE(WriteFileAtomic(folder / (name + ".jpg"), "J").ok());
  ASSERT_TRUE(WriteFileAtomic(folder / (name + ".txt"), "caption").ok());
  for (const std::string format : {"gnu", "pax", "oldgnu", "ustar"}) {
    const std::string command = "tar --sort=name --format=" + format + " -cf " +
                                (directory_.path() / "out.tar").string() + " -C " +
                                folder.string() + " .";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    ASSERT_TRUE(Read(*ReadFile(directory_.path() / "out.tar")).ok()) << format;
    EXPECT_THAT(samples_, ElementsAre("./" + name + ".jpg=J: caption")) << format;
  }
}

TEST_F(Shards, GiveTheWholeSamplesOfAnArchiveThatIsCutShort) {
  const std::string whole = TarBuilder()
                                .Add("a.jpg", "A")
                                .Add("a.txt", "one")
                                .Add("b.jpg", "B")
                                .Add("b.txt", "two")
                                .End();
  for (size_t size = 512; size < 4 * 1024; ++size) {
    ASSERT_TRUE(Read(whole.substr(0, size)).ok()) << size;
    EXPECT_TRUE(is_cut_short_) << size;
    // A member is there when its bytes are, with or without the padding.
    std::vector<std::string> expected;
    if (size >= 3 * 512 + 3) expected.push_back("a.jpg=A: one");
    if (size >= 7 * 512 + 3) expected.push_back("b.jpg=B: two");
    EXPECT_EQ(samples_, expected) << size;
  }
  ASSERT_TRUE(Read(whole.substr(0, 4 * 1024 + 512)).ok());
  EXPECT_FALSE(is_cut_short_);
  ASSERT_TRUE(Read("").ok());
  EXPECT_TRUE(is_cut_short_);
}

TEST_F(Shards, NameTheByteOfDamage) {
  EXPECT_THAT(Error(std::string(600, 'x')), HasSubstr("shard.tar: no tar archive at byte 0"));
  EXPECT_THAT(Error("\x1F\x8B gzip"), HasSubstr("no tar archive at byte 0"));
  TarBuilder tar;
  tar.Add("a.jpg", "A");
  std::string damaged = tar.Add("a.txt", "one").End();
  damaged[1024 + 5] = 'X';
  EXPECT_THAT(Error(damaged), HasSubstr("damaged header at byte 1024"));
  EXPECT_THAT(Error(TarBuilder().Raw(TarBuilder::Header("a.jpg", "9x", '0')).End()),
              HasSubstr("malformed size"));
  EXPECT_THAT(Error(TarBuilder()
                        .Raw(TarBuilder::Header("a.jpg", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", '0'))
                        .End()),
              HasSubstr("malformed size"));
  for (const std::string records : {"", "5", "99 a=b\n", "3 \n", "6 a=bX", "7 path\n", "x a=b\n"}) {
    if (records.empty()) continue;
    EXPECT_THAT(Error(TarBuilder().AddPax(records, "a.jpg", "A").End()), HasSubstr("pax header"))
        << records;
  }
}

TEST_F(Shards, GiveTheirBytesThroughAnIndex) {
  const std::string picture(5000, 'p');
  ASSERT_TRUE(
      WriteFileAtomic(
          path_,
          TarBuilder().Add("a.jpg", picture).Add("a.txt", "one").Add("b.txt", "no image").End())
          .ok());
  const auto samples = IndexedSamples::Open({&path_, 1}, "/elsewhere");
  ASSERT_TRUE(samples.ok()) << samples.status();
  ASSERT_EQ(samples->size(), 2);
  const Sample first = samples->Get(0);
  EXPECT_EQ(first.ImageName(), path_.string() + "/a.jpg");
  EXPECT_THAT(first.captions, ElementsAre("one"));
  std::string bytes;
  ASSERT_TRUE(samples->ReadImage(first, bytes).ok());
  EXPECT_EQ(bytes, picture);
  EXPECT_EQ(samples->ReadImage(samples->Get(1), bytes).code(), absl::StatusCode::kNotFound);
  // The archive has shrunk since.
  fs::resize_file(path_, 3000);
  EXPECT_EQ(samples->ReadImage(first, bytes).code(), absl::StatusCode::kDataLoss);
  fs::remove(path_);
  EXPECT_EQ(samples->ReadImage(first, bytes).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace albef
