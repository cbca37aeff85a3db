"""Card numbers to tokens: keyed BLAKE2b of 128 bits (RFC 7693), the only form in which a card leaves `prepare`.

The same card under the same key is always the same token, so tokens can be joined, counted and looked up; without the
key nobody can go back by trying all card numbers. Two cards share a token by chance of about n^2 / 2^129.

Rotation: a new key makes new tokens. Histories of cards are kept by token, so every card then begins anew: its windows
fill up over 30 days, and the old histories end by themselves when they are past the horizon. A token does not carry
the name of its key: rows of before and after a rotation are told apart by `scored_at`. `docs/privacy.md` says what to
do and when.
"""

from __future__ import annotations

import os
import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOKEN_BYTES = 16
MIN_KEY_BYTES = 16
# BLAKE2b's own limit.
MAX_KEY_BYTES = 64
KEY_FILE = "token.key"

# Cards remembered: two generations of about 200 bytes a card stay below 100 MB.
_REMEMBERED = 200_000


class TokenKeyError(ValueError):
    """A key that cannot be used; the message never shows it."""


class CardTokens:
    """Tokens of cards under one key. Remembers recent cards in memory, because hashing costs ten look-ups."""

    def __init__(self, key: bytes, remembered: int = _REMEMBERED) -> None:
        if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            raise TokenKeyError(f"The token key has {len(key)} bytes; {MIN_KEY_BYTES} to {MAX_KEY_BYTES} are needed.")
        self._hash = blake2b(key=key, digest_size=TOKEN_BYTES)
        self._remembered = remembered
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}

    def of(self, cards: Sequence[str]) -> list[bytes]:
        """The token of each card."""
        tokens = list(map(self._young.get, cards))
        if None in tokens:
            tokens = [token or self._look_up(card) for card, token in zip(cards, tokens, strict=True)]
        return tokens  # type: ignore[return-value]  # no None is left

    def _look_up(self, card: str) -> bytes:
        """Two generations: when the young one is full it becomes the old one, and what nobody asks for is gone."""
        token = self._young.get(card) or self._old.get(card)
        if token is None:
            hashing = self._hash.copy()
            hashing.update(card.encode())
            token = hashing.digest()
        if len(self._young) >= self._remembered:
            self._old, self._young = self._young, {}
        self._young[card] = token
        return token


def key_from(setting: str, data: Path) -> bytes:
    """The key of `[privacy] token_key` (hexadecimal); where that is empty, the one in the data directory.

    That one is made when first asked for, readable by its owner alone; of processes that start together, all get the
    same. Workers on several machines need the setting.

    Raises:
        TokenKeyError: The key is no hexadecimal number or too short.
    """
    if setting:
        return _parse(setting, "[privacy] token_key")
    path = data / KEY_FILE
    if not path.exists():
        _make(path)
    return _parse(path.read_text().strip(), str(path))


def _parse(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise TokenKeyError(f"{where} is not hexadecimal; `openssl rand -hex 32` makes a key.") from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise TokenKeyError(
            f"{where} has {len(key)} bytes, {MIN_KEY_BYTES} to {MAX_KEY_BYTES} are needed; "
            "`openssl rand -hex 32` makes a key."
        )
    return key


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        # A link is made whole or not at all, and never over another's.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
