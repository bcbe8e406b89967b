"""A service that only publishes compiles no C: the bare crate, also with the PostgreSQL feature."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What builds C in a build script, or looks for a library to link.
BUILDERS = {"cc", "cmake", "pkg-config", "vcpkg", "bindgen", "autotools", "meson"}
# In a browser there is neither PostgreSQL nor C; what is compiled for it says nothing.
PLATFORMS = ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-msvc"]
# Windows' own functions by name, without any C.
ONLY_NAMES = {"windows-sys"}


def metadata(features: str) -> dict[str, Any]:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--no-default-features"]
    command += ["--features", features, *(f"--filter-platform={name}" for name in PLATFORMS)]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(answer)
    return found


def compiled(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The packages that a user of the crate compiles, on any of the systems."""
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    waiting, seen = [found["resolve"]["root"]], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for dependency in nodes[one]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return [package for package in found["packages"] if package["id"] in seen]


def with_c(features: str) -> list[str]:
    """The packages that hold, build or link C."""
    return sorted(
        package["name"]
        for package in compiled(metadata(features))
        if package["name"] not in ONLY_NAMES
        and (package["links"] or package["name"].endswith("-sys") or package["name"] in BUILDERS)
    )


@pytest.mark.parametrize("features", ["", "postgres"])
def test_no_c_is_compiled(features: str) -> None:
    assert with_c(features) == []


def test_c_is_noticed_where_it_is() -> None:
    assert "libsqlite3-sys" in with_c("sqlite")
    assert {"rdkafka-sys", "cc"} <= set(with_c("kafka"))
