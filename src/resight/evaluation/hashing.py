"""What hashing a recipe's vectors does to mAP, by method and number of bits (survey §4.2.4)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.evaluation.hash_report import HashReport, HashRow
from resight.evaluation.hash_vectors import Described, Taught, Vectors
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.variants import Report, cosines, measure, silent
from resight.hashing.asymmetric import asymmetric_scores
from resight.hashing.codes import pack
from resight.hashing.function import HashFunction
from resight.hashing.methods import LINEAR, METHODS, check_bits, fit_method, wanted_method
from resight.hashing.quality import quality
from resight.hashing.search import distances_to

BITS = (16, 32, 64, 128, 256, 512, 1024)
_NEIGHBOURS = 10
_ASKED = 32  # queries scored together: bounds memory


def compare(
    described: Described,
    *,
    methods: Sequence[str] = (),
    bits: Sequence[int] = BITS,
    seed: int = 0,
    taught: Taught | None = None,
    report: Report = silent,
) -> HashReport:
    """mAP of each method's codes of each length, and of the vectors themselves.

    methods: of ``resight.hashing.methods.METHODS`` that learn from vectors, or from labels; by default the linear ones.
    taught: what those that learn from labels learn from. seed: of what the methods draw, and of the order of equals:
    the images are ranked in one random order, since codes are often equally far, and the order in which a set lists its
    images, distractors last, tells what is relevant.
    A length that a method cannot make of these vectors is left out and said. Raises RecipeError for another method or
    number of bits, and where no codes could be made.
    """
    methods = tuple(dict.fromkeys(methods)) or LINEAR
    check_wanted(methods, bits, labels=taught is not None)
    trial = _Trial.of(described, seed)
    found: list[HashRow] = []
    skipped: list[str] = []
    wanted = [(name, length) for name in methods for length in sorted(set(bits))]
    for done, (name, length) in enumerate(wanted):
        report("hashing", done, len(wanted))
        try:
            function = _fitted(name, length, seed, described, taught)
        except RecipeError as error:
            skipped.append(f"{name} of {length} bits is left out: {error}")
            continue
        found.append(trial.row(name, function))
    report("hashing", len(wanted), len(wanted))
    if not found:
        raise RecipeError(f"there is nothing to compare: {skipped[0]}")
    shares = {**described.fitted_share, **(taught.share if taught is not None else {})}
    return HashReport(_protocol(described, taught, seed, trial.k), shares, tuple(skipped), tuple(found))


def check_wanted(methods: Sequence[str], bits: Sequence[int], *, labels: bool) -> None:
    """RecipeError unless there are such methods to compare, and codes of such lengths. labels: whether these are there,
    which goes with methods that learn from them.
    """
    for length in bits:
        check_bits(length)
    needs = {name: wanted_method(name).needs for name in methods}
    for name, need in needs.items():
        if need not in ("vectors", "labels"):
            raise RecipeError(
                f"{name} learns from more than vectors, {need}: learn it with `resight hash fit`, and compare it with "
                "`resight evaluate` and a recipe that names it"
            )
        if need == "labels" and not labels:
            raise RecipeError(f"{name} learns from labelled photos: name a set of them with --labels")
    if labels and "labels" not in needs.values():
        raise RecipeError("no method here learns from labels: leave --labels out, or add --method ssdh or siamese")


def _fitted(name: str, bits: int, seed: int, described: Described, taught: Taught | None) -> HashFunction:
    """What a method learns from the labelled photos, where it needs labels, and else from the others."""
    if METHODS[name].needs == "labels":
        if taught is None:
            raise ValueError("there are no labels")
        return fit_method(
            name,
            taught.x,
            bits,
            beside=taught.labels,
            seed=seed,
            fitted_on=taught.fitted_on,
            descriptor=described.fingerprint,
            photos=taught.photos,
        )
    return fit_method(
        name,
        described.learn,
        bits,
        seed=seed,
        fitted_on=described.fitted_on,
        descriptor=described.fingerprint,
        photos=described.photos,
    )


@dataclass(frozen=True, eq=False)
class _Trial:
    """What every hash function is tried on: a set's vectors in the order in which equals are ranked.

    own: the row of each query that is in the database. near: of each query, the k nearest by cosine. vectors: mAP.
    """

    labelled: LabelledSet
    database: Vectors
    rows: Mapping[str, int]
    queries: Vectors
    own: Sequence[int | None]
    k: int
    near: Sequence[frozenset[int]]
    vectors: float

    @classmethod
    def of(cls, described: Described, seed: int) -> Self:
        order = np.random.default_rng(seed).permutation(len(described.database))
        database, place = described.database[order], np.argsort(order)
        rows = {path: int(place[row]) for path, row in described.rows.items()}
        labelled, queries = described.labelled, described.queries
        own = [rows.get(query.path) for query in labelled.queries]
        k = max(1, min(_NEIGHBOURS, len(database) - 1))
        near = list(_first(cosines(queries, database), own, k))
        return cls(labelled, database, rows, queries, own, k, near, measure(labelled, cosines(queries, database), rows))

    def row(self, method: str, function: HashFunction) -> HashRow:
        codes, projected = function.encode(self.database), function.project(self.queries)
        used = quality(codes)
        found = _first(_hamming(projected, codes), self.own, self.k)
        shares = [len(near & far) / self.k for near, far in zip(self.near, found, strict=True)]
        return HashRow(
            method=method,
            bits=function.bits,
            hamming=measure(self.labelled, _hamming(projected, codes), self.rows),
            asymmetric=measure(self.labelled, _asymmetric(projected, codes), self.rows),
            vectors=self.vectors,
            neighbours=float(np.mean(shares)),
            imbalance=used.imbalance,
            constant=used.constant,
            mean_correlation=used.mean_correlation,
            max_correlation=used.max_correlation,
            distinct=used.distinct,
            entropy=used.entropy,
            bytes=codes.shape[1],
            fingerprint=function.fingerprint,
        )


def _protocol(described: Described, taught: Taught | None, seed: int, k: int) -> dict[str, str]:
    labelled, length = described.labelled, described.database.shape[1]
    unread = len(labelled.database) - len(described.database)
    return {
        "set": f"{labelled.name}, ground truth {labelled.revision[:12]}"
        + (f"; {labelled.selection}" if labelled.selection else ""),
        "database": f"{len(labelled.database)} images, {labelled.distractors} of them distractors",
        **({"not indexed": f"{unread}, counted as not retrieved"} if unread else {}),
        "queries": str(len(labelled.queries)),
        "recipe": f"{described.recipe} ({described.fingerprint[:12]}), by its vectors alone: {length} entries, "
        f"{4 * length} bytes",
        "hash functions": f"fitted on {described.fitted_on}; seed {seed}",
        **({"by labels": f"fitted on {taught.fitted_on}; seed {seed}"} if taught is not None else {}),
        "figures": "mAP, trapezoidal; a query that is in the database is left out of its own ranking; junk removed",
        "ties": "in one random order, drawn by the seed",
        "neighbours": f"share of the {k} images of largest cosine that are among the {k} nearest codes",
        "balance": "of the database's codes: mean deviation of a bit's mean from ½",
        "|ρ|": "of the database's codes: correlation of pairs of bits that vary",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def _hamming(projected: Vectors, codes: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    for code in pack(projected > 0):
        yield -distances_to(code, codes).astype(np.float32)


def _asymmetric(projected: Vectors, codes: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(projected), _ASKED):
        yield from asymmetric_scores(projected[start : start + _ASKED], codes)


def _first(similarities: Iterable[NDArray[np.float32]], own: Sequence[int | None], k: int) -> Iterator[frozenset[int]]:
    """The rows of the k most similar to each query, itself left out."""
    for scores, row in zip(similarities, own, strict=True):
        order = np.argsort(-scores, kind="stable")[: k + 1].tolist()
        yield frozenset([at for at in order if at != row][:k])
