"""No line of the log shows a key, wherever in the line it is."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from penstock.api_key import make_key
from penstock.telemetry import Event, configure_logging, get_log
from tests.support.builders import build_settings


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    before = structlog.get_config()
    try:
        yield
    finally:
        structlog.configure(**before)
        structlog.contextvars.clear_contextvars()
        root.handlers, root.level = handlers, level


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_client_cannot_write_lines_or_control_a_terminal(
    restored: None, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    """A path that was percent-decoded may have anything in it, and so may the words of an exception."""
    sent = "/a\n12:00:00 service  info    batch accepted\x1b[2J\x07\x9b31m\u202e\udcff é"
    configure_logging(build_settings(log_format=log_format), "service")
    get_log().info(Event.REQUEST_ANSWERED, path=sent, nested=[sent])
    logging.getLogger("library").warning("failed with %s", sent)
    try:
        raise RuntimeError(sent)
    except RuntimeError:
        get_log().exception(Event.REQUEST_BROKE)
    written = capsys.readouterr().err
    assert all(line.isprintable() for line in written.splitlines())
    before_traceback = written.partition("Traceback")[0].splitlines()
    assert len([line for line in before_traceback if line]) == 3
    assert "12:00:00" not in {line[:8] for line in before_traceback}


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_log_shows_only_the_id_of_a_key(restored: None, capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    key = make_key("shop")
    operator_key = "o/" * 24
    configure_logging(build_settings(log_format=log_format, operator_key=operator_key), "service")
    get_log().info(Event.AUDIT, path=f"/{key.text}", nested={"list": [key.text, operator_key]})
    try:
        raise RuntimeError(key.text)
    except RuntimeError:
        get_log().exception(Event.REQUEST_BROKE)
        logging.getLogger("library").exception("failed with %s", key.text)
    written = capsys.readouterr().err
    assert written.count(f"pk_shop_{key.id}...") >= 5
    assert key.text[21:] not in written
    assert operator_key not in written
