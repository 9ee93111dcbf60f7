"""The everyday gate: the whole suite, several files at a time; what fails in company gets one more try alone.

Faults are timed against leases of a second or less, and two cores run three servers' worth of them. A test that only
passes alone is named at the end, as a thing to mend; one that fails alone fails the gate.
"""

import subprocess
import sys

SOME_FAILED = 1


def main(arguments: list[str]) -> int:
    together = pytest("-n", "3", "--dist", "loadfile", *arguments)
    if together != SOME_FAILED:
        return together
    print("\nOnce more, one at a time, what failed in company:", flush=True)
    return pytest("--last-failed", "--last-failed-no-failures", "none", *arguments)


def pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
