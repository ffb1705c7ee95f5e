"""Starts real servers on this machine: ElasticMQ speaks SQS, DynamoDB Local speaks DynamoDB.

`python -m penstock.infra.local.servers` prints their addresses as shell exports and serves until Ctrl-C or SIGTERM;
tests call `local_servers()`. Maven fetches them once (pom.xml says what); they keep everything in memory, and forget
it, unless `running_servers` is given a folder for the queues.

ElasticMQ listens on the loopback address only. DynamoDB Local has no such option and listens on every interface, on a
port nobody is told: on a machine that strangers can reach, close it off with the firewall.
"""

import argparse
import fcntl
import http.client
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

POM = Path(__file__).with_name("pom.xml")
TARGET = Path(__file__).with_name("target")
LOOPBACK = "127.0.0.1"
OLDEST_JAVA = 17

FETCH_SECONDS = 900
READY_SECONDS = 60
ANSWER_SECONDS = 2
STOP_SECONDS = 10
LAUNCHES = 5  # on other ports, when each time another process was quicker to take ours
TAIL_LINES = 30

# Tests start these servers far more often than they keep them busy: the quick compiler alone makes them ready in two
# thirds of the time. A server without memory should die and say so, not limp.
JVM = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError")

# Runs a command that does not outlive us, however we end: only we hold the other end of its standard input, and once
# that is closed, by us or by our death, the second process in here kills the command. Ends with the command's status.
LEASH = """
exec 3<&0
"$@" 3<&- </dev/null & command=$!
(read -r _ <&3; kill -s KILL $command) & leash=$!
exec 3<&-
wait $command; status=$?
kill $leash; wait $leash
exit $status
"""

PORT_TAKEN = "Address already in use"  # Java's words, in either server's log


class LocalServersError(Exception):
    """The servers cannot be had; the first sentence says what to do about it."""


@dataclass(frozen=True, slots=True)
class LocalServers:
    """Where the two answer; any region and any credentials of letters and digits will do."""

    sqs_url: str
    dynamodb_url: str


@dataclass(frozen=True, slots=True)
class Program:
    """One server as a thing to fetch and run. `{port}` in its words is the port it gets."""

    name: str
    profile: str
    main: str
    question: tuple[str, dict[str, str]]  # body and headers of a call that it answers with 200 once it is ready
    properties: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def command(self, java: str, jars: Path, port: int) -> list[str]:
        properties, arguments = (
            [word.format(port=port) for word in words] for words in (self.properties, self.arguments)
        )
        library = f"-Djava.library.path={jars}"
        return [java, *JVM, library, *properties, "-classpath", f"{jars}/*", self.main, *arguments]


ELASTICMQ = Program(
    name="ElasticMQ",
    profile="elasticmq",
    main="org.elasticmq.server.Main",
    question=("Action=ListQueues", {"Content-Type": "application/x-www-form-urlencoded"}),
    properties=(
        f"-Drest-sqs.bind-hostname={LOOPBACK}",
        "-Drest-sqs.bind-port={port}",
        "-Drest-sqs.sqs-limits=strict",
        "-Dgenerate-node-address=true",  # queue URLs name the address above
        "-Daws.region=us-east-1",
    ),
)

DYNAMODB = Program(
    name="DynamoDB Local",
    profile="dynamodb",
    main="software.amazon.dynamodb.services.local.main.ServerRunner",
    question=(
        "{}",
        {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": "DynamoDB_20120810.ListTables",
            "Authorization": "AWS4-HMAC-SHA256 Credential=local/20200101/us-east-1/dynamodb/aws4_request, "
            "SignedHeaders=host, Signature=unchecked",
        },
    ),
    # Unless told not to, it reports to AWS how it is used.
    arguments=("-port", "{port}", "-inMemory", "-sharedDb", "-disableTelemetry"),
)

PROGRAMS = (ELASTICMQ, DYNAMODB)


def stored_in(folder: Path) -> Program:
    """ElasticMQ with its queues and messages on disk: what it has answered is there after a restart, even a kill."""
    storage = (
        "-Dmessages-storage.enabled=true",
        f"-Dmessages-storage.uri=jdbc:h2:{folder.resolve()}/queues;WRITE_DELAY=0",
    )
    return replace(ELASTICMQ, properties=(*ELASTICMQ.properties, *storage))


def missing_tools() -> str | None:
    """Why the servers cannot run on this machine, or None if they can. Looks at the machine only, fetches nothing."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return (
            "DynamoDB Local's native library is fetched for Linux on x86_64 only, and this machine is "
            f"{platform.system()} on {platform.machine()}"
        )
    java = shutil.which("java")
    if java is None:
        return f"Java {OLDEST_JAVA} (java) is not installed"
    version = _java_version(java)
    if int(re.split(r"\D", version)[0]) < OLDEST_JAVA:
        return f"Java {OLDEST_JAVA} (java) is not installed, only Java {version} is"
    if shutil.which("mvn") is None and not _fetched(TARGET).is_dir():
        return "Maven (mvn) is not installed, and the servers have not been fetched before"
    return None


def _java_version(java: str) -> str:
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - from the PATH
    found = re.search(r'version "(\d[^"]*)"', answer.stderr)
    return found[1] if found else "0"


def fetch(target: Path = TARGET) -> Path:
    """The folder with each server's jars, fetched if pom.xml was not fetched as it is now.

    Processes that fetch at the same time take turns, and all but the first find it done. A folder is complete or not
    there: one killed half-way leaves what the next one clears away.
    """
    folder = _fetched(target)
    if folder.is_dir():
        return folder
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = target / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            for program in PROGRAMS:
                _copy_jars(program, unfinished / program.profile, lock.fileno())
            unfinished.rename(folder)
    return folder


def _fetched(target: Path) -> Path:
    return target / f"servers-{sha256(POM.read_bytes()).hexdigest()[:12]}"


def _copy_jars(program: Program, folder: Path, lock: int) -> None:
    """Has Maven resolve and copy. It inherits the lock: should we be killed, the lock is held until Maven ends too."""
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalServersError(f"Install Maven (mvn): {program.name} is fetched with it, and it is not on the PATH.")
    options = ("--batch-mode", "--quiet", "--strict-checksums", "-Dstyle.color=never")
    order = (f"--file={POM}", f"--activate-profiles={program.profile}", f"-Djars={folder}", "package")
    try:
        subprocess.run(  # noqa: S603 - Maven from the PATH, told to read our pom.xml
            [maven, *options, *order],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=FETCH_SECONDS,
            pass_fds=(lock,),
        )
    except subprocess.CalledProcessError as error:
        raise LocalServersError(
            f"Mend what Maven says, then try again: it could not fetch {program.name}.\n{_tail(error.stdout)}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LocalServersError(
            f"Check that Maven reaches its repository, then try again: fetching {program.name} took longer than "
            f"{FETCH_SECONDS} seconds."
        ) from error


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])


class Server:
    """One running server: `launch`, then `wait_until_ready`, and `stop` whatever happened; `check` in between."""

    def __init__(self, program: Program, java: str, jars: Path, log: Path) -> None:
        self.program = program
        self.log = log
        self._java = java
        self._jars = jars
        self._port: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        assert self._port is not None, "not launched"
        return int(self._port.getsockname()[1])

    def launch(self) -> None:
        self._port = self._port or reserve_port()
        command = self.program.command(self._java, self._jars, self.port)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - Java from the PATH, words from this file
                ["/bin/sh", "-c", LEASH, self.program.profile, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C is for us; we stop the server in our own time
            )

    def wait_until_ready(self) -> None:
        for _ in range(LAUNCHES):
            if self._becomes_ready():
                return
            self.stop()
            self.launch()
        raise LocalServersError(
            f"Try again when the machine is calmer: {self.program.name} found its port taken {LAUNCHES} times."
        )

    def _becomes_ready(self) -> bool:
        """False if another process took the port before the server could."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._answers():
                return True
            has_ended = self._has_ended()
            if PORT_TAKEN in self._read_log():  # ElasticMQ lives on without its port, so this alone decides
                return False
            if has_ended:
                raise self._failure("ended before it answered")
            time.sleep(0.05)
        raise self._failure(f"did not answer within {READY_SECONDS} seconds")

    def _answers(self) -> bool:
        body, headers = self.program.question
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", "/", body, headers)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False  # not listening yet, or not HTTP: a stranger's port
        finally:
            connection.close()

    def check(self) -> None:
        """Raises LocalServersError if the server has ended by itself."""
        if self._has_ended():
            raise self._failure("ended by itself")

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _failure(self, what: str) -> LocalServersError:
        return LocalServersError(
            f"Read the end of its log, below: {self.program.name} {what}.\n{_tail(self._read_log())}"
        )

    def _read_log(self) -> str:
        return self.log.read_text(errors="replace")

    def restart(self) -> None:
        """Kills the server and has another one ready at its address, with what it keeps on disk."""
        self.kill()
        self.launch()
        if not self._becomes_ready():
            raise self._failure("found its port taken")

    def kill(self) -> None:
        """Ends the server at once, and keeps its port for the next launch. May be called twice, or before `launch`."""
        if self._process is not None:
            _let_go(self._process)
            self._process = None

    def stop(self) -> None:
        """As `kill`, for good: there is nothing to save."""
        self.kill()
        if self._port is not None:
            self._port.close()
            self._port = None


def _let_go(leash: subprocess.Popen[bytes]) -> None:
    """Has the leash kill its command, and waits until both are gone; if that fails, kills all of them."""
    try:
        leash.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(leash.pid, signal.SIGKILL)
        leash.communicate()


def reserve_port() -> socket.socket:
    """A port that nobody else is given while this socket is held, and that a server told of it can listen on.

    The kernel picks a free port for whoever asks for any, never one that is bound. Yet on Linux another socket may
    listen on it, if both set SO_REUSEADDR and ours does not listen; Java's do. Only a process that asks for just this
    port could take it.
    """
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port.bind((LOOPBACK, 0))
    return port


@contextmanager
def local_servers(folder: Path | None = None) -> Iterator[LocalServers]:
    """Both servers, empty and ready, until the end of the block; they end with this process too, however it ends.

    Their logs go to `folder`, which is made if need be; without one they are deleted. Every call starts a pair of its
    own. Raises LocalServersError. Blocks: a few seconds, longer when they are fetched for the first time.
    """
    with running_servers(folder) as (elasticmq, dynamodb):
        yield LocalServers(sqs_url=elasticmq.url, dynamodb_url=dynamodb.url)


@contextmanager
def running_servers(folder: Path | None = None, storage: Path | None = None) -> Iterator[list[Server]]:
    """As `local_servers`, for who must know more than addresses: in the order of PROGRAMS.

    With `storage`, a folder, the queues are kept there and outlive a restart of their server.
    """
    reason = missing_tools()
    if reason is not None:
        raise LocalServersError(f"Install what is missing, or run on moto instead: {reason}.")
    java = str(shutil.which("java"))
    fetched = fetch()
    with ExitStack() as stack:
        logs = folder or Path(stack.enter_context(TemporaryDirectory(prefix="penstock-servers-")))
        logs.mkdir(parents=True, exist_ok=True)
        programs = PROGRAMS if storage is None else (stored_in(storage), DYNAMODB)
        servers = [Server(one, java, fetched / one.profile, logs / f"{one.profile}.log") for one in programs]
        for server in servers:
            stack.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait_until_ready()
        yield servers


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _run(_read_arguments())
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # asked to stop before there was anything to serve
    except LocalServersError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _interrupt(*_: object) -> NoReturn:
    """Ends whatever we wait for; a second signal must not end the stopping."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m penstock.infra.local.servers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--fetch-only", action="store_true", help="fetch the servers if need be, and start nothing")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the servers' logs there")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> None:
    if arguments.fetch_only:
        sys.stdout.write(f"{fetch()}\n")
        return
    with running_servers(arguments.logs) as servers, suppress(KeyboardInterrupt):
        sys.stdout.write(_exports(*servers))
        sys.stdout.flush()
        _watch(servers)


def _watch(servers: list[Server]) -> NoReturn:
    while True:
        for server in servers:
            server.check()
        time.sleep(0.5)


def _exports(elasticmq: Server, dynamodb: Server) -> str:
    variables = {
        "AWS_ENDPOINT_URL_SQS": elasticmq.url,
        "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }
    return "".join(f"export {name}={value}\n" for name, value in variables.items())


if __name__ == "__main__":
    sys.exit(main())
