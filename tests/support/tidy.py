"""House rules as functions of a file: each returns complaints, `line: what`, none when it is tidy.

Only what ruff does not know: layers, purity, size, docstrings. tests/unit/test_tidy.py holds the
tree to them, and every rule to a sample that breaks it.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE_LINES = 600
FUNCTION_LINES = 70

_TREES = ("hub", "actors", "channels", "benchmarks", "tests", "deploy", "docs", ".ci")
_TEXT = (
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".conf",
    ".cfg",
    ".sh",
    ".lock",
    "",
)
_SKIPPED = ("__pycache__", "node_modules")

_INDEX_HOST = re.compile(
    r"[p]ypi\.(org|python)|python[h]osted|registry\.[n]pmjs|[m]irrors?\.[a-z]+\.(com|cn|org|edu)"
    r"|(?<!emit-)index-[u]rl",
    re.IGNORECASE,
)
"""Hosts and options that say where packages come from; written so as not to match itself."""

_IMPURE = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|sleep|localtime|gmtime|ctime)(_ns)?"
    r"|datetime\.(datetime\.(now|utcnow|today)|date\.today)"
    r"|random\.\w+|secrets\.\w+|uuid\.uuid[14]|os\.(urandom|getrandom)"
    r"|asyncio\.(sleep|timeout|wait_for)|threading\.\w+"
)
_WALL_CLOCK = re.compile(
    r"time\.(time|localtime|gmtime|ctime)(_ns)?"
    r"|datetime\.(datetime\.(now|utcnow|today)|date\.today)"
)


@dataclass(frozen=True)
class Module:
    """One Python file: its path from the root with forward slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the tree, walked once."""
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> set[int]:
        """Lines that hold a comment."""
        tokens = tokenize.tokenize(BytesIO(self.text.encode()).readline)
        return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}

    @cached_property
    def names(self) -> dict[str, str]:
        """What imported names stand for: `from time import time as t` gives t: time.time."""
        found = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or name] = name
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return found

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """(line, module) of every import, also inside functions and under TYPE_CHECKING."""
        found: list[tuple[int, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = self.path.removesuffix(".py").split("/")[: -node.level or None]
                base = ".".join([*(package if node.level else []), *filter(None, [node.module])])
                found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        return found

    def is_in(self, *places: str) -> bool:
        """Whether the file is one of these, or lies in one of these folders."""
        return any(self.path == place or self.path.startswith(place + "/") for place in places)


def modules() -> list[Module]:
    """Every Python file of the project."""
    return [
        Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in text_files()
        if path.suffix == ".py"
    ]


def text_files() -> list[Path]:
    """Every text file of the project: its folders, and what lies beside them."""
    inside = [path for name in _TREES for path in (ROOT / name).rglob("*")]
    return sorted(
        path
        for path in [*ROOT.iterdir(), *inside]
        if path.is_file() and path.suffix in _TEXT and not set(path.parts) & set(_SKIPPED)
    )


# ---- rules -----------------------------------------------------------------------------------


def layers(module: Module) -> list[str]:
    """Who may import whom. docs/architecture.md, "Layout"."""
    forbidden = {"tests", "benchmarks"} if module.is_in("hub", "actors", "channels") else set()
    if module.is_in("hub") and not module.is_in("hub/service"):
        forbidden |= {"ray", "actors", "channels", "hub.service"}
    if module.is_in("hub", "actors", "channels") and not module.is_in("hub/ledger"):
        forbidden |= {"nats"}
    if module.is_in("channels"):
        forbidden |= {"ray"}
    if module.is_in("hub/policy", "hub/contract"):
        forbidden |= {"hub.ledger"}
    return [
        f"{line}: imports {name}"
        for line, name in module.imports
        if any(name == one or name.startswith(one + ".") for one in forbidden)
    ]


def purity(module: Module) -> list[str]:
    """Decisions are functions: no clock, no chance, no waiting."""
    return _uses(module, _IMPURE)


def wall_clock(module: Module) -> list[str]:
    """Only `hub.clock` reads the machine's clock; everything else is given one."""
    return _uses(module, _WALL_CLOCK)


def _uses(module: Module, banned: re.Pattern[str]) -> list[str]:
    found = []
    for node in module.nodes:
        if isinstance(node, ast.Attribute | ast.Name) and (name := _dotted(module, node)):
            match = banned.fullmatch(name)
            if match is not None:
                found.append(f"{node.lineno}: {name}")
    return found


def _dotted(module: Module, node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return module.names.get(node.id)
    if isinstance(node, ast.Attribute) and (base := _dotted(module, node.value)):
        return f"{base}.{node.attr}"
    return None


def size(module: Module) -> list[str]:
    """Modules of at most MODULE_LINES, functions of at most FUNCTION_LINES."""
    lines = module.text.count("\n")
    found = [f"1: module of {lines} lines"] if lines > MODULE_LINES else []
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(f"{node.lineno}: {node.name} has {length} lines")
    return found


def printing(module: Module) -> list[str]:
    """Standard output belongs to the commands."""
    return [
        f"{node.lineno}: print"
        for node in module.nodes
        if isinstance(node, ast.Name) and node.id == "print"
    ]


def docstrings(module: Module) -> list[str]:
    """Public functions and classes of a module say what they are for."""
    if _docstring_missing(module.tree):
        return ["1: module"]
    return [f"{node.lineno}: {node.name}" for node in _public(module) if _docstring_missing(node)]


def _public(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in module.tree.body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_"):
            yield node


def _docstring_missing(
    node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef,
) -> bool:
    return not (ast.get_docstring(node) or "").strip()


def swallowing(module: Module) -> list[str]:
    """No bare `except`, and no exception dropped in silence without a comment why."""
    found = []
    for node in module.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            found.append(f"{node.lineno}: bare except")
        elif all(isinstance(step, ast.Pass | ast.Continue) for step in node.body):
            last = node.end_lineno or node.lineno
            if module.comments.isdisjoint(range(node.lineno, last + 1)):
                found.append(f"{node.lineno}: swallowed without a comment")
    return found


def bare_init(module: Module) -> list[str]:
    """`__init__` files hold a docstring, imports and `__all__` at most."""
    if not module.path.endswith("/__init__.py"):
        return []
    return [
        f"{node.lineno}: logic in __init__"
        for node in module.tree.body
        if not (
            isinstance(node, ast.Import | ast.ImportFrom)
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        )
    ]


def index_hosts(text: str) -> list[str]:
    """Where packages come from is the machine's business, and never written down."""
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for match in _INDEX_HOST.finditer(text)
    ]
