"""One recipe's collection under attack: queries with what attackers know of them, altered pictures, answers."""

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import ResightError
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.variants import Read
from resight.images.read import decode
from resight.projection.projection import Projection
from resight.robustness.answers import Answer, ask_pixels
from resight.robustness.attacks import Describe, Pixels, Universal, black_box, targeted, universal, untargeted
from resight.robustness.defences import Defence
from resight.robustness.gradients import PixelDescriber, as_tensor
from resight.search.collection import Collection

WHITE_BOX, BLACK_BOX = ("untargeted", "targeted", "universal"), "black-box"
ATTACKS = (*WHITE_BOX, BLACK_BOX)

_KEPT = 10  # results of the clean query that an attack without gradients drives away


@dataclass(frozen=True)
class Effort:
    """What attackers may spend. steps: of a gradient. draws: of a random defence in each step. passes: of a universal
    perturbation over the ``learners`` it is learned on. asked: queries that one without gradients puts, the clean one
    included. seed: of all that is drawn.
    """

    steps: int = 10
    draws: int = 4
    passes: int = 3
    learners: int = 20
    asked: int = 200
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Victim:
    """A query. pixels: as the recipe reads it. clean, target: descriptors of it and of the image that a targeted attack
    wants found, whose id is ``wanted``. removed: ids that its answers are judged without.
    """

    place: int
    query: Query
    pixels: Pixels
    clean: Tensor
    target: Tensor
    wanted: int
    removed: NDArray[np.int64]


class Bench:
    """A collection of the set's database by the recipe; ids: by path. read: as the recipe reads queries."""

    def __init__(
        self, index: Collection, labelled: LabelledSet, ids: dict[str, int], read: Read, effort: Effort
    ) -> None:
        self.index, self.labelled, self.ids, self.effort = index, labelled, ids, effort
        adapter = index.learned().get(f"adapter {index.adapter}")
        self.describe = PixelDescriber(index.recipe, adapter if isinstance(adapter, Projection) else None)
        self._read = read
        self._universal: dict[tuple[str, int], Universal] = {}
        self._learned_on: list[tuple[Pixels, Tensor]] = []

    def learn_on(self, queries: list[Query]) -> None:
        """Take other queries than those attacked for universal perturbations."""
        pictures = [self._pixels(query.path, query) for query in queries]
        self._learned_on = [(pixels, self.vector(pixels)) for pixels in pictures]

    def victim(self, place: int, query: Query) -> Victim:
        """A query, with a target that is drawn among database images which show something else.

        Raises ResightError where there are none.
        """
        pixels = self._pixels(query.path, query)
        own = query.positives | query.removed
        others = [path for path in self.labelled.database if path in self.ids and path not in own]
        if not others:
            raise ResightError(f"{self.labelled.name}: its database has nothing but answers to {query.path} to aim at")
        path = others[int(np.random.default_rng(self._seeds(place, 0)).integers(len(others)))]
        target = self.vector(self._read(self.labelled.locate(path), None).pixels)
        removed = np.array([self.ids[each] for each in query.removed if each in self.ids], np.int64)
        return Victim(place, query, pixels, self.vector(pixels), target, self.ids[path], removed)

    @torch.no_grad()
    def vector(self, pixels: Pixels) -> Tensor:
        """The descriptor as an attacker computes it, (D,)."""
        return self.describe(as_tensor(pixels).float())

    def answer(self, victim: Victim, pixels: Pixels, defence: Defence, *, verified: bool, ask: int = 0) -> Answer:
        """What the defended search says to a picture. ask: tells times apart, where a defence is random."""
        seed = self._seed(victim.place, 1, ask)
        return ask_pixels(self.index, defence.apply(pixels, seed), verified=verified)

    def alter(
        self, victim: Victim, attack: str, epsilon: int, defence: Defence, *, verified: bool, clean: Answer
    ) -> tuple[Pixels, int | None]:
        """The query's picture under an attack that knows of the defence, as a PNG file brings it to the search.

        And how many queries it took, where it asks. clean: the answer to the clean picture. Raises ValueError where the
        picture differs by more than ε from the clean one.
        """
        asked: int | None = None
        if attack == "universal":
            altered = self._learned(epsilon, defence).apply(victim.pixels)
        elif attack == BLACK_BOX:
            altered, asked = self._searched(victim, epsilon, defence, verified, clean)
        else:
            effort = self.effort
            how = {"epsilon": epsilon, "steps": effort.steps, "seed": self._seed(victim.place, 2, epsilon)}
            how["draws"] = effort.draws if defence.drawn else 1
            known = self._through(defence, victim.place)
            if attack == "untargeted":
                altered = untargeted(known, victim.pixels, victim.clean, **how)
            else:
                altered = targeted(known, victim.pixels, victim.target, **how)
        stored = io.BytesIO()
        PIL.Image.fromarray(altered).save(stored, "PNG")
        pixels = decode(stored.getvalue(), victim.query.path).pixels
        if int(np.abs(pixels.astype(np.int16) - victim.pixels).max()) > epsilon:
            raise ValueError(f"attack {attack} altered {victim.query.path} by more than {epsilon}")
        return pixels, asked

    def _searched(
        self, victim: Victim, epsilon: int, defence: Defence, verified: bool, clean: Answer
    ) -> tuple[Pixels, int]:
        kept, asked = clean.without(victim.removed)[:_KEPT], 1

        def score(pixels: Pixels) -> float:
            nonlocal asked
            asked += 1
            return self.answer(victim, pixels, defence, verified=verified, ask=asked).mean_score(kept)

        seed = self._seed(victim.place, 3, epsilon)
        altered = black_box(score, victim.pixels, epsilon=epsilon, queries=self.effort.asked - 1, seed=seed)
        return altered, asked

    def _learned(self, epsilon: int, defence: Defence) -> Universal:
        key = defence.name, epsilon
        if key not in self._universal:
            self._universal[key] = universal(
                self._through(defence, -1),
                [pixels for pixels, _ in self._learned_on],
                [clean for _, clean in self._learned_on],
                epsilon=epsilon,
                passes=self.effort.passes,
                side=max(max(pixels.shape[:2]) for pixels, _ in self._learned_on),
                seed=self._seed(0, 4, epsilon),
                draws=self.effort.draws if defence.drawn else 1,
            )
        return self._universal[key]

    def _through(self, defence: Defence, place: int) -> Describe:
        """The descriptor behind a defence; its draws are none that the search makes."""
        return lambda x, draw: self.describe(defence.through(x, self._seed(place, 5, draw)))

    def _pixels(self, path: str, query: Query) -> Pixels:
        return self._read(self.labelled.locate(path), query.box).pixels

    def _seed(self, place: int, *purpose: int) -> int:
        return int(np.random.SeedSequence(self._seeds(place, *purpose)).generate_state(1)[0])

    def _seeds(self, place: int, *purpose: int) -> list[int]:
        return [self.effort.seed, place + 1, *purpose]
