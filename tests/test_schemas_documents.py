"""Documents made from the Structs: JSON Schema, AsyncAPI, and the command that shows, exports and compares them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import fastavro
import jsonschema
import msgspec
import pytest
from events import MESSAGES, ODD_VALUES, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.asyncapi import document
from schemas.dead_letter import HEADERS
from schemas.fraud import FraudScore, Transaction
from schemas.jsonschema import message_schema
from schemas.topics import find_topic, topics
from streams.cli._app import run

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = document("1.2.3")


@pytest.mark.parametrize("name", topics())
def test_json_schema_is_valid(name: str) -> None:
    """Each topic's schema is itself valid, and says which topic and direction it is for."""
    schema = message_schema(find_topic(name))

    jsonschema.Draft202012Validator.check_schema(schema)
    assert (f"urn:headrace:topic:{name}", find_topic(name).direction) == (schema["$id"], schema["x-headrace-direction"])


@pytest.mark.parametrize("type_", MESSAGES)
def test_json_schema_takes_what_is_encoded(type_: type) -> None:
    """A validator accepts every message that is written."""
    (topic,) = [topic for topic in topics().values() if topic.message is type_]
    validator = jsonschema.Draft202012Validator(message_schema(topic))

    @settings(max_examples=50, deadline=None)
    @given(MESSAGES[type_])
    def check(event: Any) -> None:
        validator.validate(json.loads(msgspec.json.encode(event)))

    check()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*transaction(), "age", "home_lat", "region"]), ODD_VALUES, max_size=2))
def test_json_schema_refuses_what_decoding_refuses(changed: dict[str, Any]) -> None:
    """A validator and the decoder agree on spoilt messages, so that a sender can check before sending."""
    text = json.dumps(transaction(**changed))
    if "NaN" in text or "Infinity" in text or "00000000" in text:
        return  # no JSON, or a number that only a decoder with 64 bits refuses
    validator = jsonschema.Draft202012Validator(message_schema(find_topic("transactions")))

    try:
        msgspec.json.decode(text, type=Transaction)
        taken = True
    except msgspec.ValidationError:
        taken = False

    assert taken == validator.is_valid(json.loads(text))


def test_fields_are_described() -> None:
    """The sentence under a field in the code is its description in the schema, after which comes its type's."""
    fields = message_schema(find_topic("fraud-scores"))["$defs"]["FraudScore"]["properties"]

    assert "`approve`, `review` or `decline`." == fields["decision"]["description"]
    assert ["approve", "review", "decline"] == fields["decision"]["enum"]
    assert "Milliseconds since 1970-01-01T00:00:00Z." == fields["scored_at"]["description"]


def references(node: Any) -> list[str]:
    """Every reference in a document."""
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for inner in node.values() for found in references(inner)]
    return [found for inner in node for found in references(inner)] if isinstance(node, list) else []


def test_asyncapi_references_lead_somewhere() -> None:
    """Every reference of the document points at something in it."""
    found = references(DOCUMENT)

    assert len(found) > 3 * len(topics())
    for reference in found:
        node: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert node


def test_asyncapi_says_who_writes_what() -> None:
    """Each topic is a channel with its key, its message and headrace's side of it."""
    operations = {
        (o["action"], o["channel"]["$ref"].removeprefix("#/channels/")) for o in DOCUMENT["operations"].values()
    }
    messages = DOCUMENT["components"]["messages"]

    assert ("3.0.0", "1.2.3") == (DOCUMENT["asyncapi"], DOCUMENT["info"]["version"])
    assert list(topics()) == list(DOCUMENT["channels"]) == list(messages)
    assert {
        ("receive", "transactions"),
        ("receive", "transaction-labels"),
        ("send", "fraud-scores"),
        ("send", "fraud.dead-letters"),
        ("send", "merchant-risk"),
        ("receive", "merchant-risk"),
        ("send", "merchant-tallies"),
        ("receive", "merchant-tallies"),
    } <= operations
    assert "The message key: the card, in clear." == messages["transactions"]["bindings"]["kafka"]["key"]["description"]
    assert ["compact"] == DOCUMENT["channels"]["merchant-risk"]["bindings"]["kafka"]["topicConfiguration"][
        "cleanup.policy"
    ]
    assert list(HEADERS.values()) == messages["fraud.dead-letters"]["headers"]["required"]


def test_asyncapi_follows_its_specification(data_dir: Path) -> None:
    """The document is valid by the official JSON Schema of AsyncAPI 3.0.0, where it is at hand."""
    official = data_dir / "asyncapi" / "3.0.0.json"
    if not official.is_file():
        pytest.skip(f"{official} is absent: it is schemas/3.0.0.json of npm's @asyncapi/specs")
    schema = json.loads(official.read_text())

    jsonschema.validators.validator_for(schema)(schema).validate(DOCUMENT)


def headrace(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `headrace schema …`."""
    code = run(["schema", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_show_lists_topics(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name, every topic is a line with its direction, key and table."""
    code, out, _ = headrace(capsys, "show")

    lines = out.splitlines()
    assert 0 == code
    assert list(topics()) == [line.split()[0] for line in lines[1:]]
    assert ["fraud-scores", "output", "the", "card", "token", "fraud_scores"] == lines[2].split()[:6]


def test_show_describes_a_topic(capsys: pytest.CaptureFixture[str]) -> None:
    """With a name, every field is a line with its type and whether it must be there."""
    _, out, _ = headrace(capsys, "show", "transactions")
    _, letters, _ = headrace(capsys, "show", "fraud.dead-letters")
    _, schema, _ = headrace(capsys, "show", "transactions", "--json")

    described = {line.split("  ")[0]: " ".join(line.split()[1:]) for line in out.splitlines()[4:]}
    assert [field.name for field in msgspec.structs.fields(Transaction)] == list(described)
    assert "number (> 0) required" == described["amount"]
    assert "headrace-reason" in letters
    assert message_schema(find_topic("transactions")) == json.loads(schema)


def test_show_unknown_topic(capsys: pytest.CaptureFixture[str]) -> None:
    """A topic that nobody declares is a wrong use, and the known ones are told."""
    code, _, err = headrace(capsys, "show", "transaction")

    assert 2 == code
    assert "No topic 'transaction' is declared; known are fraud-scores," in err


def test_export_writes_every_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """All formats are written as files that are what they say."""
    code, out, _ = headrace(capsys, "export", tmp_path)

    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert 0 == code
    assert {str(tmp_path / file) for file in files} == set(out.splitlines())
    assert {
        "asyncapi.json",
        "jsonschema/fraud.dead-letters.json",
        "clickhouse/fraud_scores.sql",
        "avro/fraud-scores.avsc",
        "protobuf/fraud-scores.proto",
    } <= files
    assert not {"avro/fraud.dead-letters.avsc", "protobuf/fraud.dead-letters.proto"} & files
    avro = fastavro.parse_schema(json.loads((tmp_path / "avro/fraud-scores.avsc").read_text()), named_schemas={})
    assert len(msgspec.structs.fields(FraudScore)) == len(avro["fields"])  # type: ignore[index,call-overload]
    assert "message FraudScore {" in (tmp_path / "protobuf/fraud-scores.proto").read_text()
    assert (tmp_path / "clickhouse/fraud_scores.sql").read_text().startswith("CREATE TABLE IF NOT EXISTS `headrace`.")


def test_export_prints_one_format(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a directory, one format goes to standard output; none of both is a wrong use."""
    _, out, _ = headrace(capsys, "export", "--format", "asyncapi")
    code, _, err = headrace(capsys, "export")

    assert "3.0.0" == json.loads(out)["asyncapi"]
    assert 2 == code
    assert "--format" in err


def test_diff_of_what_did_not_change(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What was just exported differs in nothing from the types it was made of, nor from itself."""
    headrace(capsys, "export", tmp_path)

    assert (0, "No difference.\n", "") == headrace(capsys, "diff", tmp_path)
    assert (0, "No difference.\n", "") == headrace(capsys, "diff", tmp_path, tmp_path / "jsonschema")
    assert (0, "No difference.\n", "") == headrace(capsys, "diff", tmp_path / "jsonschema" / "fraud-scores.json")


def changed(tmp_path: Path, name: str, **fields: Any) -> Path:
    """The schema of transactions with some fields' schemas replaced, `...` removing one, as a file."""
    schema = message_schema(find_topic("transactions"))
    properties = schema["$defs"]["Transaction"]["properties"]
    for field, replacement in fields.items():
        if replacement is ...:
            del properties[field]
        else:
            properties[field] = replacement
    path = tmp_path / name / "transactions.json"
    path.parent.mkdir()
    path.write_text(json.dumps(schema))
    return path


def test_diff_lets_a_new_optional_field_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A field that was not there before and may be left out breaks nobody."""
    code, out, _ = headrace(capsys, "diff", changed(tmp_path, "old", region=...))

    assert (0, "fine    transactions $.region is new and optional\n") == (code, out)


def test_diff_refuses_a_changed_type(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A type that changes is refused with the field, both types and whom it breaks."""
    old = changed(tmp_path, "old", amount={"type": "string"})

    code, out, _ = headrace(capsys, "diff", old)
    _, as_json, _ = headrace(capsys, "diff", old, "--json")

    assert 1 == code
    assert (
        "BREAKS  transactions $.amount has another type: was string, is number (> 0)"
        " [not for new readers of old messages, old readers of new messages]\n"
    ) == out
    (change,) = json.loads(as_json)["changes"]
    assert (True, "transactions", "$.amount", True) == (
        json.loads(as_json)["breaks"],
        change["topic"],
        change["path"],
        change["breaks"],
    )


def test_diff_of_a_protobuf_topic(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A field in the middle breaks where field numbers are written, and only there."""
    old = changed(tmp_path, "old", category=...)

    assert 0 == headrace(capsys, "diff", old)[0]
    assert 1 == headrace(capsys, "diff", old, "--format", "protobuf")[0]


def test_diff_of_topics_that_come_and_go(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A topic that is gone breaks its readers; a new one breaks nobody."""
    path = changed(tmp_path, "old")
    path.with_name("parcels.json").write_text(path.read_text())

    code, out, _ = headrace(capsys, "diff", path.parent)

    assert 1 == code
    assert "BREAKS  parcels: the topic is gone\n" in out
    assert "fine    fraud-scores: the topic is new\n" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON document"),
        ("[]", "is no JSON Schema"),
        ('{"a": 1}', "is no JSON Schema"),
        (None, "does not exist"),
    ],
)
def test_diff_of_something_else(
    text: str | None, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is no exported schema is a wrong use, and the file is named."""
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)

    code, _, err = headrace(capsys, "diff", path)

    assert 2 == code
    assert message in " ".join(err.split())


def test_diff_of_an_empty_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A directory without schemas is a wrong use: an empty comparison would look like a good one."""
    code, _, err = headrace(capsys, "diff", tmp_path)

    assert 2 == code
    assert "holds no JSON Schemas" in " ".join(err.split())
