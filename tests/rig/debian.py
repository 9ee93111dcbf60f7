"""Servers of another Debian than this machine's: unpacked into the user's cache, once, and run from there.

Nothing is installed, and nobody has to be root: apt-get keeps its lists and its state in that folder too, and each
program starts with the loader and the libraries that came with it.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from rig.cache import cached, make_once
from rig.lookup import Missing, program

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

APT = """\
Dir::State "{folder}/apt";
Dir::State::status "{folder}/apt/status";
Dir::Cache "{folder}/apt";
Dir::Etc::SourceList "{folder}/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Acquire::Languages "none";
APT::Sandbox::User "";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""

START = """\
#!/bin/sh
exec {loader} --argv0 "$0" --library-path {libraries} "$(readlink -f "$0").elf" "$@"
"""


def unpacked(release: str, package: str) -> Path:
    """The folder of a package with all that it needs; it is there after `unpack`."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = cached(f"{package}-{release}-{recipe}")
    if not folder.is_dir():
        program("apt-get")
        program("dpkg-deb")
        if not KEYRING.exists():
            raise Missing(f"packages of Debian cannot be verified without {KEYRING}")
    return folder


def unpack(release: str, package: str, programs: str) -> None:
    """Fetch and unpack a package; what is in the folder ``programs`` can be started then."""
    folder = unpacked(release, package)

    def make(half: Path) -> None:
        _fetch(half, release, package)
        for archive in (half / "apt" / "archives").glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(half))
        shutil.rmtree(half / "apt")
        for file in (half / programs).rglob("*"):
            if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o100:
                _relocate(file, half, folder, programs)

    make_once(folder, make)


def _fetch(folder: Path, release: str, package: str) -> None:
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "archives" / "partial").mkdir(parents=True)
    (state / "status").touch()  # as if nothing were installed: all that it needs comes with it
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {release} main\n")
    (state / "apt.conf").write_text(APT.format(folder=folder))
    apt = ["apt-get", "-q", "-y", "-c", str(state / "apt.conf")]
    _run(*apt, "update")
    _run(*apt, "install", "--no-install-recommends", "--download-only", package)


def _relocate(file: Path, half: Path, folder: Path, programs: str) -> None:
    """Make a program run from ``folder``, where its own loader and libraries are."""
    content = file.read_bytes()
    if content.startswith(b"#!"):
        file.write_bytes(content.replace(b"/" + programs.encode(), str(folder / programs).encode()))
    elif content.startswith(b"\x7fELF") and file.suffix != ".so":
        (loader,) = (half / "usr").glob("lib*/ld-linux-*.so.*")
        (libraries,) = (half / "usr" / "lib").glob("*-linux-gnu")
        file.rename(f"{file}.elf")
        places = {"loader": folder / loader.relative_to(half), "libraries": folder / libraries.relative_to(half)}
        file.write_text(START.format(**places))
        file.chmod(0o755)


def _run(*command: str) -> None:
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {made.stdout}{made.stderr}")
