"""AsyncAPI 3.0: one document of every topic, for people and for the tools that generate clients.

Specification: https://www.asyncapi.com/docs/reference/specification/v3.0.0 and its Kafka bindings 0.5.0. Actions are
headrace's own: it receives from input topics and sends to output topics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas._docs import summary
from schemas.jsonschema import components, header_schema
from schemas.topics import topics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.topics import TopicType

__all__ = ["document"]

_BINDING = "0.5.0"

_ACTIONS = {"input": ("receive",), "output": ("send",), "internal": ("send", "receive"), "dead-letter": ("send",)}


def document(version: str, declared: Iterable[TopicType] | None = None) -> dict[str, Any]:
    """The AsyncAPI document of the given topics, or of all; `version` is that of the messages, so of headrace."""
    chosen = list(topics().values() if declared is None else declared)
    types = list(dict.fromkeys(topic.message for topic in chosen if topic.direction != "dead-letter"))
    references, schemas = components(types, "#/components/schemas/{name}")
    payloads = dict(zip(types, references, strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "headrace",
            "version": version,
            "description": "Decisions on live events: every event answered exactly once."
            " Values are JSON unless a topic's settings say Avro or Protobuf.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in chosen},
        "operations": {name: body for topic in chosen for name, body in _operations(topic)},
        "components": {
            "messages": {topic.name: _message(topic, payloads) for topic in chosen},
            "schemas": schemas,
        },
    }


def _channel(topic: TopicType) -> dict[str, Any]:
    kafka: dict[str, Any] = {"topic": topic.name, "bindingVersion": _BINDING}
    if topic.compacted:
        kafka["topicConfiguration"] = {"cleanup.policy": ["compact"]}
    return {
        "address": topic.name,
        "description": topic.description,
        "messages": {"value": {"$ref": f"#/components/messages/{_pointer(topic.name)}"}},
        "bindings": {"kafka": kafka},
    }


def _operations(topic: TopicType) -> Iterable[tuple[str, dict[str, Any]]]:
    channel = f"#/channels/{_pointer(topic.name)}"
    for action in _ACTIONS[topic.direction]:
        yield (
            f"{action}-{topic.name}",
            {
                "action": action,
                "channel": {"$ref": channel},
                "summary": topic.description,
                "messages": [{"$ref": f"{channel}/messages/value"}],
            },
        )


def _message(topic: TopicType, payloads: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": topic.message.__name__,
        "title": topic.message.__name__,
        "summary": summary(topic.message),
        "bindings": {"kafka": {"key": _key(topic), "bindingVersion": _BINDING}},
    }
    if topic.direction == "dead-letter":
        return {
            **message,
            "contentType": "application/octet-stream",
            "headers": header_schema(topic.message),
            "payload": {"description": "The original value, byte for byte."},
        }
    return {**message, "contentType": "application/json", "payload": payloads[topic.message]}


def _key(topic: TopicType) -> dict[str, Any]:
    return {"type": "string", "description": f"The message key: {topic.key}."}


def _pointer(name: str) -> str:
    """A name as part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
