#!/usr/bin/env python3
"""How long a run takes to go on after something was killed: figures for docs/performance.md.

    benchmarks/recovery.py [--repeats 30] [--workers 2,4] [--cause NAME]…

The model of configs/quickstart.yaml with four virtual ranks, one thread per worker. Detection: from the kill to
the coordinator's record of it. Next commit: from the kill to the first step of the next generation in
metrics.jsonl. Stuck members are stopped, hosts too (a dead host closes no connection); limits are in the table.
"""
import argparse
import calendar
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/dist"))
from cluster import Cluster, send  # noqa: E402
from harness import BIN, percentile_95, run_program  # noqa: E402

PAIRS = 2000
# Later settings win over those of Cluster.
SETTINGS = ("virtual_ranks=4", "threads_per_worker=1", "max_steps=1000000", "schedular.epochs=100000",
            "eval.file=null", "log_every_steps=1", "checkpoint.every_steps=1000", "elastic.hang_limit_s=2",
            "elastic.heartbeat_limit_s=5", "elastic.reattach_window_s=10", "elastic.join_window_s=60")

# cause → (what it is, settings, events that say that it was noticed)
CAUSES = {
    "trainer": ("trainer killed, not waited for", ("elastic.rejoin_wait_s=0",), ("trainer_exited",)),
    "trainer-rejoin": ("trainer killed, waited for", ("elastic.rejoin_wait_s=5",), ("trainer_exited",)),
    "host": ("host gone silent (heartbeat limit 5 s)", ("elastic.rejoin_wait_s=0",), ("worker_lost",)),
    "stuck": ("trainer stopped (hang limit 2 s)", ("elastic.rejoin_wait_s=0",), ("trainer_killed",)),
    "coordinator": ("coordinator killed", (), ()),
}


class Lines:
    """Follows a file of JSON lines, with the time at which each was seen."""

    def __init__(self, path):
        self.path = path
        self.offset = 0
        self.lines = []

    def poll(self):
        if self.path.exists() and self.path.stat().st_size > self.offset:
            now = time.time()
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
            data = data[:data.rfind(b"\n") + 1]
            self.offset += len(data)
            self.lines += [(now, json.loads(line)) for line in data.splitlines()]
        return self.lines


def unix_seconds(text):
    """Of an event's time, "2026-01-31T12:00:00.123Z"."""
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:-1])


class Benchmark:
    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.data = folder / "data"
        code, stderr = run_program(BIN / "albef", "data", "synth", "--output", self.data, "--pairs", PAIRS)
        assert code == 0, stderr

    def measure(self, cause, workers):
        """(detection, next commit) in seconds of each kill; for a coordinator (longest step ÷ median, its return)."""
        samples = []
        while len(samples) < self.options.repeats:
            run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
            cluster = Cluster(run_dir, self.data, workers=workers, hosts=[f"n{i}" for i in range(workers)],
                              config=ROOT / "configs/quickstart.yaml",
                              settings=(*SETTINGS, *CAUSES[cause][1]))
            with cluster:
                self.metrics = Lines(run_dir / "metrics.jsonl")
                self.events = Lines(run_dir / "events.jsonl")
                self.wait_for_steps(cluster, 5)
                # Each worker once: the second failure of a trainer within a minute is not restarted at once.
                orders = [0] if cause == "coordinator" else list(range(workers))
                if cause == "host":
                    orders = orders[1:2]  # not the coordinator's: that is another cause
                for order in orders[:self.options.repeats - len(samples)]:
                    samples.append(self.kill_coordinator(cluster) if cause == "coordinator" else
                                   self.kill(cluster, cause, order))
                    self.wait_until_complete(cluster, cause, workers)
            shutil.rmtree(run_dir)
            print(f"{cause}, {workers} workers: {len(samples)} of {self.options.repeats}", file=sys.stderr)
        return samples

    def wait(self, cluster, condition, what):
        def polled():
            self.metrics.poll()
            self.events.poll()
            return condition()
        cluster.wait_until(polled, what)

    def wait_for_steps(self, cluster, number):
        seen = len(self.metrics.poll())
        self.wait(cluster, lambda: len(self.metrics.lines) >= seen + number, f"{number} steps")

    def wait_until_complete(self, cluster, cause, workers):
        if cause != "host":
            self.wait(cluster, lambda: self.metrics.lines[-1][1]["workers"] == workers, "all workers")
            self.wait_for_steps(cluster, 3)

    def kill(self, cluster, cause, order):
        self.metrics.poll()
        generation = self.metrics.lines[-1][1]["generation"]
        num_events = len(self.events.poll())
        # Anywhere in a step.
        moment = time.monotonic() + random.uniform(0, 0.3)
        self.wait(cluster, lambda: time.monotonic() > moment, "random moment")
        victims = [cluster.trainer_pid(order)]
        if cause == "host":
            victims.append(cluster.workers[order].pid)
        begin = time.time()
        send(signal.SIGKILL if cause.startswith("trainer") else signal.SIGSTOP, *victims)
        noticed = CAUSES[cause][2]
        self.wait(cluster, lambda: any(e["kind"] in noticed for _, e in self.events.lines[num_events:]),
                  f"event {noticed}")
        self.wait(cluster, lambda: self.metrics.lines[-1][1]["generation"] > generation, "next commit")
        detected = next(unix_seconds(e["time"]) for _, e in self.events.lines[num_events:] if e["kind"] in noticed)
        committed = next(at for at, line in self.metrics.lines if line["generation"] > generation)
        return detected - begin, committed - begin

    def kill_coordinator(self, cluster):
        self.wait_for_steps(cluster, 15)
        before = len(self.metrics.lines)
        term = json.loads((cluster.run_dir / "coordinator.json").read_text())["term"]
        begin = time.time()
        send(signal.SIGKILL, cluster.coordinator_pid())
        def is_back():
            event = next((e for _, e in reversed(self.events.lines) if e["kind"] == "state"), {})
            return event.get("term", 0) > term and event["to"] == "RUNNING"
        self.wait(cluster, is_back, "RUNNING in the next term")
        back = time.time() - begin
        self.wait_for_steps(cluster, 15)
        lines = [line for _, line in self.metrics.lines]
        seconds = [line["workers"] and 64 / line["samples_per_second"] for line in lines[before - 15:]]
        steps = [line["step"] for line in lines[before - 15:]]
        assert steps == list(range(steps[0], steps[0] + len(steps))), "steps are missing or repeated"
        return max(seconds[10:]) / statistics.median(seconds), back


def row(name, workers, kind, values):
    unit = "×" if kind.startswith("longest") else "s"
    return (f"| {name} | {workers} | {kind} | {len(values)} | {statistics.median(values):.2f} {unit} | "
            f"{percentile_95(values):.2f} {unit} | {min(values):.2f} to {max(values):.2f} {unit} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--workers", default="2,4")
    parser.add_argument("--cause", action="append", choices=CAUSES)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-recovery-"))
    try:
        benchmark = Benchmark(options, folder)
        print("| what happens | workers | figure | kills | median | p95 | spread |\n|---|---|---|---|---|---|---|", flush=True)
        for cause in options.cause or CAUSES:
            for workers in map(int, options.workers.split(",")):
                samples = benchmark.measure(cause, workers)
                kinds = ("longest step ÷ median", "running in the next term") if cause == "coordinator" else (
                    "detection", "kill to next commit")
                for kind, values in zip(kinds, zip(*samples)):
                    print(row(CAUSES[cause][0], workers, kind, values), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
