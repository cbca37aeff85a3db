"""`bench stages`: microseconds per event of each stage, of a worker under full load and in loops without Kafka."""

from __future__ import annotations

import tempfile
import time
import zlib
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.codec import codec_for
from schemas.envelope import Record
from schemas.fraud import Transaction
from scripts.bench import cards, kafka
from scripts.bench.report import Table, number, spread_text
from scripts.bench.rounds import say, spread
from scripts.bench.services import Headrace, Stage
from scripts.bench.steady import watch
from streams.inference import infer
from streams.loading import open_domain
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from scripts.bench.options import Options
    from streams.inference import Observes

TITLE = "Stages: µs per event"
_STAGE = 'headrace_stage_seconds_sum{stage="'
_CPU = "CPU of the whole process"
_EVENTS = "headrace_events_read_total"
# As many as a transaction holds at most, so the changelog is coalesced as in a worker under load.
_PER_TRANSACTION = 20_000


def run(options: Options) -> dict[str, Any]:
    """Measures; `result` has the medians: wall time per stage of a worker, CPU time per stage offline."""
    events, rounds = options.size(full=600_000, quick=120_000), options.rounds(full=3, quick=1)
    with Stage(options.settings) as stage:
        kafka.make_topics(stage.bootstrap, cards.TOPIC, cards.OUTPUT)
        kafka.preload(stage.bootstrap, cards.TOPIC, cards.transactions(events, cards=10_000, days=60))
        online = []
        for number_ in range(rounds):
            say(f"stages: a worker, round {number_ + 1} of {rounds}")
            online.append(_online(stage, f"stages-{number_}", events))
    say("stages: loops without Kafka")
    offline = [_offline(options.size(full=200_000, quick=60_000)) for _ in range(rounds)]
    measured = {"worker": _spreads(online), "offline_cpu": _spreads(offline)}
    result = {how: {stage: one["median"] for stage, one in stages.items()} for how, stages in measured.items()}
    return {"result": {**result, "worker_cpu": result["worker"].pop(_CPU)}, **measured}


def _online(stage: Stage, group: str, events: int) -> dict[str, float]:
    """Wall time per event between a tenth of the backlog and its end, from the worker's own metrics."""
    worker: Headrace = stage.worker(cards.DOMAIN, group)
    progress = kafka.Progress(stage.bootstrap, group, cards.TOPIC)
    try:
        watch(progress.committed, worker.cpu_s, worker.require_alive, events // 10)
        before, cpu_before = worker.metrics(), worker.cpu_s()
        watch(progress.committed, worker.cpu_s, worker.require_alive, events)
        after, cpu = worker.metrics(), worker.cpu_s() - cpu_before
    finally:
        progress.close()
        worker.stop()
    done = after[_EVENTS] - before[_EVENTS]
    names = [name for name in after if name.startswith(_STAGE)]
    found = {name[len(_STAGE) : -2]: (after[name] - before.get(name, 0)) / done * 1e6 for name in names}
    return {**found, _CPU: cpu / done * 1e6}


def _offline(events: int) -> dict[str, float]:
    """CPU time per event of the same code in a loop, with what Kafka and the transaction need left out."""
    taken: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        settings = Settings(data=Path(folder))
        opened = open_domain(settings, cards.DOMAIN)
    processor, state = opened.processor, opened.processor.state
    assert state is not None, "the domain has keyed state"
    for partition in range(kafka.PARTITIONS):
        state.restore(partition, {})
    codec = codec_for(cards.TOPIC, Transaction)
    since = 0
    for batch in _batches(_records(events), settings.worker.max_size):
        _timed(taken, "decode (within prepare)", lambda batch=batch: codec.decode_records(batch))  # type: ignore[misc]
        before = time.process_time()
        inside: Counter[str] = Counter()
        infer(processor, opened.session, batch, time.time_ns() // 1_000_000, _noting(inside))
        cpu, wall = time.process_time() - before, sum(inside.values())
        # The stages are told in wall time: its shares of the CPU time of the call hold on a busy machine too.
        taken.update({stage: cpu * seconds / wall for stage, seconds in inside.items()})
        since += len(batch)
        if since >= _PER_TRANSACTION:
            since = 0
            _timed(taken, "tallies", processor.drain)
            _timed(taken, "changelog", lambda: list(state.changes()))
    return {stage: seconds / events * 1e6 for stage, seconds in taken.items()}


def _noting(inside: Counter[str]) -> Observes:
    def note(stage: str, seconds: float) -> None:
        inside[stage] += seconds  # type: ignore[assignment]  # a Counter of seconds

    return note


def _timed(taken: Counter[str], stage: str, action: Callable[[], object]) -> None:
    before = time.process_time()
    action()
    taken[stage] += time.process_time() - before  # type: ignore[assignment]  # a Counter of seconds


def _records(events: int) -> Iterator[Record]:
    now = time.time_ns() // 1_000_000
    offsets = [0] * kafka.PARTITIONS
    for key, value in cards.transactions(events, cards=10_000, days=60):
        partition = zlib.crc32(key or b"") % kafka.PARTITIONS
        yield Record(cards.TOPIC, partition, offsets[partition], key, value, now)
        offsets[partition] += 1


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    remaining = iter(records)
    while batch := list(islice(remaining, size)):
        yield batch


def _spreads(rounds: list[dict[str, float]]) -> dict[str, Any]:
    return {stage: spread([one[stage] for one in rounds if stage in one], 2) for stage in rounds[0]}


def tables(report: Mapping[str, Any]) -> list[Table]:
    """One table for each way of measuring."""
    found = []
    for how, title in (("worker", "a worker under full load, wall time"), ("offline_cpu", "the same code, CPU time")):
        rows = [[stage, spread_text(one, 2)] for stage, one in report[how].items()]
        if how == "worker":
            total = sum(one["median"] for stage, one in report[how].items() if stage != _CPU)
            rows.append(["all stages", number(total, 2)])
        found.append(Table(f"{TITLE}, {title}", ["stage", "µs/event"], rows))
    return found
