"""The limit: bytes in, the same bytes out, exactly once. No decoding, no model."""

from __future__ import annotations

from scripts.bench.contenders.loop import COMMIT_EVENTS, arguments, run

if __name__ == "__main__":
    run(arguments(), lambda messages: [(m.key(), m.value() or b"") for m in messages], COMMIT_EVENTS)
