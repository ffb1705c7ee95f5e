"""Installs the generators of clients into `.run/generators`, once: `python -m tests.acceptance.generated.tools`.

Their versions are pinned next to this file. The Python generator needs other versions of some packages than Penstock,
so it has a folder of its own.
"""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".run" / "generators"


def typescript_tools() -> Path:
    """Return the folder with `node_modules`."""
    return _installed(HERE / "package.json", _install_npm)


def python_tools() -> Path:
    """Return a folder for the import path."""
    return _installed(HERE / "requirements.txt", _install_pip)


def _installed(pinned: Path, install: Callable[[Path, Path], None]) -> Path:
    """Return the folder with what a file pins. An installation that was cut off is made again."""
    folder = CACHE / f"{pinned.stem}-{sha256(pinned.read_bytes()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_suffix(".new")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            install(pinned, making)
            making.rename(folder)
    return folder


def _install_npm(pinned: Path, folder: Path) -> None:
    shutil.copy(pinned, folder)
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error")
    _run("npm", "install", *quiet, "--prefix", str(folder))


def _install_pip(pinned: Path, folder: Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    _run(sys.executable, "-m", "pip", "install", *quiet, "--target", str(folder), "--requirement", str(pinned))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=600)


if __name__ == "__main__":
    typescript_tools()
    python_tools()
