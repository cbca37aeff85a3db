"""Real services for every test: one broker a session, topics and data directories of each test's own."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import make_counting_topics

from streams.local.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from secured import SecuredBroker

_TEST_DATA = Path(os.environ.get("HEADRACE_TEST_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The session's broker: tests that stop or kill one start their own."""
    broker = Broker.start(tmp_path_factory.mktemp("broker"))
    yield broker
    broker.kill()  # nobody needs its data again


@pytest.fixture(scope="session")
def kafka(kafka_broker: Broker) -> str:
    """Bootstrap address of the session's broker."""
    return kafka_broker.bootstrap


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker with TLS, users and an authorizer."""
    from secured import SecuredBroker

    found = SecuredBroker(tmp_path_factory.mktemp("secured"))
    yield found
    found.broker.kill()


@pytest.fixture
def topic_name() -> Callable[..., str]:
    """Makes names that no other test has: topics, groups, transactional ids."""
    return lambda prefix="topic": f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets; tests that need one skip where it is absent."""
    folder = _TEST_DATA.resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}: set HEADRACE_TEST_DATA to the folder that holds it")
    return folder


@pytest.fixture
def stage(kafka: str, topic_name: Callable[..., str]) -> dict[str, str]:
    """Topics and a group of the test's own, for a worker that counts."""
    names = {"bootstrap": kafka, "topic": topic_name("in"), "output": topic_name("out"), "group": topic_name("group")}
    make_counting_topics(kafka, names["topic"], names["output"])
    return names
