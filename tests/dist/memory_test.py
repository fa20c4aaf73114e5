#!/usr/bin/env python3
"""Training needs no more memory the longer it lasts: supervisors, trainers, coordinator.

    tests/dist/memory_test.py
"""
import json
import os
import pathlib
import statistics
import time
import unittest

from cluster import Cluster
from harness import LIMIT_S, RunTest

# Until here caches fill and the allocator finds its size.
WARM_UP_STEPS = 200
STEPS = 2000
# Medians of so many readings are compared: memory also moves within a step.
READINGS = 25
# Of each process, from the end of the warm-up on: 2.3 KiB per step would fail.
MAX_GROWTH_KIB = 4 << 10
SETTINGS = ("virtual_ranks=2", "batch_size=2", "max_steps=100000", "schedular.epochs=100000",
            "checkpoint.every_steps=100", "checkpoint.every_epochs=null", "log_every_steps=5",
            "elastic.hang_limit_s=60", "elastic.heartbeat_limit_s=60")


def resident_kib(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"{process} has ended")


def last_step(run_dir):
    """The step of the last line of metrics.jsonl, which may be long; 0 before there is one."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as lines:
        lines.seek(max(0, path.stat().st_size - 4096))
        whole = lines.read().split(b"\n")[:-1]
    return json.loads(whole[-1])["step"] if whole else 0


class MemoryTest(RunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Of malloc's arenas, several per core, each keeps as much as its threads have needed at once. Until every
        # one has met a checkpoint, resident memory grows by steps of a megabyte, which is no leak and hides one.
        os.environ["MALLOC_ARENA_MAX"] = "1"

    def test_does_not_grow_over_2000_steps(self):
        self.check_growth("none")

    def test_does_not_grow_where_blocks_run_again_in_backward(self):
        self.check_growth("blocks")

    def check_growth(self, checkpointing):
        run_dir = self.new_run_dir()
        settings = (*SETTINGS, f"activation_checkpointing={checkpointing}")
        with Cluster(run_dir, self.data, workers=2, settings=settings) as cluster:
            before = self.resident_after(cluster, WARM_UP_STEPS)
            started = time.monotonic()
            after = self.resident_after(cluster, STEPS)
            seconds = time.monotonic() - started
        # All of it in one generation: a process that was replaced has not grown.
        self.assertEqual(sorted(p.partition("[")[0] for p in before),
                         ["albef-coordinator", "albef-trainer", "albef-trainer", "albef-worker",
                          "albef-worker"])
        self.assertEqual(before.keys(), after.keys())
        growth = {process: after[process] - before[process] for process in before}
        print(f"activation_checkpointing: {checkpointing}: KiB resident after {WARM_UP_STEPS} steps "
              f"{before}, growth until step {STEPS} {growth}, {seconds:.0f} s", flush=True)
        for process, kib in growth.items():
            self.assertLessEqual(kib, MAX_GROWTH_KIB, process)

    def resident_after(self, cluster, step):
        """Median resident KiB of each process, read at lines of metrics.jsonl from `step` on."""
        readings = {}
        last = step - 1
        for _ in range(READINGS):
            cluster.wait_until(lambda: last_step(cluster.run_dir) > last, f"step {last + 1}", 5 * LIMIT_S)
            last = last_step(cluster.run_dir)
            for process in cluster.processes():
                readings.setdefault(repr(process), []).append(resident_kib(process))
        return {process: int(statistics.median(values)) for process, values in readings.items()}


if __name__ == "__main__":
    unittest.main(verbosity=2)
