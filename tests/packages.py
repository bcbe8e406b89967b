"""Builds the wheel, the source distribution and the crate, and uses what was built: the wheel is
installed into a fresh virtual environment and runs the demo from an empty folder, which it must
leave empty; pip builds and installs the source distribution into another. The dev profile is used,
so that nothing is compiled twice in the test command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "target" / "dist"
DEMO_LIMIT_S = 120
DEMO_FIELDS = {
    *("committed", "rolled_back", "published", "delivered"),
    *("lost", "duplicates", "out_of_order", "phantom"),
    *("relay_kills", "seconds"),
}
# Prints one line if it is all there.
IMPORT = """
import importlib.metadata, onecommit
assert "LICENSE" in {file.name for file in importlib.metadata.files("onecommit")}
print(onecommit.Outbox())
"""


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Runs a command; shows what it said where it fails."""
    env = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def build() -> tuple[Path, Path]:
    """The wheel and the source distribution, made anew."""
    maturin = Path(sys.executable).parent / "maturin"
    for old in DIST.glob("onecommit-*"):
        old.unlink()
    run(
        maturin,
        "build",
        "--locked",
        "--quiet",
        "--profile",
        "dev",
        "--auditwheel",
        "skip",
        "--out",
        DIST,
    )
    # With files as old as maturin makes them, cargo would take what it compiled before for theirs.
    run(maturin, "sdist", "--out", DIST, env={"SOURCE_DATE_EPOCH": str(int(time.time()))})
    [wheel] = DIST.glob("*.whl")
    [sdist] = DIST.glob("*.tar.gz")
    return wheel, sdist


def use_wheel(wheel: Path) -> None:
    """Installs the wheel where nothing else is, and runs the demo there."""
    with tempfile.TemporaryDirectory() as folder:
        home, empty, temporary = Path(folder, "venv"), Path(folder, "empty"), Path(folder, "tmp")
        empty.mkdir()
        temporary.mkdir()
        venv.create(home, with_pip=True)
        run(home / "bin" / "pip", "install", "--quiet", "--no-index", wheel)
        env = {"TMPDIR": str(temporary)}
        told = run(home / "bin" / "onecommit", "demo", "--json", cwd=empty, env=env)
        check_verdict(json.loads(told))
        left = [*empty.iterdir(), *temporary.iterdir()]
        if left:
            sys.exit(f"the demo left behind: {left}")


def check_verdict(verdict: dict[str, float]) -> None:
    """All that the demo promises, in the fields that it promises."""
    print(f"demo from the wheel: {verdict}")
    if set(verdict) != DEMO_FIELDS:
        sys.exit(f"the demo's fields are not {sorted(DEMO_FIELDS)}: {verdict}")
    faults = [verdict[name] for name in ("lost", "duplicates", "out_of_order", "phantom")]
    if any(faults) or verdict["published"] < 100_000 or verdict["relay_kills"] < 20:
        sys.exit(f"the demo's verdict is not clean: {verdict}")
    if verdict["delivered"] != verdict["published"] or not verdict["rolled_back"] > 0:
        sys.exit(f"the demo's numbers do not belong together: {verdict}")
    if not 0 < verdict["seconds"] < DEMO_LIMIT_S:
        sys.exit(f"the demo took {verdict['seconds']} s, and not less than {DEMO_LIMIT_S}")


def use_sdist(sdist: Path) -> None:
    """Has pip build and install the source distribution where nothing else is. It compiles into
    the target folder of all other builds, so that only the crate itself is compiled again."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "venv")
        venv.create(home, with_pip=True)
        env = {
            "CARGO_TARGET_DIR": str(ROOT / "target"),
            "MATURIN_PEP517_ARGS": "--locked --profile dev",
        }
        pip = home / "bin" / "pip"
        run(pip, "install", "--quiet", "--no-deps", sdist, cwd=Path(folder), env=env)
        told = run(home / "bin" / "python", "-c", IMPORT, cwd=Path(folder))
        told += run(home / "bin" / "onecommit", "--version", cwd=Path(folder))
        print(f"from the source distribution: {told.splitlines()}")
        version = sdist.name.removeprefix("onecommit-").removesuffix(".tar.gz")
        if told != f"Outbox(schema='onecommit', encoder=None)\nonecommit {version}\n":
            sys.exit("that is not what was built")


def main() -> None:
    """Everything, in order."""
    wheel, sdist = build()
    use_wheel(wheel)
    use_sdist(sdist)
    run("cargo", "package", "--locked", "--allow-dirty", "--quiet")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
