// A coordinator with real servers, storage and workers' sessions; only trainers are simulated.
#include "coordinator/coordinator_server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <spdlog/spdlog.h>

#include <future>
#include <nlohmann/json.hpp>

#include "benchmarks/simulated_fleet.h"
#include "checkpoint/store.h"
#include "common/config.h"
#include "common/file.h"
#include "common/network_address.h"
#include "coordinator/call_credentials.h"
#include "coordinator/run_token.h"
#include "coordinator/term.h"
#include "dataloader/synthetic.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using Views = std::vector<SimulatedFleet::WorkerView>;

// What a worker asks for: tests/dist/tiny.yaml on a small dataset that all tests share.
v1::RunRequest Request(std::vector<std::string> overrides = {}, int64_t expected_workers = 0) {
  static const TemporaryDirectory data;
  static const auto written =
      WriteSyntheticDataset(data.path() / "d", {.pairs = 60, .test_pairs = 10, .size_px = 32});
  EXPECT_TRUE(written.ok()) << written.status();
  overrides.insert(overrides.begin(), {"data.root=" + (data.path() / "d").string(),
                                       "elastic.join_window_s=0.2", "virtual_ranks=4"});
  // The data set's vocabulary is found from the root, as a worker resolves it.
  const auto config = LoadRunConfig("tests/dist/tiny.yaml", {.overrides = std::move(overrides)});
  EXPECT_TRUE(config.ok()) << config.status();
  v1::RunRequest request;
  request.set_config_yaml(ResolvedYaml(*config));
  request.set_device("cpu");
  request.set_expected_workers(expected_workers);
  return request;
}

// A coordinator and what it said of its end.
class Coordinator {
 public:
  explicit Coordinator(const fs::path& run_dir, std::optional<int64_t> after_term = {}) {
    spdlog::set_level(spdlog::level::err);
    CoordinatorServer::Options options{.run_dir = run_dir, .after_term = after_term};
    options.farewell = milliseconds(1000);
    options.term_check_interval = milliseconds(20);
    options.on_finished = [this](int exit_code) { exit_code_.set_value(exit_code); };
    options.on_stale = [this](const absl::Status& status) { stale_.set_value(status); };
    auto server = CoordinatorServer::Start(std::move(options));
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    token_ = *ReadRunToken(run_dir);
    stub_ = v1::Operator::NewStub(
        grpc::CreateChannel(info().address, grpc::InsecureChannelCredentials()));
  }

  const CoordinatorInfo& info() const { return server_->info(); }
  CoordinatorServer& server() { return *server_; }
  void Stop() { server_.reset(); }

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Operator::Stub::*)(grpc::ClientContext*, const Request&,
                                                      Response*);
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(Method<Request, Response> method, const Request& request,
                                milliseconds limit = seconds(20)) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", AuthorizationOf(token_));
    context.set_deadline(std::chrono::system_clock::now() + limit);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }
  v1::RunStatus Status() {
    return Call(&v1::Operator::Stub::GetStatus, v1::GetStatusRequest()).value_or(v1::RunStatus());
  }
  bool WaitFor(v1::RunState state, milliseconds limit = seconds(20)) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (Status().state() != state) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return true;
  }
  std::optional<int> ExitCode() {
    auto code = exit_code_.get_future();
    if (code.wait_for(seconds(20)) != std::future_status::ready) return std::nullopt;
    return code.get();
  }
  bool BecomesStale() {
    return stale_.get_future().wait_for(seconds(10)) == std::future_status::ready;
  }
  v1::Operator::Stub& stub() { return *stub_; }
  const std::string& token() const { return token_; }

 private:
  std::promise<int> exit_code_;
  std::promise<absl::Status> stale_;
  std::unique_ptr<CoordinatorServer> server_;
  std::string token_;
  std::unique_ptr<v1::Operator::Stub> stub_;
};

bool AllRun(const Views& workers, size_t count) {
  size_t running = 0;
  int64_t generation = 0;
  for (const auto& worker : workers) {
    if (worker.phase != v1::TRAINER_PHASE_RUNNING || worker.iteration == 0) continue;
    running += generation == 0 || worker.generation == generation ? 1 : 0;
    generation = worker.generation;
  }
  return running == count;
}

std::vector<Json> EventsOf(const fs::path& run_dir, const std::string& kind) {
  std::vector<Json> events;
  std::istringstream text(ReadFile(run_dir / "events.jsonl").value_or(""));
  for (std::string line; std::getline(text, line);) {
    Json event = Json::parse(line, nullptr, false);
    if (event.is_object() && event["kind"] == kind) events.push_back(std::move(event));
  }
  return events;
}

TEST(CoordinatorServer, RunsFromTheFirstHelloToTheLastStep) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  EXPECT_EQ(coordinator.Status().state(), v1::RUN_STATE_WAITING);
  EXPECT_EQ(*ReadCoordinatorFile(run_dir.path()), coordinator.info());
  SimulatedFleet fleet({.run_dir = run_dir.path(),
                        .request = Request({"max_steps=20"}, 3),
                        .num_workers = 3,
                        .workers_per_host = 2,
                        .target_step = 20});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) {
    return std::all_of(w.begin(), w.end(), [](const auto& v) { return v.exit_code == 0; });
  })) << coordinator.Status().reason();
  EXPECT_EQ(coordinator.ExitCode(), 0);

  const auto outcome = ReadOutcome(run_dir.path());
  ASSERT_TRUE(outcome.ok() && outcome->has_value());
  EXPECT_EQ((*outcome)->state, "SUCCEEDED");
  EXPECT_EQ((*outcome)->step, 20);
  auto store = CheckpointStore::Open({.root = run_dir.path() / "checkpoints"});
  const auto newest = (*store)->LoadNewestValid();
  ASSERT_TRUE(newest.ok() && newest->checkpoint.has_value());
  EXPECT_EQ(newest->checkpoint->manifest().files.size(), 3u);
  EXPECT_EQ(ToHex(newest->checkpoint->manifest().state_digest), (*outcome)->state_digest);
  EXPECT_EQ(ReadMetrics(run_dir.path() / "metrics.jsonl")->size(), 20u);
  EXPECT_EQ(EventsOf(run_dir.path(), "run_ended").size(), 1u);
  const auto config = LoadRunConfig(run_dir.path() / "config.yaml", {.check_files = false});
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->virtual_ranks, 4);
}

TEST(CoordinatorServer, TheSameCommandAfterTheEndSaysSoAndChangesNothing) {
  const TemporaryDirectory run_dir;
  const SimulatedFleet::Options options{.run_dir = run_dir.path(),
                                        .request = Request({"max_steps=5"}, 1),
                                        .num_workers = 1,
                                        .target_step = 5};
  for (int attempt = 0; attempt < 2; ++attempt) {
    Coordinator coordinator(run_dir.path());
    SimulatedFleet fleet(options);
    EXPECT_TRUE(fleet.WaitUntil([](const Views& w) { return w[0].exit_code == 0; }));
    EXPECT_EQ(coordinator.ExitCode(), 0);
  }
  EXPECT_EQ((*ReadOutcome(run_dir.path()))->step, 5);
  // Another configuration is refused, and how the run stands is not forgotten for that.
  {
    Coordinator coordinator(run_dir.path());
    SimulatedFleet::Options other = options;
    other.request = Request({"max_steps=5", "optimizer.lr=2e-3"}, 1);
    SimulatedFleet fleet(other);
    EXPECT_TRUE(fleet.WaitUntil([](const Views& w) { return w[0].exit_code == 64; }));
    EXPECT_EQ(coordinator.ExitCode(), 64);
  }
  EXPECT_EQ((*ReadOutcome(run_dir.path()))->exit_code, 64);
  EXPECT_THAT((*ReadOutcome(run_dir.path()))->reason, HasSubstr("optimizer.lr"));
  EXPECT_EQ((*ReadOutcome(run_dir.path()))->step, 5);
  EXPECT_EQ((*ReadLastAttempt(run_dir.path()))->state, "SUCCEEDED");
}

TEST(CoordinatorServer, ACheckpointToBeginWithThatIsNotThereIsNamedBeforeATrainerStarts) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  SimulatedFleet::Options options{
      .run_dir = run_dir.path(), .request = Request({}, 1), .num_workers = 1, .target_step = 5};
  options.request.set_resume("/nowhere/checkpoint_07.pth");
  SimulatedFleet fleet(options);
  EXPECT_TRUE(fleet.WaitUntil([](const Views& w) { return w[0].exit_code == 64; }));
  EXPECT_EQ(coordinator.ExitCode(), 64);
  EXPECT_THAT((*ReadOutcome(run_dir.path()))->reason,
              HasSubstr("--resume /nowhere/checkpoint_07.pth: no such file or folder"));
}

TEST(CoordinatorServer, ListsWorkersByRankAndHost) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(),
                        .request = Request({}, 3),
                        .num_workers = 3,
                        .workers_per_host = 2});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 3); }))
      << coordinator.Status().reason();
  const auto workers = coordinator.Call(&v1::Operator::Stub::ListWorkers, v1::ListWorkersRequest());
  ASSERT_EQ(workers->workers_size(), 3);
  EXPECT_EQ(workers->workers(1).rank(), 1);
  EXPECT_EQ(workers->workers(2).host(), "n1");
}

TEST(CoordinatorServer, AKilledTrainerIsRestartedAndComesBackToItsPlace) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 3), .num_workers = 3});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 3); }));
  const int64_t generation = fleet.Workers()[0].generation;
  fleet.KillTrainer(1);
  ASSERT_TRUE(fleet.WaitUntil([&](const Views& w) {
    return AllRun(w, 3) && w[1].generation > generation && w[1].rank == 1;
  })) << coordinator.Status().reason();
  fleet.Lose(2);
  ASSERT_TRUE(fleet.WaitUntil([&](const Views& w) { return AllRun(w, 2); }))
      << coordinator.Status().reason();
  const int index = fleet.Add();
  EXPECT_EQ(index, 3);
  ASSERT_TRUE(fleet.WaitUntil([&](const Views& w) { return AllRun(w, 3); }))
      << coordinator.Status().reason();
  EXPECT_EQ(coordinator.Status().recoveries(), 2);
}

TEST(CoordinatorServer, ARestartIsNotNoticedByAGenerationThatRuns) {
  const TemporaryDirectory run_dir;
  auto coordinator = std::make_unique<Coordinator>(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 3), .num_workers = 3});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 3); }));
  const int64_t generation = fleet.Workers()[0].generation;
  const std::string run_id = coordinator->info().run_id;
  v1::Report report;
  report.mutable_event()->set_kind("evaluation");
  fleet.Report(0, report);
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return w[0].num_unacknowledged == 0; }));
  const int64_t iteration = fleet.Workers()[0].iteration;
  coordinator->Stop();
  ASSERT_TRUE(fleet.WaitUntil([&](const Views& w) { return w[0].iteration > iteration + 5; }))
      << "training goes on without a coordinator";
  fleet.Report(0, report);
  coordinator = std::make_unique<Coordinator>(run_dir.path(), /*after_term=*/1);
  EXPECT_EQ(coordinator->info().term, 2);
  EXPECT_EQ(coordinator->info().run_id, run_id);
  ASSERT_TRUE(coordinator->WaitFor(v1::RUN_STATE_RUNNING)) << coordinator->Status().reason();
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) {
    return std::all_of(w.begin(), w.end(), [](const auto& v) {
      return v.is_connected && v.term == 2 && v.num_unacknowledged < 3;
    });
  }));
  EXPECT_EQ(coordinator->Status().generation(), generation);
  EXPECT_EQ(fleet.Workers()[0].generation, generation);
  EXPECT_EQ(EventsOf(run_dir.path(), "evaluation").size(), 2u);
  // Nobody came back: a new generation without them, from the state of those who did.
  fleet.KillTrainer(1);
  ASSERT_TRUE(fleet.WaitUntil([&](const Views& w) {
    return AllRun(w, 3) && w[0].generation > generation;
  })) << coordinator->Status().reason();
  EXPECT_GT(fleet.Workers()[0].iteration, iteration);
}

TEST(CoordinatorServer, ACoordinatorWhoseTermIsOverSaysSoAndServesNobody) {
  const TemporaryDirectory run_dir;
  Coordinator old(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 2), .num_workers = 2});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));
  Coordinator next(run_dir.path(), /*after_term=*/1);
  EXPECT_TRUE(old.BecomesStale());
  old.Stop();
  ASSERT_TRUE(next.WaitFor(v1::RUN_STATE_RUNNING)) << next.Status().reason();
  EXPECT_EQ(next.Status().term(), 2);
}

TEST(CoordinatorServer, ASecondOneIsRefusedWhileTheFirstLives) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  const auto second = CoordinatorServer::Start({.run_dir = run_dir.path()});
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(coordinator.info().address), HasSubstr("coordinator already")));
  const auto late = CoordinatorServer::Start({.run_dir = run_dir.path(), .after_term = 0});
  EXPECT_TRUE(absl::IsAlreadyExists(late.status())) << late.status();
  EXPECT_EQ(*HighestTerm(run_dir.path()), 1);
  const auto open =
      CoordinatorServer::Start({.run_dir = run_dir.path() / "b", .listen = "0.0.0.0:0"});
  EXPECT_TRUE(absl::IsInvalidArgument(open.status()));
  EXPECT_THAT(std::string(open.status().message()), HasSubstr("--insecure"));
  const auto nowhere =
      CoordinatorServer::Start({.run_dir = run_dir.path() / "b", .metrics_listen = "foo"});
  EXPECT_TRUE(absl::IsInvalidArgument(nowhere.status()));
  EXPECT_THAT(std::string(nowhere.status().message()),
              HasSubstr("--metrics-listen: \"foo\" is no HOST:PORT"));
}

TEST(CoordinatorServer, CallsWithoutTheTokenAreRefused) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer 0123");
  v1::RunStatus status;
  EXPECT_EQ(coordinator.stub().GetStatus(&context, {}, &status).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  SimulatedFleet fleet(
      {.run_dir = run_dir.path(), .request = Request(), .num_workers = 1, .token = "wrong"});
  EXPECT_TRUE(fleet.WaitUntil(
      [](const Views& w) { return w[0].ended_with.code() == absl::StatusCode::kUnauthenticated; }));
  EXPECT_EQ(coordinator.Status().state(), v1::RUN_STATE_WAITING);
}

TEST(CoordinatorServer, AWorkerThatWantsAnotherRunIsRefusedWithTheKeys) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 2), .num_workers = 2});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));
  SimulatedFleet other({.run_dir = run_dir.path(),
                        .request = Request({"queue_size=60"}),
                        .num_workers = 1,
                        .workers_per_host = 1});
  EXPECT_TRUE(other.WaitUntil([](const Views& w) {
    return w[0].ended_with.code() == absl::StatusCode::kFailedPrecondition;
  }));
  EXPECT_THAT(std::string(other.Workers()[0].ended_with.message()), HasSubstr("queue_size"));
}

TEST(CoordinatorServer, OperatorsPauseCheckpointResumeAndStop) {
  using Stub = v1::Operator::Stub;
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(coordinator.Call(&Stub::Pause, v1::PauseRequest()).status()));
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 2), .num_workers = 2});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));

  const auto checkpoint = coordinator.Call(&Stub::TakeCheckpoint, v1::TakeCheckpointRequest());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_GT(checkpoint->step(), 0);
  EXPECT_TRUE(fs::exists(checkpoint->path()));

  const auto paused = coordinator.Call(&Stub::Pause, v1::PauseRequest());
  ASSERT_TRUE(paused.ok()) << paused.status();
  EXPECT_EQ(paused->state(), v1::RUN_STATE_PAUSED);
  const int64_t held = fleet.Workers()[0].iteration;
  const auto at_hold = coordinator.Call(&Stub::TakeCheckpoint, v1::TakeCheckpointRequest());
  ASSERT_TRUE(at_hold.ok()) << at_hold.status();
  EXPECT_EQ(at_hold->step(), held);
  EXPECT_EQ(fleet.Workers()[0].iteration, held);

  ASSERT_TRUE(coordinator.Call(&Stub::Resume, v1::ResumeRequest()).ok());
  ASSERT_TRUE(fleet.WaitUntil([&](const Views& w) { return w[0].iteration > held; }));

  v1::DrainRequest drain;
  drain.set_worker("nobody");
  EXPECT_TRUE(absl::IsNotFound(coordinator.Call(&Stub::Drain, drain).status()));

  // A watcher sees the end.
  std::vector<v1::RunState> seen;
  std::thread watcher([&] {
    grpc::ClientContext context;
    context.AddMetadata("authorization", AuthorizationOf(coordinator.token()));
    const auto reader = coordinator.stub().WatchStatus(&context, {});
    v1::RunStatus status;
    while (reader->Read(&status)) seen.push_back(status.state());
    EXPECT_TRUE(reader->Finish().ok());
  });
  ASSERT_TRUE(coordinator.Call(&Stub::Stop, v1::StopRequest()).ok());
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return w[1].exit_code == 0; }));
  watcher.join();
  EXPECT_EQ(coordinator.ExitCode(), 0);
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back(), v1::RUN_STATE_STOPPED);
  const auto outcome = ReadOutcome(run_dir.path());
  EXPECT_EQ((*outcome)->state, "STOPPED");
  EXPECT_FALSE((*outcome)->state_digest.empty());
}

TEST(CoordinatorServer, ADrainThatWasAnsweredSurvivesTheCoordinator) {
  const TemporaryDirectory run_dir;
  auto coordinator = std::make_unique<Coordinator>(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(),
                        .request = Request({}, 2),
                        .num_workers = 2,
                        .step_interval = milliseconds(300)});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));
  ASSERT_TRUE(coordinator->Call(&v1::Operator::Stub::Drain, v1::DrainRequest()).ok());
  coordinator->Stop();
  coordinator = std::make_unique<Coordinator>(run_dir.path(), /*after_term=*/1);
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) {
    return w[0].exit_code == 75 && w[1].exit_code == 75;
  })) << coordinator->Status().reason();
  EXPECT_EQ(coordinator->ExitCode(), 75);
  EXPECT_EQ((*ReadOutcome(run_dir.path()))->state, "PREEMPTED");
}

TEST(CoordinatorServer, APausedRunIsPausedAfterARestart) {
  const TemporaryDirectory run_dir;
  auto coordinator = std::make_unique<Coordinator>(run_dir.path());
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 2), .num_workers = 2});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));
  ASSERT_TRUE(coordinator->Call(&v1::Operator::Stub::Pause, v1::PauseRequest()).ok());
  coordinator->Stop();
  coordinator = std::make_unique<Coordinator>(run_dir.path(), /*after_term=*/1);
  ASSERT_TRUE(coordinator->WaitFor(v1::RUN_STATE_PAUSED)) << coordinator->Status().reason();
  const int64_t held = fleet.Workers()[0].iteration;
  ASSERT_TRUE(coordinator->Call(&v1::Operator::Stub::Resume, v1::ResumeRequest()).ok());
  EXPECT_TRUE(fleet.WaitUntil([&](const Views& w) { return w[0].iteration > held; }));
}

TEST(CoordinatorServer, WorkersThatComeBackAfterTheEndAreToldByTheNextCoordinator) {
  const TemporaryDirectory run_dir;
  {
    Coordinator coordinator(run_dir.path());
    SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 1), .num_workers = 1});
    ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 1); }));
    ASSERT_TRUE(coordinator.Call(&v1::Operator::Stub::Drain, v1::DrainRequest()).ok());
    ASSERT_EQ(coordinator.ExitCode(), 75);
  }
  Coordinator next(run_dir.path(), /*after_term=*/1);
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 1), .num_workers = 1});
  EXPECT_TRUE(fleet.WaitUntil([](const Views& w) { return w[0].exit_code == 75; }));
  EXPECT_EQ(next.ExitCode(), 75);
  EXPECT_EQ(EventsOf(run_dir.path(), "run_ended").size(), 1u);
}

// What grpcurl asks first; it needs no token.
TEST(CoordinatorServer, ListsItsServicesByReflection) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  grpc::GenericStub stub(
      grpc::CreateChannel(coordinator.info().address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + seconds(20));
  grpc::CompletionQueue queue;
  const auto is_done = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(is_done());
  const grpc::Slice list_services(std::string("\x3a\x00", 2));  // field 7, an empty string
  call->Write(grpc::ByteBuffer(&list_services, 1), nullptr);
  ASSERT_TRUE(is_done());
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(is_done());
  grpc::Slice text;
  ASSERT_TRUE(answer.DumpToSingleSlice(&text).ok());
  const std::string services(reinterpret_cast<const char*>(text.begin()), text.size());
  for (const char* name :
       {"albef.v1.Operator", "albef.v1.WorkerSession", "grpc.health.v1.Health"}) {
    EXPECT_THAT(services, HasSubstr(name));
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(is_done());
}

TEST(CoordinatorServer, ServesMetricsAndHealth) {
  const TemporaryDirectory run_dir;
  Coordinator coordinator(run_dir.path());
  const auto address = ParseHostPort(coordinator.info().metrics_address);
  httplib::Client client(address->host, address->port);
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client.Get("/readyz")->status, 503);
  EXPECT_EQ(client.Get("/nothing")->status, 404);
  SimulatedFleet fleet({.run_dir = run_dir.path(), .request = Request({}, 2), .num_workers = 2});
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));
  ASSERT_TRUE(
      coordinator.Call(&v1::Operator::Stub::TakeCheckpoint, v1::TakeCheckpointRequest()).ok());
  fleet.KillTrainer(0);
  ASSERT_TRUE(fleet.WaitUntil([](const Views& w) { return AllRun(w, 2); }));
  ASSERT_TRUE(coordinator.WaitFor(v1::RUN_STATE_RUNNING));
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  const auto response = client.Get("/metrics");
  ASSERT_TRUE(response);
  EXPECT_THAT(response->get_header_value("Content-Type"), HasSubstr("text/plain; version=0.0.4"));
  for (const char* line :
       {"pretrain_workers{state=\"running\"} 2", "pretrain_members 2",
        "pretrain_coordinator_term 1", "pretrain_step_target 24",
        "pretrain_loss{objective=\"mlm\"} 1", "pretrain_checkpoint_failures_total 0",
        "pretrain_recoveries_total{cause=\"trainer_killed\"} 1",
        "pretrain_checkpoint_duration_seconds_count 1", "# TYPE pretrain_steps_total counter",
        "pretrain_build_info{version="}) {
    EXPECT_THAT(response->body, HasSubstr(line));
  }
}

}  // namespace
}  // namespace albef
