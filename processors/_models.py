"""Models are data with a manifest: `name@version` becomes a file whose sha256 is the one that was promised.

A manifest is a TOML file (or `*.manifest.json`) beside its model. They are looked for, the later place winning, in
`processors/<domain>/models/`, in `models/` of the data directory, and in the folders that HEADRACE_MODELS names.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import platformdirs
from msgspec import Meta

from processors._contract import Contract, ModelError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Entry",
    "ExtraFile",
    "IntegrityError",
    "Manifest",
    "ManifestError",
    "MissingFileError",
    "Model",
    "Registry",
    "UnknownModelError",
    "read_manifest",
    "resolve",
    "sha256_of",
]

# These become names of files and folders: no slash, no leading dot.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][^/\\:]*$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(gt=0)]


class ManifestError(ModelError, ValueError):
    """A manifest that cannot be read; the message names the file and the key."""


class UnknownModelError(ModelError, LookupError):
    """No manifest has this name or version."""


class MissingFileError(ModelError, FileNotFoundError):
    """A model whose manifest is here and whose file is not."""

    def __str__(self) -> str:
        return str(self.args[0])


class IntegrityError(ModelError, ValueError):
    """A file that is not the one that its manifest promises."""


class ExtraFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that the model needs beside it, such as a tokenizer, a vocabulary or its external weights."""

    file: FileName
    sha256: Sha256
    size: Size
    url: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is promised about a model."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]*$")]
    file: FileName
    """Name of the ONNX file, beside the manifest or, once pulled, in the cache."""
    sha256: Sha256
    size: Size
    """Bytes."""
    licence: Annotated[str, Meta(min_length=1)]
    """SPDX identifier, or one sentence."""
    contract: Contract
    url: str = ""
    """Where `headrace models pull` gets the file (https, http or file)."""
    source: str = ""
    """Where the model comes from: repository, path and commit."""
    processor: str = ""
    """The domain that it was made for."""
    training: str = ""
    """Model card or training script, beside the manifest or a URL."""
    settings: dict[str, Any] = {}
    """The processor's own, such as thresholds and labels that belong to these weights."""
    files: tuple[ExtraFile, ...] = ()

    @property
    def reference(self) -> str:
        """`name@version`, as it is written into results."""
        return f"{self.name}@{self.version}"


class Entry(msgspec.Struct, frozen=True):
    """A manifest that was found, and where."""

    manifest: Manifest
    path: Path
    """Of the manifest."""
    place: str
    """`package`, `data` or `HEADRACE_MODELS`."""


class Model(msgspec.Struct, frozen=True):
    """A manifest and the file that keeps its promise."""

    manifest: Manifest
    path: Path

    def read(self) -> bytes:
        """The bytes of the file, hashed after reading, so that what is checked is what runs."""
        return _read(self.manifest, self.path)

    def read_extra(self, file: str) -> bytes:
        """The bytes of one of the manifest's extra files, hashed likewise."""
        promised = next(extra for extra in self.manifest.files if extra.file == file)
        return _read(promised, self.path.parent / file)

    def extra(self, file: str) -> Path:
        """The path of one of the manifest's extra files, checked when the model was resolved."""
        known = [extra.file for extra in self.manifest.files]
        if file not in known:
            raise ManifestError(f"{self.manifest.reference} has no file {file!r}; {nearest(file, known)}")
        return self.path.parent / file


class Registry:
    """Every manifest that can be seen from here, read once; a broken one hides no other.

    Args:
        data: The data directory, whose `models/` holds the user's own.
        cache_dir: Where pulled files are kept; the user's cache directory where None.
        environ: HEADRACE_MODELS in it names more folders, separated as in PATH.
    """

    def __init__(
        self, data: Path | None = None, cache_dir: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.cache_dir = cache_dir or platformdirs.user_cache_path("headrace") / "models"
        self.problems: list[str] = []
        """What is wrong with the manifests that could not be read."""
        self._entries: dict[tuple[str, str], Entry] = {}
        for place, path in _manifest_paths(data, os.environ if environ is None else environ):
            try:
                manifest = read_manifest(path)
            except ManifestError as error:
                self.problems.append(str(error))
            else:
                self._entries[manifest.name, manifest.version] = Entry(manifest, path, place)

    def entries(self) -> list[Entry]:
        """All of them, by name and rising version."""
        return sorted(self._entries.values(), key=lambda entry: (entry.manifest.name, _rank(entry.manifest.version)))

    def find(self, reference: str) -> Entry:
        """The entry of `name@version`, or of the highest version of `name`.

        Raises:
            UnknownModelError: It lists what is known, the nearest first.
        """
        name, _, version = reference.partition("@")
        versions = [entry for entry in self.entries() if entry.manifest.name == name]
        if version:
            versions = [entry for entry in versions if entry.manifest.version == version]
        if not versions:
            raise UnknownModelError(self._unknown(reference))
        return versions[-1]

    def path(self, entry: Entry, file: str) -> Path:
        """Where a file of this manifest is or would be: beside the manifest, else in the cache."""
        beside = entry.path.parent / file
        if beside.exists():
            return beside
        manifest = entry.manifest
        return self.cache_dir / manifest.name / f"{manifest.version}-{manifest.sha256[:12]}" / file

    def resolve(self, reference: str) -> Model:
        """The model of a reference, every file of it checked by size and sha256 (once a process unless it changes).

        Raises:
            UnknownModelError: No such name or version.
            MissingFileError: It says how to get the file.
            IntegrityError: A file is not what the manifest promises.
        """
        entry = self.find(reference)
        manifest = entry.manifest
        model = Model(manifest, self.path(entry, manifest.file))
        promises: tuple[Manifest | ExtraFile, ...] = (manifest, *manifest.files)
        for promised in promises:
            path = model.path.parent / promised.file
            if not path.is_file():
                raise MissingFileError(self._missing(manifest, path))
            stat = path.stat()
            digest = _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            _require_equal(promised, path, stat.st_size, digest)
        return model

    def _unknown(self, reference: str) -> str:
        known = [entry.manifest.reference for entry in self.entries()]
        close = difflib.get_close_matches(reference, known, n=len(known) or 1, cutoff=0.0)
        listed = f"known, nearest first: {', '.join(close)}" if close else "no manifest was found"
        broken = "".join(f"\n  not readable: {problem}" for problem in self.problems)
        return f"no model {reference!r}; {listed}{broken}"

    def _missing(self, manifest: Manifest, path: Path) -> str:
        if manifest.url:
            return f"{manifest.reference}: no file {path}; get it with `headrace models pull {manifest.reference}`"
        return f"{manifest.reference}: no file {path}, and its manifest has no `url`: put the file there"


def resolve(reference: str, data: Path | None = None, cache_dir: Path | None = None) -> Model:
    """The verified model of `name` or `name@version`; see `Registry.resolve`."""
    return Registry(data, cache_dir).resolve(reference)


def read_manifest(path: Path) -> Manifest:
    """A manifest, TOML or JSON by the file's name.

    Raises:
        ManifestError: It names the file and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return msgspec.convert(content, Manifest)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(f"{path}: {error}") from error
    except msgspec.ValidationError as error:
        raise ManifestError(f"{path}: {_with_nearest_key(str(error))}") from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(promised: Manifest | ExtraFile, path: Path) -> bytes:
    with path.open("rb") as file:
        # A byte more than promised is enough to know, whatever the file has become since it was resolved.
        content = file.read(promised.size + 1)
    _require_equal(promised, path, len(content), hashlib.sha256(content).hexdigest())
    return content


def _require_equal(promised: Manifest | ExtraFile, path: Path, size: int, digest: str) -> None:
    if (size, digest) != (promised.size, promised.sha256):
        raise IntegrityError(
            f"{path} is not the file of its manifest: it has {size} bytes and sha256 {digest}, "
            f"promised are {promised.size} bytes and sha256 {promised.sha256}; "
            "restore or pull the file, or describe the new one in a manifest with a version of its own"
        )


@functools.lru_cache(maxsize=256)
def _digest(path: Path, _inode: int, _size: int, _mtime_ns: int, _ctime_ns: int) -> str:
    return sha256_of(path)


def _manifest_paths(data: Path | None, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    places = [("package", folder) for folder in sorted(Path(__file__).parent.glob("*/models"))]
    if data is not None:
        places.append(("data", data / "models"))
    places += [("HEADRACE_MODELS", Path(part)) for part in environ.get("HEADRACE_MODELS", "").split(os.pathsep) if part]
    for place, folder in places:
        for path in sorted([*folder.glob("*.toml"), *folder.glob("*.manifest.json")]):
            yield place, path


def _rank(version: str) -> tuple[tuple[int, int, str], ...]:
    """Orders 1.10 after 1.9, and 1.0.0-rc1 before 1.0.0, as semantic versions do."""
    release, _, pre = version.partition("+")[0].partition("-")
    parts = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"\.", release)]
    last = [(0, int(part), "") if part.isdigit() else (0, 1, part) for part in re.split(r"\.", pre) if pre]
    return (*parts, *last) if pre else (*parts, (1, -1, ""))


def _with_nearest_key(message: str) -> str:
    unknown = re.search(r"unknown field `(.+?)`(?: - at `(.+)`)?", message)
    if unknown is None:
        return message
    kinds = {"": Manifest, "$.files": ExtraFile, "$.contract": Contract}
    struct = kinds.get(re.sub(r"\[.*", "", unknown[2] or ""))
    return message if struct is None else f"{message}; {nearest(unknown[1], struct.__struct_fields__)}"
