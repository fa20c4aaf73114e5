#!/usr/bin/env python3
"""Makes the image fixtures in this folder: drawn pictures, and what the libraries that the authors
of ALBEF used make of them.

    pip install pillow==9.5.0 opencv-python-headless==4.6.0.66 numpy==1.24.4
    python3 make.py

Other versions give other pixels (Pillow's order of resize passes, OpenCV's interpolation). The layout
is that of the larger fixtures with photographs: JSON files that name tensors, `file:key`.
"""
import io
import json
import math
import pathlib
import struct
import zlib

import cv2
import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageFile, ImageOps

assert PIL.__version__ == "9.5.0" and cv2.__version__ == "4.6.0" and np.__version__ == "1.24.4"

ImageFile.LOAD_TRUNCATED_IMAGES = True
FOLDER = pathlib.Path(__file__).parent
ENCODED = FOLDER / "encoded"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
SIDE = 16  # of the network's input in these fixtures


def save_tensors(name, tensors):
    kinds = {"uint8": "U8", "int32": "I32", "float32": "F32"}
    header, data = {}, b""
    for key, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        array = np.ascontiguousarray(array)
        header[key] = {"dtype": kinds[str(array.dtype)], "shape": list(array.shape),
                       "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (FOLDER / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def save_json(name, value):
    (FOLDER / name).write_text(json.dumps(value, indent=1) + "\n")


def scene(height, width, seed):
    """Smooth colours, discs and stripes with a little noise: edges, flats and gradients."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([200 * x / width, 220 * y / height, 255 * (x + y) / (height + width)], -1)
    for _ in range(5):
        cy, cx, r = random.uniform(0, height), random.uniform(0, width), random.uniform(3, height / 3)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = random.uniform(0, 255, 3)
    picture[:, width // 3:width // 3 + 4] = 255 * ((y[:, :4] // 3) % 2)[..., None]
    return np.clip(picture + random.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def inputs():
    random = np.random.default_rng(7)
    checker = (np.indices((31, 37)).sum(0) % 2 * 255).astype(np.uint8)
    return {
        "rgb.scene": scene(52, 40, 1),
        "rgb.wide": scene(23, 70, 2),
        "rgb.same": scene(SIDE, SIDE, 3),
        "rgb.noise": random.integers(0, 256, (29, 33, 3), dtype=np.uint8),
        "rgb.checker": np.repeat(checker[..., None], 3, 2),
        "rgb.line": scene(20, 50, 4)[2:3],
        "rgb.one": np.array([[[17, 130, 251]]], np.uint8),
    }


def resize(array, height, width):
    return np.asarray(Image.fromarray(array).resize((width, height), Image.BICUBIC))


def make_resize(pictures):
    save_tensors("inputs.safetensors", pictures)
    outputs = {}
    for key, array in pictures.items():
        outputs[f"out{SIDE}.{key[4:]}"] = resize(array, SIDE, SIDE)
    for height, width in [(52, 19), (11, 40), (90, 33), (1, 1)]:
        outputs[f"out{height}x{width}.scene"] = resize(pictures["rgb.scene"], height, width)
    save_tensors("resize.safetensors", outputs)

    random = np.random.default_rng(11)
    cases, crops = [], []
    for i in range(14):
        name = ["rgb.scene", "rgb.wide", "rgb.noise"][i % 3]
        full_height, full_width = pictures[name].shape[:2]
        height, width = int(random.integers(1, full_height + 1)), int(random.integers(1, full_width + 1))
        top, left = int(random.integers(0, full_height - height + 1)), int(random.integers(0, full_width - width + 1))
        cases.append({"image": name, "top": top, "left": left, "height": height, "width": width})
        crops.append(resize(pictures[name][top:top + height, left:left + width], SIDE, SIDE))
    save_json("crop_resize.json", {"cases": cases})
    save_tensors("crop_resize.safetensors", {"out": np.stack(crops)})


def warp(array, matrix):
    return cv2.warpAffine(array, np.float64(matrix), (array.shape[1], array.shape[0]),
                          flags=cv2.INTER_LINEAR, borderValue=(128, 128, 128))


def official_autocontrast(array):
    channels = []
    for channel in cv2.split(array):
        low, high = channel.min(), channel.max()
        if low < high:
            scale = 255.0 / (int(high) - int(low))
            with np.errstate(over="ignore"):
                offset = -low * scale  # `low` is uint8: its negation wraps
            channel = np.clip(np.arange(256) * scale + offset, 0, 255).astype(np.uint8)[channel]
        channels.append(channel)
    return cv2.merge(channels)


def official_sharpness(array):
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = cv2.filter2D(array, -1, kernel / 13)
    out = array.copy()
    inner = (slice(1, -1), slice(1, -1))
    blended = smooth[inner].astype(np.float32) + np.float32(1.36) * (
        array[inner].astype(np.float32) - smooth[inner].astype(np.float32))
    out[inner] = blended.astype(np.int32).astype(np.uint8)  # wraps
    return out


def augment(array, op, kind):
    picture, sign = Image.fromarray(array), -1 if kind == "neg" else 1
    height, width = array.shape[:2]
    if op == "Identity":
        return array
    if op == "AutoContrast":
        if kind == "official":
            return official_autocontrast(array)
        return np.asarray(ImageOps.autocontrast(picture))
    if op == "Equalize":
        return np.asarray(ImageOps.equalize(picture))
    if op == "Brightness":
        return np.asarray(ImageEnhance.Brightness(picture).enhance(1.36))
    if op == "Sharpness":
        if kind == "official":
            return official_sharpness(array)
        return np.asarray(ImageEnhance.Sharpness(picture).enhance(1.36))
    shear = sign * np.float32(0.21)
    if op == "ShearX":
        return warp(array, [[1, shear, 0], [0, 1, 0]])
    if op == "ShearY":
        return warp(array, [[1, 0, 0], [shear, 1, 0]])
    if op == "TranslateX":
        return warp(array, [[1, 0, -7 * sign], [0, 1, 0]])
    if op == "TranslateY":
        return warp(array, [[1, 0, 0], [0, 1, -7 * sign]])
    return warp(array, cv2.getRotationMatrix2D((width / 2, height / 2), 21 * sign, 1))


def make_randaugment():
    shifted = (scene(20, 23, 5).astype(np.float32) * 0.6 + 40).astype(np.uint8)
    shifted[..., 1] = 90
    sources = {"in.scene": scene(19, 24, 6), "in.shifted": shifted}
    tensors, cases = dict(sources), []
    for key, array in sources.items():
        for op, kinds in [("AutoContrast", ["official", "corrected"]), ("Equalize", ["official"]),
                          ("Brightness", ["official"]), ("Sharpness", ["official", "corrected"]),
                          *[(op, ["pos", "neg"]) for op in
                            ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")]]:
            for kind in kinds:
                out = augment(array, op, kind)
                name = f"out.{op}.{kind}.{key[3:]}"
                tensors[name] = out
                cases.append({"op": op, "kind": kind, "input": f"randaugment.safetensors:{key}",
                              "height": out.shape[0], "width": out.shape[1],
                              "crc32": zlib.crc32(out.tobytes()), "expected": name})
    save_json("randaugment.json", {"cases": cases})
    save_tensors("randaugment.safetensors", tensors)


def normalise(array):
    scaled = array.astype(np.float32) / np.float32(255)
    return ((scaled - np.float32(MEAN)) / np.float32(STD)).astype(np.float32).transpose(2, 0, 1)


def make_pipeline(pictures):
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    tensors = {"normalize.in": pictures["rgb.same"], "normalize.out": normalise(pictures["rgb.same"]),
               "normalize.ramp_in": ramp, "normalize.ramp_out": normalise(ramp)}
    cases = []
    chains = [(True, ("Sharpness", True, False), ("Rotate", True, True)),
              (False, ("AutoContrast", True, False), ("Equalize", True, False)),
              (True, ("TranslateX", True, True), ("AutoContrast", False, False)),
              (False, ("Brightness", True, False), ("Sharpness", True, False))]
    for i, (flip, *ops) in enumerate(chains):
        image, (top, left, height, width) = "rgb.scene", (3 + i, 2 * i, 40 - i, 27 + i)
        start = resize(pictures[image][top:top + height, left:left + width], SIDE, SIDE)
        start = np.ascontiguousarray(start[:, ::-1]) if flip else start
        results = {}
        for compat in ("official", "corrected"):
            array = start
            for op, applied, negative in ops:
                kind = ("neg" if negative else "pos") if op[:5] in ("Shear", "Trans", "Rotat") else compat
                array = augment(array, op, kind) if applied else array
            results[compat] = array
        names = {"crop_flip": f"case{i}.crop_flip", "augmented": f"case{i}.augmented", "final": f"case{i}.final"}
        tensors.update({names["crop_flip"]: start, names["augmented"]: results["official"],
                        names["final"]: normalise(results["official"])})
        corrected = None
        if (results["official"] != results["corrected"]).any():
            corrected = f"case{i}.augmented_corrected"
            tensors[corrected] = results["corrected"]
        cases.append({"image": image, "top": top, "left": left, "height": height, "width": width,
                      "flip": flip, "corrected": corrected, **names,
                      "ops": [{"op": op, "applied": applied, "negative": negative}
                              for op, applied, negative in ops]})
    save_json("pipeline.json", {"out_size": SIDE, "mean": MEAN, "std": STD, "cases": cases})
    save_tensors("pipeline.safetensors", tensors)


def make_crop_params(draws=40000):
    """Statistics of the sampler of random resized crops, written down here a second time."""
    random = np.random.default_rng(13)
    percents = ["1", "5", "25", "50", "75", "95", "99"]
    cases = []
    for full_height, full_width, scale in [(375, 500, [0.2, 1.0]), (300, 640, [0.5, 1.0]), (900, 100, [0.2, 1.0])]:
        ratio = [3 / 4, 4 / 3]
        if full_width / full_height < ratio[0]:
            size = round(full_width / ratio[0]), full_width
        elif full_width / full_height > ratio[1]:
            size = full_height, round(full_height * ratio[1])
        else:
            size = full_height, full_width
        fallback = [(full_height - size[0]) // 2, (full_width - size[1]) // 2, *size]
        boxes = []
        for _ in range(draws):
            box = fallback
            for _ in range(10):
                area = full_height * full_width * random.uniform(*scale)
                aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
                width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if 0 < width <= full_width and 0 < height <= full_height:
                    box = [random.integers(0, full_height - height + 1),
                           random.integers(0, full_width - width + 1), height, width]
                    break
            boxes.append(box)
        top, left, height, width = np.array(boxes, np.float64).T
        case = {"image_height": full_height, "image_width": full_width, "scale": scale, "ratio": ratio, "draws": draws}
        for name, values in [("area_fraction", height * width / full_height / full_width),
                             ("log_ratio_w_over_h", np.log(width / height)), ("height", height),
                             ("width", width), ("top", top), ("left", left)]:
            quantiles = np.percentile(values, [float(p) for p in percents], method="lower")
            case[name] = {"mean": values.mean(), "std": values.std(), "quantiles": dict(zip(percents, quantiles))}
        case["fallback_box"] = fallback
        case["fallback_box_share"] = float(np.mean([list(box) == fallback for box in boxes]))
        cases.append(case)
    save_json("crop_params.json", cases)


def cut(content):
    return content[:len(content) * 2 // 3]


def encode(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def png(width, height, depth, color, rows, interlace=0, chunks=()):
    """A PNG of raw rows, for what Pillow does not write."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))
            + b"".join(chunk(*c) for c in chunks)
            + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))


def interlaced_png(array):
    rows = []
    for y0, x0, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]:
        part = array[y0::dy, x0::dx]
        rows += [row.tobytes() for row in part] if part.size else []
    return png(array.shape[1], array.shape[0], 8, 2, rows, interlace=1)


def bmp(width, height, bits, rows, palette=b"", header_bytes=40):
    rows = b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    if header_bytes == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette) // 4, 0)
    offset = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset) + header + palette + rows


def gif_with_offset(indices, palette, canvas, left, top, transparent):
    """A GIF whose first picture does not cover its screen."""
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette)
    data = encode(picture, "GIF", interlace=0)
    start = data.rindex(b"\x2c\0\0\0\0")
    control = b"\x21\xf9\x04" + bytes([1 if transparent is not None else 0, 0, 0, transparent or 0, 0])
    return (b"GIF89a" + struct.pack("<HH", *canvas) + data[10:13 + 3 * (2 << (data[10] & 7))] + control
            + b"\x2c" + struct.pack("<HH", left, top) + data[start + 5:])


def encoded_files():
    array = scene(18, 25, 21)
    height, width = array.shape[:2]
    rgb = Image.fromarray(array)
    gray, palette, rgba = rgb.convert("L"), rgb.quantize(60), rgb.copy()
    y, x = np.mgrid[0:height, 0:width]
    rgba.putalpha(Image.fromarray(((x * 9 + y * 5) % 256).astype(np.uint8)))
    gray16 = (np.asarray(gray).astype(np.uint16) * 257 // 3)
    big = Image.fromarray(scene(42, 50, 22))
    files = {
        # WebP, which the larger fixtures lack.
        "lossy.webp": encode(rgb, "WEBP", quality=70),
        "lossless.webp": encode(rgb, "WEBP", lossless=True),
        "lossy_alpha.webp": encode(rgba, "WEBP", quality=70, exact=True),
        "lossless_alpha.webp": encode(rgba, "WEBP", lossless=True, exact=True),
        "gray.webp": encode(gray, "WEBP", quality=80),
        "one.webp": encode(rgb.crop((3, 3, 4, 4)), "WEBP"),
        "animated.webp": encode(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)], quality=60),
        "420.jpg": encode(rgb, "JPEG", quality=75),
        "422.jpg": encode(rgb, "JPEG", quality=85, subsampling=1),
        "444.jpg": encode(rgb, "JPEG", quality=92, subsampling=0),
        "gray.jpg": encode(gray, "JPEG"),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG", quality=90),
        "restart.jpg": encode(rgb, "JPEG", restart_marker_blocks=2),
        "truncated.jpg": cut(encode(big, "JPEG", quality=80)),
        "truncated_progressive.jpg": cut(encode(big, "JPEG", quality=80, progressive=True)),
        "rgb.png": encode(rgb, "PNG"),
        "rgba.png": encode(rgba, "PNG"),
        "gray.png": encode(gray, "PNG"),
        "gray_alpha.png": encode(rgba.convert("LA"), "PNG"),
        "bilevel.png": encode(rgb.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette4.png": encode(rgb.quantize(11), "PNG", bits=4),
        "palette_trns.png": encode(palette, "PNG", transparency=bytes(range(0, 240, 4))),
        "gray16.png": encode(Image.fromarray(gray16.astype(np.int32), "I"), "PNG"),
        "gray2.png": png(9, 3, 2, 0, [b"\x1b\xe4\x40", b"\xff\x00\x80", b"\x55\xaa\xc0"]),
        "gray_alpha16.png": png(3, 2, 16, 4, [bytes(range(12)), bytes(range(200, 212))]),
        "rgb16.png": png(2, 2, 16, 2, [bytes(range(0, 240, 20)), bytes(range(9, 249, 20))]),
        "interlaced.png": interlaced_png(array),
        "interlaced_small.png": interlaced_png(array[:3, :2]),
        # Indices beyond the palette's three colours.
        "palette_short.png": png(8, 1, 8, 3, [bytes([0, 1, 2, 3, 4, 100, 254, 255])],
                                 chunks=[(b"PLTE", bytes(range(10, 100, 10)))]),
        "truncated.png": cut(encode(big, "PNG")),
        "truncated_palette.png": cut(encode(palette, "PNG")),
        "palette.gif": encode(palette, "GIF", interlace=0),
        "interlaced.gif": encode(palette, "GIF", interlace=1),
        "gray.gif": encode(gray, "GIF"),
        "truncated.gif": cut(encode(big.quantize(60), "GIF", interlace=0)),
        "rgb.bmp": encode(rgb, "BMP"),
        "gray.bmp": encode(gray, "BMP"),
        "bilevel.bmp": encode(rgb.convert("1"), "BMP"),
        "palette4.bmp": bmp(5, 2, 4, [b"\x01\x23\x40", b"\x43\x21\x00"], bytes(range(0, 200, 10))),
        "rgbx.bmp": bmp(3, 2, 32, [bytes(range(12)), bytes(range(100, 112))]),
        "top_down.bmp": bmp(3, -2, 24, [bytes(range(9)), bytes(range(100, 109))]),
        "os2.bmp": bmp(5, 2, 1, [b"\xa8", b"\x50"], bytes([1, 2, 3, 200, 100, 50]), header_bytes=12),
        "truncated.bmp": cut(encode(rgb, "BMP")),
    }
    indices, colors = np.asarray(palette)[:10, :12], palette.getpalette()[:180]
    files["offset.gif"] = gif_with_offset(indices, colors, (20, 15), 5, 3, None)
    files["offset_transparent.gif"] = gif_with_offset(indices, colors, (20, 15), 5, 3, 7)
    files["beyond_screen.gif"] = gif_with_offset(indices, colors, (8, 8), 2, 1, 7)
    return files, gray16


def make_encoded():
    ENCODED.mkdir(exist_ok=True)
    files, gray16 = encoded_files()
    cases, tensors = [], {}
    for name, content in sorted(files.items()):
        (ENCODED / name).write_bytes(content)
        picture = Image.open(io.BytesIO(content))
        mode = picture.mode
        array = np.asarray(picture.convert("RGB"))
        tensors[f"rgb.{name}"] = array
        case = {"file": name, "pillow_mode": mode, "height": array.shape[0], "width": array.shape[1],
                "rgb": f"to_rgb.safetensors:rgb.{name}"}
        if name == "gray16.png":
            tensors["corrected.gray16.png"] = np.repeat((gray16 >> 8).astype(np.uint8)[..., None], 3, 2)
            case["corrected"] = "to_rgb.safetensors:corrected.gray16.png"
        cases.append(case)
    save_json("to_rgb.json", cases)
    save_tensors("to_rgb.safetensors", tensors)


if __name__ == "__main__":
    all_inputs = inputs()
    make_resize(all_inputs)
    make_randaugment()
    make_pipeline(all_inputs)
    make_crop_params()
    make_encoded()
