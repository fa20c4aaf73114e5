#!/usr/bin/env python3
"""Prints how a run's losses fell and its retrieval recall against chance.

Usage: summarize_run.py RUN_DIR

Reads metrics.jsonl and events.jsonl. Exits with 1 when there is nothing to show, a loss did not
fall, or recall is not above chance.
"""

import json
import pathlib
import sys

LOSSES = ("loss_itc", "loss_itm", "loss_mlm", "loss")
# Single steps are noisy; so many logged steps at each end are averaged.
WINDOW = 10


def read_lines(path):
    """The objects of a .jsonl file; a last line that is still being written is left out."""
    objects = []
    if not path.exists():
        return objects
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return objects


def mean(rows, key):
    values = [row[key] for row in rows if isinstance(row.get(key), (int, float))]
    return sum(values) / len(values) if values else float("nan")


def print_losses(rows):
    """Whether every loss fell."""
    window = max(1, min(WINDOW, len(rows) // 2))
    first, last = rows[:window], rows[-window:]
    print(f"steps {rows[0]['step']} to {rows[-1]['step']}, "
          f"means of the first and last {window} logged steps:")
    fell = True
    for key in LOSSES:
        before, after = mean(first, key), mean(last, key)
        fell = fell and after < before
        print(f"  {key:9} {before:8.4f} -> {after:8.4f}")
    return fell


def print_recall(evaluation):
    """Whether recall is above chance in both directions, by both scores."""
    print(f"retrieval, {evaluation['num_images']} images and "
          f"{evaluation['num_texts']} captions, recall in %:")
    print(f"  {'':14} {'':7} {'R@1':>6} {'R@5':>6} {'R@10':>6}")
    above = True
    for direction in ("image_to_text", "text_to_image"):
        scores = evaluation[direction]
        for name in ("chance", "itc", "itm"):
            recall = scores[name]
            above = above and (name == "chance" or recall["at_10"] > scores["chance"]["at_10"])
            cells = " ".join(f"{100 * recall[k]:6.1f}" for k in ("at_1", "at_5", "at_10"))
            print(f"  {direction:14} {name:7} {cells}")
    return above


def main(arguments):
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stderr)
        return 64
    run = pathlib.Path(arguments[0])
    # After a fall-back to an older checkpoint a step appears twice: its last line counts.
    by_step = {row["step"]: row for row in read_lines(run / "metrics.jsonl") if "step" in row}
    rows = [by_step[step] for step in sorted(by_step)]
    evaluations = [event for event in read_lines(run / "events.jsonl") if "image_to_text" in event]
    problems = []
    if not rows:
        problems.append(f"{run}/metrics.jsonl holds no step")
    elif not print_losses(rows):
        problems.append("a loss did not fall")
    if not evaluations:
        problems.append(f"{run}/events.jsonl holds no evaluation")
    elif not print_recall(evaluations[-1]):
        problems.append("recall is not above chance")
    for problem in problems:
        print(f"summarize_run: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
