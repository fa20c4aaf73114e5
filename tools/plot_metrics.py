#!/usr/bin/env python3
"""Draws the losses of one or more runs as an SVG picture, with nothing but the standard library.

    tools/plot_metrics.py RUN_DIR [RUN_DIR …] --output losses.svg

Reads RUN_DIR/metrics.jsonl (the last line of a step counts), smooths each loss with a centred mean and
draws one panel per objective.
"""
import argparse
import json
import pathlib
import sys

PANELS = [("loss_mlm", "masked language modelling"), ("loss_itc", "image-text contrast"),
          ("loss_itm", "image-text matching")]
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"]
WIDTH, HEIGHT, MARGIN, GAP = 330, 240, 52, 14


def read_metrics(run_dir):
    rows = {}
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows[row["step"]] = row
    if not rows:
        sys.exit(f"{path}: no metrics yet")
    return [rows[step] for step in sorted(rows)]


def smooth(values, reach):
    out = []
    for i in range(len(values)):
        window = values[max(0, i - reach):i + reach + 1]
        out.append(sum(window) / len(window))
    return out


def ticks(low, high, count=5):
    raw = (high - low) / count or 1.0
    magnitude = 10.0 ** len(str(int(raw))) / 10 if raw >= 1 else 1.0
    while magnitude > raw:
        magnitude /= 10
    step = next(magnitude * m for m in (1, 2, 5, 10) if magnitude * m >= raw)
    first = int(low / step) * step
    return [t for t in (first + i * step for i in range(count + 3)) if low <= t <= high]


def panel(runs, key, title, left):
    series = []
    for rows in runs:
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        reach = max(1, len(points) // 60)
        steps = [p[0] for p in points]
        series.append((steps, [p[1] for p in points], smooth([p[1] for p in points], reach)))
    steps = [s for line in series for s in line[0]]
    values = [v for line in series for v in line[2]]
    x0, x1 = min(steps), max(max(steps), min(steps) + 1)
    y0, y1 = min(values), max(values)
    y0, y1 = y0 - 0.05 * (y1 - y0 or 1), y1 + 0.05 * (y1 - y0 or 1)

    def x(step):
        return left + MARGIN + (step - x0) / (x1 - x0) * (WIDTH - MARGIN - GAP)

    def y(value):
        clipped = min(max(value, y0), y1)
        return 30 + (y1 - clipped) / (y1 - y0) * (HEIGHT - 70)

    out = [f'<text x="{left + WIDTH / 2:.1f}" y="18" text-anchor="middle">{title}</text>']
    for tick in ticks(y0, y1):
        out.append(f'<line x1="{x(x0):.1f}" x2="{x(x1):.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
                   'stroke="#ddd"/>')
        out.append(f'<text x="{x(x0) - 5:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end" '
                   f'font-size="11">{tick:g}</text>')
    for tick in ticks(x0, x1, 4):
        out.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 24}" text-anchor="middle" '
                   f'font-size="11">{tick:g}</text>')
    out.append(f'<text x="{(x(x0) + x(x1)) / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle" '
               'font-size="11">step</text>')
    for (line_steps, raw, smoothed), colour in zip(series, COLOURS):
        for data, opacity, width in ((raw, 0.2, 1), (smoothed, 1, 2)):
            coordinates = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(line_steps, data))
            out.append(f'<polyline points="{coordinates}" fill="none" stroke="{colour}" '
                       f'stroke-opacity="{opacity}" stroke-width="{width}"/>')
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", nargs="+")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    runs = [read_metrics(run_dir) for run_dir in arguments.run_dir]
    total = WIDTH * len(PANELS)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{HEIGHT}" '
           'font-family="sans-serif" font-size="13">', '<rect width="100%" height="100%" fill="white"/>']
    for i, (key, title) in enumerate(PANELS):
        out += panel(runs, key, title, i * WIDTH)
    out.append("</svg>")
    pathlib.Path(arguments.output).write_text("\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
