"""Types of fields that messages share: bounds for decoding, a word on their kind for tables and documents."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=256)]
"""An identifier: never empty, never long."""

Word = Annotated[str, Meta(max_length=256, extra={"kind": "word"})]
"""One of few values, such as a category; stored as a dictionary of them."""

Share = Annotated[float, Meta(ge=0, le=1)]
"""A probability or a rate."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A number of things, or a place in a sequence of them."""

Age = Annotated[int, Meta(ge=0, le=130)]
"""Years."""

Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]

EpochMs = Annotated[
    int,
    Meta(ge=-(2**63), le=2**63 - 1, description="Milliseconds since 1970-01-01T00:00:00Z.", extra={"kind": "time"}),
]
"""A time as we write it."""

Time = Annotated[
    str | int | float,
    Meta(
        description="RFC 3339 with an offset, or milliseconds since 1970-01-01T00:00:00Z.",
        examples=["2026-01-31T12:00:00.250Z", 1769860800250],
        extra={"kind": "time"},
    ),
]
"""A time as others write it; `schemas.times.parse_times` makes epoch milliseconds of a column of them."""
