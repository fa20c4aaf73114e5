#!/usr/bin/env python3
"""Random victims at random times, until so many have been killed: every run ends with the undisturbed digest.

    tests/dist/soak.py --kills N [--seed S] [--workers W]

One run after the other of three workers on two hosts. Victims are trainers, supervisors, the coordinator and
whole hosts; in place of a worker that was killed another one is started, as a scheduler would. Prints the kills
survived, the steps lost (none while a survivor exists), and how long recoveries took by cause.
"""
import argparse
import collections
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time

from cluster import Cluster, make_data, send, wait_until
from harness import LIMIT_S

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
        self.lost_steps = 0             # while a survivor existed
        self.steps_after_total_loss = 0
        self.runs = 0

    def lone_digest(self):
        run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        with Cluster(run_dir, self.data, workers=1, settings=SETTINGS) as cluster:
            assert cluster.wait_for_end() == {0: 0}, cluster.stderr()
            return cluster.outcome()["state_digest"]

    def run(self):
        expected = self.lone_digest()
        begin = time.monotonic()
        while sum(self.kills.values()) < self.options.kills:
            self.run_once(expected)
        self.report(expected, time.monotonic() - begin)

    def run_once(self, expected):
        run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        total_losses = 0
        with Cluster(run_dir, self.data, workers=len(HOSTS), hosts=HOSTS, settings=SETTINGS) as cluster:
            deadline = time.monotonic() + 20 * LIMIT_S
            while cluster.outcome() is None:
                assert time.monotonic() < deadline, f"no end; seed {self.options.seed}\n{cluster.stderr()}"
                if sum(self.kills.values()) < self.options.kills:
                    self.wait(cluster)
                    if cluster.outcome() is None:
                        total_losses += self.kill(cluster) == "everybody"
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
            self.count(cluster, total_losses)
        shutil.rmtree(run_dir)
        self.runs += 1
        print(f"run {self.runs}: {sum(self.kills.values())} kills survived", flush=True)

    def wait(self, cluster):
        """Mostly until the run goes on again, sometimes not: a kill may hit a recovery, too."""
        if self.draw.random() < 0.8:
            step = cluster.step()
            wait_until(lambda: cluster.step() > step or cluster.outcome() is not None
                       or self.replace_the_dead(cluster), "progress", log=cluster.stderr)
        delay = time.monotonic() + self.draw.uniform(0, 1.0)
        wait_until(lambda: time.monotonic() > delay, "random time")

    def kill(self, cluster):
        victim, = self.draw.choices(list(VICTIMS), list(VICTIMS.values()))
        order = self.draw.choice(list(cluster.workers))
        pids = {"trainer": lambda: [cluster.trainer_pid(order)],
                "supervisor": lambda: [cluster.workers[order].pid],
                "coordinator": lambda: [cluster.coordinator_pid()],
                "host": lambda: cluster.host_pids(self.draw.choice(HOSTS)),
                "everybody": lambda: [p.pid for p in cluster.processes()]}[victim]()
        alive = {p.pid for p in cluster.processes()}
        pids = [pid for pid in pids if pid in alive]
        send(signal.SIGKILL, *pids)
        if pids:
            self.kills[victim] += 1
        return victim if pids else None

    def replace_the_dead(self, cluster):
        for order, worker in list(cluster.workers.items()):
            if worker.poll() is not None and cluster.outcome() is None:
                assert worker.returncode == -signal.SIGKILL, (
                    f"worker {order} ended with {worker.returncode}\n{cluster.stderr()}")
                cluster.start_worker(order)

    def count(self, cluster, total_losses):
        for event in cluster.events("recovery"):
            self.recoveries[event["cause"]].append(event["duration_s"])
        for event in cluster.events("steps_repeated"):
            steps = event["to"] - event["from"]
            if total_losses:
                self.steps_after_total_loss += steps
            else:
                self.lost_steps += steps

    def report(self, expected, seconds):
        kinds = ", ".join(f"{number} of {victim}" for victim, number in self.kills.most_common())
        print(f"{sum(self.kills.values())} kills survived ({kinds}) in {self.runs} runs, {seconds:.0f} s; "
              f"seed {self.options.seed}")
        print(f"digest of every run: {expected}")
        print(f"steps lost while a survivor existed: {self.lost_steps}; repeated in runs that lost everybody: "
              f"{self.steps_after_total_loss}")
        print(f"{'recoveries by cause':22}{'number':>8}{'median':>10}{'p95':>10}{'longest':>10}")
        for cause, durations in sorted(self.recoveries.items()):
            durations.sort()
            p95 = durations[min(len(durations) - 1, int(0.95 * len(durations)))]
            print(f"{cause:22}{len(durations):8}{statistics.median(durations):8.2f} s{p95:8.2f} s"
                  f"{durations[-1]:8.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-soak-"))
    try:
        soak = Soak(options, folder)
        soak.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if soak.lost_steps else 0


if __name__ == "__main__":
    sys.exit(main())
