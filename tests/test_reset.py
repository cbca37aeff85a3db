"""`headrace reset`: workers go on elsewhere, with or without their state, and never while somebody works."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from commands import say
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from counting_worker import make_worker
from harness import Follower, end_offsets, running, send
from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import find_topic
from streams.cli import _domain
from streams.cli._app import run
from streams.cli._moves import Target, moves, parse_target
from streams.errors import StopError
from streams.groups import BusyGroupError, Group, Place, state_keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENTS = [(b"k%d" % (n % 10), b"%d" % n) for n in range(40)]


class Stage:
    """A domain of this test's own: topics, a group, and workers that count."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.changelog = f"{names['output']}.changelog"
        self.config: dict[str, Any] = {"bootstrap.servers": names["bootstrap"]}

    def send(self, *, timestamp: int = 0) -> None:
        """Forty events of ten keys."""
        if not timestamp:
            send(self.names["bootstrap"], self.names["topic"], EVENTS)
            return
        producer = Producer({**self.config, "partitioner": "murmur2_random"})
        for key, value in EVENTS:
            producer.produce(self.names["topic"], value, key, timestamp=timestamp)
        assert producer.flush(30) == 0

    def answer(self, results: int) -> Counter[bytes]:
        """What the output holds after a worker was there until it has so many results."""
        follower = Follower(self.names["bootstrap"], self.names["output"])
        with running(make_worker(**self.names, slot="0", static=False)):
            follower.read_until(results, 20)
        follower.close()
        return Counter(r.value or b"" for r in follower.records)

    def state(self) -> dict[int, list[bytes]]:
        """Keys of the state's entries, by partition."""
        return {p: sorted(keys) for p, keys in state_keys(self.config, self.changelog, range(4)).items()}

    def group(self) -> Group:
        """The group of the workers."""
        return Group(self.config, self.names["group"], self.names["topic"])

    def committed(self) -> dict[int, int | None]:
        """Where the group stands."""
        with self.group() as group:
            return {place.partition: place.committed for place in group.places()}


@pytest.fixture
def counting(stage: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Commands on the domain fraud find the topics and the group of workers that count."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADRACE_KAFKA", stage["bootstrap"])
    monkeypatch.setenv("HEADRACE_WORKER__GROUP", stage["group"])
    made = Stage(stage)
    topic = find_topic("transactions")
    monkeypatch.setattr(_domain, "find_topic", lambda _name: msgspec.structs.replace(topic, name=stage["topic"]))
    monkeypatch.setattr("streams.running.changelog_of", lambda *_: made.changelog)
    return made


def test_workers_begin_anew_with_and_without_their_state(
    counting: Stage, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """With --state the same events get the same answers again; without, the state has taken them in already."""
    counting.send()
    first = counting.answer(40)
    entries = counting.state()
    [anew] = say(capsysbinary, "reset", "fraud", "--to", "earliest", "--state", "--yes", "--json")
    emptied = counting.state()
    second = counting.answer(80)
    [on] = say(capsysbinary, "reset", "fraud", "--to", "earliest", "-y", "--json")
    third = counting.answer(120)

    assert {b"%d:%d" % (n, n // 10): 1 for n in range(40)} == first
    assert {b"%d:%d" % (n, n // 10): 2 for n in range(40)} == second
    assert {b"%d:%d" % (n, 4 + n // 10): 1 for n in range(40)} == third - second
    assert {p: len(keys) for p, keys in entries.items()} == {
        a["partition"]: a["state_entries"] for a in anew["partitions"]
    }
    assert 10 == sum(map(len, entries.values()))
    assert {0: [], 1: [], 2: [], 3: []} == emptied
    assert 40 == sum(a["again"] for a in anew["partitions"])
    assert anew["done"]
    assert [None] * 4 == [a["state_entries"] for a in on["partitions"]]
    assert ["twice" in note for note in on["notes"]] == [False, True]


def test_nothing_is_moved_while_somebody_works(counting: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """A group with members is left alone, and the message names them; --dry-run only looks, and may."""
    counting.send()
    with running(make_worker(**counting.names, slot="7")):
        follower = Follower(counting.names["bootstrap"], counting.names["output"])
        follower.read_until(40, 20)
        follower.close()
        before = counting.committed()
        code = run(["reset", "fraud", "--to", "earliest", "--state", "--yes"])
        said = capsys.readouterr()
        looked = run(["reset", "fraud", "--to", "earliest", "--dry-run"])

    assert (1, 0) == (code, looked)
    assert f"has members: {counting.names['group']}-7 at 127.0.0.1" in said.err
    assert before == counting.committed()
    assert 10 == sum(map(len, counting.state().values()))


class Interrupting(list[bytes]):
    """Keys; whoever goes through them finds that somebody has joined the group meanwhile."""

    joined: Consumer

    def __init__(self, keys: list[bytes], stage: Stage) -> None:
        super().__init__(keys)
        self._stage = stage

    def __iter__(self) -> Iterator[bytes]:
        self.joined = Consumer({**self._stage.config, "group.id": self._stage.names["group"]})
        self.joined.subscribe([self._stage.names["topic"]])
        deadline = time.monotonic() + 20
        while not self.joined.assignment() and time.monotonic() < deadline:
            self.joined.poll(0.1)
        return super().__iter__()


def test_whoever_joins_in_the_middle_stops_it(counting: Stage) -> None:
    """A member that came after the first look is seen before the commit: neither offsets nor state change."""
    counting.send()
    counting.answer(40)
    before, entries = counting.committed(), counting.state()
    keys = Interrupting(entries[0], counting)

    with counting.group() as group:
        group.require_nobody()
        with pytest.raises(BusyGroupError, match="has members: rdkafka at"):
            group.move(dict.fromkeys(range(4), 0), f"{counting.names['group']}-reset", counting.changelog, {0: keys})
    keys.joined.close()

    assert before == counting.committed()
    assert entries == counting.state()


def test_it_mends_what_a_worker_stops_at(counting: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Offsets that left the topic, and state without an offset: a worker stops at both, and goes on after a reset."""
    counting.send()
    first = counting.answer(40)
    counting.send()
    admin = AdminClient(counting.config)
    ends = end_offsets(counting.names["bootstrap"], counting.names["topic"])
    for future in admin.delete_records(
        [TopicPartition(counting.names["topic"], p, e) for p, e in ends.items()]
    ).values():
        future.result(10)
    stopped = make_worker(**counting.names, slot="1", static=False)
    with pytest.raises(StopError, match="is outside of what the topic still has"):
        stopped.run()
    assert 0 == run(["reset", "fraud", "--to", "earliest", "--dry-run"])
    table = capsys.readouterr().out.splitlines()
    assert 0 == run(["reset", "fraud", "--to", "earliest", "--yes"])
    counting.send()
    second = counting.answer(80)
    admin.delete_consumer_groups([counting.names["group"]])[counting.names["group"]].result(10)
    with pytest.raises(StopError, match="there is state of it, but no committed offset"):
        make_worker(**counting.names, slot="2", static=False).run()
    assert 0 == run(["reset", "fraud", "--to", "latest", "--yes"])
    counting.send()
    third = counting.answer(120)

    assert 40 == sum(int(line.split()[6]) for line in table[2:6])
    assert {b"%d:%d" % (n, 4 + n // 10): 1 for n in range(40)} == second - first
    assert {b"%d:%d" % (n, 8 + n // 10): 1 for n in range(40)} == third - second


def test_nothing_happens_unless_somebody_says_so(counting: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal to ask on, and without --yes, the table is all there is, and the exit code says that."""
    counting.send()
    counting.answer(40)
    before = counting.committed()

    code = run(["reset", "fraud", "--to", "earliest", "--state"])

    said = capsys.readouterr()
    assert 1 == code
    assert "nothing was changed: give --yes" in said.err
    assert "second result on fraud-scores, and a second row in fraud_scores" in said.out
    assert before == counting.committed()


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_on_a_terminal_it_asks(
    counting: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: bytes, code: int
) -> None:
    """The table comes first, then the question; only yes moves anything."""
    counting.send()
    keyboard, terminal = os.openpty()
    os.write(keyboard, typed)
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        left = run(["reset", "fraud", "--to", "latest"])
    os.close(keyboard)

    assert code == left
    assert "Do this? [y/N]" in capsys.readouterr().err
    ends = end_offsets(counting.names["bootstrap"], counting.names["topic"])
    assert (ends if code == 0 else dict.fromkeys(range(4))) == counting.committed()


def test_a_time_is_the_first_event_from_then_on(counting: Stage, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Kafka's own timestamps count; a time that nothing came after is the end; an offset names its partition."""
    counting.send(timestamp=1_767_225_600_000)
    middle = end_offsets(counting.names["bootstrap"], counting.names["topic"])
    counting.send(timestamp=1_767_225_660_000)

    [asked] = say(capsysbinary, "reset", "fraud", "--to", "2026-01-01T00:00:30Z", "--to", "1=3", "--dry-run", "--json")
    [late] = say(capsysbinary, "reset", "fraud", "--to", "2026-01-02T00:00:00+02:00", "--dry-run", "--json")

    assert {**middle, 1: 3} == {a["partition"]: a["to"] for a in asked["partitions"]}
    assert {p: 2 * end for p, end in middle.items()} == {a["partition"]: a["to"] for a in late["partitions"]}
    assert not asked["done"]


PLACES = [Place(0, 10, 50, 30), Place(1, 10, 50, 5), Place(2, 10, 50, None), Place(3, 10, 50, 99)]


@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        (["earliest"], {0: (20, 0, 0), 1: (0, 0, 5), 2: (None, 0, 0), 3: (None, 0, 0)}),
        (["latest"], {0: (0, 20, 0), 1: (0, 40, 5), 2: (0, 40, 0), 3: (0, 40, 0)}),
        (["0=25", "1=20"], {0: (5, 0, 0), 1: (0, 10, 5)}),
        ([], {0: (0, 0, 0), 1: (0, 0, 5), 2: (0, 0, 0), 3: (0, 0, 0)}),
    ],
)
def test_what_a_move_means(texts: list[str], counts: dict[int, tuple[int | None, int, int]]) -> None:
    """Answered again, passed over and gone, from where the group stood; unknown where its offset means nothing."""
    found = moves(PLACES, [parse_target(text) for text in texts], lambda _ms: {})

    assert counts == {move.partition: (move.again, move.passed_over, move.gone) for move in found}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say where to go on with --to, or --state"),
        (("--to", "1200"), "say which, as in 0=1200"),
        (("--to", "x=3"), "'x' is no partition"),
        (("--to", "yesterday"), "neither earliest nor latest, no offset, and no time"),
        (("--to", "2026-01-01T00:00:00"), "no time with an offset from UTC"),
        (("--to", "9=earliest"), "there is no partition 9; there are 0 to 3"),
        (("--to", "2=77"), "partition 2 has the offsets 0 to 0, and 77 is none of them"),
    ],
)
def test_wrong_words_are_told(
    counting: Stage, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    """What is no place is said, with what would be one; the exit code is that of wrong use."""
    assert counting.names
    assert 2 == run(["reset", "fraud", *words])
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@given(st.text() | st.from_regex(r"\A\d{1,4}=\w{1,9}\Z") | st.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z"))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """Parsing gives one of four places, or says what is wrong with the text."""
    try:
        target = parse_target(text)
    except ValueError:
        return

    assert 1 == sum([bool(target.word), target.offset is not None, target.at_ms is not None])


@given(st.integers(0, 2**40), st.integers(0, 4000))
def test_an_offset_is_read_as_it_is_written(offset: int, partition: int) -> None:
    """Partition and offset come back."""
    assert Target(offset=offset, partition=partition) == parse_target(f"{partition}={offset}")
