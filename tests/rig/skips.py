"""In CI a skipped test is a failed one: whatever it lacks was to be installed there."""

import os

import pytest

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


def judge(report: pytest.TestReport) -> None:
    """Turn a skip into a failure where that is due; an expected failure is none."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which fails in CI: {report.longrepr}"
