"""What is measured on a mask and its scan: volumes, body heights, densities and angles, each with a reason if missing.

Imports the core and is never imported by it. Neither torch nor MONAI is loaded.
"""

from .measure import measure
from .records import Curve, Measure, Measurements, Vertebra

__all__ = ["Curve", "Measure", "Measurements", "Vertebra", "measure"]
