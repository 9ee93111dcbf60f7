"""`python3 tests [arguments of tox]`: set up what is missing and run every check there is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

import environment

environment.install("tests", "tox>=4.23")
environment.replace_process("tox", *sys.argv[1:])
