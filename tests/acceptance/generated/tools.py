"""Installs generators of clients, and clients, into `.run/generators`: `python -m tests.acceptance.generated.tools`.

The files next to this one pin the generators, and every package that they need, with hashes. Those in `odata` pin
Microsoft's client, and those in `openai` OpenAI's library. The Python generator needs other versions of some packages
than Penstock, so it has a folder of its own. Tests never install anything, because they must not depend on a registry.
"""

import fcntl
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".run" / "generators"
INSTALL_SECONDS = 120
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Generator:
    """The files that pin a generator, and the command that installs it from copies of them into a folder."""

    name: str
    pinned: tuple[str, ...]
    command: Callable[[Path], tuple[str, ...]]
    source: Path = HERE  # the folder that has these files

    @property
    def folder(self) -> Path:
        """Return where the generator is. It is there if it has been installed completely."""
        content = b"".join((self.source / name).read_bytes() for name in self.pinned)
        return CACHE / f"{self.name}-{sha256(content).hexdigest()[:12]}"

    def install(self) -> None:
        """Install the generator if it is not there. An installation that was cut off is made again."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{self.folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.folder.exists():
                self._make()

    def _make(self) -> None:
        making = self.folder.with_suffix(".new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        for name in self.pinned:
            shutil.copy(self.source / name, making)
        run(self.command(making), INSTALL_SECONDS)
        making.rename(self.folder)


def _npm(folder: Path) -> tuple[str, ...]:
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    return ("npm", "ci", *quiet, "--fetch-retries=1", "--fetch-timeout=20000", "--prefix", str(folder))


def _pip(folder: Path) -> tuple[str, ...]:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--retries=1", "--timeout=20")
    pinned = str(folder / "requirements.lock")
    return (sys.executable, "-m", "pip", "install", *quiet, "--target", str(folder), "--requirement", pinned)


def _environment() -> dict[str, str]:
    """Return the environment of an installation, in which Node trusts the certificates that this machine trusts."""
    paths = (ssl.get_default_verify_paths().cafile, SYSTEM_CERTIFICATES)
    found = [{"NODE_EXTRA_CA_CERTS": path} for path in paths if Path(path or "").is_file()]
    return {**(found[0] if found else {}), **os.environ}


TYPESCRIPT = Generator("typescript", ("package.json", "package-lock.json"), _npm)
PYTHON = Generator("python", ("requirements.lock",), _pip)
GRAPH = Generator("graph", ("package.json", "package-lock.json"), _npm, HERE.parent / "odata")
OPENAI = Generator("openai", ("package.json", "package-lock.json"), _npm, HERE.parent / "openai")


def run(command: tuple[str, ...], seconds: float) -> None:
    """Run a command. Raise an error if it fails, or if it takes too long: then its children are killed as well."""
    with subprocess.Popen(command, env=_environment(), start_new_session=True) as process:
        try:
            status = process.wait(seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if status != 0:
        raise subprocess.CalledProcessError(status, command)


def main() -> None:
    """Install the generators. One that cannot be installed is reported, and the tests that need it are skipped."""
    for generator in (TYPESCRIPT, PYTHON, GRAPH, OPENAI):
        try:
            generator.install()
        except (OSError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"The {generator.name} generator is not installed, so its test is skipped: {error}\n")


if __name__ == "__main__":
    main()
