#include "worker/output_tap.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <limits.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include "common/format_absl.h"
#include "common/log.h"

namespace albef {

absl::StatusOr<std::unique_ptr<OutputTap>> OutputTap::Start(Options options) {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus(errno, "create pipe", options.file);
  FileDescriptor output(ends[0]), input(ends[1]);
  FileDescriptor stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoStatus(errno, "create event for", options.file);

  absl::Status opened = CreateDirectories(options.file.parent_path());
  FileDescriptor file;
  if (opened.ok()) {
    file = FileDescriptor(
        ::open(options.file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
    if (!file.valid()) opened = ErrnoStatus(errno, "open", options.file);
  }
  if (!opened.ok()) spdlog::warn("no log file reason={}", LogValue(std::string(opened.message())));
  return std::unique_ptr<OutputTap>(new OutputTap(
      std::move(options), std::move(input), std::move(output), std::move(stop), std::move(file)));
}

OutputTap::OutputTap(Options options, FileDescriptor input, FileDescriptor output,
                     FileDescriptor stop, FileDescriptor file)
    : options_(std::move(options)),
      input_(std::move(input)),
      output_(std::move(output)),
      stop_(std::move(stop)),
      file_(std::move(file)),
      thread_([this] { Run(); }) {
  ::pthread_setname_np(thread_.native_handle(), "output_tap");
}

OutputTap::~OutputTap() {
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

void OutputTap::Run() {
  std::string text;
  std::array<char, 4096> buffer;
  while (true) {
    std::array<pollfd, 2> entries = {pollfd{.fd = output_.get(), .events = POLLIN, .revents = 0},
                                     pollfd{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(entries.data(), entries.size(), -1) < 0) continue;  // EINTR
    if (entries[0].revents == 0) break;                            // told to stop, and all is read
    const ssize_t count = ::read(output_.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    text.append(buffer.data(), static_cast<size_t>(count));
    size_t begin = 0;
    for (size_t end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
      TakeLine(std::string_view(text).substr(begin, end + 1 - begin));
    }
    text.erase(0, begin);
    // A line without an end must not grow without one.
    if (text.size() >= buffer.size()) TakeLine(std::exchange(text, {}) + "\n");
  }
  if (!text.empty()) TakeLine(text + "\n");
  std::lock_guard lock(mutex_);
  ended_ = true;
  ended_changed_.notify_all();
}

void OutputTap::TakeLine(std::string_view line) {
  if (file_.valid()) {
    // A full disk loses lines, never the process.
    WriteAll(file_.get(), std::as_bytes(std::span(line)), options_.file).IgnoreError();
  }
  // A pipe that is ready takes PIPE_BUF bytes without waiting.
  for (std::string_view rest = line; !rest.empty();) {
    const std::string_view part = rest.substr(0, PIPE_BUF);
    pollfd terminal = {.fd = options_.terminal, .events = POLLOUT, .revents = 0};
    if (::poll(&terminal, 1, 0) != 1 || terminal.revents != POLLOUT) break;
    if (::write(options_.terminal, part.data(), part.size()) < 0) break;
    rest.remove_prefix(part.size());
  }
  line.remove_suffix(1);
  std::string kept(line.substr(0, options_.max_line_bytes));
  std::replace_if(
      kept.begin(), kept.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  std::lock_guard lock(mutex_);
  last_lines_.push_back(std::move(kept));
  if (last_lines_.size() > options_.num_last_lines) last_lines_.pop_front();
}

std::string OutputTap::LastLines(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  ended_changed_.wait_for(lock, patience, [this] { return ended_; });
  std::string text;
  for (const std::string& line : last_lines_) text += line + '\n';
  return text;
}

}  // namespace albef
