"""Which object photos show: by the set's groups, or by which photos answer which."""

from pathlib import Path

from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.objects import objects


def labelled(database, queries, **more):
    return LabelledSet("set", Path("/set/gt.json"), Path("/set"), tuple(database), tuple(queries), **more)


def test_groups_are_taken_as_they_are():
    groups = {"a": "vase", "b": "vase", "c": "crest"}
    assert objects(labelled("abcd", [Query("a", frozenset("b"))], groups=groups)) == groups


def test_answers_link_photos():
    queries = [
        Query("q", frozenset("de"), junk=frozenset("z")),  # not in the database
        Query("a", frozenset("b")),
        Query("b", frozenset("c")),
        Query("e", frozenset("f")),
        Query("y", frozenset()),  # nothing is right
    ]
    found = objects(labelled("abcdefyz", queries))
    assert {path for path, name in found.items() if name == found["a"]} == set("abc")
    assert {path for path, name in found.items() if name == found["d"]} == set("defq")
    assert set(found) == set("abcdefq")  # what is linked to nothing, and junk, is not known
    assert all(name in found and found[name] == name for name in found.values())
