"""What a download leaves in a file if its connection breaks, or if it fails."""

import os
from pathlib import Path

import pytest

from penstock.client.download import DownloadedFile, replacing


@pytest.mark.parametrize("appends", [False, True])
def test_only_what_the_download_has_written_is_taken_back(tmp_path: Path, appends: bool) -> None:
    path = tmp_path / "all.ndjson"
    path.write_bytes(b"before\n")
    with path.open("ab") if appends else path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        download = DownloadedFile(file)
        download.write(b"half of it")
        assert download.take_back()
        download.write(b"all\n")
    assert path.read_bytes() == b"before\nall\n"


def test_standard_output_that_a_shell_opened_for_appending(tmp_path: Path) -> None:
    """Its position is 0 until something is written."""
    path = tmp_path / "all.ndjson"
    path.write_bytes(b"before\n")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
        download = DownloadedFile(file)
        download.write(b"half of it")
        assert download.take_back()
        download.write(b"all\n")
    assert path.read_bytes() == b"before\nall\n"


def test_what_went_to_a_pipe_cannot_be_taken_back() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb") as file:
        download = DownloadedFile(file)
        assert download.take_back()
        download.write(b"half of it")
        assert not download.take_back()


def test_file_is_replaced_at_the_end_and_keeps_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "results.csv", tmp_path / "link.csv"
    path.write_bytes(b"before")
    path.chmod(0o640)
    link.symlink_to(path)
    with replacing(link) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert (path.read_bytes(), path.stat().st_mode & 0o777, link.is_symlink()) == (b"after", 0o640, True)
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_file_stays_as_it_was_if_the_download_fails(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        _write_half(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "no" / "file.csv"
    with pytest.raises(FileNotFoundError) as raised, replacing(file):
        pass
    assert raised.value.filename == str(file)


def test_device_is_not_replaced() -> None:
    with replacing(Path(os.devnull)) as file:
        file.write(b"anything")
    assert Path(os.devnull).is_char_device()


def _write_half(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half of it")
        raise KeyboardInterrupt
