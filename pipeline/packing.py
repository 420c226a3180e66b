"""Pack a bundle as one zip that needs nothing of this project, in the layout of the MONAI Model Zoo.

In the repository the bundles name this package's classes. A packed bundle brings along just the modules that it needs,
byte for byte, as a package `NAME_code` of its own beside `configs/`, and its configurations name that one. The names
differ from bundle to bundle, so that all of them load in one process, also where this package is installed.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from . import __version__
from .closure import PACKAGE, foreign_packages, module_of, needed_modules, source_of
from .files import atomic_path

# What a bundle consists of; runs, data and results lie in the same folder.
PARTS = ("LICENSE", "large_files.yml", "configs/*", "docs/*", "models/model.pt", "models/model.ts", "models/model.onnx")
METADATA = "configs/metadata.json"
REQUIRED = ("LICENSE", METADATA, "configs/inference.json")
REQUIRED_METADATA = (
    *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "name", "task"),
    *("required_packages_version", "description", "authors", "copyright", "intended_use", "network_data_format"),
)
LARGE = 25_000_000  # bytes; the Model Zoo takes no larger file, only its address in large_files.yml
OWN_TARGET = re.compile(rf'("_target_":\s*)"{PACKAGE}\.([\w.]+)"')


def pack(bundle: Path, folder: Path) -> Path:
    """Write `NAME_vVERSION.zip` of a bundle into a folder and return its path; equal input gives equal bytes.

    Raises:
        ValueError: the bundle is incomplete or inconsistent; the message names the file.
    """
    bundle, folder = Path(bundle).resolve(), Path(folder)
    code = f"{bundle.name}_code"
    if not code.isidentifier() or (bundle / code).exists():
        reason = f"packed already, {code} is there" if code.isidentifier() else "its name cannot be that of a module"
        raise ValueError(f"{bundle}: {reason}")
    files = read_parts(bundle)
    documents = {name: _parsed(bundle / name, data) for name, data in files.items() if name.endswith(".json")}
    metadata = documents.pop(METADATA)
    version = checked_version(bundle / METADATA, metadata)
    modules = needed_modules({module_of(target) for config in documents.values() for target in own_targets(config)})
    check_requirements(bundle / METADATA, metadata, foreign_packages(modules))
    for name in documents:
        files[name] = vendored_config(files[name].decode(), code, bundle / name).encode()
    files |= vendored_code(modules, code)
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())]
    files["SHA256SUMS"] = "".join(sums).encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{bundle.name}_v{version}.zip"
    with atomic_path(target) as temporary:
        write_zip(temporary, {f"{bundle.name}/{name}": data for name, data in files.items()})
    return target


def read_parts(bundle: Path) -> dict[str, bytes]:
    """Return a bundle's files by their path inside it.

    Raises:
        ValueError: a file is missing, or is large and not named with its SHA-256 in `large_files.yml`.
    """
    paths = [path for part in PARTS for path in bundle.glob(part) if path.is_file() and path.name[0] != "."]
    files = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in paths}
    listed = files.get("large_files.yml", b"").decode()
    for name in REQUIRED:
        if name not in files:
            raise ValueError(f"{bundle / name}: not found; a bundle cannot be shared without it")
    if "models/model.pt" not in files and "models/model.pt" not in listed:
        raise ValueError(f"{bundle / 'models' / 'model.pt'}: neither there nor named in large_files.yml")
    for name, data in files.items():
        if len(data) > LARGE and not (name in listed and hashlib.sha256(data).hexdigest() in listed):
            raise ValueError(f"{bundle / name}: over 25 MB; large_files.yml must name it with its SHA-256")
    return files


def checked_version(path: Path, metadata: dict[str, Any]) -> str:
    """Return the version that metadata (read from `path`) states; it must be the newest of the changelog.

    Raises:
        ValueError: it is not, or a key that sharing needs is missing.
    """
    missing = [key for key in REQUIRED_METADATA if not metadata.get(key)]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing or empty")
    version, known = metadata["version"], list(metadata["changelog"])
    wrong = [text for text in (version, *known) if not re.fullmatch(r"\d+\.\d+\.\d+", text)]
    if wrong:
        raise ValueError(f"{path}: version {wrong[0]!r}: expected three numbers such as 1.0.2")
    newest = max(known, key=lambda text: [int(number) for number in text.split(".")])
    if version != newest:
        raise ValueError(f"{path}: version is {version}, the newest entry of changelog {newest}")
    return version


def check_requirements(path: Path, metadata: dict[str, Any], packages: Mapping[str, str]) -> None:
    """Check that metadata (read from `path`) asks for all packages that the code imports.

    Args:
        path: to name in the message.
        metadata: with `required_packages_version`; MONAI, PyTorch and NumPy have keys of their own.
        packages: import name to the module that imports it.

    Raises:
        ValueError: it lacks one.
    """
    known = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    distributions = packages_distributions()
    for package, module in sorted(packages.items()):
        if not known & {package, *distributions.get(package, ())}:
            raise ValueError(f"{path}: required_packages_version lacks {package}, which {module} imports")


def vendored_config(text: str, code: str, path: Path) -> str:
    """Return a configuration that names the package `code` in the place of this one.

    MONAI puts a bundle's folder on the import path only when a workflow runs, too late for `initialize` and never for
    the commands that verify or export. So every component that lives in `code` requires `@code` first, which does it.

    Raises:
        ValueError: this package is named where no import path can be set first: in an expression.
    """
    text = OWN_TARGET.sub(rf'\1"{code}.\2", "_requires_": "@code"', text)
    config = _parsed(path, text.encode())
    if "bundle_root" in config:  # an overlay has it from the file that it changes
        component = {"_target_": "site.addsitedir", "_desc_": f"where {code} is found", "sitedir": "@bundle_root"}
        component["known_paths"] = "$set()"  # or it takes MONAI's relative "." for every folder one ever works in
        text = text.replace("{", f'{{\n    "code": {json.dumps(component)},', 1)
        config = _parsed(path, text.encode())
    for value in _strings(config):
        if value.startswith("$") and re.search(rf"\b{PACKAGE}\b", value):
            raise ValueError(f"{path}: {value!r} names {PACKAGE}; only a _target_ can, with _mode_ callable if need be")
    return text


def vendored_code(modules: set[str], code: str) -> dict[str, bytes]:
    """Return the files of the package `code`: the modules as they are, below an `__init__` of its own."""
    docstring = f'"""The part of the package {PACKAGE} that this bundle needs; written by `vertebrae pack`."""\n'
    files = {f"{code}/__init__.py": f'{docstring}\n__version__ = "{__version__}"\n'.encode()}
    for module in modules:
        source = source_of(module)
        files[f"{code}/{source.relative_to(source_of(PACKAGE).parent).as_posix()}"] = source.read_bytes()
    return files


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip that depends on names and contents alone: sorted, undated, and stored, as zlib versions differ."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data)


def own_targets(config: Any) -> set[str]:
    """Return the `_target_`s of a configuration that lie in this package."""
    if isinstance(config, list):
        return {target for value in config for target in own_targets(value)}
    if not isinstance(config, dict):
        return set()
    found = {target for value in config.values() for target in own_targets(value)}
    target = config.get("_target_", "")
    return found | {target} if target.startswith(f"{PACKAGE}.") else found


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    """Return a JSON object; a key that appears twice, which MONAI only warns of, is refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            raise ValueError(f"a key appears twice in {[key for key, _ in pairs]}")
        return document

    try:
        return json.loads(data, object_pairs_hook=unique)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _strings(document: Any) -> list[str]:
    if isinstance(document, str):
        return [document]
    values = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return [text for value in values for text in _strings(value)]
