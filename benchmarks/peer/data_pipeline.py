#!/usr/bin/env python3
"""Times the input pipeline in Python, by stage and whole, beside this project's in the same run.

The same steps as the authors' loader, from the packages that they use: Pillow decodes, torchvision
crops, resizes and flips with Pillow, OpenCV and NumPy augment, torchvision normalises, the BERT
tokenizer of transformers (the one in Python) makes tokens. One process per core, as a DataLoader has.

    python3 -m venv venv
    venv/bin/pip install pillow numpy opencv-python-headless 'transformers<5'
    venv/bin/pip install --no-deps torchvision==0.26.0       # for the torch of deploy/install-deps.sh
    PYTHONPATH=<folder with torch> venv/bin/python benchmarks/peer/data_pipeline.py \\
        --root DIR --annotations train.json --vocab vocab.txt --bin build/release/bin

--make DIR writes a dataset of 500-pixel JPEGs first (photograph-like noise over shapes, quality 90).
"""
import argparse
import io
import json
import multiprocessing
import os
import random
import re
import statistics
import subprocess
import time

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from transformers import BertTokenizer

BATCH = 64
RESOLUTION = 256
MAX_WORDS = 30
MAX_TOKENS = 25
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FILL = (128, 128, 128)
STAGES = ("read", "decode", "crop, resize, flip", "augment", "normalise", "caption")


def auto_contrast(image):
    table = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    for c in range(3):
        channel = image[..., c]
        low, high = int(channel.min()), int(channel.max())
        if low < high:
            scale = 255.0 / (high - low)
            table[c] = np.clip((np.arange(256) - low) * scale, 0, 255).astype(np.uint8)
    return np.stack([table[c][image[..., c]] for c in range(3)], axis=-1)


def equalize(image):
    planes = []
    for c in range(3):
        channel = image[..., c]
        histogram = cv2.calcHist([channel], [0], None, [256], [0, 256]).astype(np.int64).ravel()
        used = histogram[histogram != 0]
        step = int(used[:-1].sum()) // 255
        if step == 0:
            planes.append(channel)
            continue
        below = step // 2 + np.concatenate(([0], np.cumsum(histogram)[:-1]))
        planes.append(np.clip(below // step, 0, 255).astype(np.uint8)[channel])
    return np.stack(planes, axis=-1)


def brightness(image):
    return np.clip(np.arange(256, dtype=np.float32) * 1.36, 0, 255).astype(np.uint8)[image]


def sharpness(image):
    kernel = np.ones((3, 3), dtype=np.float32)
    kernel[1, 1] = 5
    smooth = cv2.filter2D(image, -1, kernel / 13)
    result = image.copy()
    if image.shape[0] > 2 and image.shape[1] > 2:
        inner = smooth[1:-1, 1:-1].astype(np.float32)
        inner = inner + 1.36 * (image[1:-1, 1:-1].astype(np.float32) - inner)
        result[1:-1, 1:-1] = np.clip(inner, 0, 255).astype(np.uint8)
    return result


def warp(image, matrix):
    height, width = image.shape[:2]
    return cv2.warpAffine(image, np.float32(matrix), (width, height), borderValue=FILL,
                          flags=cv2.INTER_LINEAR)


def rotate(image, sign):
    height, width = image.shape[:2]
    return warp(image, cv2.getRotationMatrix2D((width / 2, height / 2), sign * 21, 1))


OPERATIONS = (
    lambda image, sign: image,
    lambda image, sign: auto_contrast(image),
    lambda image, sign: equalize(image),
    rotate,
    lambda image, sign: sharpness(image),
    lambda image, sign: brightness(image),
    lambda image, sign: warp(image, [[1, sign * 0.21, 0], [0, 1, 0]]),
    lambda image, sign: warp(image, [[1, 0, 0], [sign * 0.21, 1, 0]]),
    lambda image, sign: warp(image, [[1, 0, -sign * 7], [0, 1, 0]]),
    lambda image, sign: warp(image, [[1, 0, 0], [0, 1, -sign * 7]]),
)


def augment(picture):
    image = np.array(picture)
    for operation in random.choices(OPERATIONS, k=2):
        if random.random() > 0.5:
            continue
        image = operation(image, 1 if random.random() < 0.5 else -1)
    return image


def clean(caption):
    caption = re.sub(r"([,.'!?\"()*#:;~])", "", caption.lower())
    caption = caption.replace("-", " ").replace("/", " ").replace("<person>", "person")
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:MAX_WORDS])


class Pipeline:
    def __init__(self, root, annotations, vocab):
        with open(os.path.join(root, annotations), encoding="utf-8") as file:
            rows = json.load(file)
        self.rows = [(os.path.join(root, row["image"]), row["caption"]) for row in rows]
        self.geometry = transforms.Compose([
            transforms.RandomResizedCrop(RESOLUTION, scale=(0.2, 1.0),
                                         interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip()])
        self.normalise = transforms.Compose([transforms.ToTensor(),
                                             transforms.Normalize(MEAN, STD)])
        self.tokenizer = BertTokenizer(vocab)
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.pairs = 0

    def run(self, seed, seconds):
        """Whole batches for at least so long; pairs per second."""
        random.seed(seed)
        torch.manual_seed(seed)
        order = list(range(len(self.rows)))
        random.shuffle(order)
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.pairs = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            images, captions = [], []
            for i in range(BATCH):
                path, caption = self.rows[order[(self.pairs + i) % len(order)]]
                images.append(self.image(path))
                captions.append(caption if isinstance(caption, str) else random.choice(caption))
            begin = time.perf_counter()
            self.tokenizer([clean(caption) for caption in captions], padding="longest",
                           truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            self.seconds["caption"] += time.perf_counter() - begin
            begin = time.perf_counter()
            torch.stack(images)
            self.seconds["normalise"] += time.perf_counter() - begin
            self.pairs += BATCH
        return self.pairs / (time.perf_counter() - start)

    def image(self, path):
        times = [time.perf_counter()]
        value = path
        for step in (self.read, self.decode, self.geometry, augment, self.normalise):
            value = step(value)
            times.append(time.perf_counter())
        for stage, begin, end in zip(STAGES, times, times[1:]):
            self.seconds[stage] += end - begin
        return value

    @staticmethod
    def read(path):
        with open(path, "rb") as file:
            return file.read()

    @staticmethod
    def decode(content):
        return Image.open(io.BytesIO(content)).convert("RGB")


def peer_process(arguments, seed, seconds, start, results):
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    pipeline = Pipeline(arguments.root, arguments.annotations, arguments.vocab)
    pipeline.run(seed, 0)
    start.wait()
    rate = pipeline.run(seed, seconds)
    stages = {stage: 1e6 * total / pipeline.pairs for stage, total in pipeline.seconds.items()}
    results.put((rate, stages))


def peer(arguments, processes):
    """Pairs per second of all processes together, and microseconds by stage of one of them."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=peer_process,
                               args=(arguments, seed, arguments.seconds, start, results))
               for seed in range(processes)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(rate for rate, _ in found), found[0][1]


def ours(arguments, threads):
    command = [os.path.join(arguments.bin, "data_stream_benchmark"), "--root", arguments.root,
               "--train-file", arguments.annotations, "--vocab", arguments.vocab,
               "--batch", str(BATCH), "--image-res", str(RESOLUTION), "--threads", str(threads),
               "--prefetch", "4", "--seconds", str(arguments.seconds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r"([0-9.]+) pairs/s", output).group(1))


def our_stages(arguments):
    annotations = os.path.join(arguments.root, arguments.annotations)
    with open(annotations, encoding="utf-8") as file:
        folder = os.path.dirname(os.path.join(arguments.root, json.load(file)[0]["image"]))
    command = [os.path.join(arguments.bin, "image_pipeline"), "--benchmark_format=json",
               "--benchmark_min_time=1", folder, annotations, arguments.vocab]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {row["name"]: row["cpu_time"] / 1000 for row in json.loads(output)["benchmarks"]}


def make(folder, count=400):
    """Pictures of 500 x 375 pixels as a camera's would compress: shapes, shading, fine noise."""
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    generator = np.random.default_rng(1)
    rows = []
    for i in range(count):
        height, width = (375, 500) if i % 3 else (500, 375)
        small = generator.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        for _ in range(12):
            centre = (int(generator.integers(width)), int(generator.integers(height)))
            color = tuple(int(c) for c in generator.integers(0, 256, 3))
            cv2.circle(image, centre, int(generator.integers(10, 90)), color, -1)
        image += generator.normal(0, 6, image.shape)
        name = f"images/{i:05}.jpg"
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(
            os.path.join(folder, name), quality=90)
        rows.append({"image": name, "caption": [
            f"A {color} circle near the old building with {n} people on the beach." for n, color in
            enumerate(("red", "green", "dark blue"))]})
    with open(os.path.join(folder, "train.json"), "w", encoding="utf-8") as file:
        json.dump(rows, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--annotations", default="train.json")
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--make", action="store_true", help="write the dataset in --root first")
    arguments = parser.parse_args()
    arguments.vocab = os.path.abspath(arguments.vocab)  # data_stream_benchmark looks relative ones up in --root
    if arguments.make:
        make(arguments.root)

    stages = []
    for cores in (1, 2):
        peers, own = [], []
        for _ in range(arguments.turns):
            rate, peer_stages = peer(arguments, cores)
            peers.append(rate)
            stages.append(peer_stages)
            own.append(ours(arguments, cores))
        # Training here normalises on the device: the same steps are Python's without that.
        same = [rate / (1 - rate / cores * stage["normalise"] / 1e6)
                for rate, stage in zip(peers, stages[-arguments.turns:])]
        median = statistics.median(own)
        print(f"{cores} thread{'s' * (cores > 1)}: "
              f"ours {median:.0f} pairs/s ({min(own):.0f} to {max(own):.0f}), "
              f"Python {statistics.median(peers):.0f} ({min(peers):.0f} to {max(peers):.0f}), "
              f"{statistics.median(same):.0f} without normalising: "
              f"{median / statistics.median(peers):.1f} and {median / statistics.median(same):.1f} "
              f"times", flush=True)
    print("\nmicroseconds a pair, one thread")
    for stage in STAGES:
        print(f"  Python  {stage:20} {statistics.median(s[stage] for s in stages[:arguments.turns]):8.0f}")
    for stage, microseconds in our_stages(arguments).items():
        print(f"  ours    {stage:20} {microseconds:8.0f}")


if __name__ == "__main__":
    main()
