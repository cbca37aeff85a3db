"""Prometheus and Grafana ask for metrics, labels, tables and services that there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from deployments import CHART, DEPLOY, ROOT, SERVICES, alerts, dashboard, metric_names, rendered
from promql_parser import AggregateExpr, VectorSelector

from schemas.clickhouse import tables
from streams.observe.metrics import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOBS = {"worker", "store", "monitor"}
OTHERS_SERIES, OTHERS_LABELS = {"up"}, {"job", "instance", "le"}
"""What Prometheus makes itself."""


def targets(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and query of each panel that asks a kind of data source."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            if target["datasource"]["type"] == kind:
                yield f"{panel['title']} {target['refId']}", target


EXPRESSIONS = {rule["alert"]: rule["expr"] for rule in alerts()} | {
    title: target["expr"] for title, target in targets("prometheus")
}
QUERIES = {title: target["rawSql"] for title, target in targets("grafana-clickhouse-datasource")}


def nodes(expression: str) -> list[Any]:
    """Every part of a query."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), pre_visit=found.append)
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_queries_name_metrics_that_exist(name: str) -> None:
    """PromQL that parses, over series that our processes show under just that name."""
    asked = {node.name for node in nodes(EXPRESSIONS[name]) if isinstance(node, VectorSelector)}

    assert asked
    assert set() == asked - metric_names().keys() - OTHERS_SERIES


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_queries_name_labels_that_exist(name: str) -> None:
    """What is selected or grouped by is a label of the series in the query; a legend shows such labels too."""
    found = nodes(EXPRESSIONS[name])
    series = [node for node in found if isinstance(node, VectorSelector)]
    known = OTHERS_LABELS.union(*(metric_names().get(one.name, ()) for one in series))
    named = {matcher.name for one in series for matcher in one.matchers.matchers}
    grouped = [node.modifier for node in found if isinstance(node, AggregateExpr) and node.modifier]
    named |= {label for modifier in grouped for label in modifier.labels}
    legend = next((target["legendFormat"] for title, target in targets("prometheus") if title == name), "")

    assert set() == named - known
    assert set() == set(re.findall(r"\{\{(\w+)\}\}", legend)) - known


def test_values_of_labels_are_those_that_there_are() -> None:
    """Jobs, outcomes and stages in queries are the words that metrics and Prometheus's configuration use."""
    jobs = {job["job_name"] for job in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]}
    words = {"job": JOBS, "outcome": {"committed", "aborted"}, "stage": set(STAGES)}
    asked = [
        (matcher.name, word)
        for expression in EXPRESSIONS.values()
        for node in nodes(expression)
        if isinstance(node, VectorSelector)
        for matcher in node.matchers.matchers
        for word in matcher.value.split("|")
    ]

    assert JOBS == jobs
    assert asked
    assert [] == [(name, word) for name, word in asked if word not in words[name]]


def test_alerts_say_what_to_do() -> None:
    """Each has a severity, a summary and an action; a page that an action names is there."""
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "action"} == set(rule["annotations"])
        for page in re.findall(r"docs/[\w-]+\.md", rule["annotations"]["action"]):
            assert (ROOT / page).is_file()


def test_the_rules_reach_prometheus() -> None:
    """In compose as a file that its configuration names, in Kubernetes as the same groups."""
    [file] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["rule_files"]
    [rules] = [one for one in rendered("everything") if one["kind"] == "PrometheusRule"]
    mounted = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    [monitor] = [one for one in rendered("everything") if one["kind"] == "ServiceMonitor"]
    services = [one for one in rendered("everything") if one["kind"] == "Service"]

    assert file in mounted
    assert yaml.safe_load((CHART / "files" / "alerts.yml").read_text()) == rules["spec"]
    assert JOBS == {one["metadata"]["labels"][monitor["spec"]["jobLabel"]] for one in services}
    for one in services:
        assert monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
        assert {monitor["spec"]["endpoints"][0]["port"]} == {port["name"] for port in one["spec"]["ports"]}


def test_grafana_has_its_sources() -> None:
    """They are services here; ClickHouse is asked as the reader, whose password is mounted; panels use both."""
    configured = yaml.safe_load((DEPLOY / "grafana" / "datasources" / "headrace.yml").read_text())["datasources"]
    sources = {source["type"]: source for source in configured}
    clickhouse, prometheus = sources["grafana-clickhouse-datasource"], sources["prometheus"]
    used = {(t["datasource"]["type"], t["datasource"]["uid"]) for kind in sources for _, t in targets(kind)}

    assert "http://prometheus:9090" == prometheus["url"]
    assert ("clickhouse", 8123) == (clickhouse["jsonData"]["host"], clickhouse["jsonData"]["port"])
    assert ("reader", "headrace") == (clickhouse["jsonData"]["username"], clickhouse["jsonData"]["defaultDatabase"])
    assert "$__file{/run/secrets/clickhouse_reader_password}" == clickhouse["secureJsonData"]["password"]
    assert ["clickhouse_reader_password"] == SERVICES["grafana"]["secrets"]
    assert clickhouse["type"] in SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL"]
    assert {(source["type"], source["uid"]) for source in configured} == used


def test_grafana_finds_the_dashboard() -> None:
    """The folder that it is told to look into is where compose mounts it; panels do not lie on each other."""
    [provider] = yaml.safe_load((DEPLOY / "grafana" / "dashboards" / "headrace.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    cells = [
        (x, y)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    numbers = [panel["id"] for panel in dashboard()["panels"]]

    assert mounts["./deploy/chart/files/dashboard.json"].startswith(provider["options"]["path"] + "/")
    assert "/etc/grafana/provisioning" == mounts["./deploy/grafana"]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len(set(numbers)) == len(numbers)


def test_questions_to_clickhouse_are_answered(tmp_path: Path) -> None:
    """Each query of the dashboard runs on the tables as the store makes them, Grafana's macros filled in."""
    filled = [
        re.sub(
            r"\$__timeInterval\((\w+)\)",
            r"toStartOfInterval(toDateTime(\1), INTERVAL 10 second)",
            re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= now() - 3600 AND \1 <= now()", query),
        )
        for query in QUERIES.values()
    ]
    script = """
import json, sys, chdb
from schemas.clickhouse import tables
connection = chdb.connect(sys.argv[1])
connection.query("CREATE DATABASE headrace")
for table in tables():
    connection.query(table.create_sql("headrace", 365))
connection.query("USE headrace")
for sql in sys.argv[2:]:
    connection.query(sql, "JSON")
    print("answered")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "db"), *filled],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert tables()
    assert not [query for query in filled if "$" in query]
    assert ["answered"] * len(QUERIES) == done.stdout.split(), done.stderr


def test_prometheus_itself_takes_them(tmp_path: Path) -> None:
    """`promtool`, where it is: on the path, or named by PROMTOOL."""
    promtool = shutil.which(os.environ.get("PROMTOOL", "promtool"))
    if promtool is None:
        pytest.skip("no promtool here: PROMTOOL names one, or it is on the path; the queries were parsed all the same")
    configuration = tmp_path / "prometheus.yml"
    rules = CHART / "files" / "alerts.yml"
    text = (DEPLOY / "prometheus.yml").read_text()
    configuration.write_text(text.replace("/etc/prometheus/alerts.yml", str(rules)))
    done = subprocess.run([promtool, "check", "config", configuration], capture_output=True, text=True, timeout=60)

    assert str(rules) in configuration.read_text()
    assert 0 == done.returncode, done.stdout + done.stderr
