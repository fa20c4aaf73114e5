#!/usr/bin/env python3
"""Interrupted runs end with the bits of a run that nothing happened to.

    tests/dist/interruption_test.py [--kills N] [--seed S]
"""
import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import time
import unittest

from harness import BIN, ENDLESS, RunTest, Trainer, read_lines, run_program

OPTIONS = argparse.Namespace(kills=50, seed=None)


class InterruptionTest(RunTest):
    def test_resumes_from_any_iteration_with_any_number_of_loader_threads(self):
        expected = self.undisturbed_digest()
        run_dir = self.new_run_dir()
        for stop, threads in ((1, 1), (2, 7), (5, 3), (6, 1), (17, 2), (23, 5), (40, 4)):
            self.train(run_dir, "--set", f"max_steps={stop}", "--set", f"data.num_threads={threads}",
                       "--set", f"data.prefetch_batches={threads + 1}")
            self.assertEqual(self.outcome(run_dir)["step"], stop)
        self.assertEqual(self.digest(run_dir), expected)

    def test_goes_on_with_and_without_activation_checkpointing(self):
        expected = self.undisturbed_digest()
        run_dir = self.new_run_dir()
        for stop, checkpointing in ((7, "blocks"), (20, "none"), (40, "blocks")):
            self.train(run_dir, "--set", f"max_steps={stop}", "--set",
                       f"activation_checkpointing={checkpointing}")
            self.assertIn(f"activation_checkpointing: {checkpointing}\n",
                          (run_dir / "config.yaml").read_text(encoding="utf-8"))
        self.assertEqual(self.digest(run_dir), expected)

    def test_survives_sigkill_at_random_moments(self):
        expected = self.undisturbed_digest()
        seed = OPTIONS.seed if OPTIONS.seed is not None else random.randrange(1 << 32)
        draw = random.Random(seed)
        kills = finished = in_write = 0
        run_dir = self.new_run_dir()
        while kills < OPTIONS.kills or finished == 0:
            with Trainer(self.command(run_dir, "--set", f"data.num_threads={draw.randint(1, 6)}")) as trainer:
                # One in five dies while it starts, two while they write a checkpoint (or just after),
                # two at some place of the loop.
                kind = draw.random()
                if kills >= OPTIONS.kills:
                    trainer.wait()  # what is left of the last run goes undisturbed
                elif kind < 0.2:
                    time.sleep(draw.uniform(0, 1.0))
                elif kind < 0.6:
                    trainer.wait_until_training()
                    trainer.wait_until(lambda: any(run_dir.glob("checkpoints/*.partial")), "checkpoint")
                    time.sleep(draw.uniform(0, 0.004))
                else:
                    trainer.wait_until_training()
                    time.sleep(draw.uniform(0, 0.25))
                trainer.send(signal.SIGKILL)
                code = trainer.wait()
                self.assertIn(code, (0, -signal.SIGKILL), f"seed {seed}: {trainer.stderr()}")
            if code == -signal.SIGKILL:
                kills += 1
                checkpoints = run_dir / "checkpoints"
                in_write += checkpoints.exists() and any(checkpoints.glob("*.partial"))
            else:
                self.assertEqual(self.digest(run_dir), expected, f"seed {seed}")
                finished += 1
                run_dir = self.new_run_dir()
        print(f"{kills} kills, {in_write} of them in the middle of a checkpoint; {finished} runs "
              f"finished with digest {expected}; seed {seed}")
        self.assertGreater(in_write, 0, "no kill hit a checkpoint write: the test has lost its point")

    def test_falls_back_over_a_flipped_byte_in_any_file_of_the_newest_checkpoint(self):
        expected = self.undisturbed_digest()
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=12")
        names = sorted(p.name for p in self.checkpoints(run_dir)[-1].iterdir())
        self.assertIn("manifest.json", names)
        self.assertGreaterEqual(len(names), 2)
        for step, name in enumerate(names, start=13):
            self.train(run_dir, "--set", f"max_steps={step}")
            newest = self.checkpoints(run_dir)[-1]
            path = newest / name
            content = bytearray(path.read_bytes())
            content[random.randrange(len(content))] ^= 0x10
            path.write_bytes(content)
            stderr = self.train(run_dir, "--set", f"max_steps={step + 1}")
            self.assertIn(newest.name, stderr)
            quarantined = self.events(run_dir, "checkpoint_quarantined")
            self.assertIn(name, quarantined[-1]["reason"])
            self.assertTrue(list((run_dir / "checkpoints").glob(f"{newest.name}.damaged-*")))
        self.train(run_dir)
        self.assertEqual(self.digest(run_dir), expected)

    def test_trains_on_while_the_disk_is_full_and_recovers_when_it_is_not(self):
        expected = self.undisturbed_digest()
        run_dir = self.new_run_dir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(run_dir)],
                                 stderr=subprocess.DEVNULL, check=False).returncode == 0
        try:
            if mounted:
                filler = run_dir / "filler"
                with Trainer(self.command(run_dir)) as trainer:
                    trainer.wait_until_training()
                    with open(filler, "wb", buffering=0) as file:
                        try:
                            while file.write(b"\0" * 4096):
                                pass
                        except OSError:
                            pass  # full
                    self.assertEqual(trainer.wait(), 74, trainer.stderr())
                    stderr = trainer.stderr()
                self.assertIn("No space left", stderr)
                filler.unlink()
            else:
                # Where mounts are not allowed: no file may grow beyond 64 KiB.
                def limit():
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
                stderr = self.train(run_dir, expect=74, preexec_fn=limit)
                self.assertIn("File too large", stderr)
            self.assertIn("training goes on", stderr)
            self.assertIn("step 40", stderr)  # it came to the end all the same
            self.train(run_dir)
            self.assertEqual(self.digest(run_dir), expected)
            self.assertEqual(self.outcome(run_dir)["step"], 40)
        finally:
            if mounted:
                subprocess.run(["umount", str(run_dir)], check=True)

    def test_ends_in_order_at_the_first_signal_and_at_once_at_the_second_interrupt(self):
        expected = self.undisturbed_digest()
        run_dir = self.new_run_dir()
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            with Trainer(self.command(run_dir)) as trainer:
                started = trainer.wait_until_training()
                self.assertTrue(started, trainer.stderr())
                trainer.send(number)
                self.assertEqual(trainer.wait(), 75, trainer.stderr())
            outcome = self.outcome(run_dir)
            self.assertEqual(outcome["state"], "PREEMPTED")
            self.assertIn(signal.Signals(number).name, outcome["reason"])
            self.assertTrue(self.checkpoints(run_dir)[-1].name.endswith(f"{outcome['step']:010d}"))
        self.train(run_dir)
        self.assertEqual(self.digest(run_dir), expected)

        with Trainer(self.command(self.new_run_dir(), *ENDLESS, "--set", "batch_size=16", "--set",
                                  "virtual_ranks=4")) as trainer:
            trainer.wait_until_training()
            trainer.send(signal.SIGTERM)
            # Nobody knows which of two signals at once is the first; one of these is not.
            trainer.wait_until(lambda: trainer.send(signal.SIGINT), "end")
            self.assertEqual(trainer.wait(), 130, trainer.stderr())


class StartTest(RunTest):
    """What starting a run in a directory means."""

    def test_a_finished_run_says_so(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=2")
        self.assertIn("nothing to do", self.train(run_dir, "--set", "max_steps=2"))

    def test_refuses_another_configuration_and_names_the_keys(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=2")
        stderr = self.train(run_dir, "--set", "optimizer.lr=2e-3", "--set", "seed=7", expect=64)
        self.assertIn("optimizer.lr", stderr)
        self.assertIn("seed", stderr)

    def test_refuses_to_start_anew_where_checkpoints_are(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=2")
        self.assertIn("--resume never", self.train(run_dir, "--resume", "never", expect=64))

    def test_refuses_a_run_without_initial_weights(self):
        stderr = self.train(self.new_run_dir(), "--set", "init.visual_encoder=null", "--set",
                            "init.text_encoder=null", expect=64)
        self.assertIn("init", stderr)

    def test_refuses_a_directory_in_use(self):
        run_dir = self.new_run_dir()
        with Trainer(self.command(run_dir, *ENDLESS)) as trainer:
            trainer.wait_until_training()
            self.assertIn("has a coordinator already", self.train(run_dir, expect=64))

    def test_a_data_set_too_small_for_one_step_names_the_largest_possible(self):
        stderr = self.train(self.new_run_dir(), "--set", "batch_size=64", expect=64)
        self.assertIn("70", stderr)

    def test_a_failure_that_a_restart_does_not_fix_wants_a_word(self):
        run_dir = self.new_run_dir()
        diverging = ("--set", "optimizer.lr=1e15", "--set", "schedular.warmup_lr=1e15")
        stderr = self.train(run_dir, *diverging, expect=93)
        self.assertIn("not finite", stderr)
        self.assertEqual(self.outcome(run_dir)["exit_code"], 93)
        self.assertGreaterEqual(len(self.events(run_dir, "step_skipped")), 20)
        self.assertIn("--resume auto", self.train(run_dir, *diverging, expect=64))
        self.train(run_dir, *diverging, "--resume", "auto", expect=93)

    def test_running_out_of_memory_names_the_keys_that_help(self):
        stderr = self.train(self.new_run_dir(), "--set", "queue_size=1073741824", "--set",
                            "embed_dim=4096", expect=93)
        self.assertIn("queue_size", stderr)

    def test_usage_errors_exit_with_64(self):
        self.assertEqual(run_program(BIN / "albef-worker")[0], 64)
        self.assertEqual(run_program(BIN / "albef-worker", "--nonsense")[0], 64)
        stderr = self.train(self.new_run_dir(), "--set", "batchsize=3", expect=64)
        self.assertIn("batch_size", stderr)
        stderr = self.train(self.new_run_dir(), "--device", "tpu", expect=64)
        self.assertIn("tpu", stderr)

    def test_metrics_hold_every_step_once_whatever_happened(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=5")
        self.train(run_dir, "--set", "max_steps=9")
        steps = [line["step"] for line in read_lines(run_dir / "metrics.jsonl")]
        self.assertEqual(steps, list(range(1, 10)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=OPTIONS.kills)
    parser.add_argument("--seed", type=int)
    OPTIONS, remaining = parser.parse_known_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    unittest.main(argv=[sys.argv[0], *remaining], verbosity=2)
