#include "coordinator/membership.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

namespace albef {
namespace {

using Readiness = Candidate::Readiness;
using Chosen = std::vector<const Candidate*>;

// Workers without an order come after those that have one.
int64_t PlaceOf(int64_t order) { return order >= 0 ? order : std::numeric_limits<int64_t>::max(); }

// Sorts candidates into the order of ranks. Hosts are placed by everybody known on them, ready or
// not: a death on a host does not move it.
class RankOrder {
 public:
  explicit RankOrder(std::span<const Candidate> candidates) {
    for (const Candidate& candidate : candidates) {
      const int64_t place = PlaceOf(candidate.order);
      const auto [entry, is_new] = host_places_.try_emplace(candidate.host, place);
      if (!is_new) entry->second = std::min(entry->second, place);
    }
  }

  void Sort(Chosen& chosen) const {
    std::sort(chosen.begin(), chosen.end(),
              [this](const Candidate* a, const Candidate* b) { return Key(*a) < Key(*b); });
  }

 private:
  std::tuple<int64_t, const std::string&, int64_t, int64_t, const std::string&> Key(
      const Candidate& candidate) const {
    return {host_places_.at(candidate.host), candidate.host, PlaceOf(candidate.order),
            candidate.arrival, candidate.id};
  }

  std::map<std::string, int64_t> host_places_;
};

std::string Describe(const Candidate& candidate) {
  std::string name = candidate.order >= 0
                         ? fmt::format("{} rank {}", candidate.host, candidate.order)
                         : fmt::format("{} {}", candidate.host, candidate.id);
  if (!candidate.condition.empty()) name += ": " + candidate.condition;
  return name;
}

std::string DescribeAll(const Chosen& candidates) {
  constexpr size_t kMaxNamed = 4;
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(candidates.size(), kMaxNamed); ++i) {
    names.push_back(Describe(*candidates[i]));
  }
  if (candidates.size() > kMaxNamed) {
    names.push_back(fmt::format("{} more", candidates.size() - kMaxNamed));
  }
  return fmt::format("{}", fmt::join(names, "; "));
}

MembershipDecision Wait(std::string reason) {
  return {.is_formed = false, .members = {}, .spares = {}, .reason = std::move(reason)};
}

int64_t Size(const Chosen& chosen) { return static_cast<int64_t>(chosen.size()); }

using Ids = std::set<std::string_view>;

Ids IdsOf(const Chosen& chosen) {
  Ids ids;
  for (const Candidate* candidate : chosen) ids.insert(candidate->id);
  return ids;
}

int64_t NumCutOff(const Candidate& candidate, const Ids& from) {
  return std::ranges::count_if(candidate.cut_off_from,
                               [&](const std::string& id) { return from.contains(id); });
}

bool IsAnyCutOff(const Chosen& chosen) {
  return std::ranges::any_of(
      chosen, [](const Candidate* candidate) { return !candidate->cut_off_from.empty(); });
}

// Takes out of `ready`, which is in the order of ranks, whoever cannot take part with the others.
Chosen TakeOutCutOff(Chosen& ready) {
  Chosen left_out;
  if (!IsAnyCutOff(ready)) return left_out;
  Ids ids = IdsOf(ready);
  while (true) {
    auto worst = ready.end();
    int64_t most = 1;
    for (auto each = ready.begin(); each != ready.end(); ++each) {
      const int64_t count = NumCutOff(**each, ids);
      if (count < most) continue;
      most = count;
      worst = each;
    }
    if (worst == ready.end()) return left_out;
    ids.erase((*worst)->id);
    left_out.push_back(*worst);
    ready.erase(worst);
  }
}

}  // namespace

std::string CountWorkers(int64_t count) {
  return fmt::format("{} worker{}", count, count == 1 ? "" : "s");
}

MembershipDecision DecideMembership(std::span<const Candidate> candidates,
                                    const MembershipPolicy& policy, const FormingFacts& facts,
                                    MonotonicTime now) {
  Chosen ready, leaving, starting, awaited;
  for (const Candidate& candidate : candidates) {
    if (candidate.readiness == Readiness::kReady) ready.push_back(&candidate);
    if (candidate.readiness == Readiness::kLeaving) leaving.push_back(&candidate);
    if (candidate.readiness == Readiness::kStarting) starting.push_back(&candidate);
  }
  const RankOrder order(candidates);
  if (!leaving.empty()) {
    order.Sort(leaving);
    return Wait(fmt::format("waiting for {} of {} workers to leave the generation before: {}",
                            leaving.size(), leaving.size() + ready.size(), DescribeAll(leaving)));
  }

  order.Sort(ready);
  const Chosen left_out = TakeOutCutOff(ready);
  const std::string left_out_reason =
      left_out.empty() ? "" : " without those that cannot reach others: " + DescribeAll(left_out);
  const MonotonicTime window_end = facts.waiting_since + policy.join_window;
  const int64_t num_wanted = policy.virtual_ranks.value_or(std::numeric_limits<int64_t>::max());
  if (Size(ready) < num_wanted) {
    const bool has_state =
        std::any_of(ready.begin(), ready.end(), [](const Candidate* c) { return c->has_state; });
    for (const Candidate* candidate : starting) {
      const MonotonicTime until =
          has_state ? candidate->wait_until : std::max(candidate->wait_until, window_end);
      if (now < until) awaited.push_back(candidate);
    }
    if (!awaited.empty()) {
      order.Sort(awaited);
      return Wait(fmt::format("waiting for {} of {} workers: {}", awaited.size(),
                              awaited.size() + ready.size(), DescribeAll(awaited)));
    }
    if (facts.is_first && now < window_end) {
      if (policy.expected_workers.has_value()) {
        const int64_t num_expected = std::min(*policy.expected_workers, num_wanted);
        if (Size(ready) < num_expected) {
          return Wait(fmt::format("waiting for {} of {} workers to join",
                                  num_expected - Size(ready), num_expected));
        }
      } else {
        return Wait(fmt::format("{} joined, waiting for more", CountWorkers(Size(ready))));
      }
    }
  }
  if (Size(ready) < std::max<int64_t>(1, policy.min_workers)) {
    const int64_t num_needed = std::max<int64_t>(1, policy.min_workers);
    std::string reason = fmt::format("waiting for {} of {} workers{}", num_needed - Size(ready),
                                     num_needed, left_out_reason);
    if (!starting.empty()) {
      order.Sort(starting);
      reason += ": " + DescribeAll(starting);
    }
    return Wait(std::move(reason));
  }

  std::stable_partition(ready.begin(), ready.end(),
                        [](const Candidate* candidate) { return candidate->was_member; });
  const size_t num_members = static_cast<size_t>(std::min(Size(ready), num_wanted));
  Chosen members(ready.begin(), ready.begin() + static_cast<std::ptrdiff_t>(num_members));
  order.Sort(members);
  MembershipDecision decision{.is_formed = true, .members = {}, .spares = {}, .reason = {}};
  for (const Candidate* candidate : members) decision.members.push_back(candidate->id);
  for (size_t i = num_members; i < ready.size(); ++i) decision.spares.push_back(ready[i]->id);
  for (const Candidate* candidate : left_out) decision.spares.push_back(candidate->id);
  decision.reason = fmt::format("{} take{} part{}", CountWorkers(Size(members)),
                                Size(members) == 1 ? "s" : "", left_out_reason);
  if (!decision.spares.empty()) {
    decision.reason += fmt::format(", {} spare", decision.spares.size());
  }
  return decision;
}

AdmissionDecision DecideAdmission(std::span<const Candidate> candidates,
                                  const MembershipPolicy& policy, bool has_progress,
                                  MonotonicTime now) {
  Chosen newcomers, members;
  for (const Candidate& candidate : candidates) {
    if (candidate.was_member) {
      members.push_back(&candidate);
    } else if (candidate.readiness == Readiness::kReady) {
      newcomers.push_back(&candidate);
    }
  }
  if (IsAnyCutOff(newcomers)) {
    const Ids ids = IdsOf(members);
    std::erase_if(newcomers, [&](const Candidate* each) { return NumCutOff(*each, ids) > 0; });
  }
  MonotonicTime newest = MonotonicTime::min();
  for (const Candidate* candidate : newcomers) newest = std::max(newest, candidate->ready_since);
  const int64_t num_members = Size(members);
  const int64_t num_wanted = policy.virtual_ranks.value_or(std::numeric_limits<int64_t>::max());
  if (newcomers.empty() || num_members >= num_wanted) return {};
  if (!has_progress) {
    return {.is_resize_due = false, .reason = "newcomers wait for the first iteration"};
  }
  const bool fills_up = num_members + Size(newcomers) >= num_wanted;
  if (!fills_up && now < newest + policy.settle_time) {
    return {.is_resize_due = false, .reason = "collecting newcomers"};
  }
  RankOrder(candidates).Sort(newcomers);
  return {.is_resize_due = true, .reason = "admitting " + DescribeAll(newcomers)};
}

}  // namespace albef
