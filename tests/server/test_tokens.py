"""Guessing at the token: each way to find out more than one guess tells, and to guess often."""

import secrets

import httpx
import pytest

from resight.server import tokens
from resight.server.problems import Refused
from resight.server.tokens import GUESSES, SECONDS, Tokens

TOKEN = "correct horse battery staple"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def says(found: Tokens, given: str | None, address: str = "192.0.2.1") -> int:
    try:
        found.check(given, address)
    except Refused as refused:
        assert (refused.status == 429) == (refused.retry_after is not None)
        return refused.status
    return 200


@pytest.mark.parametrize("verdict", [False, True])
def test_only_a_comparison_in_constant_time_and_of_equal_lengths_decides(monkeypatch, verdict):
    """Where ``==`` finds a difference takes longer the later it is; this one is shown nothing but marks."""
    compared = []

    def spy(one, other):
        compared.append((one, other))
        return verdict

    found = Tokens(TOKEN)
    monkeypatch.setattr(secrets, "compare_digest", spy)
    given = ["", "c", TOKEN[:-1], TOKEN, TOKEN + "x", "\udcff" * 3, "x" * 10_000]
    answers = [says(found, one, f"192.0.2.{number}") for number, one in enumerate(given)]
    assert answers == [200 if verdict else 401] * len(given) and len(compared) == len(given)
    assert {len(mark) for pair in compared for mark in pair} == {64}
    assert len({mark for mark, _ in compared}) == len(given) and len({right for _, right in compared}) == 1


@pytest.mark.parametrize("given", ["", TOKEN[:-1], TOKEN + " ", TOKEN.upper(), TOKEN + "\0", "é" * 28])
def test_nothing_but_the_token_is_it(given):
    found = Tokens(TOKEN)
    assert says(found, TOKEN) == 200 and says(found, given) == 401 and says(found, None) == 401


def test_an_address_has_so_many_guesses_in_a_while_and_then_not_even_the_right_one():
    clock = Clock()
    found = Tokens(TOKEN, clock)
    assert [says(found, f"guess {n}") for n in range(GUESSES + 5)] == [401] * GUESSES + [429] * 5
    assert says(found, TOKEN) == 429  # or each answer would say whether a guess was right
    assert says(found, TOKEN, "192.0.2.2") == 200
    clock.now += SECONDS - 1
    assert says(found, TOKEN) == 429
    clock.now += 1
    assert says(found, TOKEN) == 200
    tried = 0
    for _ in range(3600):
        clock.now += 1
        tried += says(found, f"guess at {clock.now}") == 401
    assert tried <= 3600 / SECONDS * GUESSES + GUESSES


def test_a_page_with_an_old_token_and_one_without_lock_nobody_out():
    found = Tokens(TOKEN)
    assert {says(found, "the token of yesterday") for _ in range(1000)} == {401}
    assert {says(found, None) for _ in range(1000)} == {401} and says(found, TOKEN) == 200


def test_a_guesser_is_known_by_what_is_his_alone():
    found = Tokens(TOKEN)
    answers = [says(found, f"guess {n}", f"2001:db8:1:2::{n:x}") for n in range(GUESSES + 1)]
    assert answers[-1] == 429 and says(found, TOKEN, "2001:db8:1:3::1") == 200
    answers = [says(found, f"guess {n}", "::ffff:192.0.2.9" if n % 2 else "192.0.2.9") for n in range(GUESSES + 1)]
    assert answers[-1] == 429
    assert [says(found, f"guess {n}", f"no address {n}") for n in range(GUESSES + 1)][-1] == 429


def test_what_is_remembered_of_guessers_is_bounded(monkeypatch):
    monkeypatch.setattr(tokens, "_ADDRESSES", 50)
    found = Tokens(TOKEN)
    for number in range(500):
        assert says(found, f"guess {number}", f"10.0.{number // 250}.{number % 250}") == 401
    assert len(found._wrong) == 50


def test_behind_a_proxy_each_client_guesses_for_himself_and_cannot_pretend(serve, indexed):
    found = serve(indexed, token=TOKEN, public="https://photos.example.org")

    def ask(token, forwarded):
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": forwarded}
        return httpx.get(f"{found.url}/v1/collection", headers=headers, trust_env=False).status_code

    # What a client says of itself comes first; the last is what the proxy has seen.
    answers = [ask(f"guess {n}", f"198.51.100.{n}, 192.0.2.1") for n in range(GUESSES + 1)]
    assert answers == [401] * GUESSES + [429]
    assert ask(TOKEN, "192.0.2.1") == 429 and ask(TOKEN, "192.0.2.1, 192.0.2.2") == 200

    # Some proxies add a header of their own behind the client's.
    def behind(token, *forwarded):
        headers = [("Authorization", f"Bearer {token}"), *(("X-Forwarded-For", one) for one in forwarded)]
        return httpx.get(f"{found.url}/v1/collection", headers=headers, trust_env=False).status_code

    answers = [behind(f"guess {n}", f"198.51.100.{n}", "192.0.2.3") for n in range(GUESSES + 1)]
    assert answers == [401] * GUESSES + [429] and behind(TOKEN, "192.0.2.3", "192.0.2.4") == 200


def test_without_a_proxy_that_header_is_anyones(serve, indexed):
    found = serve(indexed, token=TOKEN)
    answers = []
    for number in range(GUESSES + 1):
        headers = {"Authorization": f"Bearer guess {number}", "X-Forwarded-For": f"192.0.2.{number}"}
        answers.append(httpx.get(f"{found.url}/v1/collection", headers=headers, trust_env=False))
    assert [answer.status_code for answer in answers] == [401] * GUESSES + [429]
    assert int(answers[-1].headers["retry-after"]) <= SECONDS
    assert found.http.get("/health").status_code == 200
