#!/usr/bin/env python3
"""albef convert, and runs that begin with a checkpoint of the authors' code."""
import json
import pathlib
import unittest

from harness import BIN, ROOT, RunTest, run_program

GOLDEN = ROOT / "tests/golden/pretrain"


class ConvertTest(RunTest):
    def convert(self, *arguments, expect=0):
        code, stderr = run_program(BIN / "albef", "convert", *arguments)
        self.assertEqual(code, expect, stderr)
        return stderr

    @staticmethod
    def manifest(folder):
        path, = folder.glob("step-*/manifest.json")
        return json.loads(path.read_text())

    def test_a_state_keeps_its_digest_through_every_format(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=12")  # two whole epochs
        expected = self.digest(run_dir)
        config = ("--config", run_dir / "config.yaml")
        out = self.new_run_dir()
        for name in ("state.pth", "state.safetensors"):
            self.convert(run_dir, out / name)
            self.convert(out / name, out / name.replace(".", "-"), *config)
            back = self.manifest(out / name.replace(".", "-"))
            self.assertEqual(back["state_digest"], expected)
            self.assertEqual(back["counters"]["epoch"], 2)
        self.convert(out / "state.safetensors", out / "again.pth", *config)
        self.assertEqual((out / "again.pth").read_bytes(), (out / "state.pth").read_bytes())

    def test_a_run_goes_on_from_a_converted_checkpoint_at_its_next_epoch(self):
        expected = self.undisturbed_digest()
        first = self.new_run_dir()
        self.train(first, "--set", "max_steps=12")
        pth = self.new_run_dir() / "checkpoint_01.pth"
        self.convert(first, pth)
        for start in (pth, first / "checkpoints/step-0000000012"):
            run_dir = self.new_run_dir()
            self.train(run_dir, "--resume", start)
            self.assertEqual(self.events(run_dir, "imported")[0]["step"], 12)
            self.assertEqual(self.digest(run_dir), expected)

    def test_goes_on_from_the_authors_checkpoints(self):
        config = json.loads((GOLDEN / "checkpoint.json").read_text())["config"]
        special = {config["special_tokens"][k]: f"[{k.upper()}]" for k in ("pad", "cls", "mask")}
        words = [special.get(i, f"w{i}") for i in range(config["bert"]["vocab_size"])]
        words[1], words[2] = "[UNK]", "[SEP]"
        vocab = self.new_run_dir() / "vocab.txt"
        vocab.write_text("\n".join(words) + "\n")
        yaml = {key: config[key] for key in ("image_res", "vision_width", "embed_dim", "queue_size",
                                             "momentum", "temp", "mlm_probability", "alpha")}
        yaml["bert_config"] = {k: v for k, v in config["bert"].items() if k != "layer_norm_eps"}
        yaml["bert_config"]["layer_norm_eps"] = 1e-12
        yaml["vision"] = {"patch_size": config["patch_size"], "depth": config["vision_depth"],
                          "heads": config["vision_heads"]}
        yaml |= {"train_file": "train.json", "batch_size": 4, "threads_per_worker": 1,
                 "tokenizer": {"vocab": str(vocab)}, "schedular": {"epochs": 4},
                 "data": {"root": str(self.data), "max_text_length": 12},
                 "checkpoint": {"every_steps": 5}}
        path = vocab.parent / "config.yaml"
        path.write_text(json.dumps(yaml))
        for name in ("checkpoint_01.pth", "checkpoint_old.pth"):
            run_dir = self.new_run_dir()
            code, stderr = run_program(BIN / "albef-trainer", "--config", path, "--run-dir", run_dir,
                                       "--resume", GOLDEN / name)
            self.assertEqual(code, 0, stderr)
            # It holds epochs 0 and 1; 70 pairs in batches of 4 are 17 steps an epoch.
            self.assertEqual(self.events(run_dir, "imported")[0]["step"], 2 * 17)
            self.assertEqual(self.outcome(run_dir)["step"], 4 * 17)

    def test_errors_name_what_is_wrong_and_the_remedy(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, "--set", "max_steps=2")
        out = self.new_run_dir()
        self.assertIn("no such checkpoint", self.convert(out / "none.pth", out / "a.pth", expect=64))
        self.assertIn("unknown kind", self.convert(run_dir, out / "a.txt", expect=64))
        self.convert(run_dir, out / "a.pth")
        self.assertIn("is there already", self.convert(run_dir, out / "a.pth", expect=64))
        self.assertIn("--config", self.convert(out / "a.pth", out / "b", expect=64))
        damaged = pathlib.Path(out / "damaged.pth")
        content = bytearray((out / "a.pth").read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        stderr = self.convert(damaged, out / "b", "--config", run_dir / "config.yaml", expect=64)
        self.assertIn("damaged.pth", stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
