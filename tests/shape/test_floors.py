"""Imports point down only, rooms of one floor don't know each other, and no files form a cycle.

Reads the Rust sources as text: `use` lines and paths that begin with `crate::`, `super::` or
`self::`. The floors are those of ARCHITECTURE.md.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

WORDS = {"error", "failpoint", "id", "message", "process", "config", "clock"}
FLOORS = [
    WORDS,
    {"protocol"},
    {"sqlite", "postgres", "zookeeper"},
    {"participant", "decision_log", "group", "lease", "lock", "outbox", "delivery", "settings"},
    {"coordinator", "relay"},
    {"service"},
    {"cli", "python", "admin"},
]
# What the crate's root gives under a shorter name.
ROOT_NAMES = {
    "Error": "error",
    "ErrorKind": "error",
    "Result": "error",
    "Message": "message",
    "Header": "message",
    "MessageId": "id",
    "Namespace": "id",
    "ParticipantName": "id",
    "Incarnation": "id",
    "Outbox": "outbox",
}
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)
PATH = re.compile(r"\b((?:crate|super|self)(?:::[A-Za-z_]\w*)+)")
GROUP = re.compile(r"\buse\s+((?:crate|super|self)(?:::\w+)*)::\{([^;]*)\};", re.DOTALL)


def module_of(file: Path) -> tuple[str, ...]:
    """The module path of a source file: `relay/mod.rs` is (`relay`,)."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return parts[:-1] if parts[-1] == "mod" else parts


def sources() -> dict[tuple[str, ...], Path]:
    """Every module but the roots, whose job is to name the others."""
    files = (file for file in SRC.rglob("*.rs") if file.name not in {"lib.rs", "main.rs"})
    return {module_of(file): file for file in files}


def without_tests(text: str) -> str:
    """The source without comments and without its unit tests."""
    return COMMENT.sub("", text.split("#[cfg(test)]\nmod tests {")[0])


def named_paths(text: str) -> set[str]:
    """Paths named in a source, grouped imports spelled out one level deep."""
    found = set(PATH.findall(text))
    for prefix, group in GROUP.findall(text):
        names = re.findall(r"(?:^|[,{])\s*(\w+)", group)
        found.update(f"{prefix}::{name}" for name in names)
    return found


def resolve(module: tuple[str, ...], path: str) -> list[str]:
    """The absolute path, as parts, that `path` means inside `module`."""
    parts = path.split("::")
    here = list(module)
    if parts[0] == "crate":
        here, parts = [], parts[1:]
        if parts and parts[0] in ROOT_NAMES:
            parts = [ROOT_NAMES[parts[0]], *parts]
    elif parts[0] == "self":
        parts = parts[1:]
    while parts and parts[0] == "super":
        here, parts = here[:-1], parts[1:]
    return here + parts


def target(modules: dict[tuple[str, ...], Path], absolute: list[str]) -> tuple[str, ...] | None:
    """The module that a path leads to: the longest beginning of it that is one."""
    for length in range(len(absolute), 0, -1):
        if tuple(absolute[:length]) in modules:
            return tuple(absolute[:length])
    return None


def imports() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Which module names which other."""
    modules = sources()
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for module, file in modules.items():
        found = set()
        for path in named_paths(without_tests(file.read_text())):
            other = target(modules, resolve(module, path))
            if other is not None and other != module:
                found.add(other)
        graph[module] = found
    return graph


def floor(module: tuple[str, ...]) -> int:
    """The number of a module's floor, from the bottom."""
    for number, rooms in enumerate(FLOORS):
        if module[0] in rooms:
            return number
    raise AssertionError(f"{'::'.join(module)} stands on no floor: name it in FLOORS")


def test_imports_point_down_and_rooms_do_not_know_each_other() -> None:
    wrong = []
    for module, others in imports().items():
        for other in others:
            same_room = module[0] == other[0]
            below = floor(other) < floor(module)
            among_words = floor(module) == floor(other) == 0
            if not (same_room or below or among_words):
                wrong.append(f"{'::'.join(module)} names {'::'.join(other)}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_cycles_between_files() -> None:
    graph = imports()
    modules = sources()
    # A folder's mod.rs names its children in order to show them; a child that names the folder
    # names what another child defines, as long as mod.rs itself defines nothing.
    facades = {module for module, file in modules.items() if is_facade(file)}
    edges = {
        module: {other for other in others if other not in facades}
        for module, others in graph.items()
        if module not in facades
    }
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], path: list[tuple[str, ...]]) -> None:
        assert module not in path, "cycle: " + " -> ".join("::".join(m) for m in [*path, module])
        if module in done:
            return
        for other in edges.get(module, set()):
            visit(other, [*path, module])
        done.add(module)

    for module in edges:
        visit(module, [])


def is_facade(file: Path) -> bool:
    """Whether a mod.rs only shows what its children define."""
    if file.name != "mod.rs":
        return False
    text = without_tests(file.read_text())
    return not re.search(
        r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:async\s+)?(?:fn|struct|enum|trait|const|static|type)\s",
        text,
        re.MULTILINE,
    )


def test_the_protocol_does_no_io_and_knows_no_clock() -> None:
    forbidden = re.compile(
        r"\b(tokio|rdkafka|rusqlite|std::fs|std::net|std::io|Instant::now|SystemTime)\b"
    )
    for file in (SRC / "protocol").rglob("*.rs"):
        found = forbidden.findall(without_tests(file.read_text()))
        assert not found, f"{file.relative_to(ROOT)}: {found}"


def test_unsafe_stands_in_one_module_only() -> None:
    allowed = SRC / "delivery" / "kafka" / "native"
    for file in SRC.rglob("*.rs"):
        text = COMMENT.sub("", file.read_text())
        used = re.search(r"\bunsafe\b|allow\(unsafe_code", text)
        assert not used or allowed in file.parents, f"{file.relative_to(ROOT)} has unsafe code"
