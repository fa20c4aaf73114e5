// What a child process writes on its standard output and error: into a file, on our own standard
// error, and the last lines kept for the one who asks why it ended.
//
// A thread of its own does the copying, so that a slow disk or a stopped terminal holds up the
// child, as it would without us, and never the supervisor. A line that the terminal does not take
// at once is left out there; the file has it.
#ifndef ALBEF_WORKER_OUTPUT_TAP_H_
#define ALBEF_WORKER_OUTPUT_TAP_H_

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "common/file.h"

namespace albef {

class OutputTap {
 public:
  struct Options {
    std::filesystem::path file = {};  // appended to; made with its folder
    int terminal = 2;                 // a descriptor
    size_t num_last_lines = 20;
    size_t max_line_bytes = 500;  // of the lines kept
  };

  // A file that cannot be opened costs a warning, not the child.
  static absl::StatusOr<std::unique_ptr<OutputTap>> Start(Options options);
  ~OutputTap();

  // For ChildOptions::output. Call CloseInput once the child has it.
  int input() const { return input_.get(); }
  void CloseInput() { input_ = FileDescriptor(); }

  // The last lines in printable ASCII (other bytes become '?'), once all that the child wrote has
  // been read or `patience` is over (somebody else may hold the output open).
  std::string LastLines(std::chrono::milliseconds patience);

 private:
  OutputTap(Options options, FileDescriptor input, FileDescriptor output, FileDescriptor stop,
            FileDescriptor file);
  void Run();
  void TakeLine(std::string_view line);  // with its newline

  const Options options_;
  FileDescriptor input_;  // written by the child
  const FileDescriptor output_;
  const FileDescriptor stop_;
  const FileDescriptor file_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable ended_changed_;
  bool ended_ = false;
  std::deque<std::string> last_lines_;

  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_OUTPUT_TAP_H_
