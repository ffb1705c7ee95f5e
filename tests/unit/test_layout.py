"""Which part of Penstock may import which: read from the source, so that no wrong import has to run to be noticed."""

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("penstock", "service", "consumer", "infra")  # the last three are `penstock.service` and so on

Sources = Mapping[str, str]  # by the names of the modules

# The rooms of the code, and the other rooms that each may import. The core is the files directly in `penstock/`.
ROOMS: Mapping[str, set[str]] = {
    "documents": set(),
    "core": {"documents", "files", "forwarding", "metrics"},
    "files": {"core"},
    "reading": {"core", "documents", "files"},
    "forwarding": {"core", "documents"},
    "running": {"core", "documents", "forwarding", "metrics", "process"},
    "process": {"core"},
    "metrics": {"core"},
    "tracing": {"core"},
    "aws": {"core", "files", "metrics", "tracing"},
    "client": {"core"},
    "cli": {"client", "core", "files", "forwarding", "metrics", "process", "running"},
    "service": {
        *("core", "aws", "documents", "files", "forwarding", "metrics", "process", "reading", "running", "tracing"),
        *("service/intake", "service/batches", "service/events", "service/limits"),
        *("service/operators", "service/console", "service/webhooks", "service/openapi", "service/dialects"),
    },
    "service/intake": {
        "core",
        "documents",
        "files",
        "metrics",
        "reading",
        "running",
        "service",
        "service/batches",
        "service/limits",
    },
    "service/batches": {"core", "documents", "files", "reading", "service", "service/limits"},
    "service/events": {"core", "service", "service/batches"},
    "service/limits": {"core", "service"},
    "service/operators": {"core", "documents", "metrics", "reading", "service"},
    "service/webhooks": {"core", "service"},
    "service/dialects": {"core", "service", "service/dialects/odata", "service/dialects/openai"},
    "service/dialects/odata": {
        *("core", "documents", "reading", "service", "service/batches", "service/dialects", "service/intake"),
    },
    "service/dialects/openai": {
        *("core", "reading", "service", "service/batches", "service/dialects", "service/intake"),
    },
    "service/console": {
        *("core", "documents", "files", "metrics", "reading", "service"),
        *("service/intake", "service/batches", "service/operators", "service/openapi"),
    },
    "service/openapi": {
        *("core", "metrics", "reading", "service"),
        *("service/intake", "service/batches", "service/events", "service/operators", "service/webhooks"),
    },
    "consumer": {"core", "aws", "documents", "files", "metrics", "process", "reading", "running", "tracing"},
    "infra": {"core", "aws", "process"},
    "testing": {"core", "files", "metrics", "service", "consumer"},  # what applications test with is a whole bulk API
}
# An application names its upstreams, so these decide what is forwarded.
CORE_THAT_FORWARDS = {"penstock.application", "penstock.operations", "penstock.settings"}
# Single imports that the table forbids, with the reason.
EXCEPTIONS = {
    ("penstock.__main__", "penstock.cli.commands"): "`python -m penstock` is the command line",
    ("penstock.consumer.webhooks.post", "penstock.forwarding.rate_limits"): "both read the same header of a response",
    ("penstock.backend", "penstock.tracing.spans"): "only a type: a backend carries the spans without using them",
}

AWS_CLIENTS = {"aiobotocore", "boto3", "botocore"}
AWS_ROOMS = {"aws", "infra"}
TRACER = "penstock.tracing.spans"

SETTINGS = "penstock.settings"
READS_ENVIRONMENT = {
    "penstock.cli.api_key": "loading the settings takes a third of the start of a command that calls a server",
    "penstock.infra.up": "the programs that it starts get its environment, with the embedded AWS in place of AWS",
}


@dataclass(frozen=True, slots=True)
class Import:
    """`is_only_for_types` is an import under `if TYPE_CHECKING`, which never runs."""

    importer: str
    imported: str
    is_only_for_types: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """An import statement. Its names are those of modules, or of something in `module`."""

    names: tuple[str, ...]
    module: str | None
    is_only_for_types: bool


def read_sources(root: Path) -> dict[str, str]:
    """Read every module once, by its name. The links under `penstock/` to the other folders are not followed."""
    sources = {}
    for top in TOPS:
        for folder, _, names in os.walk(root / top):
            for file in (Path(folder, name) for name in names if name.endswith(".py")):
                parts = file.relative_to(root).with_suffix("").parts
                name = ".".join(parts if top == "penstock" else ("penstock", *parts))
                sources[name.removesuffix(".__init__")] = file.read_text("utf-8")
    return sources


def errors_in(sources: Sources) -> list[str]:
    modules = frozenset(sources)
    imports = [one for name, source in sources.items() for one in _imports(name, source, modules)]
    environment = [error for name, source in sources.items() for error in _read(name, source)[1]]
    wrong = [error for one in imports for error in _errors_of(one, modules)]
    return wrong + environment + _circles(imports, modules)


def _imports(importer: str, source: str, modules: frozenset[str]) -> Iterator[Import]:
    for statement in _read(importer, source)[0]:
        module = statement.module
        imported = [name if module is None or name in modules else module for name in statement.names]
        for name in dict.fromkeys(imported):
            yield Import(importer, name, statement.is_only_for_types)


@cache  # most sources are the same in every test
def _read(name: str, source: str) -> tuple[list[Statement], list[str]]:
    """Return the imports of a module, and its errors in reading the environment."""
    nodes = list(ast.walk(ast.parse(source)))
    return list(_statements(nodes)), list(_errors_of_environment(name, nodes))


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    if len(parts) > 2 and parts[0] == "service":
        # Each dialect is a room of its own, so that none knows another.
        return "/".join(parts[: 3 if parts[1] == "dialects" and len(parts) > 3 else 2])
    return parts[0] if parts and parts[0] in ROOMS else "core"


def _statements(nodes: list[ast.AST]) -> Iterator[Statement]:
    for_types = {
        node
        for block in nodes
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield Statement(tuple(alias.name for alias in names), None, node in for_types)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                inside = tuple(f"{module}.{alias.name}" for alias in names)
                yield Statement(inside, module, node in for_types)
            case ast.ImportFrom():
                yield Statement(("a relative name",), None, node in for_types)
            case _:
                pass


def _errors_of(one: Import, modules: frozenset[str]) -> Iterator[str]:
    start = f"{one.importer} imports {one.imported}"
    here, library = room_of(one.importer), one.imported.partition(".")[0]
    if one.imported == "a relative name":
        yield f"{start}: write the full name, so that readers and this test can find it."
    elif one.imported in modules:
        yield from _errors_of_room(one, here, room_of(one.imported), start)
    elif library in AWS_CLIENTS and here not in AWS_ROOMS and not one.is_only_for_types:
        yield f"{start}: only penstock/aws and infra may know an AWS client."
    elif library == "opentelemetry" and one.importer != TRACER and not one.is_only_for_types:
        yield f"{start}: only {TRACER} may, so that programs that trace nothing need no OpenTelemetry."


def _errors_of_room(one: Import, here: str, there: str, start: str) -> Iterator[str]:
    if here == there or (one.importer, one.imported) in EXCEPTIONS:
        return
    if there not in ROOMS[here]:
        yield f"{start}: {here} must not import {there}."
    elif there == "forwarding" and here == "core" and one.importer not in CORE_THAT_FORWARDS:
        yield f"{start}: of the core, only {', '.join(sorted(CORE_THAT_FORWARDS))} may import {there}."


def _errors_of_environment(name: str, nodes: list[ast.AST]) -> Iterator[str]:
    if name == SETTINGS or name in READS_ENVIRONMENT:
        return
    # To set a variable is not to read it: `penstock` sets PENSTOCK_APP for the program that it starts.
    written = {node.value for node in nodes if isinstance(node, ast.Subscript) and _is_written(node)}
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" as what):
                if node not in written:
                    yield f"{name} reads os.{what}: only {SETTINGS} may read the environment."
            case ast.ImportFrom(module="os", names=names) if {a.name for a in names} & {
                "environ",
                "environb",
                "getenv",
            }:
                yield f"{name} imports the environment from os: only {SETTINGS} may read it."
            case _:
                pass


def _is_written(node: ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store)


def _circles(imports: list[Import], modules: frozenset[str]) -> list[str]:
    """Find modules that import each other, directly or through others."""
    following: dict[str, set[str]] = {name: set() for name in modules}
    for one in imports:
        if one.imported in modules and not one.is_only_for_types:
            following[one.importer].add(one.imported)
    done: set[str] = set()
    found: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(f"These import each other in a circle: {' -> '.join((*path[path.index(name) :], name))}.")
        elif name not in done:
            for imported in sorted(following[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in sorted(modules):
        visit(name, ())
    return found


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_sources(ROOT)


def test_every_part_is_read(sources: Sources) -> None:
    assert {room_of(name) for name in sources} == set(ROOMS)
    assert {"penstock.consumer.processor", "penstock.service.intake.reading", "penstock.infra.up"} <= sources.keys()


def test_every_import_goes_in_an_allowed_direction(sources: Sources) -> None:
    errors = errors_in(sources)
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize(
    ("module", "added", "error"),
    [
        ("batch", "from penstock.service import app", "imports penstock.service.app: core must not import service."),
        ("batch", "import penstock.consumer.lease", "imports penstock.consumer.lease: core must not import consumer."),
        ("batch", "from penstock.infra.up import Machine", "imports penstock.infra.up: core must not import infra."),
        ("batch", "from penstock.cli import submit", "imports penstock.cli.submit: core must not import cli."),
        ("batch", "import penstock.forwarding.headers", "imports penstock.forwarding.headers: of the core, only pen"),
        ("batch", "from . import chunk", "imports a relative name: write the full name, so that readers and this "),
        ("running.runner", "import penstock.aws.clients", "imports penstock.aws.clients: running must not import aws."),
        ("tracing.hooks", "import penstock.running.slots", "imports penstock.running.slots: tracing must not import "),
        ("service.app", "import penstock.consumer.lease", "imports penstock.consumer.lease: service must not import "),
        ("consumer.lease", "import penstock.service.app", "imports penstock.service.app: consumer must not import "),
        ("consumer.lease", "import penstock.infra.up", "imports penstock.infra.up: consumer must not import infra."),
        ("cli.submit", "import penstock.consumer.lease", "imports penstock.consumer.lease: cli must not import "),
        ("infra.up", "def up(): import penstock.service", "imports penstock.service: infra must not import service."),
        ("service.batches.status", "import penstock.service.intake.plan", "service/batches must not import service/in"),
        ("service.app", "import boto3", "imports boto3: only penstock/aws and infra may know an AWS client."),
        ("cli.submit", "from botocore.config import Config", "imports botocore.config: only penstock/aws and infra "),
        ("consumer.lease", "import aiobotocore.session", "imports aiobotocore.session: only penstock/aws and infra "),
        ("tracing.hooks", "from opentelemetry import trace", "imports opentelemetry: only penstock.tracing.spans may"),
        ("consumer.lease", "import os\nos.environ.get('A')", "reads os.environ: only penstock.settings may read the "),
        ("consumer.lease", "import os\nos.environ['A']", "reads os.environ: only penstock.settings may read the "),
        ("consumer.lease", "import os\nos.getenv('A')", "reads os.getenv: only penstock.settings may read the "),
        ("consumer.lease", "from os import environ", "imports the environment from os: only penstock.settings may "),
    ],
)
def test_wrong_import_is_noticed(sources: Sources, module: str, added: str, error: str) -> None:
    name = f"penstock.{module}"
    noticed = [one for one in errors_in(with_line(sources, name, added)) if error in one]
    assert noticed
    assert noticed[0].startswith(name)


@pytest.mark.parametrize(
    ("module", "added"),
    [
        ("consumer.lease", "if TYPE_CHECKING:\n    from opentelemetry import trace"),
        ("consumer.lease", "if TYPE_CHECKING:\n    from botocore.config import Config"),
        ("consumer.lease", "import os\nos.environ['PENSTOCK_APP'] = 'app'"),
    ],
)
def test_what_runs_nowhere_or_reads_nothing_is_allowed(sources: Sources, module: str, added: str) -> None:
    assert errors_in(with_line(sources, f"penstock.{module}", added)) == errors_in(sources)


@pytest.mark.parametrize("name", ["odata", "openai"])
def test_dialect_is_gone_without_its_folder_and_its_line_in_the_register(sources: Sources, name: str) -> None:
    """Nothing else imports it. So the rest has no import of a module that does not exist any more."""
    room, register = f"penstock.service.dialects.{name}", "penstock.service.dialects.registered"
    left = {module: source for module, source in sources.items() if not f"{module}.".startswith(f"{room}.")}
    assert len(left) < len(sources)
    importing = {module for module, source in left.items() if f"{room}." in source}
    assert importing == {register}
    lines = left[register].splitlines()
    assert len([line for line in lines if f"{room}." in line]) == 1
    without = "\n".join(line for line in lines if f"{room}." not in line)
    assert errors_in({**left, register: without}) == errors_in(sources)


@pytest.mark.parametrize("added", ["from penstock import batch", "def late(): import penstock.batch"])
def test_circle_is_noticed_however_long_it_is(sources: Sources, added: str) -> None:
    """The batch module imports the priorities."""
    circular = with_line(sources, "penstock.priority", added)
    [error] = [error for error in errors_in(circular) if error.startswith("These import each other in a circle: ")]
    assert {"penstock.batch", "penstock.priority"} <= set(error.rstrip(".").split(": ")[1].split(" -> "))


def with_line(sources: Sources, module: str, added: str) -> dict[str, str]:
    return {**sources, module: f"{sources[module]}\n{added}\n"}
