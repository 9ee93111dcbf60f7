"""The documents and the code hold each other to the truth."""

import importlib.util
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXPLAINED = ("docs/explanation/guarantees.md", "docs/explanation/hazards.md")


def load_hooks():
    """The functions that the site uses to gather ids."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks


def test_every_id_that_a_test_names_is_explained():
    """An id without a row in the documents says nothing to whoever reads the test."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in EXPLAINED)
    named = load_hooks().cited()
    assert [name for name in named if f"\n| {name} |" not in text and f"\n## {name}:" not in text] == []


def test_ids_are_read_singly_and_in_ranges():
    """A range stands for all that it spans; a letter and a number inside a word name nothing."""
    assert load_hooks().ids("P3, H15-H17 and HTTP2, I1") == ["P3", "H15", "H16", "H17", "I1"]


def test_ci_runs_the_command_of_the_readme():
    """Green in CI and green for a reader are the same thing."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python3 tests" in readme
    assert "\npython3 tests 2>&1" in script
    assert (ROOT / "tests" / "__main__.py").exists()


def test_third_parties_are_listed():
    """Every direct dependency of an installation is named with its licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").lower()
    assert [name for name in project["dependencies"] if name.split(">")[0].split("[")[0] not in listed] == []


def test_the_page_of_the_architecture_names_what_there_is():
    """Each room is on it, and each file that it names exists."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "txpatterns"
    rooms = [found.parent.name for found in source.glob("*/__init__.py")]
    assert [room for room in rooms if room not in page] == []
    named = set(re.findall(r"`([a-z_/]+\.py)`", page)) - {"moments.py", "queues.py"}  # one in each pattern
    assert [file for file in sorted(named) if not (source / file).exists()] == []
