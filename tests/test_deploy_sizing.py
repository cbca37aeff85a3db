"""docs/sizing.md: its figures are read, its results follow from them, and the arithmetic is what the text says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import yaml
from deployments import CHART, COMPOSE, ROOT
from hypothesis import given
from hypothesis import strategies as st

from scripts.size import RATES, FiguresError, read_figures, size, with_results

PAGE = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
FIGURES = read_figures(PAGE)


def test_the_results_follow_from_the_figures() -> None:
    """Whoever changes a figure runs `scripts/size.py --write`."""
    assert PAGE == with_results(PAGE)
    assert 3 == PAGE.count("<!-- scripts/size.py")


def test_workers_by_hand() -> None:
    """10,000 events/s, worked out as the page does it in words."""
    f = replace(FIGURES, worker_us=31, worker_idle=0.03, load=0.6, mean_share=0.5, window_days=31, card_events_day=2.2)
    f = replace(f, key_bytes=1500, window_event_bytes=16, state_headroom=1.5, id_bytes=200, id_hours=1)
    found = size(f, 10_000)
    cards = 5_000 * 86_400 / 2.2
    histories_gb = (cards * 1500 + 5_000 * 86_400 * 31 * 16) * 1.5 / 1e9
    ids_gb = 10_000 * 3600 * 200 / 1e9

    assert found.cards == pytest.approx(cards, rel=1e-6)
    assert found.state_gb == pytest.approx(histories_gb + ids_gb, rel=1e-6)
    assert 1 == found.workers_for_cpu
    assert 6 == size(f, 100_000).workers_for_cpu


def test_kafka_and_clickhouse_by_hand() -> None:
    """Bytes and rows a day are the mean rate times a day times the bytes of one, times the copies."""
    f = replace(FIGURES, input_bytes=100, output_bytes=300, changelog_bytes=100, row_bytes=100, replication=3)
    found = size(replace(f, mean_share=0.5, retention_days=2), 1_000)

    assert 500 * 86_400 == found.rows_day
    assert found.kafka_gb_day == pytest.approx(500 * 86_400 * 400 * 3 / 1e9)
    assert found.clickhouse_gb_day == pytest.approx(500 * 86_400 * 100 / 1e9)
    assert found.kafka_in_mb_s == pytest.approx(0.5)
    assert found.kafka_out_mb_s == pytest.approx(0.4 + 2 * 0.5)
    assert found.kafka_gb == pytest.approx(2 * found.kafka_gb_day + 3 * found.changelog_gb)


@given(st.integers(1, 10_000_000), st.integers(1, 10_000_000), st.integers(0, 10**9))
def test_more_is_never_less(rate: int, more: int, cards: int) -> None:
    """A greater rate takes at least as much of everything, and there is a partition for each worker."""
    small, large = (asdict(size(FIGURES, one, cards)) for one in (rate, rate + more))

    for name in small.keys() - {"worker_gb", "restore_s"}:
        assert small[name] <= large[name], name
    assert small["partitions"] >= small["workers"] >= 2
    assert small["worker_gb"] <= FIGURES.worker_gb
    assert small["brokers"] >= 3


@pytest.mark.parametrize("change", ["| `worker_us` | 31 |", ""])
def test_a_page_without_its_figures_is_refused(change: str) -> None:
    """A row that is missing, or there twice, is named."""
    row = re.search(r"^\| `worker_us` \| [^\n]*\n", PAGE, re.M)
    assert row is not None
    broken = PAGE.replace(row[0], row[0] + row[0] if change else "")

    with pytest.raises(FiguresError, match="1 twice" if change else "worker_us"):
        read_figures(broken)


def test_it_answers_on_the_command_line() -> None:
    """Rates and choices of one's own, as JSON."""
    command = [sys.executable, "scripts/size.py", "--rate", "25000", "--cards", "3e6", "--load", "0.5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert [asdict(size(replace(FIGURES, load=0.5), 25_000, 3_000_000))] == json.loads(done.stdout)


def test_the_chart_agrees() -> None:
    """The lag that brings another worker is some seconds of one's work; a worker has the memory that it needs."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["worker"]
    per_worker = (FIGURES.load - FIGURES.worker_idle) / FIGURES.worker_us * 1e6
    compose = COMPOSE["services"]["worker"]["deploy"]["resources"]["limits"]["memory"]

    assert 1 <= values["autoscaling"]["lagThreshold"] / per_worker <= 5
    for limit in (values["resources"]["limits"]["memory"], compose):
        gigabytes = float(re.sub(r"[a-zA-Z]+$", "", limit))
        assert FIGURES.worker_base_mb / 1000 < gigabytes <= FIGURES.worker_gb
    assert [1_000, 10_000, 100_000] == list(RATES)
