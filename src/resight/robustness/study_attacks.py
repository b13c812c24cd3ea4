"""How far a system's answers are led astray by queries altered unseen, and what defences give back (survey §7)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from resight.errors import ResightError
from resight.evaluation.labelled import LabelledSet, Query, sample
from resight.evaluation.measure import versions
from resight.evaluation.plot import unusual
from resight.evaluation.protocol import fitted_share, ids_of, opened
from resight.evaluation.study import RANKED, check_names, set_facts
from resight.evaluation.variants import Report, reading, silent
from resight.recipes.recipe import Recipe
from resight.robustness.attack_bench import ATTACKS, Bench, Effort
from resight.robustness.attack_run import VERIFICATION, AttackRun
from resight.robustness.attack_study import AttackResult, AttackStudy, Shown
from resight.robustness.defences import make_defence

EPSILONS = (2, 4, 8)


def study_attacks(
    sets: Sequence[LabelledSet],
    recipes: Mapping[str, Recipe],
    *,
    attacks: Sequence[str] = ATTACKS,
    defences: Sequence[str] = ("none",),
    epsilons: Sequence[int] = EPSILONS,
    queries: int = 20,
    effort: Effort | None = None,
    workers: int | None = None,
    report: Report = silent,
) -> AttackStudy:
    """mAP of queries as they are and under each attack, for each defence and recipe; every search a collection's.

    recipes: by the name of what tells them apart, such as how they were trained; each is attacked through its own
    network. defences: as ``make_defence`` takes them; a recipe with [verify] is measured by its filter's ranking, and,
    as ``verification``, by what it answers. queries: drawn of those with an answer; as many others as ``effort`` says
    are what a universal perturbation is learned on. epsilons: of 255.
    Attackers know recipe, weights and defence, but not the draws of a random one, and of verification only by asking:
    local features have no gradient here. Nor do they follow further views of a query, [query], or [[rerank]].
    Raises ResightError for an unknown attack or defence, or too few queries; RecipeError as ``PixelDescriber``.
    """
    check_names(sets)
    effort = effort or Effort()
    for attack in attacks:
        if attack not in ATTACKS:
            raise ResightError(f"there is no attack {attack!r}: choose {', '.join(ATTACKS)}")
    made = [make_defence(name) for name in dict.fromkeys(defences)]
    results: list[AttackResult] = []
    shown: list[Shown] = []
    facts: dict[str, dict[str, Any]] = {}
    warned = []
    for labelled in sets:
        chosen, learners = _drawn(labelled, queries, effort, learns="universal" in attacks)
        shares: list[float] = []
        for name, recipe in recipes.items():
            with opened(recipe, None) as index:
                paths = [labelled.locate(path) for path in labelled.database]
                index.add(paths, workers=workers, progress=lambda at: report(at.phase, at.done, at.total))
                ids = ids_of(index, labelled)
                bench = Bench(index, labelled, ids, reading(recipe), effort)
                run = AttackRun(bench, name, chosen, learners, made, attacks, epsilons, report)
                results += run.results()
                shown += run.shown if not shown else []
                unread = {n: "not indexed" for n, path in enumerate(labelled.database) if path not in ids}
                shares += fitted_share(index.learned(), labelled, index).values()
                facts[labelled.name] = {
                    **set_facts(chosen, unread, max(shares, default=None)),
                    "learned on": len(learners),
                    "average precision": labelled.average_precision,
                }
        if labelled.leave_one_out:
            warned.append(f"{labelled.name}: its queries are in its database, where an attacked one may find itself")
    protocol = {
        **{f"recipe {name}": f"{r.name}, {r.fingerprint[:12]}" for name, r in recipes.items()},
        **{f"defence {defence.name}": defence.text for defence in made},
        f"defence {VERIFICATION}": "the recipe's own; attacked by its filter's gradient alone, or by asking",
        "attacks": f"{', '.join(attacks)}; L∞ ≤ ε after rounding and a PNG file; {effort}",
        "figures": f"mAP; by the recipe; {RANKED}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "sets": facts,
        "warnings": [*warned, *unusual(facts)],
    }
    return AttackStudy(protocol, tuple(results), tuple(shown))


def _drawn(labelled: LabelledSet, queries: int, effort: Effort, *, learns: bool) -> tuple[LabelledSet, list[Query]]:
    """The set with the queries that are attacked, and those that a universal perturbation is learned on."""
    with_answer = replace(labelled, queries=tuple(query for query in labelled.queries if query.positives))
    answered = sample(with_answer, queries, effort.seed)
    if not learns:
        return answered, []
    attacked = {(query.path, query.box) for query in answered.queries}
    others = [query for query in labelled.queries if (query.path, query.box) not in attacked]
    if not others:
        raise ResightError(
            f"{labelled.name}: all {len(labelled.queries)} queries are attacked, and none is left to learn a universal "
            "perturbation on: ask for fewer queries, or leave that attack out"
        )
    order = np.random.default_rng([effort.seed, 1]).permutation(len(others))[: effort.learners]
    return answered, [others[place] for place in sorted(order.tolist())]
