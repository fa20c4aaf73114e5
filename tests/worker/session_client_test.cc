#include "worker/session_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <memory>
#include <string>
#include <utility>

#include "coordinator/run_token.h"
#include "tests/comm/tcp_proxy.h"
#include "tests/worker/scripted_coordinator.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

// A client that finds its coordinator in a run directory where `options.look` does not say where it
// is, and its events one by one.
class Client {
 public:
  explicit Client(const std::filesystem::path& run_dir, SessionClient::Options options = {}) {
    if (!options.look) {
      auto finder =
          std::make_shared<CoordinatorFinder>(CoordinatorFinder::Options{.run_dir = run_dir});
      options.look = [finder] { return finder->Look(); };
    }
    auto client = SessionClient::Start(std::move(options));
    if (!client.ok()) std::abort();
    client_ = *std::move(client);
  }

  SessionClient* operator->() { return client_.get(); }

  // The next event of a kind; others are dropped.
  template <typename Kind>
  Kind WaitFor() {
    const auto deadline = std::chrono::steady_clock::now() + ScriptedCoordinator::kLimit;
    while (std::chrono::steady_clock::now() < deadline) {
      while (!events_.empty()) {
        SessionEvent event = std::move(events_.front());
        events_.pop_front();
        if (Kind* kind = std::get_if<Kind>(&event)) return std::move(*kind);
      }
      pollfd entry = {.fd = client_->event_fd(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 1000);
      for (SessionEvent& event : client_->TakeEvents()) events_.push_back(std::move(event));
    }
    ADD_FAILURE() << "no such event";
    return {};
  }

 private:
  std::unique_ptr<SessionClient> client_;
  std::deque<SessionEvent> events_;
};

v1::WorkerMessage Hello(const std::string& worker) {
  v1::WorkerMessage message;
  message.mutable_hello()->set_worker_id(worker);
  return message;
}

v1::WorkerMessage ReportOf(int64_t sequence, size_t bytes = 0) {
  v1::WorkerMessage message;
  message.mutable_from_trainer()->set_sequence(sequence);
  message.mutable_from_trainer()->mutable_message()->mutable_report()->set_bad_sample_json(
      std::string(bytes, 'x'));
  return message;
}

int64_t WaitForReport(ScriptedCoordinator& coordinator) {
  return coordinator
      .WaitFor("report", [](const auto& message) { return message.has_from_trainer(); })
      .from_trainer()
      .sequence();
}

TEST(SessionClient, CarriesMessagesBothWaysWithTheRunsToken) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path()});
  Client client(run_dir.path());
  const auto opened = client.WaitFor<session_event::Opened>();
  EXPECT_EQ(opened.address, coordinator.address());
  EXPECT_EQ(opened.local_host, "127.0.0.1");
  client->Send(opened.stream, Hello("w"));
  client->Send(opened.stream, ReportOf(1));
  EXPECT_EQ(coordinator.WaitForHello().worker_id(), "w");
  EXPECT_EQ(WaitForReport(coordinator), 1);
  EXPECT_EQ(coordinator.last_authorization(),
            AuthorizationOf(ReadRunToken(run_dir.path()).value_or("")));
  EXPECT_TRUE(client.WaitFor<session_event::Received>().message.has_welcome());
  coordinator.Acknowledge(1);
  EXPECT_EQ(client.WaitFor<session_event::Received>().message.acknowledge().sequence(), 1);
}

TEST(SessionClient, DialsAgainAndDropsWhatWasMeantForABrokenStream) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path()});
  Client client(run_dir.path());
  const auto first = client.WaitFor<session_event::Opened>();
  client->Send(first.stream, Hello("w"));
  coordinator.WaitForHello();
  coordinator.Break();
  EXPECT_EQ(client.WaitFor<session_event::Closed>().stream, first.stream);
  const auto second = client.WaitFor<session_event::Opened>();
  EXPECT_NE(second.stream, first.stream);
  client->Send(first.stream, ReportOf(1));  // would come before hello
  client->Send(second.stream, Hello("w"));
  client->Send(second.stream, ReportOf(2));
  coordinator.WaitForHello();
  EXPECT_EQ(WaitForReport(coordinator), 2);
}

TEST(SessionClient, FollowsTheRunToAnotherCoordinator) {
  const TemporaryDirectory run_dir;
  auto first = std::make_unique<ScriptedCoordinator>(
      ScriptedCoordinator::Options{.run_dir = run_dir.path()});
  Client client(run_dir.path());
  const auto opened = client.WaitFor<session_event::Opened>();
  client->Send(opened.stream, Hello("w"));
  first->WaitForHello();
  first.reset();
  client.WaitFor<session_event::Closed>();
  ScriptedCoordinator second({.run_dir = run_dir.path(), .term = 2});
  const auto again = client.WaitFor<session_event::Opened>();
  EXPECT_EQ(again.address, second.address());
  client->Send(again.stream, Hello("w"));
  EXPECT_EQ(second.WaitForHello().worker_id(), "w");
}

TEST(SessionClient, KeepsTryingWhileNobodyIsThereAndSaysWhy) {
  const TemporaryDirectory run_dir;
  Client client(run_dir.path());
  const auto sighted = client.WaitFor<session_event::Sighted>();
  EXPECT_EQ(sighted.sighting.address, "");
  EXPECT_THAT(sighted.sighting.trouble, HasSubstr("coordinator.json"));
  std::string address;
  {
    ScriptedCoordinator gone({.run_dir = run_dir.path()});
    address = gone.address();
    client.WaitFor<session_event::Opened>();
  }
  client.WaitFor<session_event::Closed>();
  const auto closed = client.WaitFor<session_event::Closed>();
  EXPECT_EQ(closed.stream, 0);
  EXPECT_THAT(std::string(closed.status.message()), HasSubstr(address));
}

TEST(SessionClient, WaitsForACoordinatorThatIsFarAway) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path()});
  TcpProxy network(coordinator.address());
  network.Delay(std::chrono::milliseconds(150));
  network.Open();
  CoordinatorSighting sighting = CoordinatorFinder({.run_dir = run_dir.path()}).Look();
  sighting.address = network.address();
  Client client(run_dir.path(), {.look = [sighting] { return sighting; }});
  client->Send(client.WaitFor<session_event::Opened>().stream, Hello("w"));
  EXPECT_EQ(coordinator.WaitForHello().worker_id(), "w");
}

TEST(SessionClient, TellsARefusalWithItsCodeAndAddress) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator(
      {.run_dir = run_dir.path(),
       .refusal = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "seed: 42, not 43")});
  Client client(run_dir.path());
  const auto opened = client.WaitFor<session_event::Opened>();
  client->Send(opened.stream, Hello("w"));
  const auto closed = client.WaitFor<session_event::Closed>();
  EXPECT_EQ(closed.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(closed.status.message()), HasSubstr("seed: 42, not 43"));
  EXPECT_THAT(std::string(closed.status.message()), HasSubstr(coordinator.address()));
}

TEST(SessionClient, ClosesAStreamWithTheOwnersReason) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path()});
  Client client(run_dir.path());
  const auto opened = client.WaitFor<session_event::Opened>();
  client->Send(opened.stream, Hello("w"));
  coordinator.WaitForHello();
  client->Close(opened.stream, absl::DeadlineExceededError("silent for 5 s"));
  const auto closed = client.WaitFor<session_event::Closed>();
  EXPECT_EQ(closed.stream, opened.stream);
  EXPECT_EQ(closed.status, absl::DeadlineExceededError("silent for 5 s"));
}

TEST(SessionClient, GivesUpAStreamWhoseCoordinatorDoesNotRead) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path(), .reads = false});
  Client client(run_dir.path(), {.max_queued_bytes = 4 << 20});
  const auto opened = client.WaitFor<session_event::Opened>();
  client->Send(opened.stream, Hello("w"));
  coordinator.WaitForHello();
  // Never waits, whatever the other side does.
  for (int i = 0; i < 64; ++i) client->Send(opened.stream, ReportOf(i, 1 << 20));
  const auto closed = client.WaitFor<session_event::Closed>();
  EXPECT_EQ(closed.status.code(), absl::StatusCode::kResourceExhausted);
}

TEST(SessionClient, DialsOncePerPauseWhileItIsRefused) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator(
      {.run_dir = run_dir.path(), .refusal = grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "")});
  Client client(run_dir.path(), {.min_pause = std::chrono::milliseconds(10)});
  for (int i = 0; i < 5; ++i) {
    client->Send(client.WaitFor<session_event::Opened>().stream, Hello("w"));
    client.WaitFor<session_event::Closed>();
  }
  EXPECT_GE(coordinator.num_hellos(), 5);
}

TEST(CoordinatorFinder, TakesNoCoordinatorOfAnEarlierStart) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path(), .term = 3});
  const RunDirectoryPast past = ReadRunDirectoryPast(run_dir.path());
  EXPECT_EQ(past.newest_term, 3);
  CoordinatorFinder finder({.run_dir = run_dir.path(), .stale_term = past.newest_term});
  EXPECT_EQ(finder.Look().address, "");
  EXPECT_THAT(finder.Look().trouble, HasSubstr("earlier start"));
  ScriptedCoordinator next({.run_dir = run_dir.path(), .term = 4});
  EXPECT_EQ(finder.Look().address, next.address());
  EXPECT_EQ(finder.Look().file.term, 4);
}

TEST(CoordinatorFinder, AnExternalCoordinatorIsDialledWhereItWasAndWhereTheFileSays) {
  const TemporaryDirectory run_dir;
  ScriptedCoordinator coordinator({.run_dir = run_dir.path()});
  CoordinatorFinder finder({.run_dir = run_dir.path(), .external_address = "node7:4711"});
  EXPECT_EQ(finder.Look().address, "node7:4711");
  EXPECT_EQ(finder.Look().address, coordinator.address());
  EXPECT_EQ(finder.Look().address, "node7:4711");
}

TEST(CoordinatorFinder, SeesWhoHasClaimedATermAndHowTheRunEnded) {
  const TemporaryDirectory run_dir;
  const std::string outcome =
      R"({"state":"PREEMPTED","reason":"r","exit_code":75,"state_digest":"","step":3})";
  ASSERT_TRUE(WriteFileAtomic(run_dir.path() / "outcome.json", outcome).ok());
  ASSERT_TRUE(CreateDirectories(run_dir.path() / "coordinator").ok());
  for (const char* name : {"term-2", "term-10", "term-x", "ledger.sqlite", "term-9.tmp"}) {
    ASSERT_TRUE(WriteFileAtomic(run_dir.path() / "coordinator" / name, "").ok());
  }
  const RunDirectoryPast past = ReadRunDirectoryPast(run_dir.path());
  EXPECT_EQ(past.newest_term, 10);
  CoordinatorFinder finder(
      {.run_dir = run_dir.path(), .past_outcome_identity = past.outcome_identity});
  EXPECT_EQ(finder.Look().newest_term, 10);
  EXPECT_EQ(finder.Look().ended, std::nullopt);  // that was another attempt
  ASSERT_TRUE(WriteFileAtomic(run_dir.path() / "outcome.json", outcome).ok());
  const CoordinatorSighting sighting = finder.Look();
  ASSERT_TRUE(sighting.ended.has_value());
  EXPECT_EQ(sighting.ended->exit_code, 75);
}

}  // namespace
}  // namespace albef
