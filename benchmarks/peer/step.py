#!/usr/bin/env python3
"""Times whole pretraining steps of the peer: forward, backward, AdamW.

    PYTHONPATH=<folder with torch> benchmarks/peer/step.py --batch 2 --steps 5 --threads 2 [--size small] [--device cuda]
"""
import argparse
import resource
import statistics
import time

import torch

import sizes
from albef_peer import Albef

MASK = 103  # [MASK] in the vocabulary of BERT, a word like others in a smaller one


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sizes.BY_NAME, default="full", help="of the model (sizes.py)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--text-length", type=int, default=25)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    torch.backends.cudnn.allow_tf32 = arguments.tf32
    torch.manual_seed(1)
    device = torch.device(arguments.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    size = sizes.BY_NAME[arguments.size]
    model = Albef(size).to(device).train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in trainable if p.dim() == 1], "weight_decay": 0.0},
         {"params": [p for p in trainable if p.dim() != 1], "weight_decay": 0.02}], lr=1e-5)
    batch, length = arguments.batch, arguments.text_length
    seconds = []
    for _ in range(arguments.steps + 1):  # the first one warms up
        image = torch.randn(batch, 3, size["image_res"], size["image_res"])
        ids = torch.randint(size["bert"]["vocab_size"] // 2, size["bert"]["vocab_size"], (batch, length))
        masked = torch.rand(batch, length) < 0.15
        masked[:, 0] = False
        masked[0, 1] = True
        labels = torch.where(masked, ids, torch.full_like(ids, -100))
        inputs = (image, ids, torch.ones_like(ids), torch.where(masked, torch.full_like(ids, MASK), ids),
                  labels)
        inputs = [tensor.to(device) for tensor in inputs]
        wait()
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            losses = model(*inputs, 0.4)
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        wait()
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]
    median = statistics.median(seconds)
    peak = (torch.cuda.max_memory_allocated() / 2 ** 30 if device.type == "cuda" else
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20)
    print(f"peer: {device}, batch {batch}, {arguments.threads} threads: {median:.3f} s per step (median; "
          f"{min(seconds):.3f} to {max(seconds):.3f} over {len(seconds)}), {batch / median:.3f} pairs/s, "
          f"peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
