"""Folders of models, as a data directory has them."""

from __future__ import annotations

from pathlib import Path

import onnx_models

from processors._models import (
    Registry,
)


def registry(data: Path, **environ: str) -> Registry:
    """What can be seen from a data directory, with a cache inside it."""
    return Registry(data, data / "cache", environ)


def far_model(data: Path, elsewhere: Path) -> Path:
    """A model `far` whose manifest is in the data directory and whose file is elsewhere, under a file URL."""
    path = onnx_models.doubling(data / "models" / "far.onnx")
    onnx_models.manifest(path, name="far", keys={"url": f'"{elsewhere.as_uri()}"'})
    return path.rename(elsewhere)
