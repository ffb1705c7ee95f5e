"""The distribution that Penstock is installed as. Its name differs from the name that is imported."""

from importlib.metadata import version

NAME = "penstock-bulk"


def installed_version() -> str:
    """Return the version of Penstock that is installed."""
    return version(NAME)


def install_command(extra: str) -> str:
    """Return the command that installs Penstock with one of its extras."""
    return f"pip install '{NAME}[{extra}]'"
