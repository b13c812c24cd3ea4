"""Requests made from /openapi.json, as it says they may be and as it says they may not; schemathesis makes and judges.

Not judged: whether all that the description allows is accepted. Conditions, pictures in a form and boxes are languages
of their own, of which OpenAPI can say no more than that they are texts, bytes and numbers.
"""

import collections
import shutil

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, negative_data_rejection, positive_data_acceptance
from starlette.testclient import TestClient

from resight.server.app import App
from resight.server.settings import Settings

HOST = {"Host": "127.0.0.1"}
FORMS = ("/v1/queries", "/v1/search")


@pytest.fixture(scope="module")
def app(indexed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    settings = Settings(state=folder / "state", write=True, photos=(folder,), timeout=5)
    found = App(shutil.copytree(indexed, folder / "collection"), settings)
    yield found
    found.close()


@pytest.fixture(scope="module")
def known(app, photos):
    """Ids that there are, by the name of their place in a path."""
    client = TestClient(app, headers=HOST)
    search = client.post("/v1/searches?wait=20", json={"examples": [{"image": 1}]}).json()["search"]
    query = client.post("/v1/queries", files={"image": (photos / "coffee-1.png").read_bytes()}).json()["query"]
    job = client.post("/v1/jobs", json={"kind": "duplicates"}).json()["job"]
    client.get(f"/v1/jobs/{job}/events")
    cluster = client.get("/v1/duplicates", params={"overlap": 0.5}).json()["clusters"][0]
    return {"image": 2, "search": search, "query": query, "job": job, "cluster": cluster["cluster"]}


class Judge:
    """Tries operations. answers: how often each status; wrong: what is not as it was described."""

    def __init__(self, known: dict[str, object], examples: int) -> None:
        self._known = known
        self._settings = settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        self.answers, self.wrong = collections.Counter(), []

    def attempt_all(self, operation, mode) -> None:
        @self._settings
        @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
        def attempt(case, real):
            if mode is GenerationMode.POSITIVE:
                self._make_real(operation, case, real)
            if operation.method != "delete" or self._known["search"] not in (case.path_parameters or {}).values():
                self._attempt(operation, mode, case)

        attempt()

    def _make_real(self, operation, case, real: bool) -> None:
        """About what there is, half of the time; and events of what there is not would be told for ever."""
        if real or operation.path.endswith("/events"):
            case.path_parameters = {n: self._known.get(n, v) for n, v in (case.path_parameters or {}).items()}
        if "wait" in (case.query or {}):
            case.query["wait"] = 0.01

    def _attempt(self, operation, mode, case) -> None:
        response = case.call(headers={**dict(case.headers or {}), **HOST})
        self.answers[response.status_code] += 1
        if response.status_code == 503 and "retry-after" in response.headers:
            return  # a job writes just now
        left = [positive_data_acceptance]
        if operation.path in FORMS:  # in which all is text, whatever it should be
            left.append(negative_data_rejection)
        try:
            case.validate_response(response, excluded_checks=left)
        except BaseExceptionGroup as group:
            self.wrong += [f"{operation.label} {mode.name} {response.status_code}: {e}" for e in group.exceptions]


@pytest.mark.parametrize("examples", [pytest.param(100, marks=pytest.mark.torture), 3])
def test_every_answer_is_what_the_description_says(app, known, examples, count):
    load_all_checks()
    judge = Judge(known, examples)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in operations:
        judge.attempt_all(operation, GenerationMode.POSITIVE)
        if _can_be_wrong(operation):
            judge.attempt_all(operation, GenerationMode.NEGATIVE)
    assert not judge.wrong, "\n\n".join(dict.fromkeys(judge.wrong))
    assert judge.answers[200] and judge.answers[404] and judge.answers[422]
    count(f"{judge.answers.total()} requests to {len(operations)} operations: {dict(sorted(judge.answers.items()))}")


def _can_be_wrong(operation) -> bool:
    """Whether its description forbids anything."""
    every = [one for one in operation.definition.raw.get("parameters", []) if one["schema"].get("type") != "string"]
    return bool(every or operation.definition.raw.get("requestBody"))
