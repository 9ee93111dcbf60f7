"""Write the Python modules of the .proto files beside this file: `tox run -e protos`."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PACKAGE = "shop/rpc/protos"
SOURCE = HERE.parent / "src"


def generate(into: Path) -> None:
    """Generate all modules below a folder, which gets the package's path in it."""
    paths = [f"--proto_path={PACKAGE}={HERE}", f"--proto_path={files('grpc_tools') / '_proto'}"]
    outputs = [f"--python_out={into}", f"--pyi_out={into}"]
    names = [f"{PACKAGE}/{file.name}" for file in sorted(HERE.glob("*.proto"))]
    if protoc.main(["protoc", *paths, *outputs, *names]):
        sys.exit("The .proto files could not be read; what is wrong is said above.")


if __name__ == "__main__":
    generate(SOURCE)
