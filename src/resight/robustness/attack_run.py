"""One recipe under attack on one labelled set: every attack against every defence, to figures."""

from collections.abc import Iterator, Sequence

import numpy as np

from resight.errors import ImageError, QueryError
from resight.evaluation.figures import figures
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.variants import Report
from resight.robustness.answers import Answer
from resight.robustness.attack_bench import BLACK_BOX, Bench, Victim
from resight.robustness.attack_study import CLEAN, AttackResult, Shown
from resight.robustness.attacks import Pixels
from resight.robustness.defences import Defence, make_defence
from resight.search.agreement import is_suspect

VERIFICATION = "verification"

_SHOWN = 3  # queries with their pictures


class AttackRun:
    """Every attack on every way to search: through each defence, and verified where the recipe does.

    labelled: with the queries that are attacked. learners: other queries. Raises QueryError where one cannot be read.
    """

    def __init__(
        self,
        bench: Bench,
        recipe: str,
        labelled: LabelledSet,
        learners: list[Query],
        defences: Sequence[Defence],
        attacks: Sequence[str],
        epsilons: Sequence[int],
        report: Report,
    ) -> None:
        self.bench, self.recipe, self.labelled, self.attacks = bench, recipe, labelled, attacks
        self.shown: list[Shown] = []
        self._epsilons, self._report, self._done = epsilons, report, 0
        stage = bench.index.recipe
        self._searches = [(defence, False) for defence in defences]
        if stage.verify is not None and stage.calibration is not None:
            self._searches.append((make_defence("none"), True))
        self._total = len(labelled.queries) * len(self._searches) * (1 + len(attacks) * len(epsilons))
        try:
            bench.learn_on(learners)
            self.victims = [bench.victim(place, query) for place, query in enumerate(labelled.queries)]
        except ImageError as error:
            raise QueryError(f"a query of {labelled.name}: {error}") from error
        self._made: dict[tuple[str, int, int], Pixels] = {}

    def results(self) -> Iterator[AttackResult]:
        """Of every search, clean first."""
        for defence, verified in self._searches:
            clean = [self._told(self.bench.answer(v, v.pixels, defence, verified=verified)) for v in self.victims]
            show = defence.name == "none" and not verified
            if show:
                self._show(CLEAN, 0, [v.pixels for v in self.victims], clean)
            yield self._result(CLEAN, 0, defence, verified, clean, clean, [])
            for attack in self.attacks:
                for epsilon in self._epsilons:
                    pictures, answers, counts = [], [], []
                    for victim, before in zip(self.victims, clean, strict=True):
                        pixels, asked = self._altered(victim, attack, epsilon, defence, verified, before)
                        pictures.append(pixels)
                        counts += [] if asked is None else [asked]
                        answers.append(self._told(self.bench.answer(victim, pixels, defence, verified=verified)))
                    if show and epsilon == max(self._epsilons):
                        self._show(attack, epsilon, pictures, answers)
                    yield self._result(attack, epsilon, defence, verified, answers, clean, counts)

    def _altered(
        self, victim: Victim, attack: str, epsilon: int, defence: Defence, verified: bool, clean: Answer
    ) -> tuple[Pixels, int | None]:
        """As ``Bench.alter``; what follows gradients is made once where verification is all that differs."""
        key = attack, epsilon, victim.place
        if verified and key in self._made:
            return self._made[key], None
        pixels, asked = self.bench.alter(victim, attack, epsilon, defence, verified=verified, clean=clean)
        if attack != BLACK_BOX and defence.name == "none" and self._searches[-1][1]:
            self._made[key] = pixels
        return pixels, asked

    def _told(self, answer: Answer) -> Answer:
        self._done += 1
        self._report(f"attacking {self.recipe} on {self.labelled.name}", self._done, self._total)
        return answer

    def _result(
        self,
        attack: str,
        epsilon: int,
        defence: Defence,
        verified: bool,
        answers: Sequence[Answer],
        clean: Sequence[Answer],
        counts: Sequence[int],
    ) -> AttackResult:
        triples = list(zip(self.victims, answers, clean, strict=True))
        outcomes = [answer.outcome(victim.query, self.bench.ids) for victim, answer, _ in triples]
        score = figures(outcomes, self.labelled.average_precision).mean_average_precision
        if score is None:
            raise ValueError("a query without an answer is attacked")
        firsts = [(a.best(v.removed), c.best(v.removed), v.wanted) for v, a, c in triples]
        places = [answer.place(victim.removed) for victim, answer, _ in triples] if verified else None
        return AttackResult(
            set=self.labelled.name,
            recipe=self.recipe,
            defence=VERIFICATION if verified else defence.name,
            attack=attack,
            epsilon=epsilon,
            mean_average_precision=score,
            similarity=float(np.mean([a.vector @ v.clean.numpy() for v, a, _ in triples])),
            changed=float(np.mean([first != before for first, before, _ in firsts])),
            hit=float(np.mean([first == wanted for first, _, wanted in firsts])) if attack == "targeted" else None,
            asked=float(np.mean(counts)) if counts else None,
            suspect=None if places is None else float(np.mean([is_suspect(place) for place in places])),
            undecided=None if places is None else float(np.mean([place is None for place in places])),
        )

    def _show(self, attack: str, epsilon: int, pictures: Sequence[Pixels], answers: Sequence[Answer]) -> None:
        paths = {image: path for path, image in self.bench.ids.items()}
        for victim, pixels, answer in list(zip(self.victims, pictures, answers, strict=True))[:_SHOWN]:
            first = answer.best(victim.removed)
            if first is not None:
                result = str(self.labelled.locate(paths[first]))
                self.shown.append(Shown(victim.query.path, attack, epsilon, pixels, result))
