"""The texts about a trained model: its manifest and its model card, written from figures."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import msgspec

from processors.fraud.features import FEATURE_NAMES
from scripts.train.fraud_figures import Figures, GroupFigures

if TYPE_CHECKING:
    from scripts.train.fraud_model import Trained


class Report(msgspec.Struct, frozen=True):
    """What was measured on one data set."""

    words: str
    trained_on: int
    trees: int
    review: float
    decline: float
    test: Figures
    ablations: dict[str, Figures]
    groups: dict[str, list[GroupFigures]]
    chance: dict[str, float]
    """Of the gap between false alarms of an attribute's groups: p-value of a permutation test by card."""


def manifest(name: str, version: str, trained: Trained, sha256: str, size: int) -> str:
    """What `processors._models` reads."""
    return f"""# Written by scripts/train/fraud.py.
name = "{name}"
version = "{version}"
file = "{name}.onnx"
sha256 = "{sha256}"
size = {size}
licence = "Apache-2.0"
processor = "fraud"
source = "scripts/train/fraud.py"
training = "fraud.md"

[settings]
review = {trained.review}
decline = {trained.decline}
inputs = {json.dumps(list(trained.inputs), indent=2)}

[[contract.inputs]]
name = "features"
dtype = "float32"
shape = ["batch", {len(trained.inputs)}]

[[contract.outputs]]
name = "probability"
dtype = "float32"
shape = ["batch", 1]
"""


_SETS = {
    "simulator": "simulator (this model)",
    "handbook": "fraud detection handbook",
    "sparkov": "Sparkov-like",
}

_HEAD = """# Model card: {reference}

Written by `scripts/train/fraud.py`; every figure below comes from the run that made the model.

**What it does.** It gives the probability that a card transaction is a fraud, from {inputs} features that headrace
computes as events pass: the amount against the card's own history, exact windows per card, places, and what late labels
say of the merchant. Boosted trees ({trees} of at most 15 leaves, LightGBM), calibrated by Platt's method; the
calibration is part of the ONNX graph, and so are the tables that explain a score.

**What it is for.** Demonstrations, load tests, and as the place where your own model goes. It knows a simulated world,
not your customers: train your own before you decide about people.

**Data.** No real transaction and no real person: worlds of headrace's simulator.

{words}

Features are computed by replaying the events through the code that serves them, labels arriving as late as they do
there. A few in a hundred training rows are shown without category, places or merchant figures, since senders may leave
them out.

**Decisions.** `review` from {review:.4f} (passed by 0.5 % of genuine transactions of the validation part), `decline`
from {decline:.4f} (0.1 %).

Licence: Apache-2.0, as the code.
"""

_PUBLIC = """
The other two rows are models trained and measured the same way, through the same streaming features, on public
simulated sets. They are not in the repository, because the sets' own licences do not settle it; `--data handbook` and
`--data sparkov` make them. Their splits:
"""

_LIMITS = """
## Limits
- The simulator's frauds follow seven scripts; real ones adapt. {disputes} of its frauds are ordinary purchases in every
  respect and cannot be found by anybody.
- Merchant risk needs labels: until a week of them has come in, scores rest on the card's history alone.
- Age, gender and region are not inputs. Whether decisions differ between groups is watched while serving, because a
  model that does not see an attribute can still treat its values differently.
- A declined transaction never gets a chargeback: what is learnt from labels later is about what was approved.
"""


def card(reports: dict[str, Report], reference: str) -> str:
    """The model card, from the figures of all data sets measured so far."""
    mine = reports.get("simulator")
    parts = []
    if mine is not None:
        head = {
            "words": textwrap.fill(mine.words, 118),
            "trees": mine.trees,
            "review": mine.review,
            "decline": mine.decline,
        }
        parts.append(_HEAD.format(reference=reference, inputs=len(FEATURE_NAMES), **head))
    parts.append(_figures(reports))
    if mine is not None:
        parts += [_ablations(reports), _groups(mine), _LIMITS.format(disputes="4 %")]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _figures(reports: dict[str, Report]) -> str:
    lines = [
        "## Figures",
        "| data | transactions | frauds | ROC-AUC | average precision | recall at 0.5 % false positives | at 0.1 % "
        "| calibration error | expected / observed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for data, title in _SETS.items():
        if data in reports:
            f = reports[data].test
            lines.append(
                f"| {title} | {f.rows:,} | {f.frauds:,} | {f.roc_auc:.4f} | {f.average_precision:.3f} "
                f"| {f.recall_at_half_percent:.3f} | {f.recall_at_tenth_percent:.3f} | {f.calibration_error:.5f} "
                f"| {f.expected_over_observed:.2f} |"
            )
    public = [f"- {_SETS[data]}: {reports[data].words}" for data in ("handbook", "sparkov") if data in reports]
    return "\n".join(lines) + ("\n" + _PUBLIC + "\n".join(public) if public else "")


def _ablations(reports: dict[str, Report]) -> str:
    data = [name for name in _SETS if name in reports]
    lines = [
        "## What the features are worth",
        "Average precision of the same training without them.",
        "",
        "| features | " + " | ".join(_SETS[name] for name in data) + " |",
        "|---|" + "---|" * len(data),
        "| all | " + " | ".join(f"{reports[name].test.average_precision:.3f}" for name in data) + " |",
    ]
    for words in reports[data[0]].ablations:
        cells = [f"{reports[name].ablations[words].average_precision:.3f}" for name in data]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _groups(report: Report) -> str:
    lines = [
        "## Groups",
        "On the simulated test part, at the review threshold, with 95 % Wilson intervals. The simulator takes over the",
        "accounts of holders of 65 and older twice as often, so that their share of frauds is known to be higher;",
        "gender and region have no effect on anything (region is drawn apart from all else, for A/A checks). Alarms",
        "come in bursts per card, which these intervals do not know; p is of a permutation test that moves cards.",
        "",
        "| group | transactions | frauds | flagged | frauds caught | false alarms | expected / observed |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {attribute} {g.name} | {g.rows:,} | {g.frauds:,} | {g.flagged.text()} | {g.caught.text()} "
        f"| {g.false_alarms.text()} | {g.expected_over_observed:.2f} |"
        for attribute, groups in report.groups.items()
        for g in groups
    ]
    verdicts = [
        f"- {attribute}: {_verdict(groups, report.chance[attribute])}"
        for attribute, groups in report.groups.items()
        if len(groups) > 1
    ]
    return "\n".join([*lines, "", *verdicts])


def _verdict(groups: list[GroupFigures], chance: float) -> str:
    """Whether false alarms differ beyond chance between the extreme groups."""
    low = min(groups, key=lambda group: group.false_alarms.value)
    high = max(groups, key=lambda group: group.false_alarms.value)
    if high.false_alarms.value == 0:
        return "no false alarms at all."
    ratio = low.false_alarms.value / high.false_alarms.value
    said = "more than chance explains" if chance < 0.01 else "which chance explains"
    return f"false alarms of {low.name} are {ratio:.2f} times those of {high.name}, {said} (p = {chance:.3f})."
