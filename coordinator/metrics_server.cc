#include "coordinator/metrics_server.h"

#include <fmt/format.h>
#include <httplib.h>

#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <utility>

namespace albef {
namespace {

constexpr auto kPatience = std::chrono::seconds(2);
constexpr int kUnavailable = 503;

}  // namespace

struct MetricsServer::State {
  Options options;
  httplib::Server server;
  int port = 0;
  std::atomic<bool> has_ended{false};
  std::thread thread;

  std::optional<RunMetrics> Ask() {
    auto answer = std::make_shared<std::promise<RunMetrics>>();
    std::future<RunMetrics> metrics = answer->get_future();
    options.get_metrics([answer](RunMetrics now) { answer->set_value(std::move(now)); });
    // The promise is dropped without an answer when the coordinator ends.
    answer.reset();
    if (metrics.wait_for(kPatience) != std::future_status::ready) return std::nullopt;
    try {
      return metrics.get();
    } catch (const std::future_error&) {
      return std::nullopt;
    }
  }
};

MetricsServer::MetricsServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(Options options) {
  auto state = std::make_unique<State>();
  State* raw = state.get();
  raw->options = std::move(options);
  raw->server.new_task_queue = [] { return new httplib::ThreadPool(2); };
  raw->server.set_keep_alive_max_count(100);
  raw->server.set_read_timeout(5);
  raw->server.set_payload_max_length(1 << 16);
  // Without SO_REUSEPORT, which httplib sets: two coordinators must not share an address.
  raw->server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  raw->server.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok\n", "text/plain");
  });
  raw->server.Get("/readyz", [raw](const httplib::Request&, httplib::Response& response) {
    const std::optional<RunMetrics> metrics = raw->Ask();
    const v1::RunState run_state =
        metrics.has_value() ? metrics->status.state() : v1::RUN_STATE_UNSPECIFIED;
    if (run_state != v1::RUN_STATE_RUNNING && run_state != v1::RUN_STATE_PAUSED) {
      response.status = kUnavailable;
    }
    response.set_content(metrics.has_value() ? metrics->status.reason() + "\n" : "no answer\n",
                         "text/plain");
  });
  raw->server.Get("/metrics", [raw](const httplib::Request&, httplib::Response& response) {
    if (const std::optional<RunMetrics> metrics = raw->Ask(); metrics.has_value()) {
      response.set_content(FormatMetrics(*metrics), "text/plain; version=0.0.4; charset=utf-8");
    } else {
      response.status = kUnavailable;
    }
  });
  const Options& wanted = raw->options;
  raw->port = wanted.port == 0
                  ? raw->server.bind_to_any_port(wanted.host)
                  : (raw->server.bind_to_port(wanted.host, wanted.port) ? wanted.port : -1);
  if (raw->port <= 0) {
    return absl::UnavailableError(
        fmt::format("--metrics-listen {}:{}: cannot listen there; the address is in use or not of "
                    "this machine",
                    wanted.host, wanted.port));
  }
  raw->thread = std::thread([raw] {
    raw->server.listen_after_bind();
    raw->has_ended = true;
  });
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(state)));
}

MetricsServer::~MetricsServer() {
  // stop() does nothing before the loop of accept() runs.
  while (!state_->server.is_running() && !state_->has_ended) std::this_thread::yield();
  state_->server.stop();
  if (state_->thread.joinable()) state_->thread.join();
}

int MetricsServer::port() const { return state_->port; }

}  // namespace albef
