"""`bench pipeline`: card transactions scored with exactly-once, against what a user would pick instead.

All contenders work off the same backlog on the same broker, one after the other, in alternating order, each into an
output topic of its own; `steady` says how their speed is taken. Their scores are compared with ours, event by event.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from scripts.bench import cards, kafka
from scripts.bench.report import Table, goal, number, share, spread_text
from scripts.bench.rounds import alternating, ratios, say, spread
from scripts.bench.services import BenchError, Stage
from scripts.bench.steady import Speed, speed, watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scripts.bench.options import Options
    from scripts.bench.services import Process

TITLE = "Pipeline: fraud scoring, exactly once"
OURS, SHORT = "headrace", "hand_batched_short"
PEERS = ("raw_relay", "quix", "faust", "one_event", "hand_batched")
MODULES = {"quix": "quix_app", "faust": "faust_app", SHORT: "hand_batched"}
LABELS = {
    OURS: "headrace worker, default settings",
    "raw_relay": "raw relay: bytes in, bytes out",
    "quix": "Quix Streams, its own state",
    "faust": "Faust, a table (output not transactional)",
    "one_event": "one event at a time, `session.run` each",
    "hand_batched": "batched by hand, no state",
    SHORT: "batched by hand, no state, short answers",
}
QUIXSTREAMS = "3.28.1"
MISSING = [
    "amount_ratio", "card_count_*", "card_sum_*", "seconds_since_last", "distance_km", "speed_kmh",
]  # fmt: skip
"""Features that hand_batched has not: they need the history of the card."""

_TOLERANCE = 1e-5
_COMPARED = 50_000


class _Scored(msgspec.Struct):
    event_id: str
    probability: float


_scored = msgspec.json.Decoder(_Scored).decode


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` is what `--json` prints."""
    events = options.size(full=1_000_000, quick=120_000)
    limit_s = options.size(full=8, quick=3)
    names = [OURS, *PEERS, SHORT]
    with Stage(options.settings) as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT, *map(output_of, names[1:]))
        say(f"pipeline: writing {events:,} transactions")
        kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(events, cards=10_000, days=60))
        pythons, missing = _environments(stage)
        if not options.quick:
            say("pipeline: letting the broker's Java compile")
            _one(stage, OURS, "bench-warm-up", events, float("inf"), pythons)
        speeds, agreement = _measure(stage, names, options.rounds(full=4, quick=1), events, limit_s, pythons, missing)
    peers = {"Quix Streams": QUIXSTREAMS, "Faust": version("faust-streaming")}
    return {
        **_summary(speeds),
        "agreement": agreement,
        "not_run": missing,
        "missing_features": MISSING,
        "peers": peers,
    }


def _measure(
    stage: Stage,
    names: Sequence[str],
    rounds: int,
    events: int,
    limit_s: float,
    pythons: Mapping[str, str],
    missing: dict[str, str],
) -> tuple[dict[str, list[Speed | None]], dict[str, Any]]:
    speeds: dict[str, list[Speed | None]] = {name: [None] * rounds for name in names}
    starts = {name: kafka.ends(stage.bootstrap, output_of(name)) for name in names}
    for turn, name in alternating(names, rounds):
        if name in missing:
            continue
        group = f"bench-{name}-{turn}"
        say(f"pipeline: round {turn + 1} of {rounds}, {name}")
        limit = float("inf") if name == OURS else limit_s
        try:
            speeds[name][turn] = _one(stage, name, group, events, limit, pythons)
        except BenchError as error:
            missing[name] = str(error)
    return speeds, agreements(stage.bootstrap, [n for n in names if n not in missing], starts)


def _one(stage: Stage, name: str, group: str, events: int, limit_s: float, pythons: Mapping[str, str]) -> Speed:
    """What is committed of the input counts, and no more of it than there is output: Faust's offsets run ahead."""
    output = kafka.Ends(stage.bootstrap, output_of(name))
    before = output.count()
    process = start(stage, name, group, pythons)
    progress = kafka.Progress(stage.bootstrap, group, cards.TOPIC)
    try:
        samples = watch(
            lambda: min(progress.committed(), output.count() - before),
            process.cpu_s,
            process.require_alive,
            events,
            limit_s,
        )
        return speed(samples, events)
    finally:
        progress.close()
        output.close()
        process.stop()


def start(stage: Stage, name: str, group: str, pythons: Mapping[str, str]) -> Process:
    """Starts a contender by its name; `pythons` has those of an environment of their own."""
    if name == OURS:
        return stage.worker(cards.DOMAIN, group)
    folder = stage.folder / group
    folder.mkdir()
    arguments = {
        "bootstrap": stage.bootstrap,
        "topic": cards.TOPIC,
        "output": output_of(name),
        "group": group,
        "folder": str(folder),
        "short": name == SHORT,
        **cards.model_facts(),
    }
    return stage.contender(MODULES.get(name, name), arguments, **({"python": pythons[name]} if name in pythons else {}))


def environment(stage: Stage, name: str) -> str:
    """The Python of a contender that needs an environment of its own.

    Raises:
        BenchError: It cannot be made: no registry, no uv.
    """
    own = {
        "quix": [f"quixstreams=={QUIXSTREAMS}"],
        # cramjam: without it Faust crashes on the first lz4 batch.
        "faust": [f"{library}=={version(library)}" for library in ("faust-streaming", "cramjam")],
    }[name]
    common = [f"{library}=={version(library)}" for library in ("numpy", "onnxruntime", "msgspec")]
    return stage.environment(f"environment-{name}", *own, *common)


def _environments(stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    """Pythons of those who need an environment of their own, and why some cannot run."""
    pythons: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in ("quix", "faust"):
        say(f"pipeline: an environment for {name}")
        try:
            pythons[name] = environment(stage, name)
        except BenchError as error:
            missing[name] = str(error)
    return pythons, missing


def output_of(name: str) -> str:
    """The topic that a contender answers into."""
    return cards.OUTPUT if name == OURS else f"bench-{name}"


def agreements(bootstrap: str, names: Sequence[str], starts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Per contender that scores: how many of its answers were compared with ours, and the share that is the same."""
    scoring = [name for name in names if name not in (OURS, "raw_relay")]
    theirs = {name: _scores(kafka.values(bootstrap, output_of(name), starts[name], _COMPARED)) for name in scoring}
    wanted = set().union(*theirs.values())
    found: dict[str, float] = {}
    for value in kafka.values(bootstrap, cards.OUTPUT, starts.get(OURS, [0] * kafka.PARTITIONS), 10**9):
        one = _scored(value)
        if one.event_id in wanted:
            found.setdefault(one.event_id, one.probability)
            if len(found) == len(wanted):
                break
    return {name: agreement(found, scores) for name, scores in theirs.items()}


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """How many events both answered, and the share of them with the same score."""
    both = ours.keys() & theirs.keys()
    same = sum(abs(ours[one] - theirs[one]) <= _TOLERANCE for one in both)
    return {"compared": len(both), "share": round(same / len(both), 5) if both else None}


def _scores(values: Any) -> dict[str, float]:
    return {one.event_id: one.probability for one in map(_scored, values)}


def _summary(speeds: Mapping[str, Sequence[Speed | None]]) -> dict[str, Any]:
    rates = {name: [one.events_per_s if one else None for one in rounds] for name, rounds in speeds.items()}
    cpu = {name: [one.cpu_us if one else None for one in rounds] for name, rounds in speeds.items()}
    compared = {name: spread(ratios(rates[OURS], rates[name])) for name in rates if name != OURS}
    by_cpu = {name: spread(ratios(cpu[name], cpu[OURS])) for name in cpu if name != OURS}
    ours = spread([rate for rate in rates[OURS] if rate], 0)
    if ours is None:
        raise BenchError("headrace itself could not be measured")
    return {
        "result": {
            "events_per_s": round(ours["median"]),
            "ratios": {name: (one := compared[name]) and one["median"] for name in PEERS},
        },
        "events_per_s": {name: spread([rate for rate in rounds if rate], 0) for name, rounds in rates.items()},
        "cpu_us": {name: spread([one for one in rounds if one], 2) for name, rounds in cpu.items()},
        "ratios": compared,
        "cpu_ratios": by_cpu,
        "speeds": {name: [one and one.as_dict() for one in rounds] for name, rounds in speeds.items()},
    }


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Speed, CPU, ratio and agreement of every contender."""
    rows = []
    for name in (OURS, *PEERS, SHORT):
        alike = report["agreement"].get(name)
        rows.append(
            [
                LABELS[name],
                spread_text(report["events_per_s"].get(name), digits=0),
                spread_text(report["cpu_us"].get(name), digits=1),
                "" if name == OURS else spread_text(report["ratios"].get(name), digits=2),
                "" if name == OURS else spread_text(report["cpu_ratios"].get(name), digits=2),
                f"{share(alike['share'])} of {number(alike['compared'])}" if alike and alike["compared"] else "",
            ]
        )
    notes = [f"{LABELS.get(name, name)} did not run: {why.splitlines()[0]}" for name, why in report["not_run"].items()]
    notes.append(", ".join(f"{name} {number_}" for name, number_ in report["peers"].items()) + ".")
    found = report["result"]["ratios"]
    others = [ratio for name in ("quix", "faust", "one_event") if (ratio := found[name]) is not None]
    notes += [
        goal("of the raw relay", found["raw_relay"], at_least=0.4),
        goal("times the best of Quix Streams, Faust and one event at a time", min(others, default=None), at_least=4),
        goal("of the loop batched by hand", found["hand_batched"], at_least=0.8),
    ]
    return [
        Table(
            TITLE,
            ["contender", "events/s", "CPU µs/event", "ours / theirs", "CPU theirs / ours", "same score as ours"],
            rows,
            notes,
        )
    ]
