#!/usr/bin/env python3
"""What distributing a step costs beyond forward and backward: figures for docs/performance.md.

    benchmarks/machinery.py [--workers 1,2,4] [--steps 200] [--turns 3]

The model of configs/quickstart.yaml with four virtual ranks, one thread per worker, phases as rank 0's training
thread sees them (pretrain_step_phase_seconds of /metrics). Gate: the slowest worker is waited for there, so with
more workers than cores it holds their turns. Worker numbers take turns.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/dist"))
from cluster import Cluster  # noqa: E402
from harness import BIN, run_program, spread  # noqa: E402

SETTINGS = ("virtual_ranks=4", "threads_per_worker=1", "max_steps=1000000", "schedular.epochs=100000",
            "eval.file=null", "log_every_steps=1", "checkpoint.every_steps=1000000")
WARM_UP = 20


def phase_totals(run_dir):
    """phase → {"sum": seconds, "count": observations}"""
    address = json.loads((run_dir / "coordinator.json").read_text())["metrics_address"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    totals = {}
    for what, phase, value in re.findall(r'pretrain_step_phase_seconds_(sum|count){phase="(\w+)"} (\S+)', text):
        totals.setdefault(phase, {})[what] = float(value)
    return totals


def measure(options, folder, workers):
    """Mean milliseconds of each phase."""
    run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    with Cluster(run_dir, folder / "data", workers=workers, config=ROOT / "configs/quickstart.yaml",
                 settings=SETTINGS) as cluster:
        cluster.wait_for_step(WARM_UP)
        before = phase_totals(run_dir)
        cluster.wait_for_step(WARM_UP + options.steps)
        after = phase_totals(run_dir)
    shutil.rmtree(run_dir)
    return {phase: 1e3 * (end["sum"] - before[phase]["sum"]) / (end["count"] - before[phase]["count"])
            for phase, end in after.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-machinery-"))
    numbers = [int(number) for number in options.workers.split(",")]
    turns = {number: [] for number in numbers}
    try:
        code, stderr = run_program(BIN / "albef", "data", "synth", "--output", folder / "data", "--pairs", 2000)
        assert code == 0, stderr
        for turn in range(options.turns):
            for number in numbers:
                turns[number].append(measure(options, folder, number))
                print(f"turn {turn + 1}, {number} workers", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    phases = list(turns[numbers[0]][0])
    print(f"| workers | {' | '.join(phases)} | all | reduction + gate |\n|{'---|' * (len(phases) + 3)}")
    for number, results in turns.items():
        def cell(*summed):
            return spread([sum(result[phase] for phase in summed) for result in results])
        print(f"| {number} | {' | '.join(cell(phase) for phase in phases)} | {cell(*phases)} | "
              f"{cell('reduction', 'gate')} |")
    print("\nMilliseconds; median of the turns' means (least to most).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
