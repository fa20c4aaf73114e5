#!/usr/bin/env python3
"""Compares the peer with the golden step: losses and every gradient, in float64.

    PYTHONPATH=<folder with torch> benchmarks/peer/check.py [tests/golden/pretrain]
"""
import json
import pathlib
import struct
import sys

import torch

from albef_peer import Albef

DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    out = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = bytearray(data[8 + size + begin:8 + size + end])
        dtype = DTYPES[entry["dtype"]]
        tensor = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        out[name] = tensor.reshape(entry["shape"]).clone()
    return out


def relative(got, expected):
    return ((got - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/pretrain")
    case = json.loads((folder / "step.json").read_text())
    model = Albef(case["config"]).double().train()
    state = read_safetensors(folder / "step_init.safetensors")
    model.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    inputs = read_safetensors(folder / "step_inputs.safetensors")
    expected = read_safetensors(folder / "step_expected.safetensors")
    losses = model(inputs["image"].double(), inputs["input_ids"], inputs["attention_mask"],
                   inputs["mlm_input_ids"], inputs["mlm_labels"], case["alpha"],
                   (inputs["itm_image_neg_idx"], inputs["itm_text_neg_idx"]))
    sum(losses).backward()
    worst = 0.0
    for name, loss in zip(("loss_mlm", "loss_ita", "loss_itm"), losses):
        worst = max(worst, relative(loss.detach(), expected[name]))
    zero = set(case["zero_gradient_parameters"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in zero:
            worst = max(worst, relative(parameter.grad, expected["grad." + name]))
    for name, tensor in model.state_dict().items():
        if "post." + name in expected and tensor.is_floating_point():
            worst = max(worst, relative(tensor, expected["post." + name]))
    print(f"worst relative difference {worst:.3g}")
    sys.exit(worst > 1e-10)


if __name__ == "__main__":
    main()
