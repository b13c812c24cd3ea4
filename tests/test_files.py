"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from resight.errors import ResightError
from resight.files import output_file, replacing


def test_it_takes_the_place_of_what_was_there_only_at_the_end(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text("old")
    with replacing(file) as new:
        new.write_text("new")
        assert file.read_text() == "old" and new.parent == tmp_path
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(file) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_two_at_once_do_not_write_to_one_file(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"


def test_a_link_stays_and_what_is_no_file_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with output_file(tmp_path / "link") as new:
        new.write_text("text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    with output_file(Path("/dev/null")) as new:
        assert new == Path("/dev/null")
    assert not Path("/dev/null").is_file()


def test_what_a_user_named_and_cannot_be_written_is_named(tmp_path):
    for wrong in (tmp_path / "missing" / "a.html", tmp_path):
        message = rf"cannot write {wrong}: .*; name a file in a writable folder"
        with pytest.raises(ResightError, match=message), output_file(wrong) as partial:
            partial.write_text("text")
    assert list(tmp_path.iterdir()) == []
