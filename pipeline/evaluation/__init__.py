"""Score predictions of any of the usual tools against VerSe-style truth: `vertebrae evaluate`."""

from .run import evaluate, run

__all__ = ["evaluate", "run"]
