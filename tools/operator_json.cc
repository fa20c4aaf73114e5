#include "tools/operator_json.h"

#include <nlohmann/json.hpp>

#include "coordinator/run_state.h"
#include "tools/operator_text.h"

namespace albef {
namespace {

using Json = nlohmann::ordered_json;

// Text from the network may hold bytes that are no UTF-8.
std::string Dump(const Json& json, JsonLayout layout) {
  const int indent = layout == JsonLayout::kIndented ? 2 : -1;
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json TextOrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

// Of a process: 0 would be dangerous to send a signal to.
Json PidOrNull(int64_t pid) { return pid > 0 ? Json(pid) : Json(); }

Json ToJson(const v1::Checkpoint& checkpoint) {
  return {{"step", checkpoint.step()},
          {"path", checkpoint.path()},
          {"state_digest", TextOrNull(checkpoint.state_digest())},
          {"size_bytes", checkpoint.size_bytes()},
          {"committed_unix_seconds", checkpoint.committed_unix_seconds()}};
}

Json ToJson(const v1::StepReport& step) {
  return {
      {"step", step.step()},
      {"epoch", step.epoch()},
      {"loss_mlm", step.loss_mlm()},
      {"loss_itc", step.loss_itc()},
      {"loss_itm", step.loss_itm()},
      {"loss", step.loss_mlm() + step.loss_itc() + step.loss_itm()},
      {"lr", step.lr()},
      {"temp", step.temp()},
      {"alpha", step.alpha()},
      {"samples_per_second", step.samples_per_second()},
      {"seconds_per_step", step.seconds_per_step() > 0 ? Json(step.seconds_per_step()) : Json()},
      {"data_wait_ratio", step.data_wait_ratio()},
      {"skipped", step.skipped()}};
}

Json ToJson(const v1::Worker& worker) {
  return {{"worker_id", worker.worker_id()},
          {"host", worker.host()},
          {"order", worker.order()},
          {"rank", worker.rank()},
          {"state", worker.state()},
          {"step", worker.step()},
          {"section", TextOrNull(worker.section())},
          {"virtual_rank_begin", worker.virtual_rank_begin()},
          {"virtual_rank_end", worker.virtual_rank_end()},
          {"restarts", worker.restarts()},
          {"supervisor_pid", PidOrNull(worker.supervisor_pid())},
          {"trainer_pid", PidOrNull(worker.trainer_pid())}};
}

}  // namespace

std::string StatusJson(const v1::RunStatus& status, JsonLayout layout) {
  // The files of an ended run do not say everything.
  const bool is_from_coordinator = status.term() > 0;
  Json json = {
      {"run_id", TextOrNull(status.run_id())},
      {"run_dir", TextOrNull(status.run_dir())},
      {"state", StateName(status.state())},
      {"reason", status.reason()},
      {"state_seconds", is_from_coordinator ? Json(status.state_seconds()) : Json()},
      {"term", status.term()},
      {"generation", status.generation()},
      {"step", status.step()},
      {"target_step", status.target_step() > 0 ? Json(status.target_step()) : Json()},
      {"members", status.num_members()},
      {"spares", status.num_spares()},
      {"virtual_ranks", status.virtual_ranks() > 0 ? Json(status.virtual_ranks()) : Json()},
      {"efficiency", status.efficiency() > 0 ? Json(status.efficiency()) : Json()},
      {"recoveries", is_from_coordinator ? Json(status.recoveries()) : Json()}};
  json["last_step"] = status.has_last_step() ? ToJson(status.last_step()) : Json();
  json["last_checkpoint"] =
      status.has_last_checkpoint() ? ToJson(status.last_checkpoint()) : Json();
  json["exit_code"] = IsEnd(status.state()) ? Json(status.exit_code()) : Json();
  json["state_digest"] = TextOrNull(status.state_digest());
  return Dump(json, layout);
}

std::string WorkersJson(const v1::ListWorkersResponse& workers) {
  Json list = Json::array();
  for (const v1::Worker& worker : workers.workers()) list.push_back(ToJson(worker));
  return Dump({{"workers", std::move(list)}}, JsonLayout::kIndented);
}

std::string CheckpointsJson(const v1::ListCheckpointsResponse& checkpoints) {
  Json list = Json::array();
  for (const v1::Checkpoint& checkpoint : checkpoints.checkpoints()) {
    list.push_back(ToJson(checkpoint));
  }
  return Dump({{"checkpoints", std::move(list)}}, JsonLayout::kIndented);
}

std::string CheckpointJson(const v1::Checkpoint& checkpoint) {
  return Dump(ToJson(checkpoint), JsonLayout::kIndented);
}

}  // namespace albef
