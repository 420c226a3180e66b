"""Synthetic CT scans of the spine with exact ground truth, made from a seed number."""

from .generate import PRESETS, Phantom, make_phantom, write_phantom, write_phantoms
from .shapes import load_shapes

__all__ = ["PRESETS", "Phantom", "load_shapes", "make_phantom", "write_phantom", "write_phantoms"]
