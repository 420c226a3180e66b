"""What is known of a scan after it was scored: the rows of the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Vertebra:
    """One true vertebra. None = cannot be said: no landmark or no mask on that side.

    Attributes:
        scan: name of the scan.
        name: such as `T4`.
        region: `C`, `T` or `L`.
        view: `complete` or `cut` by the field of view, `unknown` without a mask.
        anomaly: the scan's, see `Scan`.
        spacing: the scan's, see `Scan`.
        called: name of the prediction that lies there (within 20 mm, one to one); "" = nothing lies there.
        error_mm: distance to the prediction of the same name; None = no such prediction.
        hit: identified in strict mode; None = the truth has a mask only.
        hit_organiser: identified in the organisers' mode.
        dice: at 1 mm, 0 if the name is missing.
        hd_mm: Hausdorff distance; this and the next two are None for a missing name.
        hd95_mm: its 95th percentile.
        assd_mm: average symmetric surface distance.
        nsd_1mm: normalized surface Dice at 1 mm, 0 if the name is missing.
        nsd_2mm: at 2 mm.
        nsd_3mm: at 3 mm.
    """

    scan: str
    name: str
    region: str
    view: str
    anomaly: str
    spacing: str
    called: str = ""
    error_mm: float | None = None
    hit: bool | None = None
    hit_organiser: bool | None = None
    dice: float | None = None
    hd_mm: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None
    nsd_1mm: float | None = None
    nsd_2mm: float | None = None
    nsd_3mm: float | None = None


@dataclass
class Scan:
    """One scan with its vertebrae.

    Attributes:
        scan: name of the true scan.
        subject: the patient: scans of one patient are resampled together.
        prediction: name of the prediction; "" = none.
        anomaly: `none`, or such as `T13`, `L6`, `no T12`.
        spacing: largest voxel edge: `up to 1 mm`, `1 to 2 mm` or `above 2 mm`.
        vertebrae: the true ones, head to foot.
        predicted: how many names are predicted, `cut` ones left out.
        extra: predicted names that the truth does not have.
        cut: predicted beyond either end of the truth and cut by the field of view: VerSe leaves them unlabeled.
        all_right: every true vertebra identified (strict) and none extra; None without true landmarks.
        shift: by how many levels the names are off as a whole.
        id_rate_shifted: strict identification rate after that shift is undone.
        pq: panoptic quality of the masks, whatever they are called; None without masks on both sides.
        sq: its segmentation quality.
        rq: its recognition quality.
        confusion: (true name, predicted name), "" = nothing there.
        sources: where the centers of truth and prediction come from.
        preview: path of the picture, "" = none.
        seconds: time it took.
    """

    scan: str
    subject: str
    prediction: str
    anomaly: str = "none"
    spacing: str = ""
    vertebrae: list[Vertebra] = field(default_factory=list)
    predicted: int = 0
    extra: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    all_right: bool | None = None
    shift: int | None = None
    id_rate_shifted: float | None = None
    pq: float | None = None
    sq: float | None = None
    rq: float | None = None
    confusion: list[tuple[str, str]] = field(default_factory=list)
    sources: tuple[str, str] = ("", "")
    preview: str = ""
    seconds: float = 0.0


@dataclass
class Evaluation:
    """All scans of one prediction folder.

    Attributes:
        prediction: the folder.
        truth: the folder of the truth.
        scans: the scored ones, by name.
        without_prediction: true scans that nothing was predicted for.
        without_truth: predictions that belong to no true scan, or to more than one.
        failures: what could not be read, by the name of the scan.
    """

    prediction: Path
    truth: Path
    scans: list[Scan] = field(default_factory=list)
    without_prediction: list[str] = field(default_factory=list)
    without_truth: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
