"""Binary codes of a collection's images, beside their descriptors: an append-only file of records of one length."""

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.store.log import LogWriter, sync_folder
from resight.store.mapped import Mapped


class CodeLog:
    """The codes of one hash function, whose fingerprint is in the file's name, each with a CRC-32.

    Ids are never given twice, so that what the file says of an image stays true. What it lacks can always be made anew
    from the image's descriptor, so a record that a crash left in part is only cut off.
    """

    def __init__(self, folder: Path, fingerprint: str, bits: int) -> None:
        self.path = folder / f"codes-{fingerprint[:12]}-checked.log"  # those without a CRC had no "checked"
        self._type = np.dtype([("id", "<i8"), ("code", "u1", bits // 8), ("crc", "<u4")])
        self._mapped = Mapped(self.path) if self.path.exists() else None
        self._rows: NDArray[np.void] = np.empty(0, self._type)
        if self._mapped is not None and (whole := len(self._mapped.bytes) // self._type.itemsize):
            self._rows = self._mapped.bytes[: whole * self._type.itemsize].view(self._type)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Of N ascending ids: which have a code, (N,) bool, and the codes of those in their order, M×B/8.

        Raises CollectionError where the file has been cut short since it was opened.
        """
        if self._mapped is not None:
            self._mapped.check()
        known = self._rows["id"]
        place = np.searchsorted(known, ids)
        there = place < len(known)
        there[there] = known[place[there]] == ids[there]
        return there, self._rows["code"][place[there]]

    def append(self, ids: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add images with ids above all that are there, durably; open the log anew to read them."""
        rows = np.empty(len(ids), self._type)
        rows["id"], rows["code"] = ids, codes
        rows["crc"] = [zlib.crc32(row.tobytes()[:-4]) for row in rows]
        with LogWriter(self.path, len(self._rows) * self._type.itemsize) as log:
            log.append(rows.tobytes())
            log.sync()
        sync_folder(self.path.parent)

    def damaged(self) -> int:
        """How many codes are not what was written."""
        return sum(zlib.crc32(row.tobytes()[:-4]) != row["crc"] for row in self._rows)

    def sweep(self) -> None:
        """Delete the codes of other functions."""
        for path in self.path.parent.glob("codes-*.log"):
            if path != self.path:
                path.unlink()
