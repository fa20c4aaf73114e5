#!/usr/bin/env python3
"""The same kills under torchrun and here, in turns: how long until training goes on, what is done again, and
whether the final weights are those of a run that nothing disturbed.

    PYTHONPATH=<folder with torch> benchmarks/elastic_comparison.py [--workers 2] [--turns 3] [--kills 10]

Both train the model of configs/quickstart.yaml on the CPU, one thread per worker, with a checkpoint every
--checkpoint-every steps. A kill is SIGKILL to one random worker process at a random moment; the next one comes
after training has gone on for a second. torchrun: benchmarks/peer/elastic.py, gloo, one host.
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/dist"))
from cluster import Cluster, send, wait_until  # noqa: E402
from harness import BIN, percentile_95, read_lines, run_program  # noqa: E402


class Torchrun:
    name = "torchrun"

    def __init__(self, options, folder):
        self.folder = folder
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={options.workers}", "--max-restarts=1000",
                   ROOT / "benchmarks/peer/elastic.py", "--folder", folder, "--steps", options.steps,
                   "--snapshot-every", options.checkpoint_every]
        # A store of its own for each rendezvous: the shared one still holds the addresses of workers that died, and
        # gloo, which tries to connect to them, hung after every second or third kill.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen([str(a) for a in command], stdout=log, stderr=log, env=environment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def steps(self):
        return [line["step"] for line in read_lines(self.folder / "steps.jsonl")]

    def victims(self):
        listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)],
                                 capture_output=True, text=True, check=False).stdout
        return [int(line.split()[0]) for line in listing.splitlines() if "elastic.py" in line]

    def is_running(self):
        return self.process.poll() is None

    def digest(self):
        return (self.folder / "digest").read_text()

    def stderr(self):
        return (self.folder / "log").read_text()[-3000:]


class Ours:
    name = "this project"

    def __init__(self, options, folder):
        settings = (f"virtual_ranks={options.workers}", "threads_per_worker=1", "schedular.epochs=100000",
                    f"max_steps={options.steps}", "log_every_steps=1", "eval.file=null",
                    f"checkpoint.every_steps={options.checkpoint_every}", "elastic.rejoin_wait_s=5",
                    "elastic.coordinator_wait_s=60")
        self.cluster = Cluster(folder / "run", options.data, workers=options.workers,
                               config=ROOT / "configs/quickstart.yaml", settings=settings)

    def __enter__(self):
        self.cluster.__enter__()
        return self

    def __exit__(self, *exception):
        self.cluster.__exit__(*exception)

    def steps(self):
        return [line["step"] for line in read_lines(self.cluster.run_dir / "metrics.jsonl")]

    def victims(self):
        return [process.pid for process in self.cluster.processes("albef-trainer")]

    def is_running(self):
        return any(worker.poll() is None for worker in self.cluster.workers.values())

    def digest(self):
        return self.cluster.outcome()["state_digest"]

    def stderr(self):
        return self.cluster.stderr()


def run(system, options, folder, kills):
    """(seconds from each kill to the next new step, steps done again, final digest)."""
    folder.mkdir()
    recoveries = []
    with system(options, folder) as disturbed:
        wait_until(lambda: len(disturbed.steps()) >= 5 or not disturbed.is_running(), "first steps", limit_s=120,
                   log=disturbed.stderr)
        if len(disturbed.steps()) < 5:
            raise SystemExit(f"{system.name} ended before its first steps\n{disturbed.stderr()}")
        for _ in range(kills):
            time.sleep(1 + random.uniform(0, 0.5))
            victims = disturbed.victims()
            if not victims or not disturbed.is_running():
                break
            best = max(disturbed.steps())
            begin = time.monotonic()
            send(signal.SIGKILL, random.choice(victims))
            wait_until(lambda: max(disturbed.steps()) > best + 1 or not disturbed.is_running(),
                       "new step", limit_s=300, log=disturbed.stderr)
            recoveries.append(time.monotonic() - begin)
        wait_until(lambda: not disturbed.is_running(), "end", limit_s=600, log=disturbed.stderr)
        steps = disturbed.steps()
        digest = disturbed.digest()
    shutil.rmtree(folder)
    return recoveries, len(steps) - len(set(steps)), digest


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10, help="in each turn")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--checkpoint-every", type=int, default=50)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-comparison-"))
    results = {system: [] for system in (Torchrun, Ours)}
    try:
        options.data = folder / "data"
        code, stderr = run_program(BIN / "albef", "data", "synth", "--output", options.data, "--pairs", 2000)
        assert code == 0, stderr
        undisturbed = {system: run(system, options, folder / "calm", 0)[2] for system in results}
        for turn in range(options.turns):
            for system, turns in results.items():
                turns.append(run(system, options, folder / "kills", options.kills))
                print(f"turn {turn + 1}, {system.name}: {len(turns[-1][0])} kills", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| | kills | kill to next new step, median | p95 | spread | steps done again per kill | "
          "runs with the undisturbed weights |\n|---|---|---|---|---|---|---|")
    for system, turns in results.items():
        times = [t for recoveries, _, _ in turns for t in recoveries]
        repeated = sum(steps for _, steps, _ in turns)
        same = sum(digest == undisturbed[system] for _, _, digest in turns)
        print(f"| {system.name} | {len(times)} | {statistics.median(times):.2f} s | "
              f"{percentile_95(times):.2f} s | {min(times):.2f} to {max(times):.2f} s | "
              f"{repeated / len(times):.1f} | {same} of {len(turns)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
