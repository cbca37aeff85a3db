"""The account of a run: everything is read back and compared, and what is wrong is said in words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from schemas.clickhouse import table_of
from schemas.dead_letter import from_record
from schemas.dead_letter import topic_name as dead_letter_topic
from schemas.topics import domains
from streams.chaos import audit
from streams.chaos._site import WORKERS
from streams.chaos.audit import Found
from streams.chaos.evidence import Undisturbed, read_topic
from streams.chaos.poison import is_unnameable
from streams.local.connection import kafka_config
from streams.running import changelog_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from processors._chaos import Chaos
    from processors._demo import Demo
    from schemas.dead_letter import DeadLetter
    from schemas.envelope import Message, Record
    from streams.chaos._site import Site
    from streams.chaos.evidence import Tables
    from streams.demo.ledger import Coordinate, Ledger
    from streams.demo.traffic import Traffic

__all__ = ["Account", "account_of"]

# The monitor tells news once a second, and a rebalance of its own may be under way.
_MONITOR_PATIENCE_S = 60.0
_MONITOR_EVERY_S = 1.0


class Account(NamedTuple):
    """What came of a run."""

    figures: dict[str, Any]
    wrong: list[str]


class _Evidence(NamedTuple):
    """Everything on the topics, and what Kafka acknowledged."""

    inputs: list[Record]
    results: list[Record]
    letter_records: list[Record]
    letters: list[tuple[DeadLetter, Record]]
    acknowledged: dict[Coordinate, str | None]


def account_of(
    site: Site,
    tables: Tables,
    traffic: Traffic,
    demo: Demo,
    chaos: Chaos,
    ledger: Ledger,
    side: Sequence[Message],
) -> Account:
    """Reads everything back and compares it; the services must run and be quiet."""
    kafka = kafka_config(site.settings)
    letter_records = read_topic(kafka, dead_letter_topic(site.domain))
    evidence = _Evidence(
        inputs=read_topic(kafka, traffic.input.name),
        results=[record for record in read_topic(kafka, traffic.output.name) if record.value is not None],
        letter_records=letter_records,
        letters=[from_record(record) for record in letter_records],
        acknowledged={at: None if name == str(at) else name for at, name in ledger.inputs.items()},
    )
    names = {at: name for at, name in evidence.acknowledged.items() if name is not None}
    lost = audit.lost_inputs(evidence.acknowledged, evidence.inputs, is_unnameable)
    account, letters = audit.unaccounted(
        evidence.acknowledged, evidence.inputs, evidence.results, evidence.letters, demo
    )
    order = audit.out_of_order({name: at for at, name in names.items()}, evidence.results, demo)
    state = _state(site, kafka, evidence, names, demo, chaos)
    missing, doubled, wrong_rows = _rows(site, kafka, tables, traffic, evidence)
    views = tables.compare_views()
    monitor = _monitor(site, kafka, chaos, evidence, side)
    network = _network(site)
    figures = {
        "inputs": account.events_in,
        "results": account.scored,
        "dead_letters": account.dead_letters,
        "missing": account.missing,
        "duplicates": account.duplicates,
        "out_of_order": order.count,
        "state_mismatches": state.count,
        "rows_missing": missing.count,
        "rows_doubled": doubled.count,
        "rows_wrong": wrong_rows.count,
        "views_mismatches": views.count,
        "monitor_mismatches": monitor.count,
        "inputs_lost": lost.count,
        "dead_letters_wrong": letters.count,
    }
    wrong = [f"{name}: {figures[name]}" for name in ("missing", "duplicates") if figures[name]]
    for found in (order, state, missing, doubled, wrong_rows, views, monitor, lost, letters, network):
        wrong += found.examples
    return Account(figures, wrong)


def _state(
    site: Site,
    kafka: Mapping[str, Any],
    evidence: _Evidence,
    names: Mapping[Coordinate, str],
    demo: Demo,
    chaos: Chaos,
) -> Found:
    """Results and keyed state against an undisturbed run over the same records."""
    found = {demo.read(record.value or b"").id: record.value or b"" for record in evidence.results}
    dead = {(letter.partition, letter.offset) for letter, _ in evidence.letters}
    undisturbed = Undisturbed(site.settings, site.domain, demo, chaos)
    said = audit.compacted(read_topic(kafka, changelog_of(site.settings, site.domain)))
    right = undisturbed.answers(evidence.inputs, dead, found, names)
    partitions = sorted({record.partition for record in evidence.inputs})
    # Entries are asked for when all answers were compared: the state is then as after the last record.
    states = ((p, chaos.living(undisturbed.entries(p)), chaos.living(said.get(p, {}))) for p in partitions)
    return audit.state_faults(right, found, chaos.comparable, states)


def _rows(
    site: Site, kafka: Mapping[str, Any], tables: Tables, traffic: Traffic, evidence: _Evidence
) -> tuple[Found, Found, Found]:
    """Every table of the domain against its topic."""
    known = {traffic.output.name: evidence.results, dead_letter_topic(site.domain): evidence.letter_records}
    totals = (Found(0), Found(0), Found(0))
    for topic in domains()[site.domain]:
        if topic.table is not None:
            records = known[topic.name] if topic.name in known else read_topic(kafka, topic.name)
            found = tables.compare(table_of(topic), records)
            totals = (totals[0] + found[0], totals[1] + found[1], totals[2] + found[2])
    return totals


def _monitor(site: Site, kafka: Mapping[str, Any], chaos: Chaos, evidence: _Evidence, side: Sequence[Message]) -> Found:
    """The last words of the monitor, as soon as they are right; else what is wrong when patience ends."""
    if not chaos.told:
        return Found(0)
    results = [record.value or b"" for record in evidence.results]
    options = msgspec.structs.asdict(site.settings.monitor)
    deadline = time.monotonic() + _MONITOR_PATIENCE_S
    while True:
        told = {topic: _newest(read_topic(kafka, topic)) for topic in chaos.told}
        wrong = chaos.compare_told(results, side, told, options)
        if not wrong or time.monotonic() > deadline:
            return Found.of(wrong)
        site.services.supervisor.poll()
        time.sleep(_MONITOR_EVERY_S)


def _newest(records: Sequence[Record]) -> dict[bytes, bytes]:
    """The newest value of each key, which lies in one partition."""
    return {key: value for entries in audit.compacted(records).values() for key, value in entries.items()}


def _network(site: Site) -> Found:
    """A proxy that nothing came through broke nothing."""
    idle = [name for name in WORKERS if not site.proxies[name].passed_bytes]
    return Found.of(f"the traffic of {name} did not run through its proxy" for name in idle)
