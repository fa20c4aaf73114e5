#!/usr/bin/env python3
"""Where the time of a profiled step goes, from the trace that pretrain_step_benchmark --profile writes.

    benchmarks/profile_summary.py trace.json [--top 25]

On a GPU: kernels and copies by kind and by name, and how long the device had nothing to do. On a CPU: operators
by name, each without what it calls.
"""
import argparse
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


def own_times(events):
    """Name → microseconds without nested events, of events that nest within their thread."""
    totals = collections.Counter()
    counts = collections.Counter()
    by_thread = collections.defaultdict(list)
    for event in events:
        by_thread[event["tid"]].append(event)
    for thread in by_thread.values():
        stack = []
        for event in sorted(thread, key=lambda e: (e["ts"], -e["dur"])):
            while stack and event["ts"] >= stack[-1]["ts"] + stack[-1]["dur"]:
                stack.pop()
            if stack:
                totals[stack[-1]["name"]] -= event["dur"]
            totals[event["name"]] += event["dur"]
            counts[event["name"]] += 1
            stack.append(event)
    return totals, counts


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
    if not on_device:
        print_table("operators", *own_times([e for e in events if e.get("cat") == "cpu_op"]), options.top)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
