#!/usr/bin/env python3
"""Where the time of a profiled step goes, from the trace that pretrain_step_benchmark --profile writes.

    benchmarks/profile_summary.py trace.json [--top 25]

On a GPU: kernels and copies by kind and by name, and how long the device had nothing to do. On a CPU: operators
by name, each without what it calls. On both: by part of the model, forward and backward.
"""
import argparse
import bisect
import collections
import json
import re
import sys

# Kind of a kernel by words in its name, the first that fits.
KINDS = (
    ("attention", r"flash|fmha|efficient_attention|softmax"),
    ("matrix product", r"gemm|xmma|cutlass|cublas|nvjet|splitK|gemv"),
    ("layer norm", r"layer_?norm|LayerNorm|GammaBeta|cuCompute"),
    ("optimizer, teacher", r"multi_tensor|fused_adam|adam"),
    ("reduction", r"reduce_kernel|reduce"),
    ("copy, cast", r"copy|Memcpy|Memset|CatArray|fill"),
    ("embedding, index", r"index|embedding|gather|scatter"),
    ("dropout", r"dropout|philox|distribution"),
    ("elementwise", r"elementwise"),
)


def kind_of(name):
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def nested(events):
    """(event, events around it from the outermost, microseconds without events in it), of events that nest within
    their thread."""
    by_thread = collections.defaultdict(list)
    for event in events:
        by_thread[event["tid"]].append(event)
    found = []
    for thread in by_thread.values():
        stack = []
        for event in sorted(thread, key=lambda e: (e["ts"], -e["dur"])):
            while stack and event["ts"] >= stack[-1][0]["ts"] + stack[-1][0]["dur"]:
                stack.pop()
            if stack:
                stack[-1][2] -= event["dur"]
            entry = [event, [outer[0] for outer in stack], event["dur"]]
            found.append(entry)
            stack.append(entry)
    return found


def own_times(entries):
    """Name → microseconds, and name → calls."""
    totals, counts = collections.Counter(), collections.Counter()
    for event, _, own in entries:
        totals[event["name"]] += own
        counts[event["name"]] += 1
    return totals, counts


class Parts:
    """Which part of the model an event on the host belongs to: forward by the scopes around it, backward by the
    operator that its node in the graph comes from."""

    def __init__(self, entries):
        made = sorted((event["args"]["Sequence number"], self.scope(around)) for event, around, _ in entries
                      if event.get("cat") == "cpu_op" and "Sequence number" in event["args"]
                      and not self.node(around + [event]))
        self.sequence = [number for number, _ in made]
        self.scopes = [scope for _, scope in made]

    @staticmethod
    def scope(around):
        """Directly in the scope of the whole forward, if in one: the teacher, not the teacher's encoders."""
        scopes = [e["name"] for e in around if e.get("cat") == "user_annotation"]
        return scopes[min(1, len(scopes) - 1)] if scopes else "prologue, reduction, gate, commit"

    @staticmethod
    def node(around):
        return next((e for e in around if e["name"].startswith("autograd::engine::evaluate_function")), None)

    def of(self, event, around):
        """(part, "forward" or "backward")."""
        node = self.node(around + [event])
        if node is None:
            return self.scope(around + [event]), "forward"
        place = bisect.bisect_right(self.sequence, node["args"].get("Sequence number", -1))
        if "AccumulateGrad" in node["name"] or place == 0:
            return "sums into the gradient", "backward"
        return self.scopes[place - 1], "backward"


def times_by_part(on_host, on_device):
    """{part: {"forward": µs, "backward": µs}} of operators, or of the kernels that they start."""
    entries = nested(on_host)
    parts = Parts(entries)
    table = collections.defaultdict(collections.Counter)
    if not on_device:
        for event, around, own in entries:
            part, direction = parts.of(event, around)
            table[part][direction] += own
        return table
    started = {event["args"]["correlation"]: parts.of(event, around) for event, around, _ in entries
               if "correlation" in event.get("args", {})}
    for event in on_device:
        part, direction = started.get(event["args"].get("correlation"), ("unknown", "forward"))
        table[part][direction] += event["dur"]
    return table


def print_parts(table):
    print(f"by part of the model\n{'forward':>9} {'backward':>9}  ms")
    for part, times in sorted(table.items(), key=lambda item: -item[1].total()):
        print(f"{times['forward'] / 1e3:9.2f} {times['backward'] / 1e3:9.2f}  {part}")
    print()


def print_table(title, totals, counts, top):
    whole = sum(totals.values())
    print(f"{title}\n{'ms':>9} {'share':>6} {'calls':>6}")
    for name, microseconds in totals.most_common(top):
        print(f"{microseconds / 1e3:9.2f} {microseconds / whole:6.1%} {counts[name]:6d}  {name[:150]}")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--top", type=int, default=25)
    options = parser.parse_args()
    with open(options.trace) as file:
        events = [e for e in json.load(file)["traceEvents"] if e.get("ph") == "X" and "dur" in e]
    on_device = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    on_host = [e for e in events if e.get("cat") in ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver")]
    if not on_device:
        operators = [e for e in on_host if e["cat"] == "cpu_op"]
        print_table("operators", *own_times(nested(operators)), options.top)
        print_parts(times_by_part(on_host, on_device))
        return 0
    kinds, kind_counts, names, counts = (collections.Counter() for _ in range(4))
    busy_until, busy = 0, 0
    for event in sorted(on_device, key=lambda e: e["ts"]):
        for totals, number, key in ((kinds, kind_counts, kind_of(event["name"])), (names, counts, event["name"])):
            totals[key] += event["dur"]
            number[key] += 1
        end = event["ts"] + event["dur"]
        busy += max(0, end - max(busy_until, event["ts"]))
        busy_until = max(busy_until, end)
    begin = min(e["ts"] for e in on_device)
    print(f"device: {(busy_until - begin) / 1e3:.2f} ms from the first kernel to the end of the last, "
          f"{busy / 1e3:.2f} ms of them busy\n")
    print_table("by kind", kinds, kind_counts, len(KINDS) + 1)
    print_table("by name", names, counts, options.top)
    print_parts(times_by_part(on_host, on_device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
