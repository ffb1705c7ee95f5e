"""Penstock as strangers get it: the wheel in a fresh environment, beside an application with names like ours."""

import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from zipfile import ZipFile

import pytest

from tests.support.aws import scrubbed_environment
from tests.support.programs import free_port
from tests.support.waiting import UNIT_SECONDS

ROOT = Path(__file__).parents[2]
OUR_FOLDERS = ("service", "consumer", "infra", "tests", "bench", "examples")

pytestmark = [pytest.mark.xdist_group("installed"), pytest.mark.timeout(300)]


# --- The wheel


@dataclass(frozen=True, slots=True)
class Built:
    wheel: Path  # from the repository
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    build(ROOT, folder / "ours", "sdist", "wheel")
    [sdist] = (folder / "ours").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    [source] = (folder / "sdist").iterdir()
    build(source, folder / "theirs", "wheel")
    return Built(*(next((folder / name).glob("*.whl")) for name in ("ours", "theirs")))


def build(source: Path, folder: Path, *targets: str) -> None:
    options = [word for target in targets for word in ("--target", target)]
    run(sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *options, cwd=source)


def run(*command: str, cwd: Path, environment: Mapping[str, str] | None = None, exit_code: int = 0) -> str:
    """Run a command to its end and return what it printed. It has to end with this exit code."""
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == exit_code, ended.stdout + ended.stderr
    return ended.stdout


def files_in(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_one_package_with_every_module(built: Built) -> None:
    files = files_in(built.wheel)
    assert {name.partition("/")[0] for name in files} - {"penstock"} == {"penstock_bulk-0.1.0.dist-info"}
    for folder in ("penstock", "service", "consumer", "infra"):
        modules = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py") if "target" not in path.parts}
        packed = {str(path) if folder == "penstock" else f"penstock/{path}" for path in modules}
        assert packed <= files
    assert {"penstock/py.typed", "penstock/infra/template.yaml", "penstock/infra/local/pom.xml"} <= files
    console = ROOT / "service" / "console"
    pages = {path.relative_to(ROOT) for folder in ("static", "templates") for path in (console / folder).rglob("*.*")}
    assert len(pages) > 20
    assert {f"penstock/{path}" for path in pages} <= files
    assert not any("/target/" in name or "__pycache__" in name for name in files)


def test_wheel_of_the_sdist_is_the_same(built: Built) -> None:
    assert files_in(built.wheel_of_sdist) == files_in(built.wheel)


# --- The environment


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with the wheel in it. It needs no network: a .pth file adds the dependencies of this one.

    A .pth file in a folder that was added in this way is not read, so this repository's editable install is not seen.
    """

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def penstock(self) -> str:
        return str(self.folder / "bin" / "penstock")


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment = Installed(tmp_path_factory.mktemp("installed"))
    venv.create(environment.folder, symlinks=True)
    [packages] = environment.folder.glob("lib/python*/site-packages")
    dependencies = Path(pytest.__file__).parents[1]
    (packages / "dependencies.pth").write_text(str(dependencies))
    run(
        *(sys.executable, "-m", "pip", "--python", environment.python, "install", "--quiet"),
        *("--no-deps", "--no-index", "--disable-pip-version-check", str(built.wheel)),
        cwd=environment.folder,
    )
    return environment


@pytest.fixture
def environment() -> dict[str, str]:
    return {name: value for name, value in scrubbed_environment().items() if name != "PYTHONPATH"}


@pytest.mark.parametrize("name", OUR_FOLDERS)
def test_only_penstock_can_be_imported(installed: Installed, tmp_path: Path, name: str) -> None:
    code = f"import penstock.service, penstock.consumer, penstock.infra\nimport {name}"
    ended = subprocess.run([installed.python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"No module named '{name}'" in ended.stderr


# --- An application with names like ours, and strays with names like Python's

SERVICE = """
    from consumer.rules import is_allowed
    from infra.greeting import greet
    from penstock import Context, Operations, Reject
    from tests.names import KNOWN

    operations = Operations()

    @operations.post("/greetings", status=201)
    async def create_greeting(body: dict[str, str], context: Context) -> str:
        if not is_allowed(body["name"]):
            raise Reject(409, "Not this name.")
        return greet(body["name"])

    @operations.get("/names", cpu_bound=True)
    def count_names() -> int:
        return len(KNOWN)
"""
APPLICATION = {
    "service/__init__.py": "",
    "service/operations.py": SERVICE,
    "consumer/__init__.py": "",
    "consumer/rules.py": "def is_allowed(name):\n    return name != 'Bob'\n",
    "infra/__init__.py": "",
    "infra/greeting.py": "def greet(name):\n    return f'Hello {name}'\n",
    "tests/__init__.py": "",
    "tests/names.py": "KNOWN = ['Ann', 'Bob']\n",
}
ONE_MODULE = """
    from penstock import Operations

    operations = Operations()

    @operations.get("/one")
    async def one() -> int:
        return 1
"""
STRAYS = (
    "queue",
    "types",
    "json",
    "logging",
    "platform",
    "aiohttp",
    "pydantic",
    "uvloop",
    "moto",
    "boto3",
    "yaml",
)


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(content))


def write_strays(folder: Path) -> None:
    write(folder, {f"{name}.py": f"raise RuntimeError('The stray {name}.py was imported.')\n" for name in STRAYS})


@contextmanager
def up(installed: Installed, folder: Path, environment: Mapping[str, str], application: str) -> Iterator[str]:
    """The URL of `penstock up`."""
    port = str(free_port())
    command = [installed.penstock, "up", "--app", application, "--port", port, "--consumers", "1"]
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        ends_at = time.monotonic() + 60 * UNIT_SECONDS
        while "Penstock is up." not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_main_job_is_done_beside_packages_and_modules_of_the_same_names(
    installed: Installed, tmp_path: Path, environment: dict[str, str]
) -> None:
    write(tmp_path, APPLICATION)
    write_strays(tmp_path)
    lines = ['{"method": "GET", "path": "/names"}'] * 5
    lines += [f'{{"method": "POST", "path": "/greetings", "body": {{"name": "Ann{number}"}}}}' for number in range(295)]
    (tmp_path / "greetings.ndjson").write_text("\n".join(lines))

    with up(installed, tmp_path, environment, "service.operations:operations") as url:
        told = run(
            installed.penstock, "submit", "greetings.ndjson", "--url", url, cwd=tmp_path, environment=environment
        )

    rows = dict(line.split() for line in told.splitlines())
    assert (rows["total"], rows["succeeded"], rows["failed"]) == ("300", "300", "0")


@pytest.mark.parametrize("name", ["service", "consumer", "infra", "tests"])
def test_application_may_be_one_module_named_like_a_folder_of_ours(
    installed: Installed, tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    write_strays(tmp_path)
    write(tmp_path, {f"{name}.py": ONE_MODULE, "one.ndjson": '{"method": "GET", "path": "/one"}'})
    command = [installed.penstock, "profile", "--app", f"{name}:operations", "one.ndjson"]
    assert "1 operations in" in run(*command, cwd=tmp_path, environment=environment)


def test_module_of_the_command_line_is_not_misled_either(
    installed: Installed, tmp_path: Path, environment: dict[str, str]
) -> None:
    write_strays(tmp_path)
    (tmp_path / "types.py").unlink()  # `python -m` itself imports it, before any code of ours
    told = run(installed.python, "-m", "penstock", "--version", cwd=tmp_path, environment=environment)
    assert told == "penstock 0.1.0\n"


# --- Types

HANDLERS = """
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    from penstock import Context, Operations, Reject, Retry
    from pydantic import BaseModel


    class Session:
        async def insert(self, name: str) -> int:
            return len(name)


    @asynccontextmanager
    async def transaction() -> AsyncIterator[Session]:
        yield Session()


    operations = Operations(transaction=transaction)


    class NewUser(BaseModel):
        email: str
        name: str


    @operations.post("/users", status=201, timeout_seconds=10, max_attempts=3)
    async def create_user(user: NewUser, context: Context[Session]) -> dict[str, int]:
        if not user.email:
            raise Reject(409, "This e-mail address is taken.")
        if context.attempt > 3:
            raise Retry
        return {"id": await context.transaction.insert(user.name)}


    @operations.get("/reports/{id}", cpu_bound=True)
    def report(id: int) -> str:
        return str(id)


    reveal_type(operations)
    reveal_type(create_user)
"""


def test_handlers_pass_a_strict_type_check(installed: Installed, tmp_path: Path) -> None:
    write(tmp_path, {"handlers.py": HANDLERS, "misspelled.py": "from penstock import Oprations\n"})
    told = run(*type_check(installed, tmp_path, "handlers.py"), cwd=tmp_path)
    assert 'Revealed type is "penstock.operations.Operations[handlers.Session]"' in told
    assert "Coroutine[Any, Any, dict[str, int]]" in told.replace("typing.", "").replace("builtins.", "")
    assert "Success: no issues found in 1 source file" in told
    told = run(*type_check(installed, tmp_path, "misspelled.py"), cwd=tmp_path, exit_code=1)
    assert 'Module "penstock" has no attribute "Oprations"' in told


def type_check(installed: Installed, folder: Path, file: str) -> list[str]:
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(folder / "cache")]
    return [*mypy, "--python-executable", installed.python, file]
