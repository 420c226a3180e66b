"""What the scanner adds: kernel, noise, streaks of metal and shoulders, tube voltage, round field of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from ..spaces import Grid, spacing_mm, to_voxel, to_world
from .canvas import Canvas

if TYPE_CHECKING:
    from .body import Body

# HU of bone and iodine relative to 120 kV.
_KV_GAIN = {80: 1.35, 100: 1.15, 120: 1.0, 140: 0.92}
_ANGLES = np.linspace(0, np.pi, 120, endpoint=False)


@dataclass(frozen=True)
class Look:
    """How the scanner shows a body.

    Attributes:
        kv: tube voltage; bone and iodine are brighter at a low one.
        blur_mm: SD of the kernel.
        sharpen: share of the fine detail added again; 0 is a smooth kernel.
        noise: SD in HU.
        noise_mm: correlation of the noise.
        gain: factor of all HU.
        offset: HU added.
        streaks: strength of metal streaks in HU.
        shoulders: strength of the streaks through the shoulders in HU.
        circle: radius of a round field of view as a share of half its width; 0 = square.
        padding: HU outside it.
    """

    kv: int
    blur_mm: float
    sharpen: float
    noise: float
    noise_mm: float
    gain: float
    offset: float
    streaks: float
    shoulders: float
    circle: float
    padding: float

    @property
    def kv_gain(self) -> float:
        """HU of bone and iodine relative to 120 kV."""
        return _KV_GAIN[self.kv]


def draw_look(rng: np.random.Generator, voxel_mm: float = 1.0) -> Look:
    """Draw a scanner between smooth low-noise and sharp noisy kernels; large voxels carry less noise."""
    noisiest = 100 * min(1.0, (1.5 / voxel_mm) ** 0.7)
    return Look(
        kv=int(rng.choice([80, 100, 120, 140], p=[0.08, 0.22, 0.6, 0.1])),
        blur_mm=float(rng.uniform(0.3, 1.1)),
        sharpen=float(rng.uniform(0.3, 1.2)) if rng.random() < 0.35 else 0.0,
        noise=float(np.exp(rng.uniform(np.log(5), np.log(noisiest)))),
        noise_mm=float(rng.uniform(0.4, 1.6)),
        gain=float(rng.uniform(0.93, 1.07)),
        offset=float(rng.uniform(-25, 25)),
        streaks=float(np.exp(rng.uniform(np.log(80), np.log(900)))),
        shoulders=float(rng.uniform(5, 70)) if rng.random() < 0.5 else 0.0,
        circle=float(rng.uniform(0.98, 1.25)) if rng.random() < 0.25 else 0.0,
        padding=float(rng.choice([-1024.0, -1000.0])),
    )


def expose(hu: np.ndarray, grid: Grid, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Blur by the kernel, add correlated noise, scale, cut to the round field of view; int16, -1024 to 3071."""
    spacing = spacing_mm(grid.affine)
    hu = _blur(hu, look.blur_mm / spacing)
    noise = _blur(rng.standard_normal(hu.shape, dtype=np.float32), look.noise_mm / spacing)
    noise *= look.noise * look.gain / max(float(noise[::3, ::3, ::3].std()), 1e-3)
    hu *= look.gain
    if look.sharpen:
        hu += look.sharpen * (hu - _blur(hu, 1.2 / spacing))
    hu += noise
    hu += look.offset
    hu[outside_view(grid, look)] = look.padding
    return np.rint(np.clip(hu, -1024, 3071, out=hu), out=hu).astype(np.int16)


def _blur(array: np.ndarray, sigma_vox: np.ndarray) -> np.ndarray:
    for axis, sigma in enumerate(sigma_vox):
        if sigma > 0.25:
            array = ndimage.gaussian_filter1d(array, sigma, axis=axis, truncate=2.5)
    return array


def slice_axis(affine: np.ndarray) -> int:
    """Return the array axis that runs along the body."""
    return int(np.argmax(np.abs(affine[2, :3]) / spacing_mm(affine)))


def outside_view(grid: Grid, look: Look) -> np.ndarray:
    """Return which voxels lie beyond the round field of view: `grid.shape` bool."""
    if not look.circle:
        return np.zeros(grid.shape, dtype=bool)
    through, spacing = slice_axis(grid.affine), spacing_mm(grid.affine)
    axes = [i for i in range(3) if i != through]
    half = min(grid.shape[i] * spacing[i] for i in axes) / 2 * look.circle
    squared = np.zeros((1, 1, 1))
    for i in axes:
        offset = (np.arange(grid.shape[i]) - (grid.shape[i] - 1) / 2) * spacing[i]
        squared = squared + (offset**2).reshape([-1 if j == i else 1 for j in range(3)])
    return np.broadcast_to(squared > half**2, grid.shape)


def streaks(body: Body, metal: Canvas | None, look: Look, rng: np.random.Generator) -> np.ndarray | None:
    """Return HU that artifacts add, on the tissue canvas, or None where there are none."""
    total = None
    if metal is not None:
        total = _metal_streaks(body.tissue, metal, look.streaks, rng)
    if look.shoulders:
        rows = _shoulder_streaks(body, look.shoulders, rng)
        total = rows if total is None else total + rows
    return total


def _metal_streaks(tissue: Canvas, metal: Canvas, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return streaks by slice: the filtered back-projection of what beam hardening and starved photons get wrong."""
    points = to_voxel(tissue.grid.affine, to_world(metal.grid.affine, np.argwhere(metal.array < 0)))
    through = slice_axis(tissue.grid.affine)
    axes = [i for i in range(3) if i != through]
    size = [tissue.grid.shape[i] for i in axes]
    level = np.clip(np.rint(points[:, through]).astype(int), 0, tissue.grid.shape[through] - 1)
    result = np.zeros(tissue.grid.shape, dtype=np.float32)
    view = np.moveaxis(result, through, 0)
    for k in np.unique(level):
        view[k] = _streak_slice(points[level == k][:, axes], size, rng)
    view[...] = ndimage.gaussian_filter1d(view, 0.6, axis=0)
    high = float(np.quantile(np.abs(view[np.unique(level)]), 0.98))
    return result * (strength / max(high, 1e-6))


def _streak_slice(points: np.ndarray, size: list[int], rng: np.random.Generator) -> np.ndarray:
    """Return unscaled streaks `(A, B)` of metal at `(P, 2)` positions of one slice."""
    reach = int(np.hypot(size[0], size[1])) + 2
    u = np.arange(size[0])[:, None] - size[0] / 2
    v = np.arange(size[1])[None, :] - size[1] / 2
    ramp = np.fft.rfftfreq(2 * reach)
    ramp = ramp * np.exp(-((ramp / 0.25) ** 2))
    image = np.zeros(size, dtype=np.float32)
    for angle in _ANGLES:
        cos, sin = np.cos(angle), np.sin(angle)
        along = (points[:, 0] - size[0] / 2) * cos + (points[:, 1] - size[1] / 2) * sin
        path = np.bincount(np.clip(np.rint(along).astype(int) + reach, 0, 2 * reach - 1), minlength=2 * reach)
        error = -(path**1.5) * rng.uniform(0.5, 1.5) + 0.5 * rng.normal(0, 1, 2 * reach) * path
        filtered = np.fft.irfft(np.fft.rfft(error) * ramp, 2 * reach).astype(np.float32)
        image += filtered[(u * cos + v * sin + reach).astype(np.int32)]
    return image


def _shoulder_streaks(body: Body, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise drawn out from side to side, and a dark band, at the height of the shoulders and hips."""
    tissue = body.tissue
    sideways = int(np.argmax(np.abs(tissue.grid.affine[0, :3])))
    noise = rng.standard_normal(tissue.grid.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter1d(noise, 18 / tissue.spacing_mm, axis=sideways, truncate=2)
    noise *= strength / max(float(noise.std()), 1e-3)
    amount, *_ = body.profile([4.5, 6.5, 9, 11, 25, 27, 29], np.array([[0.0, 1, 1, 0, 0, 0.5, 0]]))[2:]
    noise *= amount
    noise -= amount * rng.uniform(0, 0.8) * strength
    return noise
