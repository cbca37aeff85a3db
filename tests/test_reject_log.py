"""Dead letters are named in the log, and nothing that is in an event ever stands there."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import fraud_cases
import numpy as np
import pytest
from counting_worker import make_worker
from doubles import CountingProcessor
from events import transaction
from harness import Follower, running, send
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import Prepared
from schemas.envelope import Record, Reject
from streams.inference import infer
from streams.observe import logs
from streams.observe.rejects import RejectLog
from streams.settings import LogSettings

MARK = "zq7payloadzq7"


class Lines:
    """What was logged, as JSON lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def read(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The root logger writes here at debug; afterwards it is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    found = Lines()
    logs.configure(LogSettings(level="debug", format="json"), stream=found.stream)
    yield found
    root.handlers[:] = handlers
    root.setLevel(level)


class Marking(CountingProcessor):
    """Refuses whatever begins with `bad`."""

    def prepare(self, records: list[Record]) -> Prepared:
        bad = [r for r in records if (r.value or b"").startswith(b"bad")]
        prepared = super().prepare([r for r in records if not (r.value or b"").startswith(b"bad")])
        rejects = [Reject(r, "bad_value", "$.x", "no", f"id-{r.offset}") for r in bad]
        return Prepared(prepared.inputs, prepared.records, prepared.context, rejects)


def reject(offset: int, reason: str) -> Reject:
    return Reject(Record("in", 3, offset, None, None, 0), reason, "$.x", event_id="e" * 200)


def test_dead_letters_are_named_by_place_and_id(lines: Lines) -> None:
    """At debug each has its topic, partition, offset, reason, path and event id, which is cut where it is none."""
    RejectLog().tell([reject(7, "bad")])

    debug, info = lines.read()
    assert ("debug", "dead letter for in[3]@7: bad $.x", "in", 3, 7, "bad", "$.x", "e" * 128) == tuple(
        debug[name] for name in ("level", "message", "topic", "partition", "offset", "reason", "path", "event_id")
    )
    assert ("info", "1 dead letters: bad 1; the last for in[3]@7") == (info["level"], info["message"])


def test_a_flood_of_dead_letters_is_summed_up(lines: Lines) -> None:
    """At info there is one line in ten seconds, whatever the number; none is left out of the sums."""
    logging.getLogger().setLevel(logging.INFO)
    now = 0.0
    log = RejectLog(lambda: now)

    for now in (0.0, 1.0, 2.0, 10.0):
        log.tell([reject(int(now), "a"), reject(int(now), "b")])

    assert [
        "2 dead letters: a 1, b 1; the last for in[3]@0",
        "6 dead letters: a 3, b 3; the last for in[3]@10",
    ] == [line["message"] for line in lines.read()]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(transaction())), st.sampled_from([MARK, [MARK], {MARK: MARK}, -1, None])))
def test_no_field_of_a_refused_transaction_is_logged(lines: Lines, changed: dict[str, object]) -> None:
    """Whatever stands in whichever field, the id apart, no line repeats it."""
    fields = {"merchant": MARK, "category": MARK, **changed, "event_id": "tx-1"}
    record = fraud_cases.record(0, card=MARK, **{name: value for name, value in fields.items() if name != "card"})

    outcomes = infer(fraud_cases.processor(), Certain(), [record, record], fraud_cases.NOW)
    RejectLog().tell(outcomes.rejects)

    assert outcomes.rejects
    assert MARK not in lines.stream.getvalue()
    assert {"", "tx-1"} >= {line["event_id"] for line in lines.read() if "event_id" in line}


class Certain:
    """Gives every row the same probability."""

    def run(self, inputs: dict[str, object]) -> tuple[dict[str, object], dict[int, str]]:
        return {"probability": np.full((len(inputs["features"]), 1), 0.1, np.float32)}, {}  # type: ignore[arg-type]


def test_a_worker_at_debug_never_logs_a_payload(stage: dict[str, str], lines: Lines) -> None:
    """Through Kafka, at the most talkative level of all loggers: keys and values of events stand in no line."""
    send(stage["bootstrap"], stage["topic"], [(MARK.encode(), b"bad" + MARK.encode()), (MARK.encode(), MARK.encode())])
    worker = make_worker(**stage, slot="0", processor=Marking(stage["topic"], stage["output"]))
    follower = Follower(stage["bootstrap"], stage["output"], f"{stage['output']}.dead-letters")

    with running(worker):
        follower.read_until(2, 30)

    follower.close()
    assert 2 == len(follower.records)
    assert ["id-0"] == [line["event_id"] for line in lines.read() if "event_id" in line]
    assert MARK not in lines.stream.getvalue()
