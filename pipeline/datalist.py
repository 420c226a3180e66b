"""Lists of samples for the bundles: the training layout, and what to run inference on.

Layout: `images/ID.nii.gz`, `segmentations/ID_seg.nii.gz`, `landmarks/ID.csv`, `train.txt`, `val.txt`.
"""

from __future__ import annotations

from pathlib import Path

from .images import find_scans, scan_name


def read_split(dataset_dir: str, split: str, repeat: int = 1) -> list[dict[str, str]]:
    """Return the samples of `train.txt` or `val.txt`: paths `image`, `label`, `landmarks_mm`, and the ID.

    The ID goes under the key where MONAI looks for a name (`filename_or_obj`), so that metric tables state it.

    Args:
        dataset_dir: the data folder.
        split: "train" or "val".
        repeat: how often every scan is listed: the number of random windows taken from it per epoch.

    Raises:
        ValueError: the list is missing or empty, names a scan twice, or a file of a scan is missing.
    """
    folder = Path(dataset_dir)
    listing = folder / f"{split}.txt"
    if not listing.is_file():
        raise ValueError(f"{listing}: not found; expected one scan ID a line")
    names = listing.read_text().split()
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{listing}: {'no scan ID' if not names else 'a scan ID appears twice'}")
    samples = []
    for name in names:
        files = {
            "image": folder / "images" / f"{name}.nii.gz",
            "label": folder / "segmentations" / f"{name}_seg.nii.gz",
            "landmarks_mm": folder / "landmarks" / f"{name}.csv",
        }
        for path in files.values():
            if not path.is_file():
                raise ValueError(f"{path}: not found, but {listing} names {name}")
        samples.append({"filename_or_obj": name} | {key: str(path) for key, path in files.items()})
    return samples * repeat


def inference_samples(image: str, prior: str = "", prior_key: str = "", suffix: str = "") -> list[dict[str, str]]:
    """Return one sample per scan, with what the stage before found.

    Args:
        image: a scan, or a folder of scans.
        prior: the earlier stage's file, or the folder that holds `NAME` + `suffix` for every scan; "" = none.
        prior_key: sample key of the prior.
        suffix: what follows the scan's name in such a folder.
    """
    samples = []
    for path in find_scans(Path(image)):
        sample = {"image": str(path)}
        if prior:
            found = Path(prior) / f"{scan_name(path)}{suffix}" if Path(prior).is_dir() else Path(prior)
            if not found.is_file():
                raise ValueError(f"{found}: not found; it should hold {prior_key} of {path}")
            sample[prior_key] = str(found)
        samples.append(sample)
    return samples
