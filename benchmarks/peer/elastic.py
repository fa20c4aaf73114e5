#!/usr/bin/env python3
"""The peer under torchrun, as its users make training elastic: DistributedDataParallel, a snapshot every few
steps, and a start from the newest snapshot whenever torchrun starts all workers again.

    torchrun --standalone --nproc-per-node 2 --max-restarts 100 benchmarks/peer/elastic.py --folder DIR …

benchmarks/elastic_comparison.py runs it. It is kinder to torchrun than most scripts: everything random is drawn
from (step, rank), so that a run repeated from a snapshot can reach the same weights.
"""
import argparse
import ctypes
import hashlib
import json
import os
import pathlib
import time

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from albef_peer import Albef
from sizes import SMALL

BATCH, LENGTH = 16, 25


def draw_batch():
    image = torch.randn(BATCH, 3, SMALL["image_res"], SMALL["image_res"])
    ids = torch.randint(5, SMALL["bert"]["vocab_size"], (BATCH, LENGTH))
    masked = torch.rand(BATCH, LENGTH) < 0.15
    masked[0, 1] = True
    labels = torch.where(masked, ids, torch.full_like(ids, -100))
    return image, ids, torch.ones_like(ids), torch.where(masked, torch.full_like(ids, 4), ids), labels


def digest(module):
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode())
        tensor = tensor.contiguous()
        sha.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
    return sha.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--snapshot-every", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(1)
    module = Albef(SMALL).train()
    model = DistributedDataParallel(module)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4,
                                  weight_decay=0.02)
    snapshot = arguments.folder / "snapshot.pt"
    first = 0
    if snapshot.exists():
        state = torch.load(snapshot)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    log = open(arguments.folder / "steps.jsonl", "a", buffering=1, encoding="ascii")
    for step in range(first + 1, arguments.steps + 1):
        torch.manual_seed(step * 1000 + rank)
        losses = model(*draw_batch(), alpha=0.4)
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        if rank == 0:
            log.write(json.dumps({"step": step, "time": time.time()}) + "\n")
            if step % arguments.snapshot_every == 0:
                torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict(),
                            "step": step}, f"{snapshot}.new")
                os.replace(f"{snapshot}.new", snapshot)
    if rank == 0:
        (arguments.folder / "digest").write_text(digest(module))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
