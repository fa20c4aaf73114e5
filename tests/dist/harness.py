"""Real processes for tests: starts programs, interrupts them, reads what a run leaves behind."""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ALBEF_BIN", ROOT / "build/release/bin"))
# A bound on every wait: far above what a loaded machine needs.
LIMIT_S = 180

# Arguments of runs of tests/dist/tiny.yaml on the 70 pairs of RunTest.
TWO_EPOCHS = ("--set", "max_steps=12")
ENDLESS = ("--set", "max_steps=100000", "--set", "schedular.epochs=100000")


def run_program(*arguments, **options):
    """Runs to the end; (exit code, stderr)."""
    done = subprocess.run([str(a) for a in arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True, errors="replace", timeout=LIMIT_S, check=False, **options)
    return done.returncode, done.stderr


class Trainer:
    """A running albef-worker with its children. Use as a context manager: it does not outlive the block."""

    def __init__(self, command):
        self.log = tempfile.TemporaryFile(mode="w+", errors="replace")
        self.process = subprocess.Popen([str(a) for a in command], stdout=subprocess.DEVNULL,
                                        stderr=self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def wait(self):
        return self.process.wait(timeout=LIMIT_S)

    def send(self, number):
        self.process.send_signal(number)

    def stderr(self):
        with open(f"/proc/self/fd/{self.log.fileno()}", encoding="utf-8", errors="replace") as text:
            return text.read()

    def wait_until(self, condition, what):
        """Waits until condition() or the end of the process; False for the latter."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {LIMIT_S} s:\n{self.stderr()}")
            time.sleep(0.002)
        return True

    def wait_until_training(self):
        """Waits until the first step begins or the end of the process; False for the latter."""
        return self.wait_until(lambda: "training run_dir=" in self.stderr(), "first step")


def read_lines(path):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def percentile_95(values):
    values = sorted(values)
    return values[min(len(values) - 1, int(0.95 * len(values)))]


def spread(values):
    """Median (least to most)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def read_config(run_dir):
    """RUN_DIR/config.yaml, which holds every key: numbers as numbers, groups as dicts, the rest as text."""
    config = {}
    for line in (run_dir / "config.yaml").read_text(encoding="utf-8").splitlines():
        key, _, text = line.strip().partition(":")
        try:
            value = json.loads(text) if text else {}
        except ValueError:
            value = text.strip()
        if line.startswith("  "):
            group[key] = value
        else:
            config[key] = group = value
    return config


class RunTest(unittest.TestCase):
    """A dataset, and runs of tests/dist/tiny.yaml on it."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-dist-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.data = cls.folder / "data"
        code, stderr = run_program(BIN / "albef", "data", "synth", "--output", cls.data, "--pairs", 70,
                                   "--test-pairs", 8)
        assert code == 0, stderr

    def command(self, run_dir, *extra):
        return [BIN / "albef-worker", "--config", ROOT / "tests/dist/tiny.yaml", "--set",
                f"data.root={self.data}", "--run-dir", run_dir, *extra]

    def train(self, run_dir, *extra, expect=0, **options):
        code, stderr = run_program(*self.command(run_dir, *extra), **options)
        self.assertEqual(code, expect, stderr)
        return stderr

    def new_run_dir(self):
        return pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))

    @staticmethod
    def outcome(run_dir):
        return json.loads((run_dir / "outcome.json").read_text())

    def digest(self, run_dir):
        outcome = self.outcome(run_dir)
        self.assertEqual(outcome["state"], "SUCCEEDED", outcome)
        return outcome["state_digest"]

    @staticmethod
    def events(run_dir, kind):
        return [e for e in read_lines(run_dir / "events.jsonl") if e["kind"] == kind]

    @staticmethod
    def checkpoints(run_dir):
        return sorted(p for p in (run_dir / "checkpoints").iterdir() if p.name.count(".") == 0)

    def undisturbed_digest(self):
        """The digest of a run that nothing happened to, made once per test class."""
        cls = type(self)
        if not hasattr(cls, "_undisturbed"):
            run_dir = self.new_run_dir()
            self.train(run_dir)
            cls._undisturbed = self.digest(run_dir)
        return cls._undisturbed
