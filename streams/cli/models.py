"""`headrace models`: which models there are, their files, and what they are like inside."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli._context import settings_of
from streams.cli._output import fail, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processors._models import Entry, Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, pull, verify and inspect models.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Reference = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version: the highest one.")]


@app.command("list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """Show every model that has a manifest here, and whether its file is right.

    Example: `headrace models list`
    """
    registry = _registry(context)
    rows = [_row(registry, entry) for entry in registry.entries()]
    if as_json:
        print_json({"models": rows, "problems": registry.problems})
        return
    shown = ("model", "processor", "state", "size", "licence", "place")
    _table(shown, [[str(row[column]) for column in shown] for row in rows])
    for problem in registry.problems:
        sys.stderr.write(f"not readable: {problem}\n")


@app.command()
def pull(context: typer.Context, reference: Reference, as_json: AsJson = False) -> None:
    """Download the files of a model to the cache, checked by size and sha256.

    Example: `headrace models pull fraud@1.0.0`
    """
    from processors import _pull

    with _progress() as progress:
        model = _pull.pull(_registry(context), reference, progress)
    result = {"model": model.manifest.reference, "path": str(model.path), "sha256": model.manifest.sha256}
    if as_json:
        print_json(result)
    else:
        sys.stdout.write(f"{result['model']}: {result['path']}\n")


@app.command()
def verify(
    context: typer.Context,
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME[@VERSION]]…", help="All whose files are here, if none is named."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check files against their manifests, and models against their contracts, by loading them.

    Exit code 1 where one fails.

    Example: `headrace models verify fraud`
    """
    registry = _registry(context)
    entries = [registry.find(reference) for reference in references or []] or _present(registry)
    results = [_verified(registry, entry) for entry in entries]
    if as_json:
        print_json({"models": results, "problems": registry.problems})
    else:
        for result in results:
            sys.stdout.write(f"{result['model']}: {result['error'] or 'ok'}\n")
        for problem in registry.problems:
            fail(problem)
    if registry.problems or any(result["error"] for result in results):
        raise typer.Exit(1)


@app.command()
def inspect(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]|FILE", help="A known model, or any ONNX file.")],
    measure: Annotated[bool, typer.Option("--measure", help="Measure the latency curve on made-up rows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a model's inputs, outputs, versions, size and hash, and where it would run here.

    Example: `headrace models inspect fraud --measure`
    """
    facts = _facts(context, model, measure=measure)
    if as_json:
        print_json(facts)
        return
    curve = facts.pop("curve")
    for key, value in facts.items():
        lines = _lines(value)
        sys.stdout.write(f"{key:<11} {lines[0]}\n" + "".join(f"{'':<11} {line}\n" for line in lines[1:]))
    if curve:
        sys.stdout.write("\n")
        _table(
            ("rows", "ms a run", "rows/s"),
            [[str(point["rows"]), f"{point['ms']:.3f}", f"{point['rows_per_s']:,.0f}"] for point in curve],
        )


@app.command()
def dynamic(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A model whose batch axis is fixed to 1.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file to write.")],
    as_json: AsJson = False,
) -> None:
    """Rewrite a model to take any number of rows; refuses where rows together differ from rows alone.

    Example: `headrace models dynamic yolox.onnx yolox_dynamic.onnx`
    """
    from processors._dynamic import make_batch_dynamic
    from processors._models import sha256_of

    rewrite = make_batch_dynamic(source, target)
    if as_json:
        print_json(
            {
                "path": str(target), "sha256": sha256_of(target), "size": target.stat().st_size,
                "inputs": rewrite.inputs, "outputs": rewrite.outputs, "shapes": rewrite.shapes,
                "max_difference": rewrite.max_difference,
            }
        )  # fmt: skip
        return
    sys.stdout.write(
        f"{target}: {', '.join((*rewrite.inputs, *rewrite.outputs))} take any number of rows; rows together equal rows "
        f"alone (largest difference {rewrite.max_difference:.2g} of an output's largest value)\n"
        f'sha256 = "{sha256_of(target)}"\nsize = {target.stat().st_size}\n'
    )


@app.command()
def half(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]|FILE", help="A known model, or any ONNX file.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file to write.")],
    rows: Annotated[
        Path | None, typer.Option("--rows", metavar="NPZ", help="Inputs to compare with, by name; else made-up rows.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Share of an output's largest value that a value may move.")
    ] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Write a half-precision version of a model for GPUs; refuses where its answers move by more than the tolerance.

    A known model gets a manifest beside the new file, with `-half` at the end of its version.

    Example: `headrace models half sentiment .headrace/models/sentiment-half.onnx`
    """
    from processors._half import make_half, manifest_of, read_rows
    from processors._models import sha256_of

    path = Path(model)
    known = None if path.suffix == ".onnx" and path.is_file() else _registry(context).resolve(model)
    halved = make_half(
        path if known is None else known.path,
        target,
        rows=None if rows is None else read_rows(rows),
        expects=None if known is None else known.manifest.contract,
        tolerance=tolerance,
    )
    manifest = None if known is None else manifest_of(known.manifest, target)
    if as_json:
        print_json(
            {
                "path": str(target), "sha256": sha256_of(target), "size": target.stat().st_size,
                "manifest": None if manifest is None else str(manifest),
                "weights": halved.weights, "rows": halved.rows, "differences": halved.differences,
                "unchecked": halved.unchecked,
            }
        )  # fmt: skip
        return
    moved = ", ".join(f"{name} by {apart:.2g}" for name, apart in halved.differences.items())
    sys.stdout.write(
        f"{target}: {halved.weights:,} weights in half precision; in {halved.rows} rows, outputs moved at most: "
        f"{moved}\n"
        f'sha256 = "{sha256_of(target)}"\nsize = {target.stat().st_size}\n'
        + (f"{manifest}: its manifest\n" if manifest else "")
    )
    if halved.unchecked:
        fail(f"an overflow between operators would not have shown here ({halved.unchecked}): see docs/gpu.md")


def _registry(context: typer.Context) -> Registry:
    from processors._models import Registry

    settings = settings_of(context)
    return Registry(settings.data, Path(settings.model.cache_dir) if settings.model.cache_dir else None)


def _row(registry: Registry, entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "model": manifest.reference,
        "processor": manifest.processor,
        "state": _state(registry, entry),
        "size": manifest.size,
        "licence": manifest.licence,
        "place": entry.place,
        "manifest": str(entry.path),
        "path": str(registry.path(entry, manifest.file)),
        "sha256": manifest.sha256,
        "url": manifest.url,
        "training": manifest.training,
    }


def _state(registry: Registry, entry: Entry) -> str:
    """`ok`, `missing` or `wrong`."""
    from processors._models import IntegrityError, MissingFileError

    try:
        registry.resolve(entry.manifest.reference)
    except MissingFileError:
        return "missing"
    except IntegrityError:
        return "wrong"
    return "ok"


def _present(registry: Registry) -> list[Entry]:
    return [entry for entry in registry.entries() if registry.path(entry, entry.manifest.file).exists()]


def _verified(registry: Registry, entry: Entry) -> dict[str, str]:
    from processors._contract import ModelError
    from processors._session import Session

    reference = entry.manifest.reference
    try:
        Session.open(registry.resolve(reference), providers=("CPUExecutionProvider",), slice=1, log=_quiet())
    except ModelError as error:
        return {"model": reference, "error": str(error)}
    return {"model": reference, "error": ""}


def _facts(context: typer.Context, reference: str, *, measure: bool) -> dict[str, Any]:
    from processors import _session
    from processors._curve import pick
    from processors._models import sha256_of
    from processors._onnx_header import read_header

    path = Path(reference)
    model = path if path.suffix == ".onnx" and path.is_file() else _registry(context).resolve(reference)
    path = model if isinstance(model, Path) else model.path
    settings = settings_of(context).model
    session = _session.Session.open(
        model, providers=settings.providers, threads=settings.threads, slice=1, log=_quiet()
    )
    header = read_header(path.read_bytes())
    curve = session.measure() if measure else ()
    return {
        "model": session.name,
        "path": str(path),
        "size": path.stat().st_size,
        "sha256": sha256_of(path),
        "producer": header.producer,
        "ir_version": header.ir_version,
        "opsets": header.opsets,
        "inputs": [f"{tensor.name} {tensor.describe()}" for tensor in session.contract.inputs],
        "outputs": [f"{tensor.name} {tensor.describe()}" for tensor in session.contract.outputs],
        "batch": "any" if session.fixed_batch is None else session.fixed_batch,
        "metadata": {key: len(value) if len(value) > 200 else value for key, value in session.metadata.items()},
        "available": _session.available_providers(),
        "nodes": session.placement(),
        "fallbacks": list(session.fallbacks),
        "slice": pick(curve) if curve else None,
        "curve": [{"rows": point.rows, "ms": point.ms, "rows_per_s": point.rows_per_s} for point in curve],
    }


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key} {item}" for key, item in value.items()] or ["-"]
    if isinstance(value, list | tuple):
        return [str(item) for item in value] or ["-"]
    return ["-" if value in (None, "") else str(value)]


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
    for cells in (list(columns), *rows):
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"
        )


def _quiet() -> logging.Logger:
    """Warnings of a session would repeat what these commands show."""
    return logging.Logger("headrace.models", logging.CRITICAL)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, where a person looks at it."""
    if not sys.stderr.isatty():
        yield lambda _file, _done, _size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=size)
            bars.update(tasks[file], completed=done)

        yield show
