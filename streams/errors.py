"""Errors of the moving parts, by whose fault they are.

HeadraceError
├── WorldError        Kafka or the network: abort, rewind, try again
│   ├── AbortError         the transaction is void, the producer is fine
│   ├── UnknownOutcomeError       the outcome is not known or the producer is spent: a new producer, offsets read again
│   └── ConsumerSpentError        the consumer is spent: a new one, which joins the group afresh
├── SetupError             what was configured cannot work: leave, and do not start again until somebody mends it
└── StopError              going on would be wrong: leave, saying why
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of every error that names what was wrong, where, and what to do."""


class WorldError(HeadraceError):
    """Something outside failed; the work can be done again."""


class AbortError(WorldError):
    """The open transaction must be aborted; the same producer can go on."""


class UnknownOutcomeError(WorldError):
    """The producer cannot go on, or a commit's outcome is unknown: make a new one and read the offsets again."""


class ConsumerSpentError(WorldError):
    """librdkafka declared the consumer dead; a new one joins the group and reads the committed offsets."""


class SetupError(HeadraceError):
    """The domain, its options or its model cannot be used; a supervisor need not try again."""


class StopError(HeadraceError):
    """This process must not go on: it was fenced, or its input is gone. The message says what to do."""
