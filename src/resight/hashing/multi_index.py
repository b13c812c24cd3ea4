"""Multi-index hashing: exact nearest codes from tables of parts of the codes (Norouzi, Punjani & Fleet, CVPR 2012)."""

from math import comb, log2

import faiss
import numpy as np

from resight.hashing.search import Codes, Neighbours, Scan, check_codes, check_search, nearest

_LONGEST = 32  # bits of a part
_BUCKET = 32  # codes that a scan compares with in the time that opening a bucket takes


class MultiIndex:
    """m tables, each by B/m bits of the codes. Exact, and far quicker than a scan where neighbours are near.

    By the pigeonhole principle a code that differs from a query in at most m(r + 1) - 1 bits differs in at most r of
    them in one part at least. So for r = 0, 1, … the buckets within r flipped bits of the query's parts are opened,
    until k codes within m(r + 1) - 1 are found. The paper raises the radius one part at a time, and so opens fewer
    buckets in the last round; the tables are faiss's. A query for which more than N/32 buckets would have to be opened
    is answered by a scan, which is then quicker.
    codes: N×B/8 uint8. tables: m; by default so many that a part has about log₂ N bits, as the paper advises. faiss
    keeps a copy of the codes and, in each table, 8 bytes and more for a code. Not for several threads at once.
    """

    def __init__(self, codes: Codes, tables: int | None = None) -> None:
        check_codes(codes)
        bits = 8 * codes.shape[1]
        if tables is None:
            tables = max(1, -(-bits // _LONGEST), round(bits / max(8.0, log2(max(2, len(codes))))))
        if not -(-bits // _LONGEST) <= tables <= bits:
            raise ValueError(f"tables must be {-(-bits // _LONGEST)} … {bits} for {bits} bits, not {tables}")
        self._scan = Scan(codes)
        self._length = bits // tables
        self._tables = tables
        self._index = faiss.IndexBinaryMultiHash(bits, tables, self._length)
        self._index.add(codes)

    def search(self, codes: Codes, k: int) -> Neighbours:
        """As ``resight.hashing.search.CodeIndex.search``."""
        asked, k = check_search(codes, self._scan.codes, k)
        distances, rows = np.empty((len(asked), k), np.int32), np.empty((len(asked), k), np.int64)
        left = np.arange(len(asked) if k else 0)
        for flips in range(self._length):
            if not len(left) or _BUCKET * self._opened(flips) > len(self._scan.codes):
                break
            self._index.nflip = flips
            # Those nearer than the radius, all of which the tables know.
            ends, found, which = self._index.range_search(asked[left], self._tables * (flips + 1))
            short = []
            for place, start, stop in zip(left.tolist(), ends[:-1], ends[1:], strict=True):
                if stop - start < k:
                    short.append(place)
                else:
                    distances[place], rows[place] = nearest(found[start:stop], which[start:stop], k)
            left = np.array(short, np.int64)
        if len(left):
            distances[left], rows[left] = self._scan.search(asked[left], k)
        return distances, rows

    def _opened(self, flips: int) -> int:
        """Buckets within so many flipped bits of a query's parts."""
        return self._tables * sum(comb(self._length, flipped) for flipped in range(flips + 1))
