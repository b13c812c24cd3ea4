"""Conditions: written and read back, and carried out by SQL as by a loop over dictionaries."""

import json
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resight.errors import QueryError
from resight.store.catalogue import Catalogue
from resight.store.facts import number
from resight.store.matching import matching_ids
from resight.store.metadata import set_facts
from resight.store.where import All, Any_, Between, Contains, Equals, Has, Not, OneOf, all_of
from resight.store.where_json import from_json, to_json
from resight.store.where_text import format_where, parse_all, parse_where

# Few keys and values, so that they meet; and some of which quoting and SQL could make something else.
KEYS = ["year", "place", "taken", "not", "a b", 'say "x"', "Höhe", "1900"]
TEXTS = st.sampled_from(
    [
        "a",
        "A",
        "ab",
        "b",
        "ß",
        "SS",
        "é",
        "e\u0301",
        "\U0001f4f7",
        "1900",
        "true",
        "or",
        "..",
        "'; DROP TABLE images",
        '"',
        "\\",
        "%",
        "_",
        " ",
        "\n",
        "2019-05",
        "2019-05-01T10:11:12",
        "2019-06",
    ]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
INTS = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1)
FLOATS = st.sampled_from([-1.0, 0.5, 1.0, 2.5]) | st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = INTS | FLOATS
VALUES = NUMBERS | TEXTS | st.booleans()


def ranges(values):
    ends = st.tuples(st.none() | values, st.none() | values, st.booleans(), st.booleans())
    ends = ends.filter(lambda e: e[:2] != (None, None))
    return ends.map(lambda e: (e[0], e[1], e[2] and e[0] is not None, e[3] and e[1] is not None))


LEAVES = st.one_of(
    st.builds(Equals, st.sampled_from(KEYS), VALUES),
    st.builds(
        OneOf,
        st.sampled_from(KEYS),
        st.one_of(*(st.lists(v, min_size=1, max_size=3).map(tuple) for v in (NUMBERS, TEXTS, st.booleans()))),
    ),
    st.builds(lambda key, ends: Between(key, *ends), st.sampled_from(KEYS), ranges(NUMBERS) | ranges(TEXTS)),
    st.builds(Contains, st.sampled_from(KEYS), TEXTS.filter(bool)),
    st.builds(Has, st.sampled_from(KEYS)),
)
WHERES = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        part.map(Not),
        st.lists(part, min_size=2, max_size=3).map(tuple).map(All),
        st.lists(part, min_size=2, max_size=3).map(tuple).map(Any_),
    ),
    max_leaves=8,
)


def kind(value) -> type:
    return {bool: bool, int: float, float: float, str: str}[type(value)]


def holds(where, facts) -> bool:
    """The definition, on what is known of one image."""
    match where:
        case Not(part):
            return not holds(part, facts)
        case All(parts):
            return all(holds(part, facts) for part in parts)
        case Any_(parts):
            return any(holds(part, facts) for part in parts)
    if where.key not in facts:
        return False
    value = facts[where.key]
    match where:
        case Has():
            return True
        case Equals(_, other):
            return kind(value) is kind(other) and value == other
        case OneOf(_, others):
            return any(kind(value) is kind(other) and value == other for other in others)
        case Contains(_, text):
            return isinstance(value, str) and text.casefold() in value.casefold()
        case Between(_, low, high, low_open, high_open):
            for bound, is_open, sign in ((low, low_open, 1), (high, high_open, -1)):
                if bound is None:
                    continue
                if kind(value) is not kind(bound):
                    return False
                part = value[: len(bound)] if isinstance(bound, str) else value
                if part == bound:
                    if is_open:
                        return False
                elif (part > bound) != (sign > 0):
                    return False
            return True
    raise TypeError(where)


@pytest.fixture
def catalogue(tmp_path):
    Catalogue.create(tmp_path, {})
    made = Catalogue(tmp_path, write=True)
    made._db.execute("PRAGMA synchronous = OFF")  # hundreds of small transactions, which need not last
    return made


def fill(catalogue, images) -> list[int]:
    """Images with these facts, and only these; their ids."""
    numbers = count(1)
    with catalogue.transaction() as db:
        db.execute("DELETE FROM images")
        ids = [
            db.execute(
                "INSERT INTO images (origin, digest, bytes, modified_ns, width, height) VALUES (?, '', 1, 1, 4, 3)",
                (f"/{next(numbers)}.jpg",),
            ).lastrowid
            for _ in images
        ]
    set_facts(catalogue, dict(zip(ids, images, strict=True)))
    return ids


def every_kind(images):
    """So that no key is unknown, nor a kind of its values."""
    return [*images, *(dict.fromkeys(KEYS, value) for value in (0, "0", False))]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), max_size=8), WHERES)
def test_sql_says_what_the_definition_says(catalogue, images, where):
    images = every_kind(images)
    ids = fill(catalogue, images)
    found = matching_ids(catalogue, where)
    assert found.dtype == np.int64
    assert found.tolist() == [i for i, facts in zip(ids, images, strict=True) if holds(where, facts)]


@settings(max_examples=300, deadline=None)
@given(WHERES)
def test_a_condition_is_read_as_it_was_written(where):
    """By repr too: Python takes True for 1."""
    read = parse_where(format_where(where))
    assert read == where and repr(read) == repr(where)
    read = from_json(json.loads(json.dumps(to_json(where))))
    assert read == where and repr(read) == repr(where)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("taken >= 2019-05-01", Between("taken", "2019-05-01")),
        ("taken > 2019", Between("taken", 2019, low_open=True)),
        ('place = "Saint-Denis"', Equals("place", "Saint-Denis")),
        ("place = L'Aquila", Equals("place", "L'Aquila")),
        ("place != Paris", Not(Equals("place", "Paris"))),
        ("year in 1900..1950", Between("year", 1900, 1950)),
        ("year in 1900..<1950", Between("year", 1900, 1950, high_open=True)),
        ("year in 1900.. and has lens", All((Between("year", 1900), Has("lens")))),
        ("year in ..-1.5", Between("year", None, -1.5)),
        ("year in (1900, 1901)", OneOf("year", (1900, 1901))),
        ("camera_model has EOS", Contains("camera_model", "EOS")),
        ("not has latitude", Not(Has("latitude"))),
        ("inventory = 00123", Equals("inventory", "00123")),
        ('inventory = "123"', Equals("inventory", "123")),
        ("sold = TRUE", Equals("sold", True)),
        ('"Date of birth" < 1850', Between("Date of birth", high=1850, high_open=True)),
        ("a = 1 or b = 2 and c = 3", Any_((Equals("a", 1), All((Equals("b", 2), Equals("c", 3)))))),
        ("(a = 1 or b = 2) AND c = 3", All((Any_((Equals("a", 1), Equals("b", 2))), Equals("c", 3)))),
        ("not a=1 and b<=2", All((Not(Equals("a", 1)), Between("b", high=2)))),
        ("folder = /photos/box.zip!/x", Equals("folder", "/photos/box.zip!/x")),
    ],
)
def test_what_people_write(text, where):
    assert parse_where(text) == where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a key, has, not or .* expected at the end"),
        ("year", "=, !=, .* after year expected at the end"),
        ("year =", "a value expected at the end"),
        ("camera_model has EOS 5D", "and, or, or the end expected, not '5D'; a text of several words"),
        ("title = not", "a value expected, not 'not'; .*is quoted"),
        ("(a = 1", r"\) expected at the end"),
        ("a = 1)", r"the end expected, not '\)'$"),
        ("year in 1900", r"low..high or \(value, …\) expected"),
        ("year in ..", "there is no value"),
        ("year in 1900..x", "not of one kind"),
        ("year in (1900 1901)", r", or \) expected, not '1901'"),
        ("sold > true", "no order"),
        ('place = "Paris', "the quotation mark at '\"Paris' is not closed"),
        ('place = "\\x"', "escape that is not JSON's"),
        ('place = "\\u0000"', "NUL"),
        ("not " * 60 + "a = 1", "more than 50 conditions within each other"),
        ("(" * 3000 + "a = 1", "more than 50 conditions within each other"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_stands(text, message):
    with pytest.raises(QueryError, match=message) as raised:
        parse_where(text)
    assert repr(text)[:20] in str(raised.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "is a JSON object with an op"),
        ({"op": "like"}, "op is one of equals"),
        ({"op": ["equals"]}, "op is one of equals"),
        ({"op": "equals", "key": "a"}, "equals lacks its entry value"),
        ({"op": "equals", "key": "a", "value": [1]}, "value cannot be"),
        ({"op": "equals", "key": 1, "value": 1}, "key cannot be 1"),
        ({"op": "equals", "key": "a", "value": 1, "vlaue": 2}, "no entry 'vlaue'"),
        ({"op": "equals", "key": "a", "value": float("nan")}, "not a finite number"),
        ({"op": "one_of", "key": "a", "values": [1, [2]]}, "is a list"),
        ({"op": "between", "key": "a", "low": True}, "low cannot be True"),
        ({"op": "between", "key": "a"}, "no value"),
        ({"op": "between", "key": "a", "low": 1, "high_open": True}, "range without an end"),
        ({"op": "all", "parts": [{"op": "has", "key": "a"}]}, "two or more parts"),
        ({"op": "not", "part": {"op": "has"}}, "has lacks its entry key"),
    ],
)
def test_json_that_is_no_condition_is_refused(value, message):
    with pytest.raises(QueryError, match=message):
        from_json(value)


def test_json_of_any_depth_is_refused_not_followed():
    value = {"op": "has", "key": "a"}
    for _ in range(5000):
        value = {"op": "not", "part": value}
    with pytest.raises(QueryError, match="within each other"):
        from_json(value)


def test_repeated_options_are_all_to_hold():
    assert parse_all([]) is None and parse_all(["has a"]) == Has("a")
    assert parse_all(["has a", "has b or has c"]) == All((Has("a"), Any_((Has("b"), Has("c")))))
    assert all_of([]) is None
    for made in (All, Any_):
        with pytest.raises(ValueError, match="two or more"):
            made((Has("a"),))


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_read_as_they_are_written(value):
    """In plain decimals, which is what number reads."""
    text = format_where(Equals("a", value)).removeprefix("a = ")
    assert number(text) == value and type(number(text)) is type(value)


@pytest.mark.parametrize("text", ["", "007", "+1", "1e3", ".5", "1.", "0x1", "١", "1_0", "9" * 30, "9" * 5000, "nan"])
def test_what_is_no_number(text):
    assert number(text) is None


@pytest.fixture
def images(store, new, made_up):
    """/photos/2019/paris/a.jpg, /photos/2019/b.jpg, /photos/20190/c.jpg, /photos/box.zip!/2019/d.jpg, of 640×480."""
    places = ("2019/paris/a.jpg", "2019/b.jpg", "20190/c.jpg", "box.zip!/2019/d.jpg")
    store.add([new(f"/photos/{place}", made_up(0, 3)) for place in places], [], None)
    set_facts(
        store.catalogue,
        {1: {"year": 1900, "place": "Paris", "sold": True}, 2: {"year": "ca. 1900", "place": "Île de la Cité"}},
    )
    with store.catalogue.transaction() as db:
        db.execute("UPDATE images SET missing = 1 WHERE id = 3")
    return store


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("folder = /photos", [1, 2, 3, 4]),
        ("folder = /photos/2019", [1, 2]),
        ("folder = /photos/2019/", [1, 2]),
        ('folder = "2019"', [1, 2, 4]),
        ("folder = photos/2019", [1, 2]),
        ("folder = /photos/box.zip", [4]),
        ("folder = box.zip", [4]),
        ("folder = /", [1, 2, 3, 4]),
        ("folder = /photos/201", []),
        ("folder in (/photos/20190, paris)", [1, 3]),
        ('not folder = "2019"', [3]),
        ("path = /photos/2019/b.jpg", [2]),
        ("path = b.jpg", [2]),
        ("path = 2019/b.jpg", [2]),
        ("path = .jpg", []),
        ("path has PARIS", [1]),
        ("width = 640 and height < 481", [1, 2, 3, 4]),
        ("width > 640", []),
        ("bytes in 1..1", [1, 2, 3, 4]),
        ("id in (2, 4, 9)", [2, 4]),
        ("id in 2..3", [2, 3]),
        ("missing = true", [3]),
        ("not missing = true", [1, 2, 4]),
        ("has width", [1, 2, 3, 4]),
        ("year = 1900", [1]),
        ('year = "ca. 1900"', [2]),
        ("year >= 1850", [1]),
        ("sold = true", [1]),
        ("place has île", [2]),
        ("not has latitude", [1, 2, 3, 4]),  # a key of EXIF, which no image has
    ],
)
def test_what_is_built_in_and_what_is_known(images, text, ids):
    assert matching_ids(images.catalogue, parse_where(text)).tolist() == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plaec = Paris", "no image has metadata plaec; did you mean place"),
        ("Year = 1900", "did you mean year"),
        ("has qqqq", "no image has metadata qqqq; `resight metadata keys`"),
        ("not has plaec", "did you mean place"),
        ("place = 1900", 'place has values of kind text, not number; .*key = "1900"'),
        ("place in 1..2", "place has values of kind text, not number"),
        ("year = true", "year has values of kind number and text, not truth"),
        ("sold has yes", "sold has values of kind truth, not text"),
        ("width = wide", "width has values of kind number, not text"),
        ("taken >= 2019", "taken has values of kind text, not number"),
        ("folder > a", "a folder is compared by = and in"),
        ('folder = ""', "at least one character"),
        ("path < a", "a path is compared by =, in"),
    ],
)
def test_what_cannot_be_asked_of_this_collection(images, text, message):
    with pytest.raises(QueryError, match=message):
        matching_ids(images.catalogue, parse_where(text))


def test_conditions_have_a_most(images):
    most = All(tuple(Equals("year", i) for i in range(500)))
    assert matching_ids(images.catalogue, most).tolist() == []
    for where in (All((*most.parts, Has("year"))), OneOf("year", tuple(range(10_001)))):
        with pytest.raises(QueryError, match="too long"):
            matching_ids(images.catalogue, where)
    many = OneOf("year", tuple(range(1000, 11_000)))
    assert matching_ids(images.catalogue, many).tolist() == [1]


def test_it_is_answered_from_an_index(images):
    """Else each condition would read what is known of every image."""
    from resight.store.matching import _sql

    for text in ("year in 1900..1950", "place = Paris", "has year", "folder = /photos/2019"):
        sql, values = _sql(parse_where(text))
        plan = images.catalogue.rows(f"EXPLAIN QUERY PLAN SELECT id FROM images WHERE {sql} ORDER BY id", values)
        steps = [step for *_, step in plan]
        assert not any(step.startswith("SCAN") for step in steps), steps


def test_an_image_that_is_gone_is_not_found(images):
    images.remove([1])
    assert matching_ids(images.catalogue, Has("place")).tolist() == [2]
    assert images.catalogue.rows("SELECT count(*) FROM metadata WHERE image = 1") == [(0,)]
