#!/usr/bin/env python3
"""albef convert, and runs that begin with a checkpoint of the authors' code."""
import json
import os
import pathlib
import sys
import tempfile
import unittest

from harness import BIN, ROOT, TWO_EPOCHS, RunTest, read_config, run_program

GOLDEN = pathlib.Path(os.environ.get("ALBEF_GOLDENS", ROOT / "tests/golden")) / "pretrain"
# Top-level keys that a configuration, a golden case and the Python peer share.
SHARED_KEYS = ("image_res", "vision_width", "embed_dim", "queue_size", "momentum", "temp")


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
        self.train(run_dir, *TWO_EPOCHS)
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
        self.train(first, *TWO_EPOCHS)
        pth = self.new_run_dir() / "checkpoint_01.pth"
        self.convert(first, pth)
        for start in (pth, first / "checkpoints/step-0000000012", first):
            run_dir = self.new_run_dir()
            self.train(run_dir, "--resume", start)
            self.assertEqual(self.events(run_dir, "imported")[0]["step"], 12)
            self.assertEqual(self.digest(run_dir), expected)

    def test_goes_on_from_the_authors_checkpoints(self):
        config = json.loads((GOLDEN / "checkpoint.json").read_text())["config"]
        special = {config["special_tokens"][k]: f"[{k.upper()}]" for k in ("pad", "cls", "mask")}
        words = [special.get(i, f"w{i}") for i in range(config["bert"]["vocab_size"])]
        for word in ("[UNK]", "[SEP]"):
            words[next(i for i, other in enumerate(words) if other.startswith("w"))] = word
        vocab = self.new_run_dir() / "vocab.txt"
        vocab.write_text("\n".join(words) + "\n")
        yaml = {key: config[key] for key in (*SHARED_KEYS, "mlm_probability", "alpha")}
        yaml["bert_config"] = {k: v for k, v in config["bert"].items() if k != "layer_norm_eps"}
        yaml["bert_config"]["layer_norm_eps"] = 1e-12
        yaml["vision"] = {"patch_size": config["patch_size"], "depth": config["vision_depth"],
                          "heads": config["vision_heads"], "mlp_ratio": config["vision_mlp_ratio"]}
        yaml |= {"train_file": "train.json", "batch_size": 4, "threads_per_worker": 1,
                 "tokenizer": {"vocab": str(vocab)}, "schedular": {"epochs": 4},
                 "data": {"root": str(self.data),
                          "max_text_length": min(12, config["bert"]["max_position_embeddings"])},
                 "checkpoint": {"every_steps": 5}}
        path = vocab.parent / "config.yaml"
        path.write_text(json.dumps(yaml))
        for name in ("checkpoint_01.pth", "checkpoint_old.pth"):
            run_dir = self.new_run_dir()
            code, stderr = run_program(BIN / "albef-worker", "--config", path, "--run-dir", run_dir,
                                       "--resume", GOLDEN / name)
            self.assertEqual(code, 0, stderr)
            # It holds epochs 0 and 1; 70 pairs in batches of 4 are 17 steps an epoch.
            self.assertEqual(self.events(run_dir, "imported")[0]["step"], 2 * 17)
            self.assertEqual(self.outcome(run_dir)["step"], 4 * 17)

    @unittest.skipUnless(os.environ.get("ALBEF_WHEEL"), "this LibTorch has no Python side")
    def test_python_torch_trains_on_with_what_is_exported(self):
        run_dir = self.new_run_dir()
        self.train(run_dir, *TWO_EPOCHS)
        out = self.new_run_dir()
        self.convert(run_dir, out / "state.pth")
        self.convert(run_dir, out / "state.safetensors")

        sys.path += [str(ROOT / "tests/formats"), str(ROOT / "benchmarks/peer")]
        from check_pth_with_torch import import_torch
        stubs = tempfile.TemporaryDirectory()
        self.addCleanup(stubs.cleanup)
        torch = import_torch(pathlib.Path(os.environ["ALBEF_WHEEL"]), pathlib.Path(stubs.name))
        from albef_peer import Albef
        from check import read_safetensors

        checkpoint = torch.load(out / "state.pth", weights_only=True)
        self.assertEqual(set(checkpoint), {"model", "optimizer", "lr_scheduler", "config", "epoch"})
        self.assertEqual(checkpoint["epoch"], 1)
        model = checkpoint["model"]
        for name, tensor in read_safetensors(out / "state.safetensors").items():
            if not name.startswith(("exp_avg", "counters.")):
                self.assertTrue(torch.equal(model[name], tensor), name)
        for encoder in ("text_encoder", "text_encoder_m"):
            head = f"{encoder}.cls.predictions"
            for tied, first in ((f"{head}.decoder.weight", f"{encoder}.bert.embeddings.word_embeddings.weight"),
                                (f"{head}.decoder.bias", f"{head}.bias")):
                self.assertEqual(model[tied].data_ptr(), model[first].data_ptr(), tied)

        config = read_config(run_dir)
        self.assertEqual(config["bert_config"]["vocab_size"], len(model["text_encoder.cls.predictions.bias"]))
        peer = Albef({key: config[key] for key in SHARED_KEYS} | {"bert": config["bert_config"]} |
                     {f"vision_{key}": config["vision"][key] for key in ("depth", "heads", "mlp_ratio")} |
                     {"patch_size": config["vision"]["patch_size"]})
        peer.load_state_dict(model, strict=True)
        trainable = [(n, p) for n, p in peer.named_parameters() if p.requires_grad]
        undecayed = [p for n, p in trainable if p.dim() == 1 or n.endswith(".bias")]
        decayed = [p for n, p in trainable if not (p.dim() == 1 or n.endswith(".bias"))]
        optimizer = torch.optim.AdamW([{"params": undecayed, "weight_decay": 0.0},
                                       {"params": decayed, "weight_decay": 0.02}], lr=1.0)
        optimizer.load_state_dict(checkpoint["optimizer"])
        for parameter in undecayed + decayed:
            self.assertEqual(optimizer.state[parameter]["exp_avg"].shape, parameter.shape)
        self.assertEqual(optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"])
        self.assertLess(optimizer.param_groups[0]["lr"], 1e-2)

    def test_a_folder_may_have_a_dot_in_its_name(self):
        run_dir = self.new_run_dir().rename(self.folder / "run.v2")
        self.train(run_dir, "--set", "max_steps=2")
        out = self.folder / "converted.v2"
        out.mkdir()
        self.convert(run_dir, out)
        self.assertEqual(self.manifest(out)["state_digest"], self.digest(run_dir))

    def test_a_run_begins_with_the_weights_of_another(self):
        first = self.new_run_dir()
        self.train(first, "--set", "max_steps=4")
        second = self.new_run_dir()
        self.train(second, "--set", "max_steps=2", "--set", f"init={{checkpoint: {first}}}")
        event, = self.events(second, "initialised")
        self.assertEqual(event["path"], str(first))
        self.assertIn("0 missing", event["reason"])

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
