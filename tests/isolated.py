"""Run `python -m monai.bundle` commands where only what a bundle's metadata asks for can be imported.

`python isolated.py METADATA COMMANDS`: COMMANDS is a JSON list of [working directory, [arguments]], all run in this one
process. Packages that are installed but not required are hidden, the project itself first of all.
"""

import json
import os
import re
import runpy
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(names: set[str]) -> set[str]:
    found, waiting = set(), {normal(name) for name in names}
    while waiting:
        found.add(name := waiting.pop())
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:  # for another platform
            continue
        needed = {re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line}
        waiting |= {normal(name) for name in needed} - found
    return found


def hide(allowed: set[str]) -> None:
    """Make every import finder blind to packages that come with none of the allowed distributions."""
    owners = packages_distributions()
    hidden = {name for name, who in owners.items() if not allowed & {normal(owner) for owner in who}} | {"pipeline"}

    class Filtered:
        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            return None if top in hidden else self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path[:] = [Filtered(finder) for finder in sys.meta_path]


def main(metadata: dict, commands: list) -> None:
    required = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    hide(with_dependencies(required))
    for name in ("pipeline", "matplotlib"):
        try:
            __import__(name)
            raise AssertionError(f"{name} can be imported")
        except ModuleNotFoundError:
            pass
    for folder, arguments in commands:
        os.chdir(folder)
        sys.argv = ["monai.bundle", *arguments]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    print("loaded:", *sorted(name for name in sys.modules if name.endswith("_code")))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    main(*(json.loads(Path(path).read_text()) for path in sys.argv[1:3]))
