"""Synthetic CT scans of the spine with exact ground truth, made from a seed number."""

from .generate import Phantom, make_phantom
from .grids import PRESETS
from .library import load_shapes
from .write import LAYOUTS, write_phantom, write_phantoms

__all__ = ["LAYOUTS", "PRESETS", "Phantom", "load_shapes", "make_phantom", "write_phantom", "write_phantoms"]
