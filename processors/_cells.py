"""Cells of files to values of messages.

A converter never raises. What does not fit stays what it was: the message's own type then refuses it by name.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    Convert = Callable[[Any], Any]


def converter(type_: msgspec.inspect.Type) -> Convert:
    """How a cell becomes a value of this type; an empty cell or NaN becomes None."""
    plain = _plain(type_)
    options = plain.types if isinstance(plain, msgspec.inspect.UnionType) else (plain,)
    kinds = {type(_plain(option)) for option in options}
    text, whole = msgspec.inspect.StrType in kinds, msgspec.inspect.IntType in kinds
    if text and (whole or msgspec.inspect.FloatType in kinds):
        return _number_or_text
    if text:
        return _text
    return _whole if whole else _number if msgspec.inspect.FloatType in kinds else _cell


def _plain(type_: msgspec.inspect.Type) -> msgspec.inspect.Type:
    return type_.type if isinstance(type_, msgspec.inspect.Metadata) else type_


def truth(cell: Any) -> bool | None:
    """Whether a cell says yes or no; None where it says neither."""
    text = str(cell).strip().lower()
    return True if text in ("1", "1.0", "true") else False if text in ("0", "0.0", "false") else None


def _cell(cell: Any) -> Any:
    return None if cell == "" or cell != cell else cell


def _text(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell or None
    return None if cell is None or cell != cell else str(cell) if isinstance(cell, int | float) else cell


def _number(cell: Any) -> Any:
    if isinstance(cell, str):
        try:
            value = float(cell)
        except ValueError:
            return cell or None
        return None if math.isnan(value) else value if math.isfinite(value) else cell
    return str(cell) if isinstance(cell, float) and math.isinf(cell) else _cell(cell)


def _whole(cell: Any) -> Any:
    number = _number(cell)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _number_or_text(cell: Any) -> Any:
    if isinstance(cell, str) and not cell.strip().lstrip("+-").replace(".", "", 1).isdigit():
        return cell or None
    return _whole(cell)


def time_parser(written: str, zone: str) -> Convert:
    """Epoch milliseconds from `iso`, `s`, `ms` or a pattern; numbers of an `iso` column are milliseconds already."""
    try:
        local = UTC if zone == "UTC" else ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"The zone {zone!r} is unknown; use a name such as Europe/Paris.") from error
    factor = {"s": 1000, "ms": 1}.get(written)

    def from_number(cell: Any) -> Any:
        value = _number(cell)
        if not isinstance(value, int | float) or factor is None:
            return value
        try:
            return round(value * factor) if factor == 1000 else int(value)
        except OverflowError:
            return cell

    def from_text(cell: Any) -> Any:
        if isinstance(cell, datetime):
            moment = cell
        elif isinstance(cell, str) and cell:
            try:
                moment = datetime.fromisoformat(cell) if written == "iso" else datetime.strptime(cell, written)
            except ValueError:
                return cell
        else:
            return _cell(cell)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=local)
        return round(moment.timestamp() * 1000)

    return from_number if factor else from_text


def age(born: Any, at_ms: Any) -> int | None:
    """Whole years between a date of birth and a moment; None where either cannot be read."""
    if not isinstance(at_ms, int):
        return None
    try:
        birth = date.fromisoformat(born[:10]) if isinstance(born, str) else date(born.year, born.month, born.day)
        day = datetime.fromtimestamp(at_ms / 1000, UTC).date()
    except (ValueError, AttributeError, OverflowError, OSError):
        return None
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))
