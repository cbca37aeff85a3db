"""`headrace doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from streams.cli._context import settings_of
from streams.cli._output import print_json

if TYPE_CHECKING:
    from streams.cli._checks import Finding

app = typer.Typer(add_completion=False)

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@app.command()
def doctor(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object: every finding, and whether all is well.")
    ] = False,
) -> None:
    """Check this machine, the install and the services, and say what to do.

    Looks only: nothing is started, fetched or changed. Exits with 1 where a check fails; warnings do not count.

    Example: `headrace doctor --json`
    """
    from streams.cli._checks import Finding, examine
    from streams.settings import SettingsError, load_settings

    findings: list[Finding] = []
    try:
        settings = settings_of(context)
    except SettingsError as error:
        findings += [Finding("settings", "fail", str(problem), "see `headrace config`") for problem in error.problems]
        settings = load_settings().settings
    else:
        findings.append(Finding("settings", "ok", "valid"))
    if not as_json:
        for finding in findings:
            _say(finding)
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            _say(finding)
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    if as_json:
        print_json({"healthy": not failed, "findings": [msgspec.to_builtins(finding) for finding in findings]})
    else:
        typer.echo(f"{failed} failed, {warned} to look at, {len(findings) - failed - warned} fine")
    if failed:
        raise typer.Exit(1)


def _say(finding: Finding) -> None:
    from streams._settings_redact import redact_text

    mark, color = _MARKS[finding.status]
    first, *more = redact_text(finding.detail).splitlines() or [""]
    typer.echo(f"{typer.style(mark, fg=color)} {finding.name:<20} {first}")
    for line in more:
        typer.echo(f"  {'':<20} {line}")
    if finding.advice and finding.status != "ok":
        for line in redact_text(finding.advice).splitlines():
            typer.echo(f"  {'':<20} → {line}")
