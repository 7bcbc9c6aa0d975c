import json
import os
from pathlib import Path

import pytest

from temperance.atomic import MANIFEST, STALE, is_complete, new_folder, read_json, write_bytes, write_json, write_text


def make(path, text="old"):
    with new_folder(path) as scratch:
        (scratch / "a.txt").write_text(text)
        (scratch / "below").mkdir()
        (scratch / "below" / "b.bin").write_bytes(bytes(range(256)))


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "file"
    write_bytes(path, b"one")
    write_text(path, "zwölf")
    assert path.read_bytes() == "zwölf".encode()
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("temperance.atomic.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_readable_and_finite(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1, 0.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 0.5]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 0.5]}


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}


def test_a_folder_appears_complete(tmp_path):
    path = tmp_path / "deep" / "folder"
    make(path)
    assert is_complete(path)
    assert sorted(json.loads((path / MANIFEST).read_text())) == ["a.txt", "below/b.bin"]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


def test_nothing_is_visible_before_the_body_ends(tmp_path):
    path = tmp_path / "folder"
    with new_folder(path) as scratch:
        (scratch / "a").touch()
        assert not path.exists()
    assert path.exists()


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    make(path)
    with new_folder(path) as scratch:
        (scratch / "c.txt").write_text("new")
    assert sorted(p.name for p in path.iterdir()) == ["c.txt", MANIFEST]
    assert is_complete(path) and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def synced(monkeypatch):
    """The names that reach the disk, in order; a rename is one, too."""
    names, sync, replace = [], os.fsync, Path.replace

    def fsync(handle):
        names.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def renamed(self, target):
        names.append(f"to {target.name}")
        return replace(self, target)

    monkeypatch.setattr("temperance.atomic.os.fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    return names


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_call_ends(tmp_path, synced):
    write_bytes(tmp_path / "file", b"x")
    assert synced[0].startswith(".file.") and synced[1:] == ["to file", tmp_path.name]
    synced.clear()
    write_bytes(tmp_path / "file", b"y", durable=False)
    assert synced == ["to file"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_all_of_a_folder_is_on_disk_before_its_name(tmp_path, synced):
    make(tmp_path / "folder")
    before = synced[: synced.index("to folder")]
    assert {"a.txt", "b.bin", "below"} < set(before) and before[-1].startswith(".folder.")
    assert synced[-1] == tmp_path.name


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    path = tmp_path / "folder"
    make(path)
    make(tmp_path / ".folder.old")
    make(path, "new")
    assert (path / "a.txt").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_only_what_was_left_of_the_same_name_is_removed(tmp_path):
    for name in (".64.a1b2c3d4", ".640.a1b2c3d4", ".64.1.a1b2c3d4", ".64.notes"):
        (tmp_path / name).mkdir()
    make(tmp_path / "64")
    assert {p.name for p in tmp_path.iterdir()} == {"64", ".640.a1b2c3d4", ".64.1.a1b2c3d4", ".64.notes"}


def test_an_unfinished_file_is_removed_once_nobody_writes_it(tmp_path):
    for name, age in ((".a.html.a1b2c3d4", STALE + 60), (".a.html.e5f6g7h8", 0), (".b.html.a1b2c3d4", STALE + 60)):
        (tmp_path / name).touch()
        changed = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (changed, changed))
    write_bytes(tmp_path / "a.html", b"new")
    assert {p.name for p in tmp_path.iterdir()} == {"a.html", ".a.html.e5f6g7h8", ".b.html.a1b2c3d4"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_body_leaves_the_old_folder(tmp_path, error):
    path = tmp_path / "folder"
    make(path)
    with pytest.raises(error), new_folder(path) as scratch:
        (scratch / "a.txt").write_text("new")
        raise error
    assert (path / "a.txt").read_text() == "old"
    assert is_complete(path) and list(tmp_path.iterdir()) == [path]


def test_a_failing_body_leaves_nothing_new(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "folder"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["change", "shorten", "remove", "manifest", "no manifest", "empty manifest"])
def test_damage_is_detected(tmp_path, damage):
    path = tmp_path / "folder"
    make(path)
    assert is_complete(path)
    victim = path / "below" / "b.bin"
    if damage == "change":
        victim.write_bytes(b"\1" + victim.read_bytes()[1:])
    elif damage == "shorten":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "remove":
        victim.unlink()
    elif damage == "manifest":
        (path / MANIFEST).write_text("{")
    elif damage == "no manifest":
        (path / MANIFEST).unlink()
    else:
        (path / MANIFEST).write_text("{}")
    assert not is_complete(path)


def test_a_missing_folder_is_not_complete(tmp_path):
    assert not is_complete(tmp_path / "nothing")
