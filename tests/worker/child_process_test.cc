#include "worker/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <string>

namespace albef {
namespace {

using ::testing::HasSubstr;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends;
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    out = FileDescriptor(ends[0]);
    in = FileDescriptor(ends[1]);
  }
  // All until nobody has the other end.
  std::string ReadAll() {
    in = FileDescriptor();
    std::string text;
    std::array<char, 512> buffer;
    for (ssize_t n; (n = ::read(out.get(), buffer.data(), buffer.size())) > 0;) {
      text.append(buffer.data(), static_cast<size_t>(n));
    }
    return text;
  }
  FileDescriptor out, in;
};

ChildExit WaitFor(ChildProcess& child) {
  pollfd entry = {.fd = child.exit_fd(), .events = POLLIN, .revents = 0};
  while (::poll(&entry, 1, -1) < 0) {
  }
  const auto exit = child.TryReap();
  return exit.value_or(ChildExit{.exit_code = -1});
}

bool IsGone(pid_t pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; }

TEST(ChildProcess, IsBornWithWhatItIsGivenAndNothingElse) {
  ::setenv("OMPI_COMM_WORLD_RANK", "0", 1);
  ::setenv("PMIX_RANK", "0", 1);
  ::setenv("PROBE_KEPT", "yes", 1);
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t usr2;
  ::sigemptyset(&usr2);
  ::sigaddset(&usr2, SIGUSR2);
  ::sigprocmask(SIG_BLOCK, &usr2, nullptr);
  FileDescriptor leak(::open("/dev/null", O_RDONLY));  // without O_CLOEXEC
  Pipe output, given;
  auto child = ChildProcess::Start({.program = CHILD_PROBE,
                                    .arguments = {"facts"},
                                    .descriptors = {given.in.get(), given.out.get()},
                                    .output = output.in.get()});
  ASSERT_TRUE(child.ok()) << child.status();
  const std::string facts = output.ReadAll();
  EXPECT_THAT(facts, HasSubstr("descriptors=0,1,2,3,4,\n"));
  EXPECT_THAT(facts, HasSubstr("leads_group=1\n"));
  EXPECT_THAT(facts, HasSubstr("blocked_usr2=0\n"));
  EXPECT_THAT(facts, HasSubstr("ignored_pipe=0\n"));
  EXPECT_THAT(facts, HasSubstr("OMPI_COMM_WORLD_RANK=(unset)\n"));
  EXPECT_THAT(facts, HasSubstr("PMIX_RANK=(unset)\n"));
  EXPECT_THAT(facts, HasSubstr("PROBE_KEPT=yes\n"));
  EXPECT_THAT(facts, HasSubstr("on stderr\n"));
  EXPECT_EQ(WaitFor(**child), (ChildExit{.exit_code = 3}));
  EXPECT_EQ(Describe(*(*child)->TryReap()), "exited with code 3");
  ::sigprocmask(SIG_UNBLOCK, &usr2, nullptr);
}

TEST(ChildProcess, PassesDescriptorsInOrderWhateverTheirNumbers) {
  // Ours may have the numbers that the child's shall have, the other way round.
  Pipe a, b;
  auto child = ChildProcess::Start({.program = "/bin/sh",
                                    .arguments = {"-c", "echo first >&3; echo second >&4"},
                                    .descriptors = {b.in.get(), a.in.get()}});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(b.ReadAll(), "first\n");
  EXPECT_EQ(a.ReadAll(), "second\n");
}

TEST(ChildProcess, NamesAProgramThatCannotBeStarted) {
  const auto child = ChildProcess::Start({.program = "/nonexistent/albef-trainer"});
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(child.status().message()), HasSubstr("/nonexistent/albef-trainer"));
}

TEST(ChildProcess, TellsASignal) {
  auto child = ChildProcess::Start({.program = "/bin/sh", .arguments = {"-c", "kill -SEGV $$"}});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(WaitFor(**child), (ChildExit{.signal = SIGSEGV}));
  EXPECT_THAT(Describe(*(*child)->TryReap()), HasSubstr("signal 11 (Segmentation fault)"));
}

TEST(ChildProcess, KillReachesAStoppedChildAndItsChildren) {
  Pipe output;
  auto child = ChildProcess::Start({.program = "/bin/sh",
                                    .arguments = {"-c", "sleep 1000 & echo $!; kill -STOP $$"},
                                    .output = output.in.get()});
  ASSERT_TRUE(child.ok());
  (*child)->Kill();
  EXPECT_EQ(WaitFor(**child), (ChildExit{.signal = SIGKILL}));
  output.ReadAll();  // returns: the grandchild that held the output is gone too
}

TEST(ChildProcess, WhatAnEndedChildLeftInItsGroupEndsWithIt) {
  Pipe output;
  auto child = ChildProcess::Start({.program = "/bin/sh",
                                    .arguments = {"-c", "sleep 1000 & exit 5"},
                                    .output = output.in.get()});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(WaitFor(**child), (ChildExit{.exit_code = 5}));
  output.ReadAll();
}

TEST(ChildProcess, LeavesNoZombieWhenItIsDropped) {
  pid_t pid = 0;
  {
    auto child = ChildProcess::Start({.program = "/bin/sleep", .arguments = {"1000"}});
    ASSERT_TRUE(child.ok());
    pid = (*child)->pid();
    EXPECT_EQ((*child)->TryReap(), std::nullopt);
  }
  EXPECT_TRUE(IsGone(pid));
}

TEST(BindToParent, EndsTheChildWhenItsParentIsKilled) {
  Pipe output;
  const pid_t parent = ::fork();
  if (parent == 0) {
    auto child = ChildProcess::Start({.program = CHILD_PROBE,
                                      .arguments = {"bound", std::to_string(::getpid())},
                                      .output = output.in.get()});
    while (child.ok()) ::pause();
    ::_exit(1);
  }
  std::array<char, 6> bound;
  ASSERT_EQ(::read(output.out.get(), bound.data(), bound.size()), 6);
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  EXPECT_EQ(output.ReadAll(), "");  // returns once the child is gone
}

TEST(BindToParent, RefusesAnotherParent) {
  auto child = ChildProcess::Start({.program = CHILD_PROBE, .arguments = {"bound", "1"}});
  ASSERT_TRUE(child.ok());
  EXPECT_EQ(WaitFor(**child), (ChildExit{.exit_code = 4}));
}

}  // namespace
}  // namespace albef
