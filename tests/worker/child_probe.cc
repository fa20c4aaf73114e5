// A child for tests of ChildProcess. Usage: child_probe facts | bound PARENT_PID
//
//   facts  prints what it was born with, one "key=value" a line, on standard output
//   bound  BindToParent, then prints "bound" and waits to be killed; exit code 4 if it is refused
#include <dirent.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include "common/parent_process.h"

namespace {

void PrintFacts() {
  std::set<int> descriptors;
  DIR* folder = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != ::dirfd(folder)) {
      descriptors.insert(std::atoi(entry->d_name));
    }
  }
  ::closedir(folder);
  std::string list;
  for (const int descriptor : descriptors) list += std::to_string(descriptor) + ",";
  std::printf("descriptors=%s\n", list.c_str());
  std::printf("leads_group=%d\n", ::getpgrp() == ::getpid());
  sigset_t blocked;
  ::sigprocmask(SIG_BLOCK, nullptr, &blocked);
  std::printf("blocked_usr2=%d\n", ::sigismember(&blocked, SIGUSR2));
  struct sigaction action;
  ::sigaction(SIGPIPE, nullptr, &action);
  std::printf("ignored_pipe=%d\n", action.sa_handler == SIG_IGN);
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PROBE_KEPT"}) {
    const char* value = std::getenv(name);
    std::printf("%s=%s\n", name, value == nullptr ? "(unset)" : value);
  }
  std::fflush(stdout);
  std::fprintf(stderr, "on stderr\n");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "facts") {
    PrintFacts();
    return 3;
  }
  if (command == "bound" && argc == 3) {
    if (!albef::BindToParent(std::atoi(argv[2])).ok()) return 4;
    std::printf("bound\n");
    std::fflush(stdout);
    while (true) ::pause();
  }
  return 64;
}
