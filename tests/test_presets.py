"""Files become transactions: plain, by preset and by mapping file; what cannot be read still comes as a message."""

from __future__ import annotations

import gzip
import os
from datetime import datetime
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.fraud.presets import PRESETS, MappingError, read
from schemas.fraud import Transaction

DATA = Path(os.environ.get("HEADRACE_TEST_DATA", "../shared/data")) / "fraud"
LINE = b'{"event_id":"e1","card":"4000001","merchant":"m1","amount":12.5,"event_time":1700000000000}'

needs_data = pytest.mark.skipif(
    not DATA.exists(), reason=f"needs the public data sets in {DATA}; see HEADRACE_TEST_DATA"
)


def _decode(value: bytes) -> Transaction:
    return msgspec.json.decode(value, type=Transaction)


def _write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_mapping_of_the_documents_works(tmp_path: Path) -> None:
    """The CSV and the mapping file that docs/files.md shows make the transaction that they say."""
    page = (Path(__file__).parents[1] / "docs" / "files.md").read_text()
    table, mapping = (page.split(f"```{language}\n")[1].split("```")[0] for language in ("csv", "toml"))

    [row] = read(_write(tmp_path / "t.csv", table), _write(tmp_path / "mapping.toml", mapping))

    when = int(datetime(2026, 11, 24, 9, 30, tzinfo=ZoneInfo("Europe/Berlin")).timestamp() * 1000)
    expected = Transaction("a1", "4000001", "books", 12.5, when, currency="EUR", age=36)
    assert (b"4000001", expected, False) == (row.key, _decode(row.value), row.label)


def test_json_lines_pass_untouched(tmp_path: Path) -> None:
    """Every line is one message, byte for byte, the bad and the empty ones too; the card is the key."""
    lines = [LINE, b"", b"not json", b'{"card": 7}', b"\xff\xfe", b"[" * 10_000, LINE + b" "]
    path = _write(tmp_path / "t.jsonl", b"\n".join(lines) + b"\n")

    rows = list(read(path))

    assert lines == [row.value for row in rows]
    assert [b"4000001", None, None, None, None, None, b"4000001"] == [row.key for row in rows]


def test_json_lines_may_carry_the_truth(tmp_path: Path) -> None:
    """A line's own `is_fraud` is its label; a line without one has none."""
    path = _write(tmp_path / "t.ndjson", LINE[:-1] + b',"is_fraud":true}\r\n' + LINE)

    assert [True, None] == [row.label for row in read(path)]


@pytest.mark.parametrize("packed", [False, True])
def test_csv_of_plain_fields(tmp_path: Path, packed: bool) -> None:
    """Numbers become numbers, empty cells are left out, card numbers stay text; `.gz` reads the same."""
    text = (
        "event_id,card,merchant,amount,event_time,age,home_lat,is_fraud\n"
        '1,0004000001,"m, 1",12.50,1700000000000,40,,1\n'
        "2,0004000002,m2,7,2026-01-01T00:00:00Z,,47.5,0\n"
    )
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    _write(path, gzip.compress(text.encode()) if packed else text)

    first, second = read(path)

    assert Transaction("1", "0004000001", "m, 1", 12.5, 1700000000000, age=40) == _decode(first.value)
    assert Transaction("2", "0004000002", "m2", 7.0, "2026-01-01T00:00:00Z", home_lat=47.5) == _decode(second.value)
    assert (b"0004000001", True) == (first.key, first.label)


def test_bad_rows_of_a_csv_become_messages(tmp_path: Path) -> None:
    """Wrong counts of cells, bytes that are no text and text where a number belongs are kept in their place."""
    head = b"event_id,card,merchant,amount,event_time\n"
    bad = [b"1,c,m", b"2,c,m,1,1700000000000,extra", b"3,\xff\xfe,m,1,1700000000000", b"4,c,m,ten,1700000000000"]
    path = _write(tmp_path / "t.csv", head + b"\n".join(bad) + b"\n5,c,m,inf,1700000000000\n6,c,m,1,1700000000000")

    rows = list(read(path))

    assert bad[:3] == [row.value for row in rows[:3]]
    with pytest.raises(msgspec.ValidationError, match=r"\$\.amount"):
        _decode(rows[3].value)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.amount"):
        _decode(rows[4].value)
    assert _decode(rows[5].value).event_id == "6"


@given(body=st.binary(max_size=300))
def test_any_bytes_behind_a_csv_header_are_read(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """Nothing that follows a header raises."""
    path = _write(tmp_path_factory.mktemp("csv") / "t.csv", b"event_id,card,merchant,amount,event_time\n" + body)

    assert all(isinstance(row.value, bytes) for row in read(path))


@given(body=st.binary(max_size=300))
def test_any_bytes_are_as_many_json_lines_as_lines(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """Nothing raises, and no line is lost."""
    path = _write(tmp_path_factory.mktemp("jsonl") / "t.jsonl", body)

    expected = len(body.split(b"\n")) - (body.endswith(b"\n") or not body)
    assert expected == len(list(read(path)))


def test_a_mapping_file_names_columns_constants_and_times(tmp_path: Path) -> None:
    """A user's own columns, in local time, become transactions; JSON lines take the same mapping."""
    mapping = _write(
        tmp_path / "mine.toml",
        'zone = "Europe/Paris"\nlabel = "bad"\n'
        '[fields]\nevent_id = "ref"\ncard = "pan"\nmerchant = "shop"\namount = "eur"\nevent_time = "when"\n'
        'category = "kind"\n[constants]\ncurrency = "EUR"\n[times]\nevent_time = "%d/%m/%Y %H:%M"\n',
    )
    table = _write(tmp_path / "mine.csv", "ref,pan,shop,eur,when,kind,bad\nr1,77,s,3.5,02/01/2026 01:30,food,1\n")
    lines = _write(tmp_path / "mine.jsonl", '{"ref":"r1","pan":"77","shop":"s","eur":3.5,"when":"02/01/2026 01:30"}\n')
    expected = Transaction("r1", "77", "s", 3.5, 1767313800000, currency="EUR")

    (row,) = read(table, mapping)
    (line,) = read(lines, str(mapping))

    assert msgspec.structs.replace(expected, category="food") == _decode(row.value)
    assert (b"77", True) == (row.key, row.label)
    assert expected == _decode(line.value)


def test_parquet_times_become_milliseconds(tmp_path: Path) -> None:
    """Timestamps without a zone are UTC; NaN in an optional column is left out."""
    columns = {
        "TRANSACTION_ID": [1], "CUSTOMER_ID": [2], "TERMINAL_ID": [3], "TX_AMOUNT": [4.5], "TX_FRAUD": [1],
        "TX_DATETIME": pa.array([1_522_540_831_000_000_000], pa.timestamp("ns")),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")

    (row,) = read(tmp_path / "t.parquet", "handbook")

    assert Transaction("1", "2", "3", 4.5, 1_522_540_831_000) == _decode(row.value)
    assert row.label is True


@pytest.mark.parametrize(
    ("name", "preset", "says"),
    [
        ("t.xlsx", None, "none of .jsonl"),
        ("t.csv", "sparkv", "did you mean 'sparkov'"),
        ("t.csv", "sparkov", "no column"),
        ("t.csv", "other", "presets are"),
        ("t.csv", None, "no column"),
        ("t.csv", "missing.toml", "missing.toml"),
        ("t.parquet", "handbook", "cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_as_a_whole_is_said(tmp_path: Path, name: str, preset: str | None, says: str) -> None:
    """Unknown kinds, presets and columns raise an error that names them."""
    path = _write(tmp_path / name, "a,b\n1,2\n")

    with pytest.raises(MappingError, match=says):
        list(read(path, preset))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fields = 3", "fields"),
        ('[field]\ncard = "x"', "field"),
        ('[fields]\ncart = "x"', "cart"),
        ('zone = "Mars/Base"\n[times]\nevent_time = "iso"', "Mars"),
        ("=", "mine.toml"),
    ],
)
def test_what_is_wrong_with_a_mapping_is_said(tmp_path: Path, text: str, says: str) -> None:
    """A mapping file with a wrong key, type, field or zone is refused by name."""
    mapping = _write(tmp_path / "mine.toml", text)

    with pytest.raises(MappingError, match=says):
        list(read(_write(tmp_path / "t.csv", "a\n1\n"), mapping))


@needs_data
@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("handbook_transactions.parquet", "handbook"),
        ("sparkov/transactions.csv.gz", "sparkov"),
        ("sparkov/kaggle_2020-06_slice.csv.gz", "sparkov"),
    ],
)
def test_public_sets_read_as_transactions(file: str, preset: str) -> None:
    """Every row of the start of each public set is a transaction with a truth, in the order of time."""
    rows = list(islice(read(DATA / file, preset), 5_000))
    events = [_decode(row.value) for row in rows if b'"amount":0.0' not in row.value]
    times = [event.event_time for event in events]

    assert sorted(times) == times
    assert {True, False} == {row.label for row in rows}
    assert all(row.key == event.card.encode() for row, event in zip(rows[:9], events[:9], strict=True))
    assert not {b"first", b"street", b"dob", b"job"} & {word for row in rows[:9] for word in row.value.split(b'"')}


@needs_data
def test_ages_come_from_dates_of_birth() -> None:
    """The first two holders of the Sparkov-like set are 21 and 61 on new year's day of 2026."""
    ages = [_decode(row.value).age for row in islice(read(DATA / "sparkov/transactions.csv.gz", "sparkov"), 2)]

    assert [21, 61] == ages
    assert set(PRESETS) == {"handbook", "sparkov"}
