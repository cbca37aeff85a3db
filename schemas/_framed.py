"""What Avro and Protobuf share: values framed as Confluent does, with the id of a registered schema in front."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from schemas._plain import Plain
from schemas._refusal import explain_error
from schemas.codec import decode_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas._registry import Registry
    from schemas.envelope import Record, Reject

__all__ = ["FramedCodec"]

T = TypeVar("T", bound=msgspec.Struct)


class FramedCodec(ABC, Generic[T]):
    """The codec of one topic; a format says how one value is read and written behind its frame."""

    def __init__(self, topic: str, type_: type[T], registry: Registry, max_bytes: int) -> None:
        self._subject = f"{topic}-value"
        self._registry = registry
        self._max_bytes = max_bytes
        self._plain = Plain(type_)
        self._frame = b""

    def decode(self, value: bytes, /) -> T:
        """One event; raises `RefusedError` where the bytes are none."""
        try:
            return self._decode(value)
        except OSError:
            raise
        except Exception as error:
            raise explain_error(error, value, ()) from None

    def decode_records(self, records: Sequence[Record], /) -> tuple[list[T], Sequence[Record], list[Reject]]:
        """Events, the records they came from, and rejects for the others."""
        return decode_records(records, self, (), self._max_bytes)

    def encode(self, events: Iterable[T], /) -> list[bytes]:
        """The bytes of each event, in order."""
        if not self._frame:
            self._frame = self._register()
        return [self._encode(event) for event in events]

    @abstractmethod
    def _register(self) -> bytes:
        """Registers the schema and returns what goes in front of every value; called when the first is written."""

    @abstractmethod
    def _decode(self, value: bytes) -> T:
        """One event; may raise anything that bytes can make it raise."""

    @abstractmethod
    def _encode(self, event: T) -> bytes:
        """The bytes of one event, frame and all."""
