#!/usr/bin/env python3
"""Checks with Python's torch what formats/pth.h reads and writes.

The copier reads a file and writes it again. The copies of the golden checkpoints, and of files made
here with every element type and layout, in both formats of torch.save, must open with
torch.load(weights_only=True), also memory-mapped, and hold the same values, containers and ties.
"""

import argparse
import collections
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings


def needed_libraries(library):
    dynamic = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True)
    return re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic.stdout)


def import_torch(wheel, folder):
    """Imports torch from a GPU wheel without the CUDA libraries it is linked to.

    Nothing here runs on a GPU, so empty libraries stand in for those that are not installed: the
    loader is content, because functions are looked up when they are first called.
    """
    libraries = wheel / "torch" / "lib"
    installed = {path.name for path in wheel.glob("nvidia/**/*.so*")}
    installed |= {path.name for path in libraries.iterdir()}
    for library in ("libtorch_python.so", "libtorch_cuda.so", "libtorch_nvshmem.so"):
        if not (libraries / library).exists():
            continue
        for name in needed_libraries(libraries / library):
            if name in installed or name.startswith("ld-linux"):
                continue
            try:
                ctypes.CDLL(name)
            except OSError:
                stub = folder / name
                subprocess.run(
                    ["cc", "-shared", "-x", "c", os.devnull, "-o", stub, f"-Wl,-soname,{name}"], check=True
                )
                ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)
    sys.setdlopenflags(os.RTLD_LAZY)
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    sys.path.insert(0, str(wheel))
    # Where deploy/install-deps.sh puts what the wheel's Python side needs.
    environment = os.environ
    caches = pathlib.Path(environment.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    sys.path.append(str(pathlib.Path(environment.get("ALBEF_CACHE") or caches / "albef") / "python-packages"))
    try:
        import torch
    except ModuleNotFoundError as error:
        sys.exit(f"torch needs the Python package {error.name}: run deploy/install-deps.sh")
    return torch


def raw(torch, tensor):
    """The bits, so that NaN and -0.0 count."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def compare(torch, actual, expected, place):
    if isinstance(expected, torch.Tensor):
        # A parameter comes back as a tensor.
        same = (
            isinstance(actual, torch.Tensor)
            and actual.dtype == expected.dtype
            and actual.shape == expected.shape
            and actual.requires_grad == expected.requires_grad
            and actual.device.type == "cpu"
            and actual.is_contiguous()
            and torch.equal(raw(torch, actual), raw(torch, expected))
        )
        if not same:
            sys.exit(f"{place}: {actual!r} is not {expected!r}")
        if actual.untyped_storage().nbytes() != actual.numel() * actual.element_size():
            sys.exit(f"{place}: its storage holds more than the tensor")
    elif type(actual) is not type(expected):
        sys.exit(f"{place}: {type(actual)} is not {type(expected)}")
    elif isinstance(expected, dict):
        if list(actual) != list(expected):
            sys.exit(f"{place}: keys {list(actual)} are not {list(expected)}")
        for key in expected:
            compare(torch, actual[key], expected[key], f"{place}[{key!r}]")
        if isinstance(expected, collections.OrderedDict):
            compare(torch, vars(actual), vars(expected), f"{place}.__dict__")
    elif isinstance(expected, (list, tuple)):
        if len(actual) != len(expected):
            sys.exit(f"{place}: {len(actual)} elements instead of {len(expected)}")
        for index, pair in enumerate(zip(actual, expected)):
            compare(torch, *pair, f"{place}[{index}]")
    elif actual != expected:
        sys.exit(f"{place}: {actual!r} is not {expected!r}")


def tensors(torch, value, place=""):
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key in value:
            yield from tensors(torch, value[key], f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, element in enumerate(value):
            yield from tensors(torch, element, f"{place}[{index}]")


def ties(torch, value):
    """Groups of places that hold the same tensor."""
    groups = collections.defaultdict(list)
    for place, tensor in tensors(torch, value):
        if tensor.numel():
            groups[tensor.data_ptr(), tensor.shape, tensor.stride()].append(place)
    return sorted(group for group in groups.values() if len(group) > 1)


def sample(torch):
    """Every element type and layout that can be copied."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 7, generator=generator)
    parameter = torch.nn.Parameter(torch.randn(3, generator=generator))
    dtypes = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64".split()
    model = torch.nn.Linear(3, 2)
    return {
        "dtypes": {name: (10 * weight).to(getattr(torch, name)) for name in dtypes},
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "special": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "model": model.state_dict(),
        "parameter": parameter,
        "tied": [weight, weight],
        "transposed": [weight.t(), weight.t()],
        "column": weight[:, 2],
        "part": weight[1:3],
        "expanded": torch.tensor([7]).expand(2, 3),
        "numbers": [0, -1, 255, 65536, 2**31, 2**40, -(2**63), 2**63 - 1, 0.1, True, False, None],
        "texts": ["", "naïve 😀", "a\n'\""],
        "containers": {"tuple": (1, (2,), ()), "list": [[], [1]], 5: {}, "size": tuple(weight.shape)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=pathlib.Path, required=True, help="folder that holds torch/")
    parser.add_argument("--copier", type=pathlib.Path, required=True, help="the program pth_copy")
    arguments = parser.parse_args()
    goldens = pathlib.Path(os.environ.get("ALBEF_GOLDENS", "tests/golden")) / "pretrain"

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        torch = import_torch(arguments.wheel, folder)
        files = [goldens / "checkpoint_01.pth", goldens / "checkpoint_old.pth"]
        for zip_format in (True, False):
            files.append(folder / f"sample_{zip_format}.pth")
            torch.save(sample(torch), files[-1], _use_new_zipfile_serialization=zip_format)
        copy = folder / "copy.pth"
        for file in files:
            subprocess.run([arguments.copier, file, copy], check=True)
            expected = torch.load(file, weights_only=True)
            for mmap in (False, True):
                actual = torch.load(copy, weights_only=True, mmap=mmap)
                place = f"{file.name}{' mmap' if mmap else ''}: "
                compare(torch, actual, expected, place)
                if ties(torch, actual) != ties(torch, expected):
                    sys.exit(f"{place}: tied tensors are {ties(torch, actual)}, not {ties(torch, expected)}")
            print(f"{file.name}: {sum(1 for _ in tensors(torch, expected))} tensors, "
                  f"{len(ties(torch, expected))} ties")


if __name__ == "__main__":
    main()
