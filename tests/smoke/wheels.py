"""Build both wheels, look inside, install them into an empty environment and start both commands."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OPTIONAL = ("confluent_kafka", "fastapi", "opentelemetry", "structlog", "asyncpg", "psycopg", "pytest", "redis")


def call(*command: str | Path) -> str:
    """Run a command and return its output; its failure is ours."""
    print("$", *command, flush=True)
    return subprocess.run(command, check=True, cwd=tempfile.gettempdir(), stdout=subprocess.PIPE, text=True).stdout


def build(project: Path, folder: Path, package: str) -> Path:
    """Build the wheel of `project` and check that it holds its package, whole, and nothing else."""
    before = set(folder.iterdir())
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, project)
    (wheel,) = set(folder.iterdir()) - before
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    strangers = {top for top in tops if top != package and not top.endswith(".dist-info")}
    if strangers:
        sys.exit(f"{wheel.name} also holds {sorted(strangers)}")
    source = project / "src"
    files = {
        str(path.relative_to(source))
        for path in (source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if files - set(names):
        sys.exit(f"{wheel.name} lacks {sorted(files - set(names))}")
    print(f"  {wheel.name}: {len(names)} files, {wheel.stat().st_size // 1024} KiB")
    return wheel


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="txp-wheels-") as name:
        folder = Path(name)
        (folder / "dist").mkdir()
        library = build(ROOT, folder / "dist", "txpatterns")
        shop = build(ROOT / "examples" / "shop", folder / "dist", "shop")
        call(sys.executable, "-m", "virtualenv", "--quiet", folder / "venv")
        python, bin_ = folder / "venv/bin/python", folder / "venv/bin"
        call(python, "-m", "pip", "install", "--quiet", library)
        present = call(python, "-c", f"import importlib.util as u; print(*filter(u.find_spec, {OPTIONAL}))").split()
        if present:
            sys.exit(f"installing the library alone also brought {present}")
        print(call(python, "-c", "import txpatterns; print('txpatterns', txpatterns.__version__)"), end="")
        call(bin_ / "txp", "--help")
        # The library's wheel is named again, so that its extras are taken from it and not from an index.
        call(python, "-m", "pip", "install", "--quiet", f"{library}[fastapi]", shop)
        call(python, "-m", "pip", "check")
        call(bin_ / "shop", "--help")
    print("both wheels build, install into an empty environment and start")


if __name__ == "__main__":
    main()
