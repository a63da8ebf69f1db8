#!/usr/bin/env python3
"""Print the bill of materials (CycloneDX 1.6, JSON) of requirements.lock.

    .venv/bin/python scripts/sbom.py > sagastream.cdx.json

Each package has its version and the hashes that the lock file allows, and, as far as it is installed
here, its licence and its dependencies. What only development needs has the scope `excluded`. The
same lock file gives the same output, if SOURCE_DATE_EPOCH is set.
"""

import hashlib
import os
import re
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
_PROJECTS = ("sagastream", "mission-control")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Locked:
    """A package in the lock file: its name, its version, and the SHA-256 of each of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]


def packages(lock: str) -> Iterator[Locked]:
    """Yield the packages of a lock file.

    Raises:
        ValueError: One has no hash.
    """
    for entry in re.split(r"\n(?=\S)", lock):
        if found := _ENTRY.match(entry):
            hashes = tuple(_HASH.findall(entry))
            if not hashes:
                raise ValueError(f"{found[1]} has no hash in the lock file")
            yield Locked(str(canonicalize_name(found[1])), found[2], hashes)


def bill(lock: str, *, made: datetime) -> str:
    """Return the bill of materials of a lock file.

    Args:
        lock: Its text.
        made: When.
    """
    locked = list(packages(lock))
    graph = {name: set(_dependencies(name)) for name in (*_PROJECTS, *(p.name for p in locked))}
    needed = _closure(graph)
    root = Component(
        name="sagastream",
        version=metadata.version("sagastream"),
        type=ComponentType.APPLICATION,
        bom_ref="sagastream",
        purl=PackageURL("pypi", None, "sagastream", metadata.version("sagastream")),
    )
    components = [_component(each, is_needed=each.name in needed) for each in locked]
    # A package may have one version for each Python: what is installed here names the others.
    here = {each.name: each for each in components}
    here |= {each.name: each for each in components if each.version == _version(each.name)}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(lock.encode()).hexdigest())
    bom = Bom(components=components, serial_number=serial)
    bom.metadata.component = root
    bom.metadata.timestamp = made
    for each in components:
        wanted = sorted(graph[each.name] & here.keys())
        bom.register_dependency(each, [here[name] for name in wanted])
    direct = set[str]().union(*(graph[name] for name in _PROJECTS)) & here.keys()
    bom.register_dependency(root, [here[name] for name in sorted(direct)])
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _component(locked: Locked, *, is_needed: bool) -> Component:
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{locked.name}/{locked.version}/"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in locked.hashes],
    )
    expression = _metadata(locked.name, "License-Expression")
    return Component(
        name=locked.name,
        version=locked.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{locked.name}=={locked.version}",
        purl=PackageURL("pypi", None, locked.name, locked.version),
        scope=ComponentScope.REQUIRED if is_needed else ComponentScope.EXCLUDED,
        licenses=[LicenseFactory().make_from_string(expression)] if expression else [],
        external_references=[files],
    )


def _metadata(name: str, field: str) -> str:
    try:
        values = metadata.metadata(name).get_all(
            field
        )  # `[field]` warns when there is none, from Python 3.12
    except metadata.PackageNotFoundError:
        return ""
    return values[0] if values else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _dependencies(name: str) -> Iterator[str]:
    """Yield the names of what a package needs here, without extras."""
    try:
        wanted = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for text in wanted:
        requirement = Requirement(text)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            yield str(canonicalize_name(requirement.name))


def _closure(graph: dict[str, set[str]]) -> set[str]:
    found, left = set[str](), list(_PROJECTS)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += graph.get(name, ())
    return found


def main() -> int:
    """Print the bill."""
    warnings.simplefilter("error")
    made = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC)
    print(bill(LOCK.read_text(), made=made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
