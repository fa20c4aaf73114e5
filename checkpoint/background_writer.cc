#include "checkpoint/background_writer.h"

#include <pthread.h>

#include <chrono>
#include <utility>

namespace albef {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

BackgroundCheckpointWriter::BackgroundCheckpointWriter(CheckpointStore* store)
    : store_(store), thread_([this] { Run(); }) {
  ::pthread_setname_np(thread_.native_handle(), "checkpoint");
}

BackgroundCheckpointWriter::~BackgroundCheckpointWriter() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void BackgroundCheckpointWriter::Submit(CheckpointSnapshot snapshot, Callback done) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !is_busy_; });
  job_.emplace(Job{.snapshot = std::move(snapshot), .done = std::move(done)});
  is_busy_ = true;
  changed_.notify_all();
}

bool BackgroundCheckpointWriter::IsBusy() const {
  const std::lock_guard lock(mutex_);
  return is_busy_;
}

void BackgroundCheckpointWriter::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !is_busy_; });
}

void BackgroundCheckpointWriter::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return job_.has_value() || is_stopping_; });
    if (!job_.has_value()) return;
    Job job = *std::exchange(job_, std::nullopt);
    lock.unlock();
    job.done(Write(std::move(job.snapshot)));
    lock.lock();
    is_busy_ = false;
    changed_.notify_all();
  }
}

CheckpointOutcome BackgroundCheckpointWriter::Write(CheckpointSnapshot snapshot) {
  CheckpointOutcome outcome;
  outcome.iteration = snapshot.info.counters.iteration;
  auto start = std::chrono::steady_clock::now();
  outcome.manifest = store_->Write(snapshot.tensors, snapshot.info, snapshot.write_options);
  snapshot.storage.reset();
  outcome.write_seconds = SecondsSince(start);
  if (!outcome.manifest.ok()) return outcome;

  start = std::chrono::steady_clock::now();
  const absl::Status verified = store_->Load(outcome.iteration).status();
  outcome.verify_seconds = SecondsSince(start);
  if (!verified.ok()) {
    outcome.manifest = verified;
    return outcome;
  }
  outcome.deleted = store_->ApplyRetention();
  return outcome;
}

}  // namespace albef
