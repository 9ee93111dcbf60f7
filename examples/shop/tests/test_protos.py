"""The Python modules of the .proto files are those that would be generated today."""

import importlib.util
import re
from pathlib import Path

PROTO = Path(__file__).resolve().parents[1] / "proto"
COMMITTED = PROTO.parent / "src" / "shop" / "rpc" / "protos"
VERSION = re.compile(r"^# Protobuf Python Version: .*$|^    \d+,$", re.MULTILINE)
"""Which protoc it was: another one that writes the same is as good."""


def load_generator():
    spec = importlib.util.spec_from_file_location("shop_proto_generate", PROTO / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_committed_is_what_is_generated(tmp_path):
    """H349: who changes a .proto file runs `tox run -e protos`; a file whose source has gone is seen too."""
    generator = load_generator()
    generator.generate(tmp_path)
    made = {file.name: written(file) for file in (tmp_path / generator.PACKAGE).iterdir()}
    kept = {file.name: written(file) for file in COMMITTED.glob("*_pb2.py*")}
    assert len(made) == 2 * len(list(PROTO.glob("*.proto")))
    assert kept == made


def written(file):
    return VERSION.sub("", file.read_text(encoding="utf-8"))
