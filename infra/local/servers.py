"""Start real servers on this machine: ElasticMQ implements SQS, and DynamoDB Local implements DynamoDB.

`python -m penstock.infra.local.servers` prints their addresses as shell exports and serves until Ctrl-C or SIGTERM.
Tests call `local_servers()`. Maven downloads the servers once, in the versions of pom.xml. They keep all data in memory
and lose it at the end, unless `running_servers` gets a folder for the queues.

ElasticMQ listens only on the loopback address. DynamoDB Local has no option for this and listens on all interfaces, on
a random port: if other machines can reach this one, block the port in the firewall.
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
LAUNCHES = 5  # attempts, each on another port, if another process takes the port first
TAIL_LINES = 30

# Tests start these servers often and use them little, and with the quick compiler alone they start in two thirds of the
# time. A server that is out of memory should exit with an error instead of becoming slow.
JVM = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError")

# This script runs a command that ends when we end, even if we are killed: only we hold the other end of its standard
# input. When that is closed, the second process in the script kills the command. The script exits with its status.
LEASH = """
exec 3<&0
"$@" 3<&- </dev/null & command=$!
(read -r _ <&3; kill -s KILL $command) & leash=$!
exec 3<&-
wait $command; status=$?
kill $leash; wait $leash
exit $status
"""

PORT_TAKEN = "Address already in use"  # Java writes this to the log of either server


class LocalServersError(Exception):
    """The servers cannot be started or have ended. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class LocalServers:
    """The URLs of the two servers. They accept any region, and any credentials of letters and digits."""

    sqs_url: str
    dynamodb_url: str


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """How to download and run one of the servers. `{port}` in its properties and arguments is replaced by its port."""

    name: str
    profile: str
    main: str
    question: tuple[str, dict[str, str]]  # body and headers of a request that it answers with 200 when it is ready
    properties: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def command(self, java: str, jars: Path, port: int) -> list[str]:
        """Return the command that runs the server on a port."""
        properties, arguments = (
            [word.format(port=port) for word in words] for words in (self.properties, self.arguments)
        )
        library = f"-Djava.library.path={jars}"
        return [java, *JVM, library, *properties, "-classpath", f"{jars}/*", self.main, *arguments]


ELASTICMQ = ServerSpec(
    name="ElasticMQ",
    profile="elasticmq",
    main="org.elasticmq.server.Main",
    question=("Action=ListQueues", {"Content-Type": "application/x-www-form-urlencoded"}),
    properties=(
        f"-Drest-sqs.bind-hostname={LOOPBACK}",
        "-Drest-sqs.bind-port={port}",
        "-Drest-sqs.sqs-limits=strict",
        "-Dgenerate-node-address=true",  # queue URLs contain the address above
        "-Daws.region=us-east-1",
    ),
)

DYNAMODB = ServerSpec(
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
    # By default, it sends usage data to AWS.
    arguments=("-port", "{port}", "-inMemory", "-sharedDb", "-disableTelemetry"),
)

SERVER_SPECS = (ELASTICMQ, DYNAMODB)


def stored_in(folder: Path) -> ServerSpec:
    """Return ElasticMQ with its queues and messages on disk. Every confirmed call survives a restart and a kill."""
    storage = (
        "-Dmessages-storage.enabled=true",
        f"-Dmessages-storage.uri=jdbc:h2:{folder.resolve()}/queues;WRITE_DELAY=0",
    )
    return replace(ELASTICMQ, properties=(*ELASTICMQ.properties, *storage))


def missing_tools() -> str | None:
    """Return why the servers cannot run on this machine, or None if they can. This downloads nothing."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return (
            "the native library of DynamoDB Local is available only for Linux on x86_64, and this machine is "
            f"{platform.system()} on {platform.machine()}"
        )
    java = shutil.which("java")
    if java is None:
        return f"Java {OLDEST_JAVA} (java) is not installed"
    version = _java_version(java)
    if int(re.split(r"\D", version)[0]) < OLDEST_JAVA:
        return f"Java {OLDEST_JAVA} (java) is not installed, only Java {version} is"
    if shutil.which("mvn") is None and not _fetched(TARGET).is_dir():
        return "Maven (mvn) is not installed, and the servers have not been downloaded before"
    return None


def _java_version(java: str) -> str:
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - from the PATH
    found = re.search(r'version "(\d[^"]*)"', answer.stderr)
    return found[1] if found else "0"


def fetch(target: Path = TARGET) -> Path:
    """Return the folder with the jars of each server, and download them if it does not exist for this pom.xml.

    Processes that call this at the same time wait for the first one, which downloads. The folder is created under
    another name and renamed, so it is always complete; the next download deletes what an interrupted one left.
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
            for spec in SERVER_SPECS:
                _copy_jars(spec, unfinished / spec.profile, lock.fileno())
            unfinished.rename(folder)
    return folder


def _fetched(target: Path) -> Path:
    return target / f"servers-{sha256(POM.read_bytes()).hexdigest()[:12]}"


def _copy_jars(spec: ServerSpec, folder: Path, lock: int) -> None:
    """Download the jars with Maven. Maven inherits the lock, so that it stays locked if we are killed before Maven."""
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalServersError(f"Maven (mvn) is not on the PATH. Install it: it downloads {spec.name}.")
    options = ("--batch-mode", "--quiet", "--strict-checksums", "-Dstyle.color=never")
    order = (f"--file={POM}", f"--activate-profiles={spec.profile}", f"-Djars={folder}", "package")
    try:
        subprocess.run(  # noqa: S603 - Maven from the PATH with our pom.xml
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
            f"Maven could not download {spec.name}. Fix the cause, which its output names, and try again.\n"
            f"{_tail(error.stdout)}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LocalServersError(
            f"The download of {spec.name} took longer than {FETCH_SECONDS} seconds. Check that Maven reaches its "
            "repository, and try again."
        ) from error


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-TAIL_LINES:])


class Server:
    """One running server. Call `launch`, then `wait_until_ready`, and `stop` in any case. `check` detects a crash."""

    def __init__(self, spec: ServerSpec, java: str, jars: Path, log: Path) -> None:
        self.spec = spec
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
        """Start the process of the server."""
        self._port = self._port or reserve_port()
        command = self.spec.command(self._java, self._jars, self.port)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - Java from the PATH, arguments from this file
                ["/bin/sh", "-c", LEASH, self.spec.profile, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C must not reach the server; we stop it ourselves
            )

    def wait_until_ready(self) -> None:
        """Wait until the server answers. Launch it on another port if its port is taken. Raises LocalServersError."""
        for _ in range(LAUNCHES):
            if self._becomes_ready():
                return
            self.stop()
            self.launch()
        raise LocalServersError(
            f"Other processes took the port of {self.spec.name} {LAUNCHES} times. Try again on a less busy machine."
        )

    def _becomes_ready(self) -> bool:
        """Wait until the server answers. Return False if another process took its port first."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._answers():
                return True
            has_ended = self._has_ended()
            if PORT_TAKEN in self._read_log():  # ElasticMQ goes on without its port, so its exit is not a sign
                return False
            if has_ended:
                raise self._failure("exited before it was ready")
            time.sleep(0.05)
        raise self._failure(f"did not answer within {READY_SECONDS} seconds")

    def _answers(self) -> bool:
        body, headers = self.spec.question
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", "/", body, headers)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False  # it does not listen yet, or another program listens on the port
        finally:
            connection.close()

    def check(self) -> None:
        """Raise LocalServersError if the server has exited unexpectedly."""
        if self._has_ended():
            raise self._failure("exited unexpectedly")

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _failure(self, what: str) -> LocalServersError:
        return LocalServersError(
            f"{self.spec.name} {what}. These are the last lines of its log:\n{_tail(self._read_log())}"
        )

    def _read_log(self) -> str:
        return self.log.read_text(errors="replace")

    def restart(self) -> None:
        """Kill the server and start it again at the same address with its data on disk."""
        self.kill()
        self.launch()
        if not self._becomes_ready():
            raise self._failure("found its port taken")

    def kill(self) -> None:
        """Kill the server and keep its port for the next launch. It may be called twice, or before `launch`."""
        if self._process is not None:
            _let_go(self._process)
            self._process = None

    def stop(self) -> None:
        """Kill the server and release its port."""
        self.kill()
        if self._port is not None:
            self._port.close()
            self._port = None


def _let_go(leash: subprocess.Popen[bytes]) -> None:
    """Let the leash script kill its command and wait for both. If that takes too long, kill both."""
    try:
        leash.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(leash.pid, signal.SIGKILL)
        leash.communicate()


def reserve_port() -> socket.socket:
    """Reserve a free port: while this socket is open, a server that knows the port can listen on it.

    The kernel gives no other process this port unless it asks for exactly this number. On Linux a second socket may
    listen on a bound port if both sockets set SO_REUSEADDR, as Java does, and the first one does not listen.
    """
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port.bind((LOOPBACK, 0))
    return port


@contextmanager
def local_servers(folder: Path | None = None) -> Iterator[LocalServers]:
    """Run both servers, empty and ready, until the end of the block. They also end if this process is killed.

    Their logs go to `folder`, which is created if it does not exist. Without a folder the logs are deleted. Each call
    starts new servers. It blocks for a few seconds, and longer for the first download. Raises LocalServersError.
    """
    with running_servers(folder) as (elasticmq, dynamodb):
        yield LocalServers(sqs_url=elasticmq.url, dynamodb_url=dynamodb.url)


@contextmanager
def running_servers(folder: Path | None = None, storage: Path | None = None) -> Iterator[list[Server]]:
    """Run both servers like `local_servers`, but yield the Server objects, in the order of SERVER_SPECS.

    If the folder `storage` is given, the queues are stored in it and survive a restart of their server.
    """
    reason = missing_tools()
    if reason is not None:
        raise LocalServersError(f"The local servers cannot run: {reason}. Install it, or use the embedded AWS instead.")
    java = str(shutil.which("java"))
    fetched = fetch()
    with ExitStack() as stack:
        logs = folder or Path(stack.enter_context(TemporaryDirectory(prefix="penstock-servers-")))
        logs.mkdir(parents=True, exist_ok=True)
        specs = SERVER_SPECS if storage is None else (stored_in(storage), DYNAMODB)
        servers = [Server(one, java, fetched / one.profile, logs / f"{one.profile}.log") for one in specs]
        for server in servers:
            stack.callback(server.stop)
            server.launch()
        for server in servers:
            server.wait_until_ready()
        yield servers


def main() -> int:
    """Run the servers as a program and return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _run(_read_arguments())
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # stopped before the servers were ready
    except LocalServersError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _interrupt(*_: object) -> NoReturn:
    """Interrupt the present wait. Ignore further signals, which would interrupt the stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m penstock.infra.local.servers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--fetch-only", action="store_true", help="download the servers if needed, and do not start them"
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="write the servers' logs to this folder")
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
