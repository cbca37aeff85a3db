"""A card number stays inside: what leaves the processor holds its token."""

from __future__ import annotations

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import TYPE_CHECKING

import pytest
from events import CARD
from fraud_cases import KEY, NOW, outputs, processor, record

from processors._tokens import CardTokens, TokenKeyError, key_from
from schemas.envelope import Message, Reject

if TYPE_CHECKING:
    from pathlib import Path


def test_no_card_leaves_the_processor(caplog: pytest.LogCaptureFixture) -> None:
    """Results, tallies, changelog, log and what rejects say never hold the card, whether the event is good or bad."""
    caplog.set_level(logging.DEBUG)
    scorer = processor()
    events = [
        record(0, card=CARD),
        record(1, card=CARD, event_id="event-0-0"),
        record(2, card=CARD, amount=-1),
        record(3, card=int(CARD)),
        record(4, card=CARD, category=CARD * 5),
        record(5, card=CARD, event_time=CARD),
        record(6, card=[CARD]),
        record(7, card=CARD, merchant_lat=CARD),
    ]
    prepared = scorer.prepare(events)
    answers = scorer.interpret(prepared, outputs(prepared, 0.99), NOW)
    out: list[bytes] = [
        *(part or b"" for m in [*answers, *scorer.drain()] if isinstance(m, Message) for part in (m.key, m.value)),
        *(part or b"" for _, key, value in scorer.state.changes() for part in (key, value)),
        *(f"{r.reason} {r.path} {r.detail}".encode() for r in prepared.rejects),
        caplog.text.encode(),
    ]

    assert (1, 7) == (len(answers), len(prepared.rejects))
    assert all(not isinstance(reply, Reject) for reply in answers)
    assert 10 < len(out)
    assert not [part for part in out if CARD.encode() in part or CARD.encode()[::-1] in part]


def test_tokens_depend_on_card_and_key() -> None:
    """The same card has the same token under one key, another under another key, and no other card has it."""
    tokens = CardTokens(KEY).of([CARD, CARD, "4000000000000002"])

    assert tokens[0] == tokens[1] != tokens[2]
    assert 16 == len(tokens[0])
    assert tokens[0] == CardTokens(KEY, remembered=1).of(["x", "y", CARD])[2]
    assert tokens[0] != CardTokens(KEY[::-1]).of([CARD])[0]


def test_tokens_are_published_blake2b() -> None:
    """Anybody with the key can compute a token with a standard library."""
    assert blake2b(CARD.encode(), key=KEY, digest_size=16).digest() == CardTokens(KEY).of([CARD])[0]


def test_remembered_cards_are_bounded() -> None:
    """However many cards come, only the recent ones are held in memory."""
    tokens = CardTokens(KEY, remembered=100)
    cards = [f"{number:016d}" for number in range(1000)]
    found = [tokens.of([card])[0] for card in cards]

    assert len(tokens._young) + len(tokens._old) <= 200
    assert found == CardTokens(KEY).of(cards)


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    """Without a setting the data directory holds a key of 32 bytes that only its owner may read."""
    key = key_from("", tmp_path / "data")
    path = tmp_path / "data" / "token.key"

    assert 32 == len(key)
    assert key == key_from("", tmp_path / "data")
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(path.parent.iterdir())


def test_workers_that_start_together_get_one_key(tmp_path: Path) -> None:
    """Several that find no key at the same moment agree on one."""
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: key_from("", tmp_path), range(64)))

    assert 1 == len(set(keys))


@pytest.mark.parametrize("setting", ["xyz", "00" * 15, "00" * 65, "0"])
def test_a_key_that_cannot_be_used_is_refused_unseen(setting: str, tmp_path: Path) -> None:
    """The error says where the key is and how to make one, not what it is."""
    with pytest.raises(TokenKeyError, match="openssl rand -hex 32") as error:
        key_from(setting, tmp_path)

    assert "token_key" in str(error.value)
    assert setting not in str(error.value).replace("32", "") or setting == "0"


def test_a_key_from_the_settings_is_used(tmp_path: Path) -> None:
    """Hexadecimal digits are the key, and nothing is written."""
    assert KEY == key_from(KEY.hex(), tmp_path)
    assert [] == list(tmp_path.iterdir())
