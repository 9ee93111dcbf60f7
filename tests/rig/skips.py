"""In CI a skipped test is a failed one: whatever it lacks was to be installed there."""

import os

import pytest

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


NOT_APPLICABLE = ("the broker's capabilities leave out", "the suite has no")
"""How the conformance suite says what a broker does not claim to do, or has no server to do it to."""


def judge(report: pytest.TestReport) -> None:
    """Turn a skip into a failure where that is due; an expected failure is none."""
    applies = not any(reason in str(report.longrepr) for reason in NOT_APPLICABLE)
    if IN_CI and report.skipped and not hasattr(report, "wasxfail") and applies:
        report.outcome = "failed"
        report.longrepr = f"skipped, which fails in CI: {report.longrepr}"
