#include "dataloader/index_store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class IndexStore : public ::testing::Test {
 protected:
  void Write(int num_samples) {
    std::string json = "[";
    for (int i = 0; i < num_samples; ++i) {
      json += fmt::format(R"({}{{"image": "{}.jpg", "caption": "number {}"}})", i == 0 ? "" : ",",
                          i, i);
    }
    ASSERT_TRUE(WriteFileAtomic(file_, json + "]").ok());
  }
  OpenedIndex Open(IndexOptions options = {}) {
    events_.clear();
    options.notify = [this](std::string_view event) { events_.emplace_back(event); };
    auto opened = OpenIndex(file_, options);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }
  std::vector<std::string> Names(const fs::path& directory) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory)) {
      names.push_back(entry.path().filename());
    }
    return names;
  }

  TemporaryDirectory directory_;
  const fs::path file_ = directory_.path() / "train.json";
  const fs::path beside_ = directory_.path() / "train.json.albef-index";
  std::vector<std::string> events_;
};

TEST_F(IndexStore, MakesAnIndexOnceAndLeavesNothingElse) {
  Write(3);
  EXPECT_TRUE(Open().built);
  EXPECT_THAT(events_, ElementsAre(HasSubstr("being made from"), HasSubstr("made, 3 samples")));
  EXPECT_THAT(Names(directory_.path()),
              UnorderedElementsAre("train.json", "train.json.albef-index"));
  const OpenedIndex again = Open();
  EXPECT_FALSE(again.built);
  EXPECT_EQ(again.path, beside_);
  EXPECT_EQ(again.index.size(), 3);
  EXPECT_THAT(events_, IsEmpty());
  EXPECT_TRUE(Open({.rebuild = true}).built);
}

TEST_F(IndexStore, BelongsToOneVersionOfTheFile) {
  Write(3);
  Open();
  Write(4);
  EXPECT_EQ(Open().index.size(), 4);
  EXPECT_THAT(events_[0], HasSubstr("another version"));
  // Only the time is another.
  fs::last_write_time(file_, fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_TRUE(Open().built);
  // Size and time are the same.
  const auto time = fs::last_write_time(file_);
  std::string content = *ReadFile(file_);
  content.replace(content.find("3.jpg"), 1, "X");
  ASSERT_TRUE(WriteFileAtomic(file_, content).ok());
  fs::last_write_time(file_, time);
  EXPECT_EQ(Open().index.Get(3).image, "X.jpg");
}

TEST_F(IndexStore, StaysValidWhenTheFileMovesWithItsTime) {
  Write(3);
  const auto time = fs::last_write_time(file_);
  Open();
  TemporaryDirectory other;
  for (const char* name : {"train.json", "train.json.albef-index"}) {
    fs::copy_file(directory_.path() / name, other.path() / name);
  }
  fs::last_write_time(other.path() / "train.json", time);
  const auto opened = OpenIndex(other.path() / "train.json", {});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_FALSE(opened->built);
}

TEST_F(IndexStore, ReplacesADamagedIndex) {
  Write(2000);
  Open();
  const std::string good = *ReadFile(beside_);
  for (const size_t at : {size_t{0}, good.size() / 2, good.size() - 1}) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    ASSERT_TRUE(WriteFileAtomic(beside_, damaged).ok());
    EXPECT_TRUE(Open().built);
    EXPECT_THAT(events_[0], HasSubstr("made anew"));
    EXPECT_EQ(*ReadFile(beside_), good);
  }
  ASSERT_TRUE(WriteFileAtomic(beside_, good.substr(0, good.size() / 3)).ok());
  EXPECT_TRUE(Open().built);
}

TEST_F(IndexStore, GoesToTheDirectoryItIsGiven) {
  Write(3);
  const IndexOptions options{.directory = directory_.path() / "new" / "indices"};
  EXPECT_TRUE(Open(options).built);
  EXPECT_FALSE(Open(options).built);
  EXPECT_FALSE(fs::exists(beside_));
  // A file of the same name elsewhere has another.
  TemporaryDirectory other;
  fs::copy_file(file_, other.path() / "train.json");
  ASSERT_TRUE(OpenIndex(other.path() / "train.json", options).ok());
  EXPECT_EQ(Names(*options.directory).size(), 2u);
}

TEST_F(IndexStore, ReportsFaultsOfTheFileWithoutLeavingAnIndex) {
  ASSERT_TRUE(WriteFileAtomic(file_, R"([{"image": "a"}])").ok());
  const absl::Status status = OpenIndex(file_, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("train.json: sample 0: no key \"caption\""));
  EXPECT_THAT(Names(directory_.path()), ElementsAre("train.json"));
  EXPECT_EQ(OpenIndex(directory_.path() / "none.json", {}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenIndex(directory_.path(), {}).status().code(), absl::StatusCode::kInvalidArgument);
}

// A process of its own, which must end by itself with the code that `body` returns.
template <typename Body>
pid_t Fork(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  return pid;
}

int ExitCodeOf(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// One byte each way between processes.
struct Pipe {
  Pipe() { EXPECT_EQ(::pipe(ends), 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void Send() const { EXPECT_EQ(::write(ends[1], "x", 1), 1); }
  void Receive() const {
    char byte;
    EXPECT_EQ(::read(ends[0], &byte, 1), 1);
  }
  int ends[2];
};

TEST_F(IndexStore, OneOfManyProcessesMakesItWhileTheOthersWait) {
  constexpr int kOthers = 5;
  Write(3000);
  const Pipe building, waiting, go_on;
  const pid_t builder = Fork([&] {
    const auto opened = OpenIndex(file_, {.notify = [&](std::string_view event) {
                                    if (event.find("being made") == event.npos) return;
                                    building.Send();
                                    go_on.Receive();
                                  }});
    return opened.ok() && opened->built && opened->index.size() == 3000 ? 0 : 1;
  });
  building.Receive();
  std::vector<pid_t> others;
  for (int i = 0; i < kOthers; ++i) {
    others.push_back(Fork([&] {
      const auto opened = OpenIndex(file_, {.notify = [&](std::string_view event) {
                                      if (event.find("waiting") != event.npos) waiting.Send();
                                    }});
      return opened.ok() && !opened->built && opened->index.size() == 3000 ? 0 : 1;
    }));
  }
  for (int i = 0; i < kOthers; ++i) waiting.Receive();
  EXPECT_FALSE(fs::exists(beside_));
  go_on.Send();
  EXPECT_EQ(ExitCodeOf(builder), 0);
  for (const pid_t other : others) EXPECT_EQ(ExitCodeOf(other), 0);
  EXPECT_THAT(Names(directory_.path()),
              UnorderedElementsAre("train.json", "train.json.albef-index"));
}

TEST_F(IndexStore, ABuilderThatIsKilledBlocksNobodyAndLeavesNothing) {
  Write(100);
  // Killed with an unfinished file and the lock.
  const pid_t builder = Fork([&] {
    return OpenIndex(file_, {.notify =
                                 [&](std::string_view event) {
                                   if (event.find("being made") == event.npos) return;
                                   std::ignore =
                                       WriteFileAtomic(beside_.string() + ".Ab12Cd", "half");
                                   ::kill(::getpid(), SIGKILL);
                                 }})
        .ok();
  });
  EXPECT_EQ(ExitCodeOf(builder), 128 + SIGKILL);
  EXPECT_TRUE(fs::exists(beside_.string() + ".Ab12Cd"));
  EXPECT_TRUE(fs::exists(beside_.string() + ".lock"));
  EXPECT_TRUE(Open().built);
  EXPECT_THAT(Names(directory_.path()),
              UnorderedElementsAre("train.json", "train.json.albef-index"));
}

TEST_F(IndexStore, GivesUpOnABuilderThatNeverEnds) {
  Write(100);
  const Pipe building, go_on;
  const pid_t builder = Fork([&] {
    return OpenIndex(file_, {.notify =
                                 [&](std::string_view event) {
                                   if (event.find("being made") == event.npos) return;
                                   building.Send();
                                   go_on.Receive();
                                 }})
                   .ok()
               ? 0
               : 1;
  });
  building.Receive();
  const absl::Status status =
      OpenIndex(file_, {.lock_limit = std::chrono::milliseconds(1)}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("train.json.albef-index.lock"));
  go_on.Send();
  EXPECT_EQ(ExitCodeOf(builder), 0);
}

// Root may write anywhere: the process becomes nobody.
TEST_F(IndexStore, FallsBackWhereItMayNotWrite) {
  Write(3);
  TemporaryDirectory fallback;
  ::chmod(directory_.path().c_str(), 0555);
  ::chmod(fallback.path().c_str(), 0777);
  const auto as_nobody = [&](auto body) {
    return ExitCodeOf(Fork([&] {
      if (::geteuid() == 0 && ::seteuid(65534) != 0) return 99;
      return body();
    }));
  };
  EXPECT_EQ(as_nobody([&] {
              const auto refused = OpenIndex(file_, {});
              if (!absl::IsPermissionDenied(refused.status())) return 1;
              const std::string message(refused.status().message());
              return message.find("data.index_dir") != message.npos ? 0 : 2;
            }),
            0);
  EXPECT_EQ(as_nobody([&] {
              const auto opened = OpenIndex(file_, {.fallback_directory = fallback.path()});
              return opened.ok() && opened->built && opened->path.parent_path() == fallback.path()
                         ? 0
                         : 1;
            }),
            0);
  // An index that lies beside the file needs no right to write.
  ::chmod(directory_.path().c_str(), 0755);
  Open();
  ::chmod(directory_.path().c_str(), 0555);
  EXPECT_EQ(as_nobody([&] {
              const auto opened = OpenIndex(file_, {});
              return opened.ok() && !opened->built ? 0 : 1;
            }),
            0);
  ::chmod(directory_.path().c_str(), 0755);
}

}  // namespace
}  // namespace albef
