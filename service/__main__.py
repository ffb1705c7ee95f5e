"""The command line of the front end: `penstock serve`."""

from penstock.process import command_line
from penstock.process.command_line import App, ExitWithParent, Host, Port


def main() -> None:
    command_line.run("serve", serve)


def serve(
    app: App = None, host: Host = "127.0.0.1", port: Port = 8080, exit_with_parent: ExitWithParent = None
) -> None:
    """Run the front end: it answers HTTP requests until it receives SIGTERM or SIGINT."""
    command_line.apply_common_options(app, exit_with_parent)
    from penstock.service.program import run  # noqa: PLC0415 - --help and completion need not load it

    run(host, port)


if __name__ == "__main__":
    main()
