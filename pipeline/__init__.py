"""Find, name and segment every vertebra in a CT scan."""

from .images import InputError, Scan, read_scan
from .run import NoSpineFound, Result, VertebraePipeline

__all__ = ["InputError", "NoSpineFound", "Result", "Scan", "VertebraePipeline", "read_scan"]
__version__ = "0.1.0"
