"""JSON Schemas of the custom resources that the chart makes, closed: a field that is not here is taken for misspelt.

Kubernetes' own kinds have theirs in the package kubernetes-validate; these follow the definitions of KEDA 2.17 and of
the Prometheus operator 0.85, as far as the chart uses them.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
NATURAL = {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these properties and no others."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    """One or more of them."""
    return {"type": "array", "items": schema, "minItems": 1}


def resource(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole object."""
    metadata = closed({"name": TEXT, "labels": LABELS}, {"namespace": TEXT})
    return closed({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


_POLICY = closed({"type": {"enum": ["Pods", "Percent"]}, "value": NATURAL, "periodSeconds": NATURAL})
_SCALING = closed(
    {"stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600}, "policies": items(_POLICY)},
    {"selectPolicy": {"enum": ["Max", "Min", "Disabled"]}},
)
_KAFKA = closed(
    {"bootstrapServers": TEXT, "consumerGroup": TEXT, "topic": TEXT, "lagThreshold": {"pattern": "^[1-9][0-9]*$"}},
    {
        "offsetResetPolicy": {"enum": ["earliest", "latest"]},
        "sasl": {"enum": ["plaintext", "scram_sha256", "scram_sha512"]},
        "tls": {"enum": ["enable", "disable"]},
    },
)
_TRIGGER = {
    "oneOf": [
        closed(
            {"type": {"const": "kafka"}, "metricType": {"const": "AverageValue"}, "metadata": _KAFKA},
            {"authenticationRef": closed({"name": TEXT})},
        ),
        closed(
            {
                "type": {"const": "cpu"},
                "metricType": {"const": "Utilization"},
                "metadata": closed({"value": {"type": "string", "pattern": "^[1-9][0-9]*$"}}),
            }
        ),
    ]
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            {
                "scaleTargetRef": closed({"apiVersion": TEXT, "kind": TEXT, "name": TEXT}),
                "minReplicaCount": NATURAL,
                "maxReplicaCount": NATURAL,
                "pollingInterval": NATURAL,
                "advanced": closed(
                    {
                        "horizontalPodAutoscalerConfig": closed(
                            {"behavior": closed({"scaleUp": _SCALING, "scaleDown": _SCALING})}
                        )
                    }
                ),
                "triggers": items(_TRIGGER),
            }
        ),
    ),
    "TriggerAuthentication": resource(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        closed(
            {"secretTargetRef": items(closed({"parameter": TEXT, "name": TEXT, "key": TEXT}))},
            {"env": items(closed({"parameter": TEXT, "name": TEXT, "containerName": TEXT}))},
        ),
    ),
    "ServiceMonitor": resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            {
                "selector": closed({"matchLabels": LABELS}),
                "jobLabel": TEXT,
                "endpoints": items(closed({"port": TEXT, "interval": TEXT})),
            }
        ),
    ),
    "PrometheusRule": resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed(
            {
                "groups": items(
                    closed(
                        {
                            "name": TEXT,
                            "rules": items(
                                closed(
                                    {"alert": TEXT, "expr": TEXT, "labels": LABELS, "annotations": LABELS},
                                    {"for": {"type": "string", "pattern": "^[0-9]+[smh]$"}},
                                )
                            ),
                        }
                    )
                )
            }
        ),
    ),
}
