"""What a statement is, as ClickHouse's own parser sees it, before it is run for somebody.

The engine's access control and `readonly` refuse nearly everything a reader must not do. What they let through is
refused here, on the parsed tree, never on the text:

- `INTO OUTFILE` and `FROM INFILE`, which the embedded client side carries out before any access is checked;
- the functions `file` (reads any file where the engine is embedded), `sqlite` (makes a missing file before it looks
  at rights), `eval` (runs SQL from a string, which would hide the others), `executable` (runs scripts), `Python`
  (reaches into this process), and those that call language models;
- engines of an administrator's tables and databases that keep their data elsewhere;
- statements other than questions: `KILL QUERY` could stop the sink's inserts, `SET` and `USE` have no meaning here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from streams.store._arrow import parameters
from streams.store.client import StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["READONLY", "Statement", "allow", "parse"]

READONLY, FUNCTION_NOT_ALLOWED, ACCESS_DENIED = 164, 446, 497

_QUESTIONS = frozenset(
    {
        "DescribeQuery",
        "ExistsDatabaseQuery",
        "ExistsTableQuery",
        "ExistsViewQuery",
        "Explain",
        "SelectWithUnionQuery",
        "ShowAccessQuery",
        "ShowColumns",
        "ShowCreateDatabaseQuery",
        "ShowCreateTableQuery",
        "ShowCreateViewQuery",
        "ShowEngineQuery",
        "ShowFunctions",
        "ShowGrantsQuery",
        "ShowIndexes",
        "ShowProcesslistQuery",
        "ShowSetting",
        "ShowTables",
    }
)
_CHANGES = frozenset(
    {"AlterQuery", "CreateQuery", "DropQuery", "InsertQuery", "OptimizeQuery", "Rename", "TruncateQuery"}
)
_FORBIDDEN = re.compile(r"^ *Function (?:file|sqlite|eval|executable\w*|python|ai\w*)\b", re.IGNORECASE | re.MULTILINE)
# A quoted string right under the root, or under an explained statement, is a file name; no question has one there.
_FILE = re.compile(r"^ {1,2}Literal \\?'", re.MULTILINE)
# Engines that keep their data here; the others are doors to files, servers and scripts.
_ENGINE = re.compile(r"^ *Storage definition\b.*\n +Function (\w+)", re.MULTILINE)
_OWN_ENGINES = re.compile(r"\w*MergeTree|Memory|Log|TinyLog|StripeLog|Null|Set|Join|Atomic")
_FORMAT = re.compile(r"\bFORMAT (\w+)(?: SETTINGS .*)?$")


class Statement(NamedTuple):
    """One parsed statement."""

    kind: str
    """The root of the tree, such as `SelectWithUnionQuery`."""
    format: str
    """The format that the statement itself asks for; empty where it does not."""
    tree: str
    bare: str
    """The statement in one line as ClickHouse would write it, without its FORMAT."""


def parse(session: Any, sql: str, params: Mapping[str, str] | None = None) -> Statement:
    """Parses a statement, which must be one alone; `params` are for its `{name:Type}`.

    Raises:
        RuntimeError: chDB's, with ClickHouse's syntax error in it.
    """
    known = _known(sql)
    if known is None:
        # As a parameter the text cannot end one statement and begin another.
        asked = session.query("SELECT formatQuerySingleLine({sql:String})", "TSVRaw", params=parameters({"sql": sql}))
        line = asked.bytes().decode(errors="replace").strip()
        tree = session.query(f"EXPLAIN AST {sql}", "TSVRaw", params=dict(params or {})).bytes().decode(errors="replace")
        found = _FORMAT.search(line)
        bare = line[: found.start()] if found else line
        known = Statement(tree.split(maxsplit=1)[0], found[1] if found else "", tree, bare)
        _remember(sql, known)
    return known


def allow(statement: Statement, *, writes: bool) -> None:
    """Lets a statement pass, or says why not.

    Raises:
        StoreRefusedError: with ClickHouse's own code.
    """
    allowed = _QUESTIONS | _CHANGES if writes else _QUESTIONS
    if statement.kind not in allowed:
        kind = statement.kind.removesuffix("Query")
        raise StoreRefusedError(
            f"Code: {READONLY}. DB::Exception: {kind} is not for this endpoint. (READONLY)", READONLY
        )
    if _FILE.search(statement.tree) and statement.kind != "AlterQuery":
        raise StoreRefusedError(
            f"Code: {READONLY}. DB::Exception: Files cannot be read or written through this endpoint. (READONLY)",
            READONLY,
        )
    if (engine := _ENGINE.search(statement.tree)) and not _OWN_ENGINES.fullmatch(engine[1]):
        raise StoreRefusedError(
            f"Code: {ACCESS_DENIED}. DB::Exception: The engine {engine[1]} is not for this endpoint. (ACCESS_DENIED)",
            ACCESS_DENIED,
        )
    if found := _FORBIDDEN.search(statement.tree):
        name = found[0].split()[-1]
        raise StoreRefusedError(
            f"Code: {FUNCTION_NOT_ALLOWED}. DB::Exception: The function {name} is not for this endpoint."
            " (FUNCTION_NOT_ALLOWED)",
            FUNCTION_NOT_ALLOWED,
        )


# Dashboards ask the same again and again; parsing twice costs 1.4 ms of a query of 3.
_MEMORY: dict[str, Statement] = {}
_MEMORY_MOST, _LONGEST = 512, 20_000


def _known(sql: str) -> Statement | None:
    return _MEMORY.get(sql)


def _remember(sql: str, statement: Statement) -> None:
    if len(sql) <= _LONGEST:
        if len(_MEMORY) >= _MEMORY_MOST:
            _MEMORY.clear()
        _MEMORY[sql] = statement
