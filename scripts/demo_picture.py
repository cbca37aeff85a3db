"""Makes docs/images/demo.svg from a real run of the demo: a moment in the middle of it, and its end.

python scripts/demo_picture.py [--events 40000]
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from streams.demo.run import Options, load_demo, run_demo
from streams.demo.view import LiveView, Progress
from streams.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Group

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"
WIDTH = 128


class RecordingView(LiveView):
    """Draws nothing while the demo runs, and keeps what it looked like when most of it was done."""

    moment: Group | None = None

    def show(self, progress: Progress) -> None:
        if self.moment is None and progress.total and progress.answered > 0.8 * progress.total:
            self.moment = self.drawn(progress)

    def summary(self, title: str, figures: Mapping[str, Any], steps: Sequence[tuple[str, str]]) -> None:
        if self.moment is not None:
            self._console.print(self.moment)
        super().summary(title, figures, steps)


def main() -> None:
    """Runs the demo and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=4000)
    arguments = parser.parse_args()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    demo = load_demo("fraud")
    view = RecordingView(demo, console)
    console.print("$ uv run headrace demo", style="bold")
    options = Options("fraud", arguments.events, arguments.rate, workers=1, keep=False, seed=1)
    run_demo(Settings(), options, view, config=None, overrides={})
    svg = console.export_svg(title="headrace demo")
    # A picture that fetches nothing: the fonts of whoever looks at it do.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
