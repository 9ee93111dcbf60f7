"""Write the versions of all that is installed here into constraints.txt, and the oldest allowed into oldest.txt.

`tox run -e pins` runs this in a new environment. The oldest are the lower bounds of pyproject.toml.
"""

import os
import re
import sys
import tomllib
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = {"txpatterns", "txpatterns-shop"}
BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)")
NOT_OF_USERS = ("dev", "docs", "lint", "shop", "test")
"""Extras that only this repository needs."""


def main() -> None:
    if os.environ.get("TOX_ENV_NAME") != "pins":
        sys.exit("This reads what is installed where it runs. Run: python3 tests run -e pins")
    write("constraints.txt", installed(), "What every environment of the gate installs.")
    write("oldest.txt", oldest(), "What the environment `oldest` installs: the lower bounds of pyproject.toml.")


def installed() -> dict[str, str]:
    found = {normal(each.name): each.version for each in distributions()}
    return {name: version for name, version in found.items() if name not in OURS | {"pip", "setuptools", "wheel"}}


def oldest() -> dict[str, str]:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extras = [each for name, each in project["optional-dependencies"].items() if name not in NOT_OF_USERS]
    bounds = [BOUND.match(line) for line in [*project["dependencies"], *chain.from_iterable(extras)]]
    return {normal(bound[1]): bound[2] for bound in bounds if bound}


def write(name: str, versions: dict[str, str], what: str) -> None:
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    head = f"# {what} Made by: python3 tests run -e pins\n"
    (HERE / name).write_text("".join([head, *lines]))
    print(f"{name}: {len(lines)} packages, Python {sys.version.split()[0]}")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
