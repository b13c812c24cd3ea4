"""Files that are written whole or not at all."""

import pytest

from resight.files import replacing


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
