"""`headrace try`: one line of JSON per input line, in its order, whatever the line holds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx_models
import orjson
import pytest
from onnx import helper

import processors
from processors import Setup
from streams.cli._app import run

if TYPE_CHECKING:
    from pathlib import Path

LINE = '{"event_id":"%s","card":"4111","merchant":"m","amount":%s,"event_time":"2026-01-01T00:00:00Z"}'


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data directory of this test's own, with a model that gives half of everything a probability of a half."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "models"
    folder.mkdir()
    expected = processors.load("fraud", Setup(token_key=b"0" * 32)).contract
    [features], [probability] = expected.inputs, expected.outputs
    model = onnx_models.save(
        folder / "fraud.onnx",
        [
            helper.make_node("Mul", [features.name, "zero"], ["nothing"]),
            helper.make_node("IsNaN", ["nothing"], ["nan"]),
            helper.make_node("Where", ["nan", "zero", "nothing"], ["numbers"]),
            helper.make_node("ReduceSum", ["numbers", "axes"], ["sum"], keepdims=1),
            helper.make_node("Sigmoid", ["sum"], [probability.name]),
        ],
        {features.name: (onnx_models.FLOAT, features.shape)},
        {probability.name: (onnx_models.FLOAT, probability.shape)},
        {"zero": np.zeros(1, np.float32), "axes": np.array([1], np.int64)},
    )
    tensor = '[{{name = "{0.name}", dtype = "float32", shape = {1}}}]'
    onnx_models.manifest(
        model,
        name="fraud",
        version="999.0.0",
        keys={
            "contract.inputs": tensor.format(features, list(features.shape)),
            "contract.outputs": tensor.format(probability, list(probability.shape)),
        },
    )
    monkeypatch.setenv("HEADRACE_MODELS", str(folder))


def try_out(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> list[dict[str, object]]:
    assert 0 == run(["try", "fraud", *arguments]), capfdbinary.readouterr().err.decode()
    return [orjson.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_one_line_per_line(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Good lines give results and bad ones dead letters, each in its place, blank lines included."""
    file = tmp_path / "events.jsonl"
    lines = [
        LINE % ("a", 1),
        "",
        LINE % ("b", -1),
        "nonsense",
        LINE % ("a", 1),
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        LINE % ("c", 2),
        '{"a":' * 10_000,
        '{"event_id":"d"}',
    ]
    file.write_text("\n".join(lines) + "\n", encoding="latin-1")

    answers = try_out(capfdbinary, str(file))

    expected: list[object] = [
        "a",
        ("empty_payload", ""),
        ("invalid_field", "$.amount"),
        ("invalid_json", ""),
        ("duplicate_event", "$.event_id"),
        ("invalid_json", ""),
        "c",
        ("nesting_too_deep", ""),
        ("missing_field", "$.card"),
    ]
    assert expected == [
        tuple(answer["dead_letter"].values()) if "dead_letter" in answer else answer["event_id"]  # type: ignore[attr-defined]
        for answer in answers
    ]
    assert ("fraud@999.0.0", 0.5, 1.0) == (
        answers[6]["model"],
        answers[6]["probability"],
        answers[6]["features"]["card_count_1h"],
    )  # type: ignore[index]


def test_more_rows_than_a_micro_batch_keep_their_order(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """State goes on from micro-batch to micro-batch, as it does in a worker."""
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(LINE % (n, 1) for n in range(1500)))

    answers = try_out(capfdbinary, str(file), "--limit", "1200")

    assert [str(n) for n in range(1200)] == [answer["event_id"] for answer in answers]
    assert 1199.0 == answers[-1]["features"]["card_count_1h"]  # type: ignore[index]


def test_presets_and_mappings(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The columns of a table are named by a preset or by a mapping file."""
    table = tmp_path / "events.csv"
    table.write_text(
        "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD\n"
        "1,2018-04-01 00:00:31,596,3156,57.16,0\n"
    )
    (tmp_path / "mine.toml").write_text(
        'fields = {event_id = "TRANSACTION_ID", card = "CUSTOMER_ID", merchant = "TERMINAL_ID", amount = "TX_AMOUNT",'
        ' event_time = "TX_DATETIME"}\ntimes = {event_time = "iso"}\n'
    )

    [by_preset] = try_out(capfdbinary, str(table), "--preset", "handbook")
    [by_mapping] = try_out(capfdbinary, str(table), "--mapping", "mine.toml")

    assert (57.16, 1522540831000) == (by_preset["amount"], by_preset["event_time"])
    assert by_preset["features"] == by_mapping["features"]
    assert by_preset["card_token"] == by_mapping["card_token"]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with the file as a whole is told; it is no dead letter."""
    (tmp_path / "events.xml").touch()

    assert 1 == run(["try", "fraud", "events.xml"])
    assert "events.xml is none of .jsonl" in capsys.readouterr().err
    assert 2 == run(["try", "fraud", "gone.jsonl"])
    assert 1 == run(["try", "nothing", "events.xml"])


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`headrace try fraud FILE | head -1` ends quietly with 0, however much is left."""
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(LINE % (n, 1) for n in range(3000)))

    with subprocess.Popen(
        [sys.executable, "-m", "streams", "try", "fraud", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        code = process.wait(timeout=60)

    assert "0" == orjson.loads(first)["event_id"]
    assert (0, b"") == (code, b"".join(line for line in errors.splitlines(True) if b"error" in line.lower()))
