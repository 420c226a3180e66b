"""Average weights of one network, such as those of several runs, into one file in half precision.

    python -m benchmarks.average mean.pt runs/a/model.pt runs/b/resume_checkpoint_8.pt:2
    python -m benchmarks.average mean.pt new.pt old.pt --only local

A number after a colon says how often a file counts. Of a resume checkpoint the running average is taken. `--only` takes
the mean of the weights whose names begin so, and the first file's of all others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pipeline.stage import write_weights


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a file; `ValueError` if it has none."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not a checkpoint
        raise ValueError(f"{path}: not a checkpoint: {str(error).splitlines()[0]}") from error
    state = stored.get("ema", stored.get("model", stored))
    if not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"{path}: holds other things than weights: {', '.join(map(str, state))}")
    return state


def average(parts: list[tuple[Path, float]], only: str = "") -> dict[str, torch.Tensor]:
    """Return the mean of the weights in some files, each counted as often as stated.

    Integers, and weights whose names do not begin with `only`, are the first file's.

    Raises:
        ValueError: a file holds no weights, or those of another network than the first.
    """
    first_path, total = parts[0][0], sum(times for _, times in parts)
    first = read_state(first_path)
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in first.items()}
    for path, times in parts:
        state = read_state(path)
        if {name: value.shape for name, value in state.items()} != {name: s.shape for name, s in sums.items()}:
            raise ValueError(f"{path}: another network than that of {first_path}")
        for name, value in state.items():
            sums[name] += times / total * value.double()
    mixed = {name for name, value in first.items() if value.is_floating_point() and name.startswith(only)}
    return {name: sums[name].to(value.dtype) if name in mixed else value for name, value in first.items()}


def _part(text: str) -> tuple[Path, float]:
    path, colon, times = text.rpartition(":")
    return (Path(path), float(times)) if colon else (Path(text), 1.0)


def main() -> None:
    """Average and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("parts", type=_part, nargs="+", metavar="FILE[:TIMES]")
    parser.add_argument("--only", default="", metavar="NAME", help="of which weights, such as local (default: all)")
    arguments = parser.parse_args()
    try:
        write_weights(average(arguments.parts, arguments.only), arguments.target)
    except ValueError as reason:
        parser.error(str(reason))


if __name__ == "__main__":
    main()
