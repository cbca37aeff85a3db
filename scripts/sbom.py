"""The software bill of materials: CycloneDX of every Python package, jar and model that an installation uses.

    uv run python scripts/sbom.py [-o FILE] [--gpu]

Packages are those that uv resolved (`uv.lock`), each with the sha256 of its files; jars of the embedded broker are
those that `streams/local/jars.sha256` pins; models are those of the repository. Works offline once uv has resolved.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from processors._models import Registry
from streams.local.jars import read_pins

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    """Writes the document, and says on standard error what is in it."""
    parser = argparse.ArgumentParser(description="Software bill of materials, CycloneDX 1.5 as JSON.")
    parser.add_argument("-o", "--output", type=Path, help="the file; standard output where none is named")
    parser.add_argument("--gpu", action="store_true", help="of an installation for GPUs")
    chosen = parser.parse_args(arguments)
    document = bill(gpu=chosen.gpu)
    text = json.dumps(document, indent=1) + "\n"
    if chosen.output:
        chosen.output.write_text(text)
    else:
        sys.stdout.write(text)
    sys.stderr.write(f"{len(document['components'])} components\n")
    return 0


def bill(*, gpu: bool = False) -> dict[str, Any]:
    """The whole document.

    Raises:
        RuntimeError: uv could not tell what is installed, or a component has no hash.
    """
    document = _packages("gpu" if gpu else "cpu")
    document["components"] += [*_jars(), *_models()]
    if nameless := [one["name"] for one in document["components"] if not _hashes(one)]:
        raise RuntimeError(f"without a hash in uv.lock: {', '.join(nameless)}; run `uv lock`")
    return document


def _packages(extra: str) -> dict[str, Any]:
    """What uv resolved, without what only developers need."""
    command = ["uv", "export", "--quiet", "--format", "cyclonedx1.5", "--preview-features", "sbom-export"]
    command += ["--no-default-groups", "--extra", extra, "--no-emit-project"]
    command += ["--frozen"] if (ROOT / "uv.lock").exists() else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"uv could not export: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _jars() -> list[dict[str, Any]]:
    return [
        {
            "type": "library",
            "bom-ref": f"jar:{pin.coordinate}",
            "group": pin.group,
            "name": pin.artifact,
            "version": pin.version,
            "purl": f"pkg:maven/{pin.group}/{pin.artifact}@{pin.version}",
            "hashes": [{"alg": "SHA-256", "content": pin.sha256}],
        }
        for pin in read_pins()
    ]


def _models() -> list[dict[str, Any]]:
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{entry.manifest.reference}",
            "name": entry.manifest.name,
            "version": entry.manifest.version,
            "licenses": [{"license": {"name": entry.manifest.licence}}],
            "hashes": [{"alg": "SHA-256", "content": entry.manifest.sha256}],
        }
        for entry in Registry(environ={}).entries()
    ]


def _hashes(component: dict[str, Any]) -> list[str]:
    """Of the component, or of the files it is distributed as."""
    sources = [component, *component.get("externalReferences", ())]
    return [one["content"] for source in sources for one in source.get("hashes", ())]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
