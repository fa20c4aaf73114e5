#!/usr/bin/env python3
"""Training does not need more memory the longer it lasts.

    tests/dist/memory_test.py
"""
import json
import pathlib
import statistics
import unittest

from harness import ENDLESS, RunTest, Trainer

# Until here caches fill and the allocator finds its size.
WARM_UP_STEPS = 200
STEPS = 2000
# Medians of so many readings are compared: memory also moves within a step.
READINGS = 25
# Of each process, from the end of the warm-up on: 8 KiB of resident memory per step would fail.
MAX_GROWTH_KIB = 8 << 10
PROGRAMS = {"albef-worker", "albef-trainer", "albef-coordinator"}


def descendants(pid):
    """Process ids of pid and all below it, by program name."""
    found = {}
    try:
        program = pathlib.Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")[0]
        found[pathlib.Path(program).name] = pid
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="utf-8").split():
                found |= descendants(int(child))
    except FileNotFoundError:
        pass  # it ended meanwhile
    return found


def resident_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has ended")


def last_step(run_dir):
    """The step of the last line of metrics.jsonl; 0 before there is one."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as lines:
        lines.seek(max(0, path.stat().st_size - 4096))
        whole = lines.read().split(b"\n")[:-1]
    return json.loads(whole[-1])["step"] if whole else 0


class MemoryTest(RunTest):
    def test_does_not_grow_over_2000_steps(self):
        self.check_growth("none")

    def test_does_not_grow_where_blocks_run_again_in_backward(self):
        self.check_growth("blocks")

    def check_growth(self, checkpointing):
        run_dir = self.new_run_dir()
        command = self.command(run_dir, *ENDLESS, "--set", f"activation_checkpointing={checkpointing}",
                               "--set", "virtual_ranks=1", "--set", "batch_size=2",
                               "--set", "log_every_steps=5", "--set", "checkpoint.every_steps=100",
                               "--set", "checkpoint.every_epochs=null")
        with Trainer(command) as trainer:
            before = self.resident_after(trainer, run_dir, WARM_UP_STEPS)
            after = self.resident_after(trainer, run_dir, STEPS)
        growth = {name: after.get(name, 0) - before[name] for name in before}
        print(f"activation_checkpointing: {checkpointing}: KiB resident after {WARM_UP_STEPS} steps "
              f"{before}, growth until step {STEPS} {growth}", flush=True)
        self.assertEqual(growth.keys(), PROGRAMS)
        for name, kib in growth.items():
            self.assertLessEqual(kib, MAX_GROWTH_KIB, name)

    def resident_after(self, trainer, run_dir, step):
        """Median resident KiB of each process over the lines of metrics.jsonl from `step` on."""
        readings = {}
        last = step - 1
        for _ in range(READINGS):
            going_on = trainer.wait_until(lambda: last_step(run_dir) > last, f"step {last + 1}")
            self.assertTrue(going_on, trainer.stderr())
            last = last_step(run_dir)
            for name, pid in descendants(trainer.process.pid).items():
                readings.setdefault(name, []).append(resident_kib(pid))
        return {name: int(statistics.median(values)) for name, values in readings.items()}


if __name__ == "__main__":
    unittest.main(verbosity=2)
