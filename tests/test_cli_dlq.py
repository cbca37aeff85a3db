"""Dead letters, looked at and sent back, on a real broker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from commands import say, write
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.dead_letter import to_message
from schemas.envelope import Message, Record, Reject
from schemas.topics import TopicType, find_topic
from streams.cli import _decoding, _letters
from streams.cli._app import run
from streams.cli._ranges import METADATA_LIMIT, Dealt, TooManyRangesError, parse_ranges
from streams.clients import Reader
from streams.local.topics import TopicSpec, ensure_topics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def config(kafka: str) -> dict[str, str]:
    """How the clients of tests reach the broker."""
    return {"bootstrap.servers": kafka}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADRACE_KAFKA", kafka)


class Letters:
    """A topic of dead letters with ten of them in two partitions, whose originals came from `source`."""

    def __init__(self, config: dict[str, str], name: str) -> None:
        self.config = config
        self.topic = f"{name}.dead-letters"
        self.source = f"{name}.source"
        ensure_topics(config, {self.topic: TopicSpec(2), self.source: TopicSpec(1)})
        self.originals = [
            Record(self.source, 0, n, b"k%d" % n, b"v\xff%d" % n, 1_767_225_600_000, (("trace", b"t%d" % n),))
            for n in range(10)
        ]
        self.add(self.originals)

    def add(self, originals: list[Record]) -> None:
        """Writes a dead letter of each, of the reasons even and odd in turn, to the two partitions in turn."""
        messages = []
        for record in originals:
            reject = Reject(record, ("even", "odd")[record.offset % 2], "$.x", "d")
            messages.append(msgspec.structs.replace(to_message(reject, self.topic, 5), partition=record.offset % 2))
        write(self.config, messages)

    def sent_back(self) -> list[Record]:
        """What is on the source topic."""
        with Reader(self.config, self.source) as reader:
            return list(reader.records())


@pytest.fixture
def letters(config: dict[str, str], topic_name: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Letters:
    """Dead letters of this test's own."""
    made = Letters(config, topic_name("shop"))
    declared = msgspec.structs.replace(find_topic("fraud.dead-letters"), name=made.topic)
    source = msgspec.structs.replace(find_topic("transactions"), name=made.source)
    known: dict[str, TopicType] = {made.topic: declared, made.source: source}
    monkeypatch.setattr(_letters, "topics", lambda: known)
    monkeypatch.setattr(_decoding, "topics", lambda: known)
    return made


def test_dead_letters_are_listed(letters: Letters, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Counts by reason, and the last ones with where they came from."""
    [whole] = say(capsysbinary, "dlq", "list", letters.topic, "--json", "--last", "3")
    [odd] = say(capsysbinary, "dlq", "list", letters.topic, "--json", "--reason", "odd")
    assert 0 == run(["dlq", "list", letters.topic])
    plain = capsysbinary.readouterr().out.decode()

    assert (10, {"even": 5, "odd": 5}, 3) == (whole["total"], whole["reasons"], len(whole["last"]))
    assert {"odd"} == {one["reason"] for one in odd["last"]}
    assert "       5  even\n" in plain
    assert f"odd $.x  from {letters.source}/0/9" in plain


def test_one_dead_letter_is_shown_whole(letters: Letters, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """By its own place or by that of the original; original bytes, key and headers, reason and path."""
    [by_own] = say(capsysbinary, "dlq", "show", letters.topic, "1/2", "--json")
    [by_original] = say(capsysbinary, "dlq", "show", letters.topic, f"{letters.source}/0/5", "--json")
    assert 1 == run(["dlq", "show", letters.topic, "1/99"])
    assert 1 == run(["dlq", "show", letters.topic, "99/0"])

    assert by_own == by_original
    assert ("odd", "$.x", "k5", {"trace": "t5"}, "76ff35", "v\\xff5", 0) == tuple(
        by_own[name] for name in ("reason", "path", "key", "headers", "hex", "value", "retries")
    )


def test_consume_decodes_dead_letters(letters: Letters, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """On a topic of dead letters consume shows why beside the original value."""
    messages = say(capsysbinary, "consume", letters.topic, "--json", "--count", "1")

    assert "$.x" == messages[0]["value"]["dead_letter"]["path"]


def test_retry_sends_the_originals_once(letters: Letters, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A retry picks, sends original bytes, key and headers, and remembers what it sent, whatever was picked."""

    def retry(*arguments: str) -> tuple[int, dict[str, int]]:
        [said] = say(capsysbinary, "dlq", "retry", letters.topic, "--json", *arguments)
        return said["sent"], said["left_out"]

    assert (5, {"not_chosen": 5}) == retry("--reason", "odd", "--dry-run")
    assert [] == letters.sent_back()
    assert (2, {"not_chosen": 8}) == retry("--reason", "odd", "--offsets", "1,3-3")
    assert 1 == retry("--reason", "odd", "--limit", "1")[0]
    assert (2, {"already_retried": 3, "not_chosen": 5}) == retry("--partition", "1")
    assert (5, {"already_retried": 5}) == retry()
    assert (0, {"already_retried": 10}) == retry()

    sent = letters.sent_back()
    assert sorted((r.key, r.value, (*r.headers, (_letters.RETRIES, b"1"))) for r in letters.originals) == sorted(
        (r.key, r.value, r.headers) for r in sent
    )
    assert (10, {}) == retry("--again")


def test_what_never_works_is_not_retried_for_ever(letters: Letters, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """The header counts retries; a record at the bound is left out unless the bound is raised."""
    tired = msgspec.structs.replace(letters.originals[0], headers=(("trace", b"t"), (_letters.RETRIES, b"3")))
    letters.add([tired])

    [said] = say(capsysbinary, "dlq", "retry", letters.topic, "--json")
    [raised] = say(capsysbinary, "dlq", "retry", letters.topic, "--json", "--max-retries", "4")

    assert (10, {"retried_too_often": 1}) == (said["sent"], said["left_out"])
    assert (1, {"already_retried": 10}) == (raised["sent"], raised["left_out"])
    assert ((("trace", b"t"), (_letters.RETRIES, b"4")),) == tuple(r.headers for r in letters.sent_back()[10:])


def test_large_originals_are_retried(letters: Letters, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """An original of 2 MB goes back like any other."""
    large = msgspec.structs.replace(letters.originals[0], value=b"x" * 2_000_000)
    letters.add([large])

    [said] = say(capsysbinary, "dlq", "retry", letters.topic, "--json")

    assert (11, {}) == (said["sent"], said["left_out"])
    assert large.value in {r.value for r in letters.sent_back()}


def test_letters_without_their_original_are_not_retried(
    letters: Letters, config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Where the topic could not take the original there is nothing to send back; the letter says how much it lacks."""
    large = msgspec.structs.replace(letters.originals[0], offset=99, value=b"x" * 5000)
    write(config, [to_message(Reject(large, "odd"), letters.topic, 5, max_bytes=1000)])

    [said] = say(capsysbinary, "dlq", "retry", letters.topic, "--json")
    [shown] = say(capsysbinary, "dlq", "show", letters.topic, f"{letters.source}/0/99", "--json")

    assert (10, {"original_omitted": 1}) == (said["sent"], said["left_out"])
    assert (None, 5000) == (shown["value"], shown["omitted"] // 1000 * 1000)


def test_a_letter_cannot_choose_where_it_is_sent(
    letters: Letters, config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A letter that says to come from a topic that is no input, such as a changelog, is counted and left alone."""
    forged = msgspec.structs.replace(letters.originals[0], topic="headrace-fraud-changelog", offset=99)
    write(config, [to_message(Reject(forged, "odd"), letters.topic, 5)])

    [said] = say(capsysbinary, "dlq", "retry", letters.topic, "--json")

    assert (10, {"not_from_an_input": 1}) == (said["sent"], said["left_out"])


def test_only_dead_letters_are_retried(
    letters: Letters, config: dict[str, str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A message of somebody else on the topic is counted and left alone."""
    write(config, [Message(letters.topic, b"k", b"not ours", partition=0)])

    [said] = say(capsysbinary, "dlq", "retry", letters.topic, "--json")

    assert (10, {"not_a_dead_letter": 1}) == (said["sent"], said["left_out"])


def test_names_of_dead_letters(capsys: pytest.CaptureFixture[str]) -> None:
    """A domain stands for its topic of dead letters; any other name is told."""
    assert "fraud.dead-letters" == _letters.topic_of("fraud") == _letters.topic_of("fraud.dead-letters")
    assert 1 == run(["dlq", "list", "transactions"])
    assert "'transactions' is no domain and no topic of dead letters; domains are fraud" in capsys.readouterr().err


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), unique=True), st.lists(st.sets(st.integers(0, 60)), max_size=4))
def test_what_was_dealt_with_is_remembered_exactly(present: list[int], picks: list[set[int]]) -> None:
    """Whatever is picked in whatever order, offset and metadata tell exactly which messages were dealt with."""
    present.sort()
    dealt, expected = Dealt(), set()
    for pick in picks:
        chosen = pick & set(present)
        expected |= chosen
        dealt = dealt.adding(chosen, present)
        dealt = Dealt.read(dealt.below, dealt.metadata())

    assert expected == {offset for offset in present if offset in dealt}


def test_more_ranges_than_can_be_remembered() -> None:
    """What Kafka would not keep is refused before anything is sent."""
    scattered = Dealt(0, tuple((n, n) for n in range(10, 10 + METADATA_LIMIT, 2)))

    with pytest.raises(TooManyRangesError, match="too many to remember"):
        scattered.metadata()


@pytest.mark.parametrize("text", ["x", "3-1", "-3", "1-2-3", "1;2"])
def test_ranges_that_are_none(text: str) -> None:
    """What is no list of offsets is refused, also as metadata of somebody else."""
    with pytest.raises(ValueError, match=r"range|offset"):
        parse_ranges(text)
    assert Dealt(4) == Dealt.read(4, text)
