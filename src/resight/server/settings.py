"""What a service is told when it starts; no request can change it."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from resight.errors import ResightError

MIB = 1024**2


def ranking_threads() -> int:
    """As many as there are cores, since more hinder each other; two at least: a slow search shall not stop the rest."""
    return max(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class Settings:
    """Of one service over one collection.

    host, port: what it listens on. token: what each request must bring; demanded for any host but loopback.
    public: the address, such as https://photos.example.org, at which a proxy makes it reachable; needs a token too.
    write: whether images can be added and removed, and decisions kept. photos: folders from which they may be added.
    timeout: seconds that a search may take from the moment it is asked for. workers: searches that rank at the same
        time. waiting: searches that may wait; more are refused.
    upload_bytes, upload_pixels: of one picture. state: folder for queries, thumbnails and requests; None: in the
        user's cache. state_bytes: of kept queries, above which the oldest go.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = field(default=None, repr=False)
    public: str | None = None
    write: bool = False
    photos: tuple[Path, ...] = ()
    timeout: float = 60.0
    workers: int = field(default_factory=ranking_threads)
    waiting: int = 64
    upload_bytes: int = 64 * MIB
    upload_pixels: int = 100_000_000
    state: Path | None = None
    state_bytes: int = 2048 * MIB

    def __post_init__(self) -> None:
        if self.token is not None and (
            len(self.token) < 16 or not self.token.isascii() or not self.token.isprintable()
        ):
            raise ResightError(
                "a token has at least 16 characters, all of them plain ASCII; leave it out to have one made"
            )
        if self.public is not None:
            parts = urlsplit(self.public)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query:
                raise ResightError(
                    f"{self.public}: a public address is scheme and name, as in https://photos.example.org"
                )
        if self.token is None and needs_token(self.host, self.public):
            raise ResightError(
                f"{self.public or self.host} can be reached from elsewhere, so the service needs a token"
            )

    @property
    def public_host(self) -> str | None:
        """Name and port in the public address."""
        return None if self.public is None else urlsplit(self.public).netloc.lower()


def needs_token(host: str, public: str | None) -> bool:
    """Whether others than this machine's users can reach a service."""
    return public is not None or not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of this name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
