"""What recipes that describe alike share while all are measured: what they learned, and what they described."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resight.evaluation.labelled import LabelledSet
from resight.evaluation.made_ready import is_ready, what_is_fitted
from resight.recipes.recipe import Recipe


class Shared:
    """Of recipes by name, file or folder; those by name are made ready with one kit.

    folder: for collections, of which one is kept for each set and way to describe that more than one of them has.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        fitted = {name: what_is_fitted(name) for name in names}
        count = Counter(fitted.values())
        self._fitted = {name: what for name, what in fitted.items() if what and count[what] > 1}
        self._made: dict[str, Path] = {}
        self._described: dict[tuple[str, str], Path] = {}
        self._folder = folder

    def made(self, name: str, into: Path | None = None) -> Path | None:
        """Where one of those that fit the same was made ready, if one was. into: where this one was, from now on."""
        if name not in self._fitted or is_ready(name):
            return None
        if into is not None:
            self._made.setdefault(self._fitted[name], into)
        return self._made.get(self._fitted[name])

    @contextmanager
    def collection(self, name: str, recipe: Recipe, labelled: LabelledSet) -> Iterator[Path | None]:
        """A folder for the recipe's collection of a set, which may have its descriptions already; None: any will do.

        It goes afterwards, or is kept for the recipes to come.
        """
        from resight.search.alike import copy_descriptions, descriptions

        what = descriptions(recipe) if name in self._fitted else None
        if what is None:
            yield None
            return
        known = self._described.get((labelled.name, what))
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        into = folder / "collection"  # which messages name
        try:
            if known is not None:
                copy_descriptions(known, into, recipe)
            yield into
            self._described.setdefault((labelled.name, what), into)  # where that did not go wrong
        finally:
            if into not in self._described.values():
                shutil.rmtree(folder, ignore_errors=True)
