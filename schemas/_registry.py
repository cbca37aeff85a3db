"""The Confluent Schema Registry: the one file that knows its client, and the frame it puts around a value.

Wire format (https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/): a zero byte,
the schema id as four bytes big-endian, then the encoded value.
"""

from __future__ import annotations

import time
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from schemas._refusal import RefusedError

if TYPE_CHECKING:
    from schemas.codec import RegistryAddress

__all__ = ["IncompatibleSchemaError", "Registry", "RegistryUnavailableError", "connect", "frame", "unframe"]

_FRAME_BYTES = 5

# An id that the registry does not know is asked for again after this, lest a flood of bad messages asks at each one.
_FORGET_UNKNOWN_S = 10.0
_MOST_UNKNOWN = 10_000


class RegistryUnavailableError(ConnectionError):
    """The world's fault: the registry cannot be asked; abort and try again."""


class IncompatibleSchemaError(Exception):
    """Ours: the registry refuses the schema of this version's messages."""


def frame(schema_id: int) -> bytes:
    """What stands before every value of a schema."""
    return b"\x00" + schema_id.to_bytes(4, "big")


def unframe(value: bytes) -> tuple[int, bytes]:
    """The schema id and the encoded value; raises `RefusedError` where there is no frame."""
    if len(value) < _FRAME_BYTES or value[0] != 0:
        raise RefusedError("invalid_framing")
    return int.from_bytes(value[1:_FRAME_BYTES], "big"), value[_FRAME_BYTES:]


@cache
def connect(url: str, basic_auth: str) -> Registry:
    """The registry at an address; one client, and one cache, a process."""
    settings: dict[str, object] = {"url": url, "timeout": 10, "max.retries": 2}
    if basic_auth:
        settings["basic.auth.user.info"] = basic_auth
    return Registry(SchemaRegistryClient.new_client(settings), url)


def connect_to(topic: str, address: RegistryAddress | None) -> Registry:
    """The registry that a topic's settings ask for; a ValueError where none is configured."""
    if address is None or not address.url:
        raise ValueError(f"Topic {topic} needs the schema registry: set registry.url, or its format to json.")
    return connect(address.url, address.basic_auth)


class Registry:
    """Schemas by id and ids by schema, each asked for once."""

    def __init__(self, client: SchemaRegistryClient, url: str) -> None:
        """Takes a client; the URL is for messages to people."""
        self._client = client
        self._url = url
        self._texts: dict[int, tuple[str, str]] = {}
        self._unknown: dict[int, float] = {}

    def register(self, subject: str, text: str, kind: Literal["AVRO", "PROTOBUF"]) -> int:
        """The id of a schema under a subject, registered where it is new.

        Raises:
            IncompatibleSchemaError: The subject's compatibility rule refuses it.
            RegistryUnavailableError: The registry cannot be asked.
        """
        try:
            return int(self._client.register_schema(subject, Schema(text, kind)))
        except SchemaRegistryError as error:
            if error.http_status_code == HTTPStatus.CONFLICT:
                raise IncompatibleSchemaError(
                    f"The schema registry at {self._url} refuses the schema of subject {subject}: {error.error_message}"
                    " Compare with `headrace schema diff`, and write to a new topic where the change is meant."
                ) from error
            raise self._unavailable(error) from error
        except Exception as error:  # the client's own, of whichever HTTP library it brings
            raise self._unavailable(error) from error

    def schema_of(self, schema_id: int, kind: Literal["AVRO", "PROTOBUF"]) -> str:
        """The text of a schema; raises `RefusedError` where the registry has none of that id and kind."""
        found = self._texts.get(schema_id)
        if found is None:
            self._refuse_known_unknown(schema_id)
            found = self._texts[schema_id] = self._ask(schema_id)
        text, found_kind = found
        if found_kind != kind:
            raise RefusedError("incompatible_schema", detail=f"Schema {schema_id} is {found_kind}, not {kind}.")
        return text

    def _ask(self, schema_id: int) -> tuple[str, str]:
        try:
            schema = self._client.get_schema(schema_id)
        except SchemaRegistryError as error:
            if error.http_status_code != HTTPStatus.NOT_FOUND:
                raise self._unavailable(error) from error
            if len(self._unknown) >= _MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = time.monotonic()
            raise RefusedError("unknown_schema", detail=f"The registry knows no schema {schema_id}.") from None
        except Exception as error:  # the client's own, of whichever HTTP library it brings
            raise self._unavailable(error) from error
        return schema.schema_str or "", schema.schema_type or "AVRO"

    def _refuse_known_unknown(self, schema_id: int) -> None:
        asked = self._unknown.get(schema_id)
        if asked is not None and time.monotonic() - asked < _FORGET_UNKNOWN_S:
            raise RefusedError("unknown_schema", detail=f"The registry knows no schema {schema_id}.")

    def _unavailable(self, error: Exception) -> RegistryUnavailableError:
        return RegistryUnavailableError(
            f"The schema registry at {self._url} cannot be asked ({error}); check registry.url and registry.basic_auth."
        )
