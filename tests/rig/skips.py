"""In CI a skipped test is a failed one: whatever it lacks was to be installed there."""

import os

import pytest

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


NOT_APPLICABLE = "the broker's capabilities leave out"
"""How the conformance suite says what a broker does not claim to do: nothing is missing there."""


def judge(report: pytest.TestReport) -> None:
    """Turn a skip into a failure where that is due; an expected failure is none."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and NOT_APPLICABLE not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped, which fails in CI: {report.longrepr}"
