"""The chart's values: what may be set, what is refused, and, where Helm is, that it makes what it should."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from deployments import CHART, DEPLOY, dashboard, manifests, rendered
from jsonschema import Draft7Validator

if TYPE_CHECKING:
    from collections.abc import Iterator

RENDERED = sorted(path.stem for path in (DEPLOY / "kubernetes").glob("*.yaml"))


class TestValues:
    """values.yaml and its schema."""

    DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
    SCHEMA = json.loads((CHART / "values.schema.json").read_text())

    @classmethod
    def with_(cls, path: str, value: Any) -> dict[str, Any]:
        """The defaults, one of them changed: `worker.gpu.enabled`."""
        values = copy.deepcopy(cls.DEFAULTS)
        *way, last = path.split("/")
        inner = values
        for name in way:
            inner = inner[name]
        inner[last] = value
        return values

    def test_the_schema_knows_every_value(self) -> None:
        """And no other: what can be set is in values.yaml, with a word on what it is for."""

        def keys(values: Any, schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, set[str], set[str]]]:
            if "properties" in schema:
                yield path, set(values), set(schema["properties"]) - {"global"}
                for name, value in values.items():
                    yield from keys(value, schema["properties"][name], f"{path}/{name}")

        assert [] == [found for found in keys(self.DEFAULTS, self.SCHEMA) if found[1] != found[2]]

    def test_defaults_and_examples_fit(self) -> None:
        """The schema takes values.yaml and each of ci/."""
        for path in (CHART / "values.yaml", *(CHART / "ci").iterdir()):
            errors = Draft7Validator(self.SCHEMA).iter_errors(yaml.safe_load(path.read_text()))
            assert [] == [f"{path.name}: {error.json_path} {error.message}" for error in errors]

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("worker/kindd", "StatefulSet"),
            ("worker/kind", "DaemonSet"),
            ("worker/replicas", "three"),
            ("worker/autoscaling/minReplicas", 0),
            ("kafka/bootstrap", "kafka-without-a-port"),
            ("kafka/security", {"sasl.password": "hush"}),
            ("settings", {"privacy.token_key": "ab" * 32}),
            ("settings", {"clickhouse.url": "http://u:p@h:8123"}),
            ("settings", {"worker.session_timeout_ms": 5}),
            ("tokenKey", {"secret": "", "key": "token_key"}),
            ("networkPolicy/kafkaPorts", [0]),
        ],
    )
    def test_mistakes_are_refused(self, path: str, value: Any) -> None:
        """Also secrets in clear, and settings that have a value of their own."""
        assert not Draft7Validator(self.SCHEMA).is_valid(self.with_(path, value))


class TestHelm:
    """With Helm itself, where it is: on the path, or named by HELM."""

    @staticmethod
    @cache
    def program() -> str:
        """Helm, or a skip."""
        found = shutil.which(os.environ.get("HELM", "helm"))
        if found is None:
            pytest.skip("no Helm here: HELM names one, or it is on the path; deploy/kubernetes was tested all the same")
        return found

    def helm(self, *words: str, values: str = "plain") -> subprocess.CompletedProcess[str]:
        """What Helm says of the chart with some of ci/."""
        file = CHART / "ci" / f"{values}-values.yaml"
        command = [self.program(), *words, "--kube-version", "1.34.0", "--values", str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def template(self, *options: str, values: str = "plain") -> subprocess.CompletedProcess[str]:
        """What `helm template` makes, as scripts/render_chart calls it."""
        return self.helm("template", "headrace", str(CHART), "--namespace", "headrace", *options, values=values)

    @pytest.mark.parametrize("name", RENDERED)
    def test_it_makes_what_is_in_the_repository(self, name: str) -> None:
        """deploy/kubernetes is what the chart makes now."""
        done = self.template(values=name)

        assert 0 == done.returncode, done.stderr
        assert rendered(name) == manifests(done.stdout)

    def test_it_finds_no_fault(self) -> None:
        """`helm lint --strict`."""
        done = self.helm("lint", str(CHART), "--strict")

        assert 0 == done.returncode, done.stdout

    @pytest.mark.parametrize(
        ("setting", "why"),
        [
            ("kafka.bootstrap=", "name your brokers"),
            ("worker.autoscaling.maxReplicas=13", "a worker without a partition never gets ready"),
            ("worker.autoscaling.minReplicas=11,worker.autoscaling.maxReplicas=3", "minReplicas is greater"),
            ("kafka.security.sasl\\.mechanism=GSSAPI", "KEDA's trigger knows PLAIN"),
            ("worker.kind=DaemonSet", "kind"),
        ],
    )
    def test_mistakes_are_told(self, setting: str, why: str) -> None:
        """What cannot work is said before it is installed, with what to do."""
        done = self.template("--set", setting)

        assert 0 != done.returncode
        assert why in done.stderr

    def test_the_dashboard_comes_whole(self) -> None:
        """As a ConfigMap that Grafana's sidecar finds."""
        made = manifests(self.template("--set", "grafana.dashboard=true").stdout)
        [found] = [one for one in made if one["kind"] == "ConfigMap"]

        assert dashboard() == json.loads(found["data"]["headrace.json"])
        assert "1" == found["metadata"]["labels"]["grafana_dashboard"]

    def test_names_stay_short(self) -> None:
        """A pod's name is a slot and a host's name: 63 signs at most, whatever the release is called."""
        done = self.helm("template", "r" * 53, str(CHART))

        assert [] == [one for one in re.findall(r"^  name: (\S+)$", done.stdout, re.M) if len(one) > 63 - len("-99999")]
        assert "r" * 40 in done.stdout
