import errno
import os

import pytest

from training.common.files import WriteError, write_atomically


def test_it_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "file.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.bin"]


def test_content_is_on_the_disk_before_the_old_file_goes(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    seen = []
    fsync = os.fsync

    def watching(descriptor):
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watching)
    write_atomically(path, b"new")
    # The content first, then, after the renaming, the folder.
    assert seen == [(str(tmp_path / "file.bin.partial"), b"old"), (str(tmp_path), b"new")]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("problem", "raised"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), WriteError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_leaves_the_old_file_and_no_litter(failing, problem, raised, tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise problem

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(raised) as caught:
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    if raised is WriteError:
        assert str(caught.value) == (
            f"{path}: cannot be written (No space left on device); free some space on that disk"
        )


def test_a_folder_that_cannot_be_made_is_an_error_of_the_same_kind(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file/model: cannot be written"):
        write_atomically(tmp_path / "file" / "model", b"")
