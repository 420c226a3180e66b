"""One scan through `vertebrae`, step by step, in a process of its own.

    python -m benchmarks.speed.ours SCAN OUTPUT [--float32 | --eager]

Prints one JSON document. `--eager` runs the networks as they were trained: float32, norms apart, every level.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def measure(scan_path: Path, output_dir: Path, *, float32: bool = False, eager: bool = False) -> dict[str, Any]:
    """Segment one scan and return what it cost; times in seconds, memory in GB of 10^9 bytes."""
    begun = time.perf_counter()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command does
    from pipeline import VertebraePipeline, engines, read_scan, stage
    from pipeline.level_unet import LevelUNet
    from pipeline.memory import forecast_gb
    from pipeline.results import write_result
    from pipeline.run import STAGES, Result

    from .steps import Multiplications, Steps, watched

    if float32 or eager:
        engines.has_fast_bfloat16 = lambda device: False
    if eager:
        stage.fold_batch_norm, LevelUNet.any_levels = (lambda network: None), False
    steps = Steps()
    with steps("start"):
        pipeline = VertebraePipeline("cpu")
        counters = {name: Multiplications(getattr(pipeline, name).network) for name in STAGES}
    steps.seconds["start"] = time.perf_counter() - begun  # with the imports
    with watched(steps):
        with steps("read"):
            scan = read_scan(scan_path)
        with steps("spine_loc"):
            box_mm = pipeline.find_spine(scan)
        with steps("vert_loc"):
            labelling = pipeline.find_vertebrae(scan, box_mm)
        with steps("vert_seg"):
            labels = pipeline.segment(scan, labelling.landmarks_mm)
        with steps("write"):
            result = Result(scan, box_mm, labelling, labels)
            write_result(result, output_dir, pipeline.versions)
    return {
        "seconds": dict(steps.seconds),
        "peaks_gb": steps.peaks_gb,
        "end_to_end": time.perf_counter() - begun,
        "forecast_gb": forecast_gb(scan.array.shape, scan.array.dtype),
        "voxel_bytes": scan.array.nbytes,
        "bfloat16": engines.has_fast_bfloat16(pipeline.vert_seg.device),
        "multiplications": {name: counter.count for name, counter in counters.items()},
        "windows": counters["vert_seg"].calls,
        "vertebrae": [vertebra.name for vertebra in labelling.vertebrae],
        "spine_box_mm": box_mm.tolist(),
    }


if __name__ == "__main__":
    options = {name: f"--{name}" in sys.argv[3:] for name in ("float32", "eager")}
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]), **options)))
