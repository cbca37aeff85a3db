"""The command `headrace`: one file per group of commands, each imported only when its command runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `headrace` and exits: 0 fine, 1 something failed, 2 wrong use or settings, 130 Ctrl-C."""
    from streams.cli._app import run

    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))
