#include "worker/output_tap.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>

namespace albef {
namespace {

using namespace std::chrono_literals;

class OutputTapTest : public ::testing::Test {
 protected:
  OutputTapTest() {
    std::array<int, 2> ends;
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    terminal_out_ = FileDescriptor(ends[0]);
    terminal_in_ = FileDescriptor(ends[1]);
  }
  std::unique_ptr<OutputTap> Start(size_t num_last_lines = 20, size_t max_line_bytes = 500) {
    return *OutputTap::Start({.file = file_,
                              .terminal = terminal_in_.get(),
                              .num_last_lines = num_last_lines,
                              .max_line_bytes = max_line_bytes});
  }
  static void Write(const OutputTap& tap, std::string_view text) {
    ASSERT_TRUE(WriteAll(tap.input(), std::as_bytes(std::span(text)), "tap").ok());
  }

  TemporaryDirectory directory_;
  const std::filesystem::path file_ = directory_.path() / "logs" / "child.log";
  FileDescriptor terminal_out_, terminal_in_;
};

TEST_F(OutputTapTest, CopiesToFileAndTerminalAndKeepsTheLastLines) {
  auto tap = Start(/*num_last_lines=*/2);
  Write(*tap, "one\ntwo\nthr");
  Write(*tap, "ee\nfour without an end");
  tap->CloseInput();
  EXPECT_EQ(tap->LastLines(10s), "three\nfour without an end\n");
  EXPECT_EQ(*ReadFile(file_), "one\ntwo\nthree\nfour without an end\n");
  tap.reset();
  terminal_in_ = FileDescriptor();
  std::array<char, 100> shown;
  const ssize_t count = ::read(terminal_out_.get(), shown.data(), shown.size());
  EXPECT_EQ(std::string(shown.data(), static_cast<size_t>(count)),
            "one\ntwo\nthree\nfour without an end\n");
}

TEST_F(OutputTapTest, AStoppedTerminalHoldsUpNothing) {
  auto tap = Start();
  std::string expected;
  for (int i = 0; i < 3000; ++i) {  // far more than a pipe takes
    const std::string line = std::string(90, 'x') + std::to_string(i) + "\n";
    expected += line;
    Write(*tap, line);
  }
  tap->CloseInput();
  EXPECT_THAT(tap->LastLines(20s), ::testing::HasSubstr("x2999\n"));
  EXPECT_EQ(*ReadFile(file_), expected);
}

TEST_F(OutputTapTest, KeepsWhatAMessageMayHold) {
  auto tap = Start(20, /*max_line_bytes=*/10);
  Write(*tap, std::string("\xff\xfe"
                          "a\0b\tc\n",
                          8) +
                  std::string(10'000, 'y') + "\n");
  tap->CloseInput();
  const std::string lines = tap->LastLines(10s);
  EXPECT_EQ(lines.substr(0, 19), "??a?b?c\nyyyyyyyyyy\n");
  EXPECT_LE(lines.size(), 20u * 11);
}

TEST_F(OutputTapTest, DoesNotWaitForSomebodyElseWhoHoldsTheOutput) {
  auto tap = Start();
  Write(*tap, "last words\n");
  EXPECT_EQ(tap->LastLines(50ms), "last words\n");  // its input is still open here
}

TEST_F(OutputTapTest, WithoutAFileTheRestGoesOn) {
  auto tap = *OutputTap::Start({.file = "/proc/nonexistent/a.log", .terminal = terminal_in_.get()});
  Write(*tap, "said\n");
  tap->CloseInput();
  EXPECT_EQ(tap->LastLines(10s), "said\n");
}

}  // namespace
}  // namespace albef
