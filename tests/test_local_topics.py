"""Topics are made once, compared afterwards, and compacted where they hold tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from os import urandom
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from schemas.envelope import Message
from streams.clients import Mover, Reader, Writer
from streams.emitter import TransactionalEmitter
from streams.errors import AbortError
from streams.local.topics import Difference, TopicsError, TopicSpec, batch_bytes, ensure_topics, message_limits

if TYPE_CHECKING:
    from collections.abc import Callable


def _config_of(kafka: str, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": kafka})
    return {name: entry.value for name, entry in admin.describe_configs([resource])[resource].result().items()}


def test_missing_topics_are_made_as_specified(kafka: str, topic_name: Callable[..., str]) -> None:
    """New topics have the partitions and settings of their specification and are ready at once."""
    plain, table = topic_name("plain"), topic_name("table")
    specs = {plain: TopicSpec(3, {"retention.ms": "1000"}), table: TopicSpec.compacted(2)}
    ensured = ensure_topics({"bootstrap.servers": kafka}, specs)
    seen = AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics

    assert set(ensured.created) == {plain, table}
    assert ensured.differences == ()
    assert (len(seen[plain].partitions), len(seen[table].partitions)) == (3, 2)
    assert _config_of(kafka, plain)["retention.ms"] == "1000"
    assert _config_of(kafka, table)["cleanup.policy"] == "compact"
    assert _config_of(kafka, table)["max.message.bytes"] == "16777216"


def test_a_second_call_changes_nothing(kafka: str, topic_name: Callable[..., str]) -> None:
    """Asked again, the same specification creates nothing and finds no difference."""
    specs = {topic_name(): TopicSpec.compacted(2)}
    first = ensure_topics({"bootstrap.servers": kafka}, specs)
    second = ensure_topics({"bootstrap.servers": kafka}, specs, strict=True)

    assert tuple(specs) == first.created
    assert second == ((), ())


def test_many_processes_may_ask_at_once(kafka: str, topic_name: Callable[..., str]) -> None:
    """Of several at the same moment one makes a topic, and the others find it as it was specified."""
    specs = {topic_name(): TopicSpec.compacted(12) for _ in range(8)}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ensure_topics({"bootstrap.servers": kafka}, specs), range(4)))

    assert sorted(specs) == sorted(name for result in results for name in result.created)
    assert all(result.differences == () for result in results)


def test_differences_are_named(kafka: str, topic_name: Callable[..., str]) -> None:
    """An existing topic with other partitions and another cleanup policy is reported; strict callers are stopped."""
    topic = topic_name()
    ensure_topics({"bootstrap.servers": kafka}, {topic: TopicSpec(1)})
    wanted = {topic: TopicSpec.compacted(4)}
    ensured = ensure_topics({"bootstrap.servers": kafka}, wanted)

    assert ensured.created == ()
    assert set(ensured.differences) == {
        Difference(topic, "partitions", "4", "1"),
        Difference(topic, "cleanup.policy", "compact", "delete"),
    }
    with pytest.raises(TopicsError, match=f"topic {topic}: partitions is 1, expected 4; .*make it anew"):
        ensure_topics({"bootstrap.servers": kafka}, wanted, strict=True)


SMALL = TopicSpec(1, {"max.message.bytes": "100000"})


def test_batches_fit_the_topic_that_takes_the_least(kafka: str, topic_name: Callable[..., str]) -> None:
    """A broker refuses a batch for its size although its messages are small; what cannot be compressed goes through."""
    small, usual = topic_name("small"), topic_name("usual")
    config = {"bootstrap.servers": kafka}
    ensure_topics(config, {small: SMALL, usual: TopicSpec(1)})
    limits = message_limits(config, [small, usual, topic_name("missing")])
    messages = [Message(topic, b"k", urandom(800)) for topic in (small, usual) for _ in range(2000)]

    size = batch_bytes(limits.values())

    def taken(**settings: Any) -> bool:
        emitter = TransactionalEmitter({**config, "log_level": 0, **settings}, topic_name("id"))
        consumer = Consumer({**config, "group.id": topic_name("group")})
        try:
            emitter.send(messages)
            emitter.commit({(usual, 0): 1}, consumer.consumer_group_metadata())
        except AbortError:
            return False
        finally:
            consumer.close()
            emitter.close()
        return True

    assert {small: 100_000, usual: 16_777_216} == {topic: limits[topic] for topic in (small, usual)}
    assert (95_904, 3) == (size, len(limits))
    assert (False, True) == (taken(), taken(**{"batch.size": size}))


@pytest.mark.parametrize(
    ("limits", "size"), [([1_048_588, 16_777_216], 1_000_000), ([9000], 4904), ([1000, 5000], 500)]
)
def test_a_batch_leaves_room_for_its_format(limits: list[int], size: int) -> None:
    """Topics as Kafka makes them get the batches that were measured best; the smallest limits still get some."""
    assert size == batch_bytes(limits)


def test_commands_write_to_topics_that_take_little(kafka: str, topic_name: Callable[..., str]) -> None:
    """What people send, and send again, goes in batches as Java's client makes them."""
    topic = topic_name("small")
    config = {"bootstrap.servers": kafka}
    ensure_topics(config, {topic: SMALL})
    mover = Mover(config, topic_name("group"), topic)
    messages = [Message(topic, b"k", urandom(800)) for _ in range(2000)]

    with Writer(config) as writer:
        for message in messages:
            writer.send(message)
    mover.move(messages, {0: (0, "")})
    mover.close()

    with Reader(config, topic) as reader:
        assert 4000 == sum(1 for _ in reader.records())


def test_without_a_broker_the_error_names_the_address(capfd: pytest.CaptureFixture[str]) -> None:
    """Where nobody answers, one error says where it was asked and why not, and nothing is repeated on the terminal."""
    with pytest.raises(TopicsError, match=r"no broker answers at 127\.0\.0\.1:9: .*refused.*HEADRACE_KAFKA"):
        ensure_topics({"bootstrap.servers": "127.0.0.1:9"}, {"any": TopicSpec(1)}, timeout_s=0.5)
    said = capfd.readouterr()

    assert ("", "") == (said.out, said.err)


def test_a_topic_that_cannot_be_made_is_named(kafka: str) -> None:
    """A refused name or setting is an error that names the topic and the broker's reason."""
    with pytest.raises(TopicsError, match=r"topic odd could not be made: .*no\.such\.setting"):
        ensure_topics({"bootstrap.servers": kafka}, {"odd": TopicSpec(1, {"no.such.setting": "1"})})
