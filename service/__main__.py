"""The command line of the front end: `penstock serve`."""

from penstock.process import command_line
from penstock.process.command_line import (
    LAST_PORT,
    App,
    ExitWithParent,
    Host,
    OperatorHost,
    OperatorPort,
    Port,
    choose_operator_port,
)

SPARE_PORTS = 20  # tried for operators if nobody chose a port and the one after --port is taken


def main() -> None:
    command_line.run("serve", serve)


def serve(
    *,
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    operator_host: OperatorHost = "127.0.0.1",
    operator_port: OperatorPort = None,
    exit_with_parent: ExitWithParent = None,
) -> None:
    """Run the front end: it answers HTTP requests until it receives SIGTERM or SIGINT."""
    command_line.apply_common_options(app, exit_with_parent)
    from penstock.service.program import Address, run  # noqa: PLC0415 - --help and completion need not load it

    chosen_port = choose_operator_port(operator_port, port)
    spare_ports = min(SPARE_PORTS, LAST_PORT - chosen_port) if operator_port is None else 0
    run(
        Address(host, port, "--port or --host"),
        Address(operator_host, chosen_port, "--operator-port or --operator-host", spare_ports),
    )


if __name__ == "__main__":
    main()
