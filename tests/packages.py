"""Builds the wheel, the source distribution and the crate, and uses what was built: the wheel is
installed into a fresh virtual environment and runs the demo from an empty folder, which it must
leave empty. The dev profile is used, so that nothing is compiled twice in the test command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "target" / "dist"


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Runs a command; shows what it said where it fails."""
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
    run(maturin, "sdist", "--out", DIST)
    [wheel] = DIST.glob("*.whl")
    [sdist] = DIST.glob("*.tar.gz")
    return wheel, sdist


def check_sdist(sdist: Path) -> None:
    """The source distribution has what it takes to build it."""
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    missing = {
        "Cargo.toml",
        "Cargo.lock",
        "src/lib.rs",
        "python/onecommit/__init__.py",
        "LICENSE",
    } - names
    if missing:
        sys.exit(f"{sdist.name} lacks {sorted(missing)}")


def use_wheel(wheel: Path) -> None:
    """Installs the wheel where nothing else is, and runs the demo there."""
    with tempfile.TemporaryDirectory() as folder:
        home, empty, temporary = Path(folder, "venv"), Path(folder, "empty"), Path(folder, "tmp")
        empty.mkdir()
        temporary.mkdir()
        venv.create(home, with_pip=True)
        run(home / "bin" / "pip", "install", "--quiet", "--no-index", wheel)
        env = {**os.environ, "TMPDIR": str(temporary)}
        told = run(home / "bin" / "onecommit", "demo", "--json", cwd=empty, env=env)
        verdict = json.loads(told.splitlines()[-1])
        print(f"demo from the wheel: {verdict}")
        faults = [verdict[name] for name in ("lost", "duplicates", "out_of_order", "phantom")]
        if any(faults) or verdict["published"] < 100_000 or verdict["relay_kills"] < 20:
            sys.exit(f"the demo's verdict is not clean: {verdict}")
        left = [*empty.iterdir(), *temporary.iterdir()]
        if left:
            sys.exit(f"the demo left behind: {left}")


def main() -> None:
    """Everything, in order."""
    wheel, sdist = build()
    check_sdist(sdist)
    use_wheel(wheel)
    run("cargo", "package", "--locked", "--allow-dirty", "--quiet")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
