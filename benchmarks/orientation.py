"""How often `vertebrae check` finds out that a scan is stored in a wrong orientation, and doubts a right one.

python -m benchmarks.orientation DIR        # scans that are stored rightly: a folder, a list or a pattern
"""

from __future__ import annotations

import argparse

from pipeline import VertebraePipeline, read_scan
from pipeline.sources import find_sources
from pipeline.triage import TURNS, better_turn, find_turned

RIGHT = "as stated"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans")
    pipeline, said = VertebraePipeline(), list[str]()
    for source in find_sources(parser.parse_args().scans):
        found = find_turned(pipeline, read_scan(source.path))
        evidence = {name: sum(value for _, value in vertebrae) for name, vertebrae in found.items()}
        # A scan stored in a turn is right again under the same turn, and then has the evidence of the right one.
        said += [better_turn(evidence, stated) for stated in TURNS]
        others = [value for name, value in evidence.items() if name != RIGHT]
        print(
            f"{source.name:<28} next best {max(others) / max(evidence[RIGHT], 1e-6):.2f} of the right one", flush=True
        )
    count, wrong = len(said) // len(TURNS), len(TURNS) - 1
    right = sum(turn == RIGHT for turn in said[:: len(TURNS)])
    turned = sum(turn == RIGHT for turn in said) - right
    print(f"{count} scans: {right} not doubted as they are; {turned} of {wrong * count} found out when turned")


if __name__ == "__main__":
    main()
