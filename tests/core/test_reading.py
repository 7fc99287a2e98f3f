"""Files of users' are read where they are files, and as long as they may be."""

import os
import socket

import pytest

from ppl_text.core.reading import open_regular, parse_json, read_regular


def reason(read, *arguments):
    with pytest.raises(OSError, match=r".") as caught:
        read(*arguments)
    return caught.value.strerror


def test_a_regular_file_is_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    with open_regular(path) as file:
        assert file.read() == b"abc"
    assert read_regular(path) == read_regular(path, 3) == b"abc"
    assert reason(read_regular, path, 2) == "it is longer than 2 bytes"
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link") == b"abc"


def test_all_else_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert reason(open_regular, tmp_path / "pipe") == "it is a named pipe; a regular file is expected"
    assert reason(read_regular, "/dev/zero") == "it is a device; a regular file is expected"
    assert reason(read_regular, tmp_path) == "Is a directory"
    assert reason(read_regular, tmp_path / "no") == "No such file or directory"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        assert reason(read_regular, tmp_path / "s")


def test_no_file_is_left_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for _ in range(5):
        reason(open_regular, tmp_path / "pipe")
    assert not before or len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_json_that_is_nested_too_deep_is_no_json(text):
    with pytest.raises(ValueError, match="lists or objects are nested too deep"):
        parse_json(text)
    assert parse_json('{"a": [1]}') == {"a": [1]}
