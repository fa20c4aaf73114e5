#!/usr/bin/env python3
"""Does training in bf16 reach the losses of fp32? The same run from the same weights in bf16 and in fp32, beside
fp32 with two other seeds, whose spread says how far apart equally good runs are.

    benchmarks/precision_comparison.py --data ../shared/data/flickr8k-mini [--steps 500]

Model: configs/flickr8k-mini.yaml with the sizes below, one worker. Of each loss the mean of the last --window steps;
the verdict is whether bf16 differs from fp32 with the same seed by less than the three seeds do among themselves.
Prints a table in Markdown; the exit code is 1 where a verdict is no.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/dist"))
from harness import BIN, read_lines  # noqa: E402

LOSSES = ("loss", "loss_mlm", "loss_itc", "loss_itm")
# 4 × 96 instead of 6 × 192: a run takes some 4 minutes on two cores, and there are four.
SIZES = ("image_res=64", "vision_width=96", "vision.depth=4", "vision.heads=4", "bert_config.hidden_size=96",
         "bert_config.encoder_width=96", "bert_config.num_hidden_layers=4", "bert_config.fusion_layer=2",
         "bert_config.num_attention_heads=4", "bert_config.intermediate_size=384", "embed_dim=64", "batch_size=8")


def train(options, folder, precision, seed):
    """{loss: its mean over the last steps} of a whole run."""
    run_dir = folder / f"{precision}-{seed}"
    settings = (*SIZES, f"data.root={options.data}", f"precision={precision}", f"seed={seed}",
                f"max_steps={options.steps}", f"threads_per_worker={options.threads}", "log_every_steps=1",
                "eval.file=null", "checkpoint.every_epochs=1000")
    command = [BIN / "albef-worker", "--config", ROOT / "configs/flickr8k-mini.yaml", "--run-dir", run_dir,
               "--device", options.device]
    for setting in settings:
        command += ["--set", setting]
    begin = time.monotonic()
    done = subprocess.run([str(a) for a in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          errors="replace", check=False)
    if done.returncode != 0:
        raise SystemExit(f"{precision}, seed {seed}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    # A step that was done again after a worker was late has two lines, of the same losses.
    lines = list({line["step"]: line for line in read_lines(run_dir / "metrics.jsonl")}.values())
    steps = [line["step"] for line in lines]
    if steps != list(range(1, options.steps + 1)):
        raise SystemExit(f"{precision}, seed {seed}: {len(steps)} steps of {options.steps}\n{done.stderr[-3000:]}")
    print(f"{precision}, seed {seed}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return {loss: statistics.mean(line[loss] for line in lines[-options.window:]) for loss in LOSSES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--window", type=int, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.data = options.data.resolve()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-precision-"))
    try:
        bf16 = train(options, folder, "bf16", 1)
        fp32 = [train(options, folder, "fp32", seed) for seed in (1, 2, 3)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"Means of the last {options.window} of {options.steps} steps:\n\n"
          "| | bf16, seed 1 | fp32, seeds 1, 2, 3 | bf16 − fp32, seed 1 | spread of the seeds | less? |\n"
          "|---|---|---|---|---|---|")
    agrees = True
    for loss in LOSSES:
        values = [run[loss] for run in fp32]
        difference = bf16[loss] - values[0]
        spread = max(values) - min(values)
        agrees &= abs(difference) < spread
        print(f"| {loss} | {bf16[loss]:.4f} | {', '.join(f'{value:.4f}' for value in values)} | "
              f"{difference:+.4f} | {spread:.4f} | {'yes' if abs(difference) < spread else 'no'} |")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
