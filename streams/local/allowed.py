"""Whether the user that a process comes as may do what it must: Kafka itself is asked, at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from streams.connecting import metadata
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from streams.rights import Right

__all__ = ["DeniedError", "missing_rights", "require_rights", "require_some"]

_TIMEOUT_S = 15.0
# A cluster that is new has no coordinators yet, and does not answer for a while.
_GROUP_TIMEOUT_S = 5.0
_DENIED = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "Create": AclOperation.CREATE,
}


class DeniedError(HeadraceError):
    """The user lacks rights; the message names every one of them."""


def require_rights(config: Mapping[str, Any], wanted: Iterable[Right], who: str) -> None:
    """Raises where Kafka would refuse something later.

    Raises:
        DeniedError: It names all that is missing.
    """
    missing = missing_rights(config, wanted)
    if missing:
        raise DeniedError(_denied(config, missing, who))


def require_some(config: Mapping[str, Any], wanted: Mapping[str, list[Right]], who: str) -> list[str]:
    """Raises where a part that is allowed in part would be refused later, or where nothing at all is allowed.

    Returns:
        The parts (domains) of which nothing is allowed: they are somebody else's.

    Raises:
        DeniedError: It names all that is missing.
    """
    missing = {part: missing_rights(config, rights) for part, rights in wanted.items()}
    left_out = [part for part, rights in wanted.items() if len(missing[part]) == len(rights)]
    parts = missing if len(left_out) == len(missing) else missing.keys() - set(left_out)
    if lacking := [right for part in sorted(parts) for right in missing[part]]:
        raise DeniedError(_denied(config, lacking, who))
    return left_out


def missing_rights(config: Mapping[str, Any], wanted: Iterable[Right]) -> list[Right]:
    """Which of the rights the user has not, as far as Kafka tells: of transactional ids it tells nothing.

    Raises:
        UnreachableError: No broker answers, or none lets us in.
    """
    wanted = list(wanted)
    topics = [right for right in wanted if right.resource == "topic"]
    groups = [right for right in wanted if right.resource == "group"]
    causes: list[KafkaError] = []
    ours: dict[str, Any] = {"log_level": 0, "error_cb": causes.append}
    admin = AdminClient({**config, **ours})
    metadata(admin, config, causes, _TIMEOUT_S)
    allowed = {("topic", name): found for name, found in _of_topics(admin, {r.name for r in topics}).items()}
    allowed |= {("group", name): found for name, found in _of_groups(admin, {r.name for r in groups}).items()}
    return [
        right
        for right in (*topics, *groups)
        if (found := allowed[right.resource, right.name]) is not None and _OPERATIONS[right.operation] not in found
    ]


def _denied(config: Mapping[str, Any], missing: Iterable[Right], who: str) -> str:
    user = config.get("sasl.username") or "this client"
    listed = "".join(f"\n{right} ({right.why})" for right in missing)
    return f"Kafka does not let {user} do what a {who} must; see `headrace acls`. It lacks:{listed}"


def _of_topics(admin: Any, names: set[str]) -> dict[str, set[Any] | None]:
    """Allowed operations by topic; None where the broker does not say."""
    if not names:
        return {}
    asked = admin.describe_topics(
        TopicCollection(sorted(names)), include_authorized_operations=True, request_timeout=_TIMEOUT_S
    )
    return _answers(asked)


def _of_groups(admin: Any, names: set[str]) -> dict[str, set[Any] | None]:
    if not names:
        return {}
    asked = admin.describe_consumer_groups(
        sorted(names), include_authorized_operations=True, request_timeout=_GROUP_TIMEOUT_S
    )
    return _answers(asked)


def _answers(asked: Mapping[str, Any]) -> dict[str, set[Any] | None]:
    found: dict[str, set[Any] | None] = {}
    for name, future in asked.items():
        try:
            operations = future.result().authorized_operations
        except KafkaException as error:  # what is not there yet cannot be denied
            found[name] = set() if error.args[0].code() in _DENIED else None
        else:
            found[name] = None if operations is None else set(operations)
    return found
