"""What a release installs: pinned, by hash, and still what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {"serve": ("serve", "heif"), "all": tuple(extra for extra in EXTRAS if extra not in ("dev", "torture"))}


def locked(name: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """What a lock names: each package, for one system or another, with the hashes of its files."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    text = re.sub(r"^#.*\n", "", (ROOT / "locks" / f"{name}.txt").read_text("utf-8"), flags=re.MULTILINE)
    for entry in text.replace("\\\n", " ").splitlines():
        line, *hashes = re.split(r"\s+--hash=", entry.strip())
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_is_one_version_and_its_hashes(name):
    for entries in locked(name).values():
        for requirement, hashes in entries:
            assert re.fullmatch(r"==[0-9][\w.+!]*", str(requirement.specifier)) and requirement.url is None
            assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)


@pytest.mark.parametrize("name", LOCKS)
def test_it_is_what_the_project_asks_for(name):
    found = locked(name)
    asked = [*PROJECT["dependencies"], *(line for extra in LOCKS[name] for line in EXTRAS[extra])]
    constraints = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line.strip()]
    for line in asked + [line for line in constraints if canonicalize_name(Requirement(line).name) in found]:
        wanted = Requirement(line)
        versions = [str(r.specifier).removeprefix("==") for r, _ in found.get(canonicalize_name(wanted.name), [])]
        assert versions and all(wanted.specifier.contains(version) for version in versions), f"{line}: make lock"


def test_the_service_needs_no_network_library():
    assert not {"torch", "ray", "openvino"} & set(locked("serve"))


def test_no_extra_allows_what_a_request_could_break():
    """The first versions without the holes that docs/security.md names."""
    least = {"h11": "0.16", "python-multipart": "0.0.27", "starlette": "1.5.1", "pillow": "12.2"}
    asked = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["serve"], *EXTRAS["dev"])]
    for name, version in least.items():
        bounds = [one.specifier for one in asked if one.name == name]
        assert bounds and all(str(bound) == f">={version}" for bound in bounds), name
