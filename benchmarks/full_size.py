#!/usr/bin/env python3
"""Checkpoints, resuming and recovery at full size: figures for docs/performance.md.

    benchmarks/full_size.py [--workers 1,2] [--checkpoints 4] [--batch 2]

The model of configs/Pretrain.yaml (209,937,725 trainable values, a checkpoint of 3.5 GB) with two virtual ranks and
one thread per worker, on synthetic pairs. Each worker needs some 8 GB of memory, the run directory 11 GB on the disk.
For each number of workers: a run with a checkpoint every other step; the same run started again; and, where
somebody survives, one trainer killed.
"""
import argparse
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/dist"))
from cluster import Cluster, send  # noqa: E402
from harness import BIN, read_lines, run_program, spread  # noqa: E402
from recovery import unix_seconds  # noqa: E402

LIMIT_S = 600
VOCABULARY = 30522
SETTINGS = ("virtual_ranks=2", "threads_per_worker=1", "log_every_steps=1", "train_file=[train.json]",
            "tokenizer.vocab=vocab.txt", "init.visual_encoder=random", "init.text_encoder=random",
            "checkpoint.every_steps=2", "elastic.hang_limit_s=120", "elastic.rejoin_wait_s=0")


def make_data(folder):
    code, stderr = run_program(BIN / "albef", "data", "synth", "--output", folder, "--pairs", 64)
    assert code == 0, stderr
    tokens = (folder / "vocab.txt").read_text().splitlines()
    tokens += [f"[more{i}]" for i in range(VOCABULARY - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def state_ready(run_dir):
    """What each trainer said of its way to a generation's state, oldest first."""
    said = []
    for log in sorted((run_dir / "logs").glob("trainer-*.log")):
        for line in log.read_text().splitlines():
            if match := re.search(r"^(\S+) .*state ready generation=(\d+) .*connect_s=(\S+) state_s=(\S+) digest_s=(\S+)",
                                  line):
                said.append((unix_seconds(match[1]), int(match[2]), *map(float, match.groups()[2:])))
    return sorted(said)


class FullSize:
    def __init__(self, options, workers, folder):
        self.workers = workers
        self.run_dir = folder / f"run-{workers}"
        self.batch = options.batch
        self.steps = 2 * options.checkpoints
        self.data = folder / "data"

    def cluster(self, steps):
        return Cluster(self.run_dir, self.data, workers=self.workers, config=ROOT / "configs/Pretrain.yaml",
                       settings=(*SETTINGS, f"batch_size={self.batch}", f"max_steps={steps}"))

    def train(self):
        with self.cluster(self.steps) as cluster:
            cluster.wait_for_end(limit_s=LIMIT_S)
        committed = [e for e in read_lines(self.run_dir / "events.jsonl") if e["kind"] == "checkpoint_committed"]
        first, later = committed[0], committed[1:]
        return (f"| {self.workers} | {first['stall_s']:.2f} | {spread([e['stall_s'] for e in later])} | "
                f"{spread([e['write_s'] for e in committed])} | {spread([e['verify_s'] for e in committed])} |")

    def budget(self, begin, generation, committed):
        """A recovery piece by piece, of the worker that took longest."""
        ready = [said for said in state_ready(self.run_dir) if said[0] >= begin and said[1] >= generation]
        at, _, connect_s, state_s, digest_s = max(ready, key=lambda said: sum(said[2:]))
        taking_part_s = connect_s + state_s + digest_s
        return (f"{at - begin - taking_part_s:.2f} | {connect_s:.2f} | {state_s:.2f} | {digest_s:.2f} | "
                f"{committed:.2f} |")

    def resume(self):
        steps_before = len(read_lines(self.run_dir / "metrics.jsonl"))
        begin = time.time()
        with self.cluster(self.steps + 2) as cluster:
            cluster.wait_until(lambda: len(read_lines(self.run_dir / "metrics.jsonl")) > steps_before, "a step",
                               limit_s=LIMIT_S)
            committed = time.time() - begin
            cluster.wait_for_end(limit_s=LIMIT_S)
        return f"| started again | {self.workers} | {self.budget(begin, 0, committed)}"

    def kill(self):
        with self.cluster(self.steps + 8) as cluster:
            metrics = self.run_dir / "metrics.jsonl"
            cluster.wait_until(lambda: read_lines(metrics)[-1]["step"] > self.steps + 3, "some steps", limit_s=LIMIT_S)
            generation = read_lines(metrics)[-1]["generation"]
            begin = time.time()
            send(signal.SIGKILL, cluster.trainer_pid(random.randrange(self.workers)))
            cluster.wait_until(lambda: read_lines(metrics)[-1]["generation"] > generation, "next step", limit_s=LIMIT_S)
            survivors = time.time() - begin
            cluster.wait_until(lambda: read_lines(metrics)[-1]["workers"] == self.workers and
                               read_lines(metrics)[-1]["generation"] > generation, "all back", limit_s=LIMIT_S)
            whole = time.time() - begin
            cluster.wait_for_end(limit_s=LIMIT_S)
        return (f"| trainer killed: next commit of the survivors after {survivors:.2f} s, of all | {self.workers} | "
                f"{self.budget(begin, generation + 1, whole)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    checkpoints, budgets = [], []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-full-size-"))
    try:
        make_data(folder / "data")
        for workers in map(int, options.workers.split(",")):
            run = FullSize(options, workers, folder)
            checkpoints.append(run.train())
            budgets.append(run.resume())
            if workers > 1:
                budgets.append(run.kill())
            shutil.rmtree(run.run_dir)
            print(checkpoints[-1], *budgets, sep="\n", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| workers | first stall, s | later stalls, s | write, s | verify, s |\n|---|---|---|---|---|")
    print("\n".join(checkpoints))
    print("\n| what happens | workers | until it takes part, s | connections | state | digest | next commit after |\n"
          "|---|---|---|---|---|---|---|")
    print("\n".join(budgets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
