"""What was found of hash functions: a table, JSON, and a plot of mAP against bits."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from resight.evaluation.plot import Series, plot
from resight.evaluation.table import align
from resight.files import output_file

_LEAK = 0.01  # share of the photos from which on the figures are distrusted


@dataclass(frozen=True)
class HashRow:
    """One method at one length.

    hamming, asymmetric, vectors: mAP by Hamming distance, by asymmetric distance, and of the vectors themselves.
    neighbours: the share of the vectors' nearest that are among the nearest codes.
    imbalance, constant, mean_correlation, max_correlation, distinct, entropy: ``resight.hashing.quality``, of the
        database's codes. bytes: of a code. fingerprint: of the hash function.
    """

    method: str
    bits: int
    hamming: float
    asymmetric: float
    vectors: float
    neighbours: float
    imbalance: float
    constant: int
    mean_correlation: float | None
    max_correlation: float | None
    distinct: int
    entropy: float
    bytes: int
    fingerprint: str


@dataclass(frozen=True)
class HashReport:
    """Rows by method and then bits, and what they depend on.

    fitted_share: learned part → share, 0 … 1, of the set's own photos that it was fitted on.
    skipped: what could not be made, a sentence each.
    """

    protocol: Mapping[str, str]
    fitted_share: Mapping[str, float]
    skipped: tuple[str, ...]
    rows: tuple[HashRow, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the figures are not to be trusted or not whole, a sentence each."""
        leaks = (
            f"{part} fitted on {100 * share:.0f} % of these photos: the figures are too good"
            for part, share in self.fitted_share.items()
            if share >= _LEAK
        )
        return (*leaks, *self.skipped)

    def table(self) -> str:
        """Aligned plain text: mAP and neighbours in per cent, then the protocol."""
        head = ("", "bits", "bytes", "Hamming", "asymmetric", "vectors", "neighbours", "balance", "mean |ρ|", "max |ρ|")
        rows = [
            (
                r.method,
                str(r.bits),
                str(r.bytes),
                *(f"{100 * share:.1f}" for share in (r.hamming, r.asymmetric, r.vectors, r.neighbours)),
                f"{r.imbalance:.3f}",
                *("–" if rho is None else f"{rho:.3f}" for rho in (r.mean_correlation, r.max_correlation)),
            )
            for r in self.rows
        ]
        return f"{align((head, *rows))}\n\n{align(tuple(self.protocol.items()), numbers=False)}\n"

    def to_json(self) -> str:
        """The report as JSON; keys in a fixed order."""
        return json.dumps({"format": "resight-hash-report", "version": 1, **asdict(self)}, ensure_ascii=False, indent=1)

    def plot(self) -> str:
        """SVG: mAP over bits, a colour for each method, broken lines for asymmetric distance; and the vectors' own."""
        lengths = sorted({row.bits for row in self.rows})
        ticks = [(math.log2(length), str(length)) for length in lengths]
        series = []
        for colour, method in enumerate(dict.fromkeys(row.method for row in self.rows)):
            own = [row for row in self.rows if row.method == method]
            for name, dashed in (("Hamming", False), ("asymmetric", True)):
                points = tuple((math.log2(r.bits), r.asymmetric if dashed else r.hamming) for r in own)
                series.append(Series(f"{method}, {name}", colour, dashed, points))
        level = tuple((x, self.rows[0].vectors) for x, _ in ticks)
        series.append(Series("vectors", len(series) // 2, False, level))
        return plot(series, ticks, across="bits", up="mAP, %", joined=True)

    def write_plot(self, path: Path) -> None:
        """Write the plot. Raises ResightError where that fails."""
        with output_file(path) as partial:
            partial.write_text(self.plot(), encoding="utf-8")
