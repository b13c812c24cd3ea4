"""What a search's files say is what the library says, also of what was removed since."""

import csv
import io

from resight.search.collection import Collection

ASKED = {"examples": [{"image": 1}], "top": 12}


def exported(found, name, kind):
    return found.http.get(f"/v1/searches/{name}/export", params={"format": kind})


def test_ranks_boxes_and_what_is_a_match_are_the_rankings_own(served, indexed):
    name = served.http.post("/v1/searches?wait=30", json=ASKED).json()["search"]
    with Collection.open(indexed) as local:
        ranking = local.search(1)
    rows = list(csv.DictReader(io.StringIO(exported(served, name, "csv").text)))
    told = exported(served, name, "json").json()
    assert 0 < ranking.accepted < len(ranking) == len(rows)
    for rank, (row, item) in enumerate(zip(rows, told["results"], strict=True), 1):
        evidence, accepted = ranking.evidence[rank - 1], rank <= ranking.accepted
        assert (int(row["rank"]), item["rank"]) == (rank, rank)
        assert (row["accepted"], item["accepted"]) == (str(accepted), accepted)
        assert int(row["inliers"]) == evidence.inliers and int(row["matches"]) == evidence.matches
        box = ["" if evidence.box is None else str(side) for side in evidence.box or (None,) * 4]
        assert [row[side] for side in ("x1", "y1", "x2", "y2")] == box
        details = served.http.get(f"/v1/searches/{name}/results/{item['image']}").json()
        assert (details["accepted"], details["score"]) == (accepted, ranking.scores[rank - 1])
    assert (told["threshold"], told["found"]) == (ranking.threshold, True)
    assert (told["filter_rank"], told["suspect"]) == (ranking.place, False)


def test_from_which_score_on_is_the_askers_choice_everywhere(served, indexed):
    found = served.http.post("/v1/searches?wait=30", json=ASKED).json()
    name, scores = found["search"], [one["score"] for one in found["results"]]
    least = (scores[found["accepted"]] + scores[found["accepted"] + 1]) / 2  # one more is a match
    accepted = [score >= least for score in scores]
    assert sum(accepted) == found["accepted"] + 1
    base = f"/v1/searches/{name}"
    told = served.http.get(base, params={"least": least}).json()
    assert (told["accepted"], told["threshold"]) == (sum(accepted), least)
    assert [one["accepted"] for one in told["results"]] == accepted and told["filter_rank"] is None
    again = served.http.post("/v1/searches", json=ASKED, params={"wait": 30, "least": least}).json()
    assert (again["search"], again["accepted"]) == (name, sum(accepted))
    last = {"least": least}
    assert served.http.get(f"{base}/results/{found['results'][sum(accepted) - 1]['image']}", params=last).json()[
        "accepted"
    ]
    rows = csv.DictReader(io.StringIO(served.http.get(f"{base}/export", params={"format": "csv", **last}).text))
    assert [row["accepted"] for row in rows] == [str(one) for one in accepted]
    facts = served.http.get(f"{base}/export", params={"format": "json", **last}).json()
    assert (facts["threshold"], [one["accepted"] for one in facts["results"]]) == (least, accepted)
    assert f"{sum(accepted)} matches" in served.http.get(f"{base}/export", params={"format": "html", **last}).text
    for wrong in (7, "nan", "much"):
        refused = served.http.get(base, params={"least": wrong})
        assert refused.status_code == 422, wrong
    assert "from 0 to 1" in served.http.get(base, params={"least": 7}).json()["error"]["message"]


def test_an_image_that_was_removed_since_is_left_out_or_without_a_path(serve, own):
    found = serve(own)
    name = found.http.post("/v1/searches?wait=30", json=ASKED).json()["search"]
    with Collection.open(own, write=True) as writer:
        writer.remove([2])
    page = exported(found, name, "html")
    assert page.status_code == 200 and page.text.count('<li class="card') == 11
    rows = list(csv.DictReader(io.StringIO(exported(found, name, "csv").text)))
    assert [row["id"] for row in rows if not row["path"]] == ["2"] and len(rows) == 12
