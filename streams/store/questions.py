"""Questions to the embedded engine, each in a session of its own: what it may do, its limits, its answer as bytes."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from streams.store._arrow import literal
from streams.store._native import UnframedTypeError, frame, header
from streams.store._statement import Statement, allow, parse
from streams.store.client import INSERT_SETTINGS, StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings import StoreSettings
    from streams.store._embedded import EmbeddedStore

__all__ = ["Answer", "Question", "ask", "ignored_settings"]

BAD_ARGUMENTS, TOO_MANY_BYTES = 36, 396

# Settings that a reader may send in the URL; limits can be lowered, never raised. All others are ignored: clients
# send many for servers, and none of those changes an answer's meaning.
_FREE = re.compile(
    r"output_format_\w+|format_(csv|tsv|json|custom|regexp|display|binary|avro|capn|msgpack)\w*"
    r"|date_time_(in|out)put_format|session_timezone|final|extremes|join_use_nulls|max_block_size|aggregate_functions_null_for_empty"
    r"|result_overflow_mode|timeout_overflow_mode|group_by_overflow_mode|prefer_column_name_to_alias|limit|offset"
    r"|use_skip_indexes|optimize_\w+|additional_\w+_filters?|cast_string_to_dynamic_use_inference"
)
_INSERT = re.compile(
    r"\s*(?P<insert>INSERT\s+INTO\s.*?)\bFORMAT\s+(?P<format>\w+)[ \t;]*(?:\r?\n|$)(?P<data>.*)",
    re.DOTALL | re.IGNORECASE,
)
_INPUT = re.compile(r"\binput\s*\(\s*'(?P<structure>(?:[^'\\]|\\.)*)'\s*\)", re.IGNORECASE)
_SETTING_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BODY_TABLE = "_body"


class Question(msgspec.Struct, frozen=True):
    """What a client asks."""

    sql: str
    """One statement; of an INSERT with data, all before the data."""
    data: bytes = b""
    database: str = ""
    format: str = "TabSeparated"
    """Of the answer, where the statement itself names none."""
    params: dict[str, str] = {}
    """For `{name:Type}`, by name; escaped as fields of tab-separated text, which is how clients send them."""
    settings: dict[str, str] = {}
    revision: int = 0
    """The client's protocol version, which the Native format depends on."""
    writes: bool = False
    """Whether an administrator asks, by a method that may write."""


class Answer(msgspec.Struct, frozen=True):
    """What the engine says."""

    body: bytes
    format: str
    """Empty where the statement has no result."""
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0


def ask(store: EmbeddedStore, question: Question, limits: StoreSettings) -> Answer:
    """Runs one statement.

    Raises:
        StoreError: with ClickHouse's code; it refused, or a limit was reached.
    """
    with store.session(question.database or store.database) as session:
        if question.writes and (found := _INSERT.fullmatch(question.sql)):
            return _insert(session, question, found)
        statement = parse(session, question.sql, question.params)
        allow(statement, writes=question.writes)
        format_ = statement.format or question.format
        session.query(f"SET {_settings(question, limits)}", "Null")
        result = session.query(question.sql, format_, params=dict(question.params))
        body = bytes(result.bytes())
        if not body and format_ == "Native" and statement.kind == "SelectWithUnionQuery":
            body = header(_columns(session, statement, question))
        has_result = statement.kind in ("SelectWithUnionQuery", "Explain") or statement.kind.startswith(
            ("Show", "Desc", "Ex")
        )
        if len(body) > limits.max_result_bytes:
            raise StoreRefusedError(
                f"Code: {TOO_MANY_BYTES}. DB::Exception: The answer has more than store.max_result_bytes ="
                f" {limits.max_result_bytes} bytes. (TOO_MANY_ROWS_OR_BYTES)",
                TOO_MANY_BYTES,
            )
        return _answer(result, body, format_ if has_result else "", question.revision)


def ignored_settings(settings: Mapping[str, str]) -> list[str]:
    """Those that `ask` will not look at for a reader."""
    return sorted(name for name in settings if not _FREE.fullmatch(name) and name not in _limits_of(None))


def _columns(session: Any, statement: Statement, question: Question) -> list[tuple[str, str]]:
    """Name and type of each column of a question without rows, of which chDB writes nothing at all."""
    described = session.query(f"DESCRIBE ({statement.bare})", "JSONCompactEachRow", params=dict(question.params))
    return [(row[0], row[1]) for row in map(json.loads, described.bytes().splitlines())]


def _answer(result: Any, body: bytes, format_: str, revision: int) -> Answer:
    if format_ == "Native" and revision:
        try:
            body = frame(body, revision)
        except UnframedTypeError as error:
            raise StoreRefusedError(
                f"Code: {BAD_ARGUMENTS}. DB::Exception: {error} (BAD_ARGUMENTS)", BAD_ARGUMENTS
            ) from None
    return Answer(
        body,
        format_,
        read_rows=int(result.rows_read()),
        read_bytes=int(result.bytes_read()),
        elapsed_ns=int(result.elapsed() * 1e9),
    )


def _insert(session: Any, question: Question, found: re.Match[str]) -> Answer:
    """An INSERT whose data follows it, or came beside it."""
    insert, format_ = found["insert"].strip(), found["format"]
    data = found["data"].encode() or question.data
    settings = {**INSERT_SETTINGS, **_own(question.settings)}
    session.query("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in settings.items()), "Null")
    if structure := _INPUT.search(insert):
        return _insert_select(session, insert, structure, format_, data, question)
    allow(parse(session, f"{insert} FORMAT {format_}"), writes=True)
    if not data:
        return Answer(b"", "")
    return _stream(session, insert, format_, data)


def _insert_select(
    session: Any, insert: str, structure: re.Match[str], format_: str, data: bytes, question: Question
) -> Answer:
    """`INSERT … SELECT … FROM input('…')`: the data goes through a temporary table, for chDB streams no such INSERT."""
    declared = re.sub(r"\\(.)", r"\1", structure["structure"])
    rewritten = insert[: structure.start()] + _BODY_TABLE + insert[structure.end() :]
    allow(parse(session, rewritten), writes=True)
    create = f"CREATE TEMPORARY TABLE {_BODY_TABLE} ({declared})"
    allow(parse(session, create), writes=True)
    session.query(create, "Null")
    written = _stream(session, f"INSERT INTO {_BODY_TABLE}", format_, data)
    session.query(rewritten, "Null", params=dict(question.params))
    return written


def _stream(session: Any, insert: str, format_: str, data: bytes) -> Answer:
    with session.send_insert(insert, format_) as stream:
        stream.append(data)
        done = stream.finish()
    return Answer(
        b"", "", written_rows=done.rows_written, written_bytes=done.bytes_written, elapsed_ns=int(done.elapsed * 1e9)
    )


def _limits_of(limits: StoreSettings | None) -> dict[str, float]:
    """Settings that a reader may lower."""
    return {
        "max_execution_time": limits.max_query_s if limits else 0,
        "max_memory_usage": limits.max_memory_bytes if limits else 0,
        "max_result_bytes": limits.max_result_bytes if limits else 0,
        "max_result_rows": limits.max_result_rows if limits else 0,
        # Half of the cores: a long question leaves the other half to the sink.
        "max_threads": max(1, (os.cpu_count() or 1) // 2),
    }


def _settings(question: Question, limits: StoreSettings) -> str:
    """What `SET` takes: limits, what the client may choose, and last of all that it may not change anything."""
    chosen = {"timeout_overflow_mode": "throw", "result_overflow_mode": "throw"}
    chosen.update((name, value) for name, value in question.settings.items() if _FREE.fullmatch(name))
    for name, most in _limits_of(limits).items():
        value = _lower(question.settings.get(name, ""), most)
        chosen[name] = str(int(value)) if value == int(value) else f"{value:.3f}"
    if question.writes:
        chosen.update(_own(question.settings))
    else:
        chosen["readonly"] = "1"
    return ", ".join(f"{name} = {literal(value)}" for name, value in chosen.items())


def _lower(asked: str, most: float) -> float:
    """What the client asks for where that is less; 0 means no limit to ClickHouse, so it is none here."""
    try:
        value = float(asked)
    except ValueError:
        return most
    return min(value, most) if value > 0 else most


def _own(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of an administrator: any that has a setting's name."""
    return {name: value for name, value in settings.items() if _SETTING_NAME.fullmatch(name)}
