#include "common/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(WriteFileAtomic, ReplacesTheContentAndLeavesNothingElse) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.txt";
  ASSERT_TRUE(WriteFileAtomic(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomic(path, "two").ok());
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()), 1);
}

TEST(AtomicFile, ShowsNothingBeforeCommitAndLeavesNothingWithoutIt) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "a.txt";
  {
    auto file = AtomicFile::Create(path);
    ASSERT_TRUE(file.ok() && file->Write("one").ok());
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
  auto file = AtomicFile::Create(path);
  ASSERT_TRUE(file.ok() && file->Write("one").ok() && file->Write(" two").ok());
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(*ReadFile(path), "one two");
}

TEST(WriteAll, ReportsAFullDiskAsResourceExhausted) {
  FileDescriptor full(::open("/dev/full", O_WRONLY));
  ASSERT_TRUE(full.valid());
  const std::string text = "x";
  const absl::Status status = WriteAll(full.get(), std::as_bytes(std::span(text)), "/dev/full");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/full: cannot write: No space left"));
}

TEST(WriteFileAtomic, NamesThePathItCannotWrite) {
  const absl::Status status = WriteFileAtomic("/nonexistent/folder/file", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/folder/file"));
}

TEST(ReadFile, ReadsFilesWithoutASize) {
  const auto content = ReadFile("/proc/self/status");
  ASSERT_TRUE(content.ok());
  EXPECT_THAT(*content, HasSubstr("Pid:"));
}

TEST(OpenRegularFile, WaitsForNothingAndRefusesWhatIsNoFile) {
  TemporaryDirectory directory;
  const fs::path pipe = directory.path() / "pipe", socket = directory.path() / "socket";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const FileDescriptor listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(socket.native().size(), sizeof(address.sun_path));
  socket.native().copy(address.sun_path, socket.native().size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  for (const fs::path& path : {pipe, socket, directory.path()}) {
    const absl::Status refused = OpenRegularFile(path.native()).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("not a regular file"));
    std::string content;
    EXPECT_EQ(ReadRegularFileInto(path.native(), 100, content), refused);
  }
}

TEST(MappedFile, ReadsEmptyAndFullFilesAndRefusesFolders) {
  TemporaryDirectory directory;
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "empty", "").ok());
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "full", "abc").ok());
  EXPECT_EQ(MappedFile::Open(directory.path() / "empty")->text(), "");
  EXPECT_EQ(MappedFile::Open(directory.path() / "full")->text(), "abc");
  EXPECT_EQ(MappedFile::Open(directory.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(directory.path() / "none").status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace albef
