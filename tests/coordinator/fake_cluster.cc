#include "tests/coordinator/fake_cluster.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

double Seconds(MonotonicDuration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

FakeCluster::FakeCluster(Options options) : options_(std::move(options)), random_(options_.seed) {
  spdlog::set_level(spdlog::level::err);  // states are in the events
  machine_ = std::make_unique<RunMachine>(options_.machine, now_);
  configured_ = options_.machine.configured;
}

std::string FakeCluster::Digest(int64_t iteration, bool is_corrupt) {
  return std::to_string(iteration) + (is_corrupt ? " corrupt" : "");
}

MonotonicDuration FakeCluster::Delay() {
  const auto range = static_cast<uint64_t>(options_.max_delay.count());
  return MonotonicDuration(static_cast<int64_t>(range == 0 ? 0 : random_() % range));
}

std::vector<std::string> FakeCluster::ids() const {
  std::vector<std::string> ids;
  for (const auto& [id, worker] : workers_) {
    if (!worker->is_gone) ids.push_back(id);
  }
  return ids;
}

std::vector<const Event*> FakeCluster::EventsOf(const std::string& kind) const {
  std::vector<const Event*> found;
  for (const Event& event : events_) {
    if (event.kind == kind) found.push_back(&event);
  }
  return found;
}

void FakeCluster::Add(const std::string& id, const std::string& host, int64_t order) {
  auto worker = std::make_unique<Worker>();
  worker->id = id;
  worker->host = host;
  worker->order = order;
  if (workers_.contains(id)) worker->incarnations = workers_.at(id)->incarnations;
  workers_[id] = std::move(worker);
  Reconnect(id);
}

void FakeCluster::Reconnect(const std::string& id) {
  Worker& worker = *workers_.at(id);
  if (worker.is_gone) return;
  worker.to_machine.clear();
  worker.to_worker.clear();
  worker.session = ++last_session_;
  worker.is_known = false;
  sessions_[worker.session] = id;
  SayHello(worker);
}

void FakeCluster::SayHello(Worker& worker) {
  v1::WorkerMessage message;
  v1::Hello& hello = *message.mutable_hello();
  hello.set_worker_id(worker.id);
  hello.set_host(worker.host);
  hello.set_order(worker.order);
  hello.mutable_run_request()->set_expected_workers(options_.expected_workers);
  if (worker.trainer.has_value()) {
    const Trainer& trainer = *worker.trainer;
    hello.set_trainer_incarnation(trainer.incarnation);
    hello.set_generation(trainer.prepared);
    hello.set_phase(trainer.phase);
    hello.set_iteration(trainer.iteration);
    if (trainer.parked) *hello.mutable_parked() = *trainer.parked;
    if (trainer.synced) *hello.mutable_synced() = *trainer.synced;
    if (trainer.held) *hello.mutable_held() = *trainer.held;
    if (trainer.shard_written) *hello.mutable_shard_written() = *trainer.shard_written;
  }
  ToMachine(worker, std::move(message));
  if (worker.trainer.has_value() && worker.trainer->has_failed) SayThatCommunicationFailed(worker);
}

void FakeCluster::Disconnect(const std::string& id) {
  Worker& worker = *workers_.at(id);
  if (worker.session == 0) return;
  const uint64_t session = std::exchange(worker.session, 0);
  worker.is_known = false;
  sessions_.erase(session);
  worker.to_machine.clear();
  worker.to_worker.clear();
  Carry(machine_->Handle(run_event::SessionBroken{session, "stream broken"}, now_));
}

void FakeCluster::Remove(const std::string& id) {
  Worker& worker = *workers_.at(id);
  worker.trainer.reset();
  worker.shard_under_way.reset();
  worker.is_gone = true;
  Disconnect(id);
}

void FakeCluster::KillTrainer(const std::string& id, int signal, int exit_code,
                              const std::string& log) {
  Worker& worker = *workers_.at(id);
  if (!worker.trainer.has_value()) return;
  v1::WorkerMessage message;
  message.mutable_trainer_exited()->set_incarnation(worker.trainer->incarnation);
  message.mutable_trainer_exited()->set_signal(signal);
  message.mutable_trainer_exited()->set_exit_code(exit_code);
  message.mutable_trainer_exited()->set_last_log_lines(log);
  if (worker.trainer->has_state) {
    v1::BatchBegun& batch = *message.mutable_trainer_exited()->mutable_batch();
    batch.set_iteration(worker.trainer->iteration);
    batch.set_virtual_rank(worker.trainer->rank);
    batch.set_first_position(40);
    batch.set_num_samples(4);
    batch.add_samples("images/7.jpg");
  }
  worker.trainer.reset();
  worker.shard_under_way.reset();
  ToMachine(worker, std::move(message));
}

void FakeCluster::Leave(const std::string& id, bool preempt) {
  v1::WorkerMessage message;
  message.mutable_leave()->set_preempt(preempt);
  message.mutable_leave()->set_reason("signal 12");
  ToMachine(*workers_.at(id), std::move(message));
}

absl::Status FakeCluster::Command(RunCommand command, const std::string& argument) {
  RunActions actions;
  const absl::Status status = machine_->Command(command, argument, now_, &actions);
  Carry(std::move(actions));
  return status;
}

void FakeCluster::RestartCoordinator() {
  RunMachine::Options options = options_.machine;
  options.term = ++term_;
  options.recovered = record_;
  options.configured = configured_;
  if (committed_step_ >= 0) {
    options.last_checkpoint.emplace();
    options.last_checkpoint->set_step(committed_step_);
  }
  machine_ = std::make_unique<RunMachine>(options, now_);
  is_coordinator_stopped_ = false;
  for (auto& [id, worker] : workers_) {
    if (worker->session != 0) sessions_.erase(worker->session);
    worker->session = 0;
    worker->is_known = false;
    worker->to_machine.clear();
    worker->to_worker.clear();
  }
}

void FakeCluster::ToMachine(Worker& worker, v1::WorkerMessage message) {
  if (worker.session == 0) return;
  MonotonicTime at = now_ + Delay();
  if (!worker.to_machine.empty()) at = std::max(at, worker.to_machine.back().first);
  worker.to_machine.emplace_back(at, std::move(message));
}

void FakeCluster::FromTrainer(Worker& worker, v1::TrainerMessage message) {
  v1::WorkerMessage outer;
  outer.mutable_from_trainer()->set_incarnation(worker.trainer->incarnation);
  *outer.mutable_from_trainer()->mutable_message() = std::move(message);
  ToMachine(worker, std::move(outer));
}

void FakeCluster::SayThatCommunicationFailed(Worker& worker) {
  v1::TrainerMessage message;
  message.mutable_communication_failed()->set_generation(worker.trainer->generation);
  FromTrainer(worker, std::move(message));
}

void FakeCluster::Carry(RunActions actions) {
  for (RunAction& action : actions) {
    if (const auto* assign = std::get_if<run_action::SendAssign>(&action)) {
      action = run_action::Send{assign->session, MessageOf(assign->order)};
    }
    if (auto* send = std::get_if<run_action::Send>(&action)) {
      const auto entry = sessions_.find(send->session);
      if (entry == sessions_.end()) continue;
      Worker& worker = *workers_.at(entry->second);
      if (send->message.has_to_trainer()) {
        CheckSend(worker, send->message.to_trainer().message());
      } else {
        EXPECT_FALSE(outcome_.has_value() && !send->message.has_welcome());
      }
      MonotonicTime at = now_ + Delay();
      if (!worker.to_worker.empty()) at = std::max(at, worker.to_worker.back().first);
      worker.to_worker.emplace_back(at, std::move(send->message));
    } else if (auto* close = std::get_if<run_action::CloseSession>(&action)) {
      const auto entry = sessions_.find(close->session);
      if (entry == sessions_.end()) continue;
      Worker& worker = *workers_.at(entry->second);
      sessions_.erase(entry);
      if (worker.session != close->session) continue;
      worker.session = 0;
      worker.is_known = false;
    } else if (auto* persist = std::get_if<run_action::Persist>(&action)) {
      EXPECT_GE(persist->record.generation, record_ ? record_->generation : 0);
      record_ = persist->record;
    } else if (auto* record = std::get_if<run_action::Record>(&action)) {
      events_.push_back(std::move(record->event));
    } else if (auto* configure = std::get_if<run_action::Configure>(&action)) {
      EXPECT_FALSE(first_start_.has_value());
      first_start_ = configure->facts;
      if (options_.configures_itself) {
        configured_ = options_.run;
        Carry(machine_->Handle(run_event::Configured{options_.run}, now_));
      }
    } else if (auto* commit = std::get_if<run_action::CommitCheckpoint>(&action)) {
      Commit(*commit);
    } else if (auto* end = std::get_if<run_action::EndRun>(&action)) {
      EXPECT_FALSE(outcome_.has_value()) << "the run ended twice";
      outcome_ = end->outcome;
    }
  }
}

void FakeCluster::CheckSend(const Worker& worker, const v1::ControlMessage& message) {
  if (outcome_.has_value()) {
    EXPECT_TRUE(message.has_end());
  }
  if (message.has_prepare()) {
    EXPECT_EQ(message.prepare().generation(), machine_->generation());
    EXPECT_GE(message.prepare().generation(), newest_prepared_);
    newest_prepared_ = message.prepare().generation();
  }
  if (message.has_run()) {
    EXPECT_EQ(message.run().generation(), newest_prepared_);
  }
  if (message.has_resume()) {
    EXPECT_EQ(message.resume().generation(), newest_prepared_);
  }
  if (!message.has_assign()) return;
  const v1::Assign& assign = message.assign();
  v1::MemberList list;
  ASSERT_TRUE(list.ParseFromString(assign.members()));
  ASSERT_EQ(assign.generation(), newest_prepared_);
  ASSERT_LT(assign.rank(), list.members_size());
  EXPECT_EQ(list.members(assign.rank()).mesh_address(), worker.id);
  EXPECT_LE(list.members_size(), configured_->virtual_ranks);
  EXPECT_TRUE(std::is_sorted(assign.receiver_ranks().begin(), assign.receiver_ranks().end()));
  Mesh& mesh = meshes_[assign.generation()];
  std::vector<GenerationMember> members;
  std::set<std::string> distinct;
  for (const v1::Member& member : list.members()) {
    members.push_back({member.mesh_address(), member.incarnation()});
    distinct.insert(member.mesh_address());
  }
  EXPECT_EQ(distinct.size(), members.size());
  if (mesh.members.empty()) mesh.members = members;
  EXPECT_EQ(mesh.members, members);
  // Whoever could still commit in an older generation, and is known to the coordinator, has parked.
  for (const auto& [generation, older] : meshes_) {
    if (generation >= assign.generation()) break;
    for (const GenerationMember& member : older.members) {
      const Worker* owner = Owner(member);
      if (owner == nullptr || !owner->is_known || !owner->trainer.has_value()) continue;
      const RunWorker& seen = machine_->workers().at(owner->id);
      if (seen.trainer.has_value() && seen.trainer->killed_at.has_value()) continue;
      EXPECT_GE(owner->trainer->prepared, assign.generation())
          << owner->id << " may still run in generation " << generation;
    }
  }
}

FakeCluster::Worker* FakeCluster::Owner(const GenerationMember& member) {
  const auto entry = workers_.find(member.worker_id);
  if (entry == workers_.end()) return nullptr;
  Worker& worker = *entry->second;
  if (!worker.trainer.has_value() || worker.trainer->incarnation != member.incarnation) {
    return nullptr;
  }
  return &worker;
}

bool FakeCluster::AdvanceUntil(const std::function<bool()>& is_true, MonotonicDuration limit) {
  const MonotonicTime end = now_ + limit;
  while (!is_true()) {
    if (now_ >= end) return false;
    Advance(options_.tick);
  }
  return true;
}

void FakeCluster::Advance(MonotonicDuration duration) {
  const MonotonicTime end = now_ + duration;
  while (now_ < end) {
    now_ += options_.tick;
    for (auto& [id, worker] : workers_) {
      while (!worker->to_worker.empty() && worker->to_worker.front().first <= now_ &&
             !worker->is_silent) {
        const v1::CoordinatorMessage message = std::move(worker->to_worker.front().second);
        worker->to_worker.pop_front();
        Receive(*worker, message);
      }
      if (!worker->is_gone) Run(*worker);
    }
    if (is_coordinator_stopped_) continue;
    for (auto& [id, worker] : workers_) {
      while (worker->session != 0 && !worker->to_machine.empty() &&
             worker->to_machine.front().first <= now_) {
        const v1::WorkerMessage message = std::move(worker->to_machine.front().second);
        worker->to_machine.pop_front();
        if (message.has_hello()) {
          worker->is_known = true;
          worker->known_since = now_;
        }
        Carry(machine_->Handle(run_event::FromWorker{worker->session, message}, now_));
      }
    }
    Carry(machine_->Tick(now_));
  }
}

void FakeCluster::Receive(Worker& worker, const v1::CoordinatorMessage& message) {
  if (worker.is_gone) return;
  if (message.has_welcome()) {
    worker.heartbeat_interval = std::chrono::duration_cast<MonotonicDuration>(
        std::chrono::duration<double>(message.welcome().heartbeat_seconds()));
  } else if (message.has_start_trainer()) {
    if (worker.trainer.has_value()) return;
    Trainer trainer;
    trainer.incarnation = ++worker.incarnations;
    trainer.busy_until = now_ + options_.start_time + Delay();
    trainer.section_since = now_;
    worker.trainer = trainer;
    worker.last_activity = now_;
    v1::WorkerMessage started;
    started.mutable_trainer_started()->set_incarnation(trainer.incarnation);
    ToMachine(worker, std::move(started));
  } else if (message.has_kill_trainer()) {
    if (worker.trainer.has_value() &&
        worker.trainer->incarnation == message.kill_trainer().incarnation()) {
      KillTrainer(worker.id);
    }
  } else if (message.has_to_trainer()) {
    if (message.to_trainer().message().has_end()) {
      worker.end = message.to_trainer().message().end();
      Remove(worker.id);
    } else if (worker.trainer.has_value() &&
               worker.trainer->incarnation == message.to_trainer().incarnation()) {
      ReceiveControl(worker, message.to_trainer().message());
    }
  }
}

void FakeCluster::EnterSection(Trainer& trainer, v1::Activity::Section section) {
  if (trainer.section == section) return;
  trainer.section = section;
  trainer.section_since = now_;
}

void FakeCluster::ReceiveControl(Worker& worker, const v1::ControlMessage& message) {
  Trainer& trainer = *worker.trainer;
  if (message.has_prepare()) {
    if (message.prepare().generation() <= trainer.prepared) return;
    trainer.prepared = message.prepare().generation();
    trainer.busy_until = now_ + Delay();
    trainer.parked.reset();
    trainer.has_failed = false;
    trainer.flags = 0;
    trainer.checkpoint_step = -1;
  } else if (message.has_assign() && message.assign().generation() == trainer.prepared) {
    trainer.assign = message.assign();
    trainer.generation = trainer.assign.generation();
    trainer.rank = trainer.assign.rank();
    trainer.phase = v1::TRAINER_PHASE_ASSIGNED;
    trainer.busy_until = now_ + milliseconds(40) + Delay();
    trainer.failure_noticed_at = MonotonicTime::max();
    EnterSection(trainer, v1::Activity::SECTION_SYNC);
  } else if (message.has_run() && message.run().generation() == trainer.prepared &&
             trainer.phase == v1::TRAINER_PHASE_SYNCED) {
    trainer.phase = v1::TRAINER_PHASE_RUNNING;
    trainer.busy_until = now_ + options_.step_time;
    if (trainer.iteration >= options_.run.target_step) Hold(worker, 0);
  } else if (message.has_raise_flags()) {
    trainer.flags |= message.raise_flags().flags();
    const auto checkpoint = static_cast<uint32_t>(v1::FLAG_CHECKPOINT);
    if ((trainer.flags & checkpoint) == 0) return;
    if (trainer.phase == v1::TRAINER_PHASE_HELD) {
      trainer.flags &= ~checkpoint;
      WriteShard(worker);
    } else if (message.raise_flags().checkpoint_from() <= trainer.checkpoint_step) {
      trainer.flags &= ~checkpoint;
    }
  } else if (message.has_resume() && message.resume().generation() == trainer.prepared &&
             trainer.phase == v1::TRAINER_PHASE_HELD) {
    trainer.phase = v1::TRAINER_PHASE_RUNNING;
    trainer.busy_until = now_ + options_.step_time;
  }
}

// As a supervisor does: what the trainer says every 200 ms goes with the heartbeats.
void FakeCluster::Watch(Worker& worker) {
  bool is_in_doubt = false;
  if (worker.trainer.has_value()) {
    Trainer& trainer = *worker.trainer;
    if (!trainer.is_stopped && now_ - trainer.reported_at >= milliseconds(200)) {
      trainer.reported_at = worker.last_activity = now_;
      v1::Activity& activity = trainer.activity.emplace();
      activity.set_section(trainer.section);
      activity.set_section_seconds(Seconds(now_ - trainer.section_since));
      activity.set_section_limit_seconds(trainer.section == v1::Activity::SECTION_COMPUTE ? 3 : 0);
      activity.set_generation(trainer.generation);
      activity.set_iteration(trainer.iteration);
    }
    is_in_doubt =
        trainer.activity.has_value() &&
        (now_ - worker.last_activity > seconds(1) ||
         (trainer.activity->section_limit_seconds() > 0 &&
          trainer.activity->section_seconds() > trainer.activity->section_limit_seconds()));
  }
  MonotonicDuration interval = worker.heartbeat_interval;
  if (is_in_doubt) interval = std::min<MonotonicDuration>(interval, milliseconds(500));
  if (worker.session == 0 || now_ - worker.heartbeat_at < interval) return;
  worker.heartbeat_at = now_;
  v1::WorkerMessage message;
  v1::Heartbeat& heartbeat = *message.mutable_heartbeat();
  if (worker.trainer.has_value()) {
    heartbeat.set_trainer_silent_seconds(Seconds(now_ - worker.last_activity));
    heartbeat.set_trainer_incarnation(worker.trainer->incarnation);
    if (worker.trainer->activity.has_value()) {
      *heartbeat.mutable_activity() = *worker.trainer->activity;
    }
  }
  ToMachine(worker, std::move(message));
}

void FakeCluster::Run(Worker& worker) {
  if (worker.is_silent) return;
  Watch(worker);
  if (!worker.trainer.has_value() || worker.trainer->is_stopped) return;
  Trainer& trainer = *worker.trainer;
  if (worker.shard_under_way.has_value() && now_ >= worker.shard_under_way->first) {
    trainer.shard_written = worker.shard_under_way->second;
    worker.shard_under_way.reset();
    v1::TrainerMessage message;
    *message.mutable_shard_written() = *trainer.shard_written;
    FromTrainer(worker, std::move(message));
  }
  if (now_ < trainer.busy_until || trainer.is_stuck) return;
  if (trainer.phase == v1::TRAINER_PHASE_STARTING && worker.exit_at_start.has_value()) {
    return KillTrainer(worker.id, 0, *worker.exit_at_start, "no such file");
  }
  if (trainer.phase == v1::TRAINER_PHASE_STARTING || (trainer.prepared > 0 && !trainer.parked)) {
    v1::TrainerMessage message;
    v1::Parked& parked = *message.mutable_parked();
    parked.set_generation(trainer.prepared);
    parked.set_mesh_address(worker.id);
    parked.set_has_state(trainer.has_state);
    parked.set_iteration(trainer.has_state ? trainer.iteration : 0);
    parked.set_holds_iteration(trainer.holds);
    if (trainer.last_decision == trainer.iteration - 1) {
      parked.mutable_last_decision()->set_iteration(*trainer.last_decision);
    }
    trainer.parked = parked;
    trainer.phase = v1::TRAINER_PHASE_PARKED;
    EnterSection(trainer, v1::Activity::SECTION_IDLE);
    return FromTrainer(worker, std::move(message));
  }
  if (trainer.phase == v1::TRAINER_PHASE_ASSIGNED) FinishSync(worker);
  if (trainer.phase == v1::TRAINER_PHASE_RUNNING) Iterate(worker);
}

void FakeCluster::FinishSync(Worker& worker) {
  Trainer& trainer = *worker.trainer;
  const v1::Assign& assign = trainer.assign;
  const auto& receivers = assign.receiver_ranks();
  const bool receives =
      std::find(receivers.begin(), receivers.end(), trainer.rank) != receivers.end();
  if (receives) {
    trainer.has_state = false;
    const Worker* owner =
        Owner(meshes_.at(assign.generation()).members[static_cast<size_t>(assign.source_rank())]);
    if (owner == nullptr || owner->trainer->prepared != assign.generation()) return;
    if (owner->trainer->phase != v1::TRAINER_PHASE_SYNCED) return;
    trainer.iteration = owner->trainer->iteration;
    trainer.is_corrupt = owner->trainer->is_corrupt;
    trainer.last_decision.reset();
  } else if (assign.source_loads()) {
    EXPECT_EQ(trainer.rank, assign.source_rank());
    trainer.iteration = std::max<int64_t>(committed_step_, 0);
    trainer.is_corrupt = false;
    trainer.last_decision.reset();
  } else {
    EXPECT_TRUE(trainer.has_state);
    if (assign.has_decision() && assign.decision().iteration() == trainer.iteration) {
      EXPECT_TRUE(trainer.holds);
      trainer.last_decision = trainer.iteration++;
    }
  }
  trainer.has_state = true;
  trainer.holds = false;
  trainer.phase = v1::TRAINER_PHASE_SYNCED;
  EnterSection(trainer, v1::Activity::SECTION_IDLE);
  v1::TrainerMessage message;
  message.mutable_synced()->set_generation(trainer.generation);
  message.mutable_synced()->set_iteration(trainer.iteration);
  message.mutable_synced()->set_digest(Digest(trainer.iteration, trainer.is_corrupt));
  trainer.synced = message.synced();
  FromTrainer(worker, std::move(message));
}

void FakeCluster::Iterate(Worker& worker) {
  Trainer& trainer = *worker.trainer;
  Mesh& mesh = meshes_.at(trainer.generation);
  if (!trainer.holds) {
    trainer.holds = true;
    trainer.busy_until = now_ + Delay() / 4;
    EnterSection(trainer, v1::Activity::SECTION_EXCHANGE);
    return;
  }
  if (mesh.decided < trainer.iteration) {
    bool is_complete = true, is_broken = false;
    uint32_t flags = 0;
    for (const GenerationMember& member : mesh.members) {
      const Worker* owner = Owner(member);
      if (owner == nullptr || owner->trainer->prepared != trainer.generation) {
        is_broken = true;
        continue;
      }
      is_complete &= owner->trainer->holds && owner->trainer->iteration == trainer.iteration &&
                     !owner->trainer->is_stopped;
      flags |= owner->trainer->flags;
    }
    if (is_broken) {
      if (trainer.failure_noticed_at == MonotonicTime::max()) {
        trainer.failure_noticed_at = now_ + Delay();
      } else if (now_ >= trainer.failure_noticed_at) {
        trainer.has_failed = true;
        SayThatCommunicationFailed(worker);
        trainer.busy_until = MonotonicTime::max() - std::chrono::hours(1);  // waits for a prepare
      }
      return;
    }
    if (!is_complete) return;
    mesh.decided = trainer.iteration;
    mesh.decided_flags = flags;
    ++num_gates_;
    if (trainer.generation < newest_gate_) {
      for (const GenerationMember& member : mesh.members) {
        const Worker& owner = *Owner(member);
        const bool can_know = owner.is_known && !owner.is_silent && !is_coordinator_stopped_ &&
                              now_ - owner.known_since > std::chrono::seconds(1);
        EXPECT_FALSE(can_know) << owner.id << ": generations " << trainer.generation << " and "
                               << newest_gate_ << " run at once";
      }
    }
    newest_gate_ = std::max(newest_gate_, trainer.generation);
    trainer.busy_until = now_ + Delay() / 4;
    return;
  }
  // The decision is seen and carried out.
  trainer.last_decision = trainer.iteration++;
  trainer.holds = false;
  EnterSection(trainer, v1::Activity::SECTION_COMPUTE);
  trainer.busy_until = now_ + options_.step_time;
  const uint32_t flags = mesh.decided_flags;
  trainer.flags &= ~flags;
  if (trainer.iteration >= options_.run.target_step ||
      (flags & ~static_cast<uint32_t>(v1::FLAG_CHECKPOINT)) != 0) {
    return Hold(worker, flags);
  }
  if (trainer.iteration % options_.checkpoint_every == 0 ||
      (flags & static_cast<uint32_t>(v1::FLAG_CHECKPOINT)) != 0) {
    WriteShard(worker);
  }
}

void FakeCluster::Hold(Worker& worker, uint32_t flags) {
  Trainer& trainer = *worker.trainer;
  trainer.phase = v1::TRAINER_PHASE_HELD;
  EnterSection(trainer, v1::Activity::SECTION_IDLE);
  v1::TrainerMessage message;
  v1::Held& held = *message.mutable_held();
  held.set_generation(trainer.generation);
  held.set_iteration(trainer.iteration);
  held.set_flags(flags);
  held.set_done(trainer.iteration >= options_.run.target_step);
  trainer.held = held;
  FromTrainer(worker, std::move(message));
}

void FakeCluster::WriteShard(Worker& worker) {
  Trainer& trainer = *worker.trainer;
  trainer.checkpoint_step = trainer.iteration;
  v1::ShardWritten written;
  written.set_step(trainer.iteration);
  written.set_term(trainer.assign.term());
  written.set_generation(trainer.generation);
  written.set_shard_index(trainer.rank);
  written.set_num_shards(static_cast<int>(meshes_.at(trainer.generation).members.size()));
  const auto hashes = [&](int shard) {
    return Digest(trainer.iteration, trainer.is_corrupt) + " in shard " + std::to_string(shard);
  };
  written.set_block_hashes(hashes(trainer.rank));
  if (written.num_shards() > 1) {
    written.set_next_block_hashes(hashes((trainer.rank + 1) % written.num_shards()));
  }
  if (!options_.can_write) written.set_error("no space left on device");
  const auto range = static_cast<uint64_t>(options_.write_time.count());
  const MonotonicDuration takes(static_cast<int64_t>(range == 0 ? 0 : random_() % range));
  worker.shard_under_way = {now_ + takes, std::move(written)};
}

void FakeCluster::Commit(const run_action::CommitCheckpoint& commit) {
  ASSERT_FALSE(commit.shards.empty());
  for (size_t i = 0; i < commit.shards.size(); ++i) {
    EXPECT_EQ(commit.shards[i].shard_index(), static_cast<int>(i));
    EXPECT_EQ(commit.shards[i].num_shards(), static_cast<int>(commit.shards.size()));
    EXPECT_EQ(commit.shards[i].step(), commit.id.step);
    EXPECT_EQ(commit.shards[i].generation(), static_cast<int64_t>(commit.id.generation));
  }
  run_event::CheckpointFinished finished{.id = commit.id};
  if (options_.can_commit) {
    committed_step_ = std::max(committed_step_, commit.id.step);
    finished.checkpoint.set_step(commit.id.step);
    finished.checkpoint.set_state_digest(Digest(commit.id.step, false));
  } else {
    finished.status = absl::ResourceExhaustedError("no space left on device");
  }
  Carry(machine_->Handle(finished, now_));
}

}  // namespace albef
