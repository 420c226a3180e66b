"""The page of a scan and the index of a cohort, for people to read; made from the results on disk and the scan.

Imports the core and is never imported by it. Neither torch nor MONAI is loaded.
"""

from .run import write_reports

__all__ = ["write_reports"]
