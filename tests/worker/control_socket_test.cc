#include "worker/control_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "proto/control.pb.h"

namespace albef {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using v1::ControlMessage;
using v1::TrainerMessage;
using Received = ControlSocket::Received;

// One end as a ControlSocket, the other as bytes.
struct RawPeer {
  RawPeer() {
    auto ends = *ControlSocket::MakePair();
    socket = std::make_unique<ControlSocket>(std::move(ends.first), "peer");
    raw = std::move(ends.second);
  }
  void Write(std::string_view bytes) {
    ASSERT_TRUE(WriteAll(raw.get(), std::as_bytes(std::span(bytes)), "peer").ok());
  }
  void Close() { raw = FileDescriptor(); }

  std::unique_ptr<ControlSocket> socket;
  FileDescriptor raw;
};

struct TwoSockets {
  TwoSockets() {
    auto ends = *ControlSocket::MakePair();
    supervisor = std::make_unique<ControlSocket>(std::move(ends.first), "trainer");
    trainer = std::make_unique<ControlSocket>(std::move(ends.second), "supervisor");
  }
  std::unique_ptr<ControlSocket> supervisor, trainer;
};

std::string Frame(const google::protobuf::MessageLite& message) {
  const std::string body = message.SerializeAsString();
  std::string frame;
  for (int shift = 0; shift < 32; shift += 8)
    frame.push_back(static_cast<char>(body.size() >> shift));
  return frame + body;
}

TrainerMessage ParkedAt(int64_t iteration) {
  TrainerMessage message;
  message.mutable_parked()->set_iteration(iteration);
  message.mutable_parked()->set_mesh_address("127.0.0.1:1234");
  return message;
}

TrainerMessage BadSample(size_t bytes) {
  TrainerMessage message;
  message.mutable_report()->set_bad_sample_json(std::string(bytes, 'x'));
  return message;
}

TEST(ControlSocket, CarriesMessagesBothWaysInOrder) {
  TwoSockets pair;
  ControlMessage prepare;
  prepare.mutable_prepare()->set_generation(7);
  ASSERT_TRUE(pair.supervisor->Send(prepare).ok());
  ASSERT_TRUE(pair.supervisor->Send(ControlMessage()).ok());  // an empty frame
  ControlMessage got;
  ASSERT_EQ(*pair.trainer->Receive(got), Received::kMessage);
  EXPECT_EQ(got.prepare().generation(), 7);
  ASSERT_EQ(*pair.trainer->Receive(got), Received::kMessage);
  EXPECT_EQ(got.kind_case(), ControlMessage::KIND_NOT_SET);
  ASSERT_TRUE(pair.trainer->Send(ParkedAt(3)).ok());
  TrainerMessage parked;
  ASSERT_EQ(*pair.supervisor->Receive(parked, 0ms), Received::kMessage);
  EXPECT_EQ(parked.parked().iteration(), 3);
  EXPECT_EQ(*pair.supervisor->Receive(parked, 0ms), Received::kNothing);
}

TEST(ControlSocket, HandsOutAFrameOnlyWhenAllOfItHasCome) {
  RawPeer peer;
  const std::string frame = Frame(ParkedAt(42));
  TrainerMessage got;
  for (const char byte : frame) {
    EXPECT_EQ(*peer.socket->Receive(got, 0ms), Received::kNothing);
    peer.Write({&byte, 1});
  }
  ASSERT_EQ(*peer.socket->Receive(got, 0ms), Received::kMessage);
  EXPECT_EQ(got.parked().iteration(), 42);
}

TEST(ControlSocket, SplitsFramesThatCameTogether) {
  RawPeer peer;
  peer.Write(Frame(ParkedAt(1)) + Frame(ParkedAt(2)) + Frame(ParkedAt(3)).substr(0, 5));
  peer.Close();
  TrainerMessage got;
  ASSERT_EQ(*peer.socket->Receive(got), Received::kMessage);
  EXPECT_EQ(got.parked().iteration(), 1);
  ASSERT_EQ(*peer.socket->Receive(got), Received::kMessage);
  EXPECT_EQ(got.parked().iteration(), 2);
  const auto torn = peer.socket->Receive(got);
  EXPECT_EQ(torn.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(torn.status().message()), HasSubstr("peer: it ended in the middle"));
  EXPECT_EQ(peer.socket->Receive(got).status(), torn.status());
}

TEST(ControlSocket, TellsAnOrderlyEndAfterTheLastMessage) {
  RawPeer peer;
  peer.Write(Frame(ParkedAt(1)));
  peer.Close();
  TrainerMessage got;
  EXPECT_EQ(*peer.socket->Receive(got), Received::kMessage);
  EXPECT_EQ(*peer.socket->Receive(got), Received::kEnd);
  EXPECT_EQ(*peer.socket->Receive(got), Received::kEnd);
}

TEST(ControlSocket, TellsAnEndWhenThePeerLeftMessagesUnread) {
  RawPeer peer;
  ASSERT_TRUE(peer.socket->Send(ParkedAt(1)).ok());
  peer.Close();  // with the message unread: the kernel reports a reset
  TrainerMessage got;
  EXPECT_EQ(*peer.socket->Receive(got), Received::kEnd);
}

TEST(ControlSocket, RefusesOversizedFramesFromEitherSide) {
  RawPeer peer;
  const absl::Status sent = peer.socket->Send(BadSample(ControlSocket::kMaxFrameBytes));
  EXPECT_EQ(sent.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(peer.socket->has_pending());
  peer.Write(std::string("\x01\x00\x00\x04", 4));  // one more than 64 MiB
  TrainerMessage got;
  const auto received = peer.socket->Receive(got);
  EXPECT_EQ(received.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(received.status().message()), HasSubstr("67108865 bytes"));
}

TEST(ControlSocket, RefusesAFrameThatIsNoMessage) {
  RawPeer peer;
  peer.Write(std::string("\x03\x00\x00\x00\xff\xff\xff", 7));
  TrainerMessage got;
  const auto received = peer.socket->Receive(got);
  EXPECT_EQ(received.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(received.status().message()), HasSubstr("albef.v1.TrainerMessage"));
}

TEST(ControlSocket, SurvivesGarbage) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    RawPeer peer;
    std::string bytes(random() % 200, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    // Half of the time a plausible length, so that bodies are reached too.
    if (round % 2 == 0 && bytes.size() >= 4) {
      bytes[0] = static_cast<char>(random() % 64);
      bytes[1] = bytes[2] = bytes[3] = 0;
    }
    peer.Write(bytes);
    peer.Close();
    TrainerMessage got;
    while (true) {
      const auto received = peer.socket->Receive(got, 10s);
      if (!received.ok()) {
        EXPECT_EQ(received.status().code(), absl::StatusCode::kDataLoss);
        break;
      }
      ASSERT_NE(*received, Received::kNothing);
      if (*received == Received::kEnd) break;
    }
  }
}

TEST(ControlSocket, SendingToAPeerThatIsGoneIsAStatusAndNoSignal) {
  RawPeer peer;
  peer.Close();
  std::signal(SIGPIPE, SIG_DFL);
  EXPECT_EQ(peer.socket->Send(ParkedAt(1)).code(), absl::StatusCode::kUnavailable);
}

TEST(ControlSocket, QueueNeverWaitsAndLosesNothing) {
  RawPeer peer;
  constexpr size_t kMessages = 10;
  for (size_t i = 0; i < kMessages; ++i) {
    ASSERT_TRUE(peer.socket->Queue(BadSample(500'000 + i)).ok());
  }
  EXPECT_TRUE(peer.socket->has_pending());
  ControlSocket reader(std::move(peer.raw), "writer");
  for (size_t i = 0; i < kMessages; ++i) {
    TrainerMessage got;
    while (true) {
      ASSERT_TRUE(peer.socket->Flush().ok());
      if (*reader.Receive(got, 0ms) == Received::kMessage) break;
    }
    EXPECT_EQ(got.report().bad_sample_json().size(), 500'000 + i);
  }
  EXPECT_FALSE(peer.socket->has_pending());
}

TEST(ControlSocket, QueueHasABound) {
  RawPeer peer;
  const TrainerMessage big = BadSample(ControlSocket::kMaxFrameBytes / 2);
  absl::Status status;
  int queued = 0;
  while ((status = peer.socket->Queue(big)).ok() && queued < 10) ++queued;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(queued, 3);
}

TEST(ControlSocket, ASendThatTimesOutLeavesTheMessageWhole) {
  TwoSockets pair;
  EXPECT_EQ(pair.supervisor->Send(BadSample(1 << 20), 20ms).code(),
            absl::StatusCode::kDeadlineExceeded);
  std::thread sender([&] { EXPECT_TRUE(pair.supervisor->Send(ParkedAt(5)).ok()); });
  TrainerMessage got;
  EXPECT_EQ(*pair.trainer->Receive(got), Received::kMessage);
  EXPECT_EQ(got.report().bad_sample_json().size(), 1u << 20);
  EXPECT_EQ(*pair.trainer->Receive(got), Received::kMessage);
  EXPECT_EQ(got.parked().iteration(), 5);
  sender.join();
}

TEST(ControlSocket, ManyThreadsMaySend) {
  TwoSockets pair;
  constexpr int kThreads = 4, kEach = 200;
  std::vector<std::thread> senders;
  for (int t = 0; t < kThreads; ++t) {
    senders.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        TrainerMessage message = BadSample(static_cast<size_t>(i) * 50);
        message.mutable_report()->mutable_bad_sample_json()->push_back(static_cast<char>('0' + t));
        EXPECT_TRUE(pair.trainer->Send(message).ok());
      }
    });
  }
  std::vector<size_t> next(kThreads, 0);
  for (int i = 0; i < kThreads * kEach; ++i) {
    TrainerMessage got;
    ASSERT_EQ(*pair.supervisor->Receive(got, 30s), Received::kMessage);
    const std::string& text = got.report().bad_sample_json();
    const size_t thread = static_cast<size_t>(text.back() - '0');
    EXPECT_EQ(text.size() - 1, 50 * next.at(thread)++);  // each thread's messages stay in order
  }
  for (std::thread& sender : senders) sender.join();
}

TEST(ControlSocket, ShutdownEndsAWaitingReceive) {
  TwoSockets pair;
  std::thread receiver([&] {
    TrainerMessage got;
    EXPECT_EQ(*pair.supervisor->Receive(got), Received::kEnd);
  });
  pair.supervisor->Shutdown();
  receiver.join();
  TrainerMessage got;
  EXPECT_EQ(*pair.trainer->Receive(got), Received::kEnd);
}

TEST(ControlSocket, SignalsDoNotDisturbAWaitingReceive) {
  TwoSockets pair;
  struct sigaction action = {}, before = {};
  static std::atomic<int> signals;
  signals = 0;
  action.sa_handler = [](int) { ++signals; };  // without SA_RESTART
  ::sigaction(SIGUSR1, &action, &before);
  std::atomic<bool> done = false;
  std::thread receiver([&] {
    TrainerMessage got;
    EXPECT_EQ(*pair.supervisor->Receive(got), Received::kMessage);
    EXPECT_EQ(got.parked().iteration(), 9);
    done = true;
  });
  const pthread_t thread = receiver.native_handle();
  while (signals < 50) ::pthread_kill(thread, SIGUSR1);
  ASSERT_TRUE(pair.trainer->Send(ParkedAt(9)).ok());
  receiver.join();
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_TRUE(done);
}

TEST(ControlSocket, EndsAreNotInherited) {
  auto ends = *ControlSocket::MakePair();
  const std::string command = "[ ! -e /proc/self/fd/" + std::to_string(ends.first.get()) +
                              " ] && [ ! -e /proc/self/fd/" + std::to_string(ends.second.get()) +
                              " ]";
  EXPECT_EQ(::system(command.c_str()), 0);
}

}  // namespace
}  // namespace albef
