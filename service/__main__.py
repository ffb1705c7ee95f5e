"""The command line of the front end: `penstock serve`."""

from penstock.process import command_line
from penstock.process.command_line import (
    App,
    ExitWithParent,
    Host,
    OperatorHost,
    OperatorPort,
    Port,
    operator_ports,
)


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

    run(
        Address(host, range(port, port + 1), "--port or --host"),
        Address(operator_host, operator_ports(operator_port, port), "--operator-port or --operator-host"),
    )


if __name__ == "__main__":
    main()
