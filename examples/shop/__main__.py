"""`python3 examples/shop [options of "shop up"]`: set up what is missing and open the shop."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / ".ci"))

import environment

environment.install("shop", "-e", ".", "-e", "examples/shop")
environment.replace_process("shop", *(sys.argv[1:] if sys.argv[1:2] == ["up"] else ["up", *sys.argv[1:]]))
