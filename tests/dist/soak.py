#!/usr/bin/env python3
"""Random victims at random times, until so many have been killed: every run ends with the undisturbed digest.

    tests/dist/soak.py --kills N [--seed S] [--limit-s S] [--keep]

One run after the other of three workers on two hosts. Victims are trainers, supervisors, the coordinator and
whole hosts; in place of a worker that was killed another one is started, as a scheduler would. Prints the kills
survived, the steps lost (none while a survivor exists), and how long recoveries took: as the run records them, by
cause, and from the kill to the next step in metrics.jsonl, by victim.
"""
import argparse
import collections
import datetime
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time

from cluster import Cluster, make_data, send, wait_until
from harness import LIMIT_S, percentile_95

SETTINGS = ("max_steps=150", "schedular.epochs=100", "checkpoint.every_steps=10", "elastic.rejoin_wait_s=3")
HOSTS = ["n1", "n2", "n2"]
VICTIMS = {"trainer": 6, "supervisor": 2, "coordinator": 3, "host": 1, "everybody": 0.3}


class Soak:
    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.draw = random.Random(options.seed)
        self.data = make_data(folder / "data")
        self.kills = collections.Counter()
        self.recoveries = collections.defaultdict(list)  # cause → seconds
        self.pauses = collections.defaultdict(list)      # victim → seconds
        self.lost_steps = 0             # while a survivor existed
        self.steps_after_total_loss = 0
        self.deaths = []                # of trainers in this run: (time, orders of their workers)
        self.runs = 0

    def lone_digest(self):
        run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        with Cluster(run_dir, self.data, workers=1, settings=SETTINGS) as cluster:
            assert cluster.wait_for_end() == {0: 0}, cluster.stderr()
            return cluster.outcome()["state_digest"]

    def run(self):
        expected = self.lone_digest()
        begin = time.monotonic()
        limit_s = self.options.limit_s or float("inf")
        while sum(self.kills.values()) < self.options.kills and time.monotonic() - begin < limit_s:
            self.run_once(expected)
        self.report(expected, time.monotonic() - begin)

    def run_once(self, expected):
        run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        self.deaths = []
        with Cluster(run_dir, self.data, workers=len(HOSTS), hosts=HOSTS, settings=SETTINGS) as cluster:
            deadline = time.monotonic() + 20 * LIMIT_S
            victim = None
            while cluster.outcome() is None:
                assert time.monotonic() < deadline, f"no end; seed {self.options.seed}\n{cluster.stderr()}"
                if sum(self.kills.values()) < self.options.kills:
                    self.wait(cluster, victim)
                    if cluster.outcome() is None:
                        victim = self.kill(cluster)
                self.replace_the_dead(cluster)
                time.sleep(0.02)
            codes = cluster.wait_for_end()
            outcome = cluster.outcome()
            where = f"seed {self.options.seed}, run {self.runs}\n{cluster.stderr()}"
            assert outcome["state"] == "SUCCEEDED", f"{outcome}; {where}"
            assert outcome["state_digest"] == expected, f"another digest: {outcome}; {where}"
            # A worker that was killed after the end of the run was not replaced.
            assert all(code in (0, -signal.SIGKILL) for code in codes.values()), f"{codes}; {where}"
            cluster.wait_until_nobody_is_left()
            self.count(cluster)
        if not self.options.keep:
            shutil.rmtree(run_dir)
        self.runs += 1
        print(f"run {self.runs}: {sum(self.kills.values())} kills survived", flush=True)

    def wait(self, cluster, victim):
        """Mostly until the run goes on again after the kill, sometimes not: the next may hit a recovery, too."""
        if self.draw.random() < 0.8:
            step, begin = cluster.step(), time.monotonic()
            wait_until(lambda: cluster.step() > step or cluster.outcome() is not None
                       or self.replace_the_dead(cluster), "progress", log=cluster.stderr)
            if victim is not None and cluster.step() > step:
                self.pauses[victim].append(time.monotonic() - begin)
        delay = time.monotonic() + self.draw.uniform(0, 1.0)
        wait_until(lambda: time.monotonic() > delay, "random time")

    def kill(self, cluster):
        """The kind of the victim; None if nobody was there to be killed."""
        victim, = self.draw.choices(list(VICTIMS), list(VICTIMS.values()))
        order, host = self.draw.choice(list(cluster.workers)), self.draw.choice(HOSTS)
        pids, orders = {
            "trainer": lambda: ([cluster.trainer_pid(order)], {order}),
            "supervisor": lambda: ([cluster.workers[order].pid], {order}),
            "coordinator": lambda: ([cluster.coordinator_pid()], set()),
            "host": lambda: (cluster.host_pids(host), {o for o in cluster.workers if HOSTS[o] == host}),
            "everybody": lambda: ([p.pid for p in cluster.processes()], set(cluster.workers))}[victim]()
        alive = {p.pid for p in cluster.processes()}
        pids = [pid for pid in pids if pid in alive]
        if not pids:
            return None
        self.deaths.append((datetime.datetime.now(datetime.timezone.utc), orders))
        send(signal.SIGKILL, *pids)
        self.kills[victim] += 1
        return victim

    def replace_the_dead(self, cluster):
        for order, worker in list(cluster.workers.items()):
            if worker.poll() is not None and cluster.outcome() is None:
                assert worker.returncode == -signal.SIGKILL, (
                    f"worker {order} ended with {worker.returncode}\n{cluster.stderr()}")
                cluster.start_worker(order)

    def count(self, cluster):
        events = cluster.events()
        for index, event in enumerate(events):
            if event["kind"] == "recovery":
                self.recoveries[event["cause"]].append(event["duration_s"])
            if event["kind"] == "steps_repeated":
                steps = event["to"] - event["from"]
                if self.has_lost_all(events[:index], event):
                    self.steps_after_total_loss += steps
                else:
                    self.lost_steps += steps

    def has_lost_all(self, before, event):
        """Whether several kills, one after the other, left nobody of the last generation that ran."""
        def time_of(e):
            return datetime.datetime.fromisoformat(e["time"].replace("Z", "+00:00"))
        running = max(i for i, e in enumerate(before) if e["kind"] == "state" and e["to"] == "RUNNING")
        members = next(e["workers"] for e in reversed(before[:running]) if e["kind"] == "membership")
        # A death just before may be noticed just after.
        since = time_of(before[running]) - datetime.timedelta(seconds=0.5)
        lost = set().union(*(orders for at, orders in self.deaths if since < at < time_of(event)))
        return len(lost) >= members

    def report(self, expected, seconds):
        kinds = ", ".join(f"{number} of {victim}" for victim, number in self.kills.most_common())
        print(f"{sum(self.kills.values())} kills survived ({kinds}) in {self.runs} runs, {seconds:.0f} s; "
              f"seed {self.options.seed}")
        print(f"digest of every run: {expected}")
        print(f"steps lost while a survivor existed: {self.lost_steps}; repeated where nobody was left: "
              f"{self.steps_after_total_loss}")
        print_durations("recoveries by cause", self.recoveries)
        print_durations("next step after", self.pauses)


def print_durations(title, durations):
    print(f"{title:22}{'number':>8}{'median':>10}{'p95':>10}{'longest':>10}")
    for name, seconds in sorted(durations.items()):
        print(f"{name:22}{len(seconds):8}{statistics.median(seconds):8.2f} s{percentile_95(seconds):8.2f} s"
              f"{max(seconds):8.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--limit-s", type=float, help="begin no further run after this time")
    parser.add_argument("--keep", action="store_true", help="keep the folder, with all run directories")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-soak-"))
    print(f"seed {options.seed}, in {folder}", flush=True)
    try:
        soak = Soak(options, folder)
        soak.run()
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if soak.lost_steps else 0


if __name__ == "__main__":
    sys.exit(main())
