"""The sentences under a Struct's fields, so that documents and tables say what the code says."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache


@cache
def field_docs(type_: type) -> dict[str, str]:
    """The docstring under each field that has one; empty where the source cannot be had."""
    try:
        source = textwrap.dedent(inspect.getsource(type_))
    except (OSError, TypeError):
        return {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef), "This is a bug: a Struct is a class."
    docs: dict[str, str] = {}
    for field, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            docs[field.target.id] = " ".join(following.value.value.split())
    return docs


def summary(type_: type) -> str:
    """The first line of a Struct's docstring."""
    return (inspect.getdoc(type_) or "").partition("\n")[0]
