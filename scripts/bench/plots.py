"""The plots, from the same JSON as the tables; the one file that knows matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from scripts.bench import pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people tell apart whatever they see of red and green.
_OURS, _OTHERS, _THIRD, _FOURTH = "#0072B2", "#999999", "#E69F00", "#009E73"
_COUNT = StrMethodFormatter("{x:,.10g}")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headrace",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
}


def draw(name: str, report: Mapping[str, Any], out: Path) -> Path:
    """Writes the plot of a benchmark beside its JSON."""
    path = out / f"bench-{name}.svg"
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        _DRAWN[name](figure, report)
        figure.savefig(path, metadata={"Date": None})
    return path


def _pipeline(figure: Figure, report: Mapping[str, Any]) -> None:
    names = [n for n in (pipeline.OURS, *pipeline.PEERS, pipeline.SHORT) if report["events_per_s"].get(n)]
    axes = figure.subplots()
    colours = [_OURS if name == pipeline.OURS else _OTHERS for name in names]
    labels = [pipeline.LABELS[name].replace("`", "") for name in names]
    _bars(axes, labels, [report["events_per_s"][name] for name in names], colours)
    axes.set_title("Events per second, exactly once (log scale)")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_COUNT)
    axes.set_xlim(left=min(report["events_per_s"][name]["low"] for name in names) / 2)


def _latency(figure: Figure, report: Mapping[str, Any]) -> None:
    points = report["result"]
    deliveries = list(dict.fromkeys(one["delivery"] for one in points))
    panels = figure.subplots(1, len(deliveries), sharey=True, squeeze=False)[0]
    for axes, delivery in zip(panels, deliveries, strict=True):
        for commit_ms, colour in zip((10, 50, 100), (_THIRD, _OURS, _FOURTH), strict=True):
            chosen = [p for p in points if p["delivery"] == delivery and p["commit_ms"] == commit_ms]
            if not chosen:
                continue
            loads = [100 * one["load"] for one in chosen]
            axes.plot(loads, [p["p99_ms"] for p in chosen], "o-", color=colour, label=f"p99, commits of {commit_ms} ms")
            axes.plot(loads, [p["p50_ms"] for p in chosen], "o:", color=colour, label=f"p50, {commit_ms} ms")
        axes.set_title(delivery)
        axes.set_xlabel("load, % of capacity")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_COUNT)
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("ms")
    panels[-1].legend(frameon=False, fontsize=7)


def _stages(figure: Figure, report: Mapping[str, Any]) -> None:
    panels = figure.subplots(1, 2)
    for axes, (how, title) in zip(
        panels, (("worker", "µs/event, a worker, wall"), ("offline_cpu", "µs/event, no Kafka, CPU")), strict=True
    ):
        stages = {stage: one for stage, one in report[how].items() if not stage.startswith("CPU")}
        _bars(axes, list(stages), list(stages.values()), [_OURS] * len(stages), digits=2)
        axes.set_title(title)


def _memory(figure: Figure, report: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for one, colour in zip(report["series"], (_OURS, _THIRD, _FOURTH), strict=False):
        samples = one["samples"]
        events = [s["events"] / 1e6 for s in samples]
        axes.plot(events, [s["rss_mb"] for s in samples], color=colour, label=f"{one['cards']:,} cards")
    axes.set_title("Resident memory of a worker")
    axes.set_xlabel("million events answered")
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _restore(figure: Figure, report: Mapping[str, Any]) -> None:
    figure.set_size_inches(7, 1.5)
    axes = figure.subplots()
    _bars(axes, ["seconds per million entries"], [report["s_per_million"]], [_OURS], digits=2)
    axes.set_title(f"Restore of {report['result']['entries']:,} entries of keyed state")


def _sink(figure: Figure, report: Mapping[str, Any]) -> None:
    figure.set_size_inches(7, 1.8)
    axes = figure.subplots()
    _bars(axes, ["store", "raw Arrow insert"], [report["rows_per_s"], report["raw_rows_per_s"]], [_OURS, _OTHERS])
    axes.set_title("Rows per second into ClickHouse")


def _scale(figure: Figure, report: Mapping[str, Any]) -> None:
    panels = figure.subplots(1, len(report["domains"]), squeeze=False)[0]
    for axes, (domain, one) in zip(panels, report["domains"].items(), strict=True):
        rates = one["events_per_s"]
        _bars(axes, ["one worker", "two workers"], [rates["1"], rates["2"]], [_OTHERS, _OURS])
        axes.set_title(f"{domain}: events per second")
    figure.set_size_inches(7, 1.8)


def _model(figure: Figure, report: Mapping[str, Any]) -> None:
    figure.set_size_inches(7, 2.4)
    axes = figure.subplots()
    kinds = report["kinds"]
    _bars(axes, list(kinds), [one["ratio"] for one in kinds.values()], [_OURS] * len(kinds), digits=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_title("Time of a session over bare ONNX Runtime, the same rows in the same slices")


def _overload(figure: Figure, report: Mapping[str, Any]) -> None:
    figure.set_size_inches(7, 4.5)
    panels = figure.subplots(3, 1, sharex=True)
    series, marks = report["series"], report["marks"]
    at = [one["at"] for one in series]
    for axes, (key, title) in zip(
        panels,
        (("lag", "events waiting in Kafka"), ("waited_s", "seconds waited in Kafka"), ("rss_mb", "worker's RSS, MB")),
        strict=True,
    ):
        axes.plot(at, [one[key] for one in series], color=_OURS)
        axes.axvspan(marks[1], marks[2], color=_THIRD, alpha=0.2, linewidth=0)
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_COUNT)
    panels[-1].set_xlabel("seconds; twice the capacity where shaded")


def _bars(
    axes: Axes, names: Sequence[str], spreads: Sequence[Mapping[str, Any]], colours: Sequence[str], digits: int = 0
) -> None:
    """Horizontal bars of medians with their ranges, the first on top, each with its figure."""
    places = range(len(names))
    medians = [one["median"] for one in spreads]
    lower, upper = zip(*((one["median"] - one["low"], one["high"] - one["median"]) for one in spreads), strict=True)
    axes.barh(places, medians, color=colours, xerr=[lower, upper], error_kw={"elinewidth": 1, "capsize": 2})
    for place, one in zip(places, spreads, strict=True):
        text = f" {one['median']:,.{digits}f}"
        axes.annotate(text, (one["high"], place), va="center", fontsize=8, xytext=(2, 0), textcoords="offset points")
    axes.set_yticks(places, names)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(_COUNT)
    axes.invert_yaxis()
    axes.margins(x=0.2)


_DRAWN: dict[str, Callable[[Figure, Mapping[str, Any]], None]] = {
    "pipeline": _pipeline,
    "latency": _latency,
    "stages": _stages,
    "memory": _memory,
    "restore": _restore,
    "sink": _sink,
    "scale": _scale,
    "model": _model,
    "overload": _overload,
}
