"""Writing without leaving half a file: everything goes to a temporary name first."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` (same suffixes), renamed to it on success and removed on failure."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders (`.PID.NAME`) of processes of this machine that are no more."""
    for path in folder.glob(".*.*"):
        pid = path.name.split(".")[1]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or not to be known on this system
        return True
    return True


def write_json(path: Path, document: Any) -> None:
    """Write JSON, two-space indented; NaN is refused, because JSON has none."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
