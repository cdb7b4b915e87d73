"""Mutants: the sources of rules, engines and kernels, each broken in one place, in a way of its kind.

They are found in the sources as they are, by syntax in Python and by patterns in C, so that they follow every
change. `find(package)` lists them; tables first.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

PYTHON = """
    core/mask.py core/window.py kernels/operands.py padding/*.py rules/*.py sparse/active.py sparse/fuse.py
    sparse/graph.py sparse/operands.py sparse/ops.py sparse/plan.py sparse/rules/*.py sparse/value.py
    sparse/weights.py
    """.split()
C = ["kernels/c/*.c", "kernels/c/*.h"]
PER_FUNCTION = 2  # of a function in Python, besides its output
PER_KERNEL = 6  # of a function in C

# --- kinds in Python: a node -> what replaces it, or None ------------------------------------------------

SETTLES = {"zero_hidden", "neighbor", "filled"}
SWAPS = {
    **{"stride": "dilation", "dilation": "stride", "before": "after", "after": "before"},
    **{"amax": "amin", "amin": "amax", "any": "all", "all": "any"},
}
_PAIRS = ((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq))
HARDLY: dict[type, type] = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}


def name_of(call: ast.expr) -> str:
    return call.attr if isinstance(call, ast.Attribute) else call.id if isinstance(call, ast.Name) else ""


def skipped_fill(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call) and name_of(node.func) in SETTLES and node.args:
        return f"{ast.unparse(node.args[0])}.value"
    return None


def hidden_read(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    if node.func.attr == "where" and len(node.args) == 3:
        return f"({ast.unparse(node.args[1])})"
    if node.func.attr in ("masked_fill", "masked_fill_") and len(node.args) == 2:
        return f"({ast.unparse(node.func.value)})"
    return None


def dropped_term(node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
        return f"({ast.unparse(node.left)})"
    return None


def wrong_divisor(node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod):
        sign = {ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%"}[type(node.op)]
        return f"(({ast.unparse(node.left)}) {sign} (({ast.unparse(node.right)}) + 1))"
    return None


def wrong_join(node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        sign = "|" if isinstance(node.op, ast.BitAnd) else "&"
        return f"(({ast.unparse(node.left)}) {sign} ({ast.unparse(node.right)}))"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return f"({ast.unparse(node.operand)})"
    return None


def wrong_choice(node: ast.AST) -> str | None:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in HARDLY:
        return f"({ast.unparse(ast.Compare(node.left, [HARDLY[type(node.ops[0])]()], node.comparators))})"
    if isinstance(node, ast.BoolOp):
        sign = "or" if isinstance(node.op, ast.And) else "and"
        return "(" + f" {sign} ".join(f"({ast.unparse(value)})" for value in node.values) + ")"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"bool({ast.unparse(node.operand)})"
    return None


def one_off(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= 16:
        return str(node.value + 1)
    return None


def swapped(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in SWAPS:
        return f"{ast.unparse(node.value)}.{SWAPS[node.attr]}"
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in ("stride", "dilation"):
        return SWAPS[node.id]
    return None


KINDS: dict[str, Callable[[ast.AST], str | None]] = {
    "fill skipped": skipped_fill,
    "hidden cell read": hidden_read,
    "term dropped": dropped_term,
    "wrong divisor": wrong_divisor,
    "wrong join": wrong_join,
    "wrong choice": wrong_choice,
    "one off": one_off,
    "swapped": swapped,
}
BROKEN = "__import__('layermask._broken')._broken"
RETURNS = {"output": "output", "mask shifted": "mask"}  # kinds of a whole function -> in broken.py

# --- kinds in C: pattern -> replacement, within one line --------------------------------------------------

C_KINDS: dict[str, tuple[str, str]] = {
    "term dropped": (r"\+= ", "= "),
    "output scaled": (r"\b(o\[\w+\]|acc|sum|mean|scale|x\[\w+\]) = (?!0;)", r"\1 = 1.01f * "),
    "wrong sign": (r" - (?=[a-z(])", " + "),
    "wrong divisor": (r" / (?=[a-z(])", " / 2 / "),
    "wrong choice": (r" < 0\b", " > 0"),
    "wrong join": (r"&&", "||"),
    "wrong comparison": (r" > ", " < "),
    "one off": (r"\+ 1\b", "+ 2"),
    "not skipped": (r"\bcontinue;", ";"),
    "other side": (r"\? ([^:?;]+) : ([^:?;]+)(?=[;,)])", r"? \2 : \1"),
}


@dataclass(frozen=True)
class Mutant:
    """One change. `key` names the state of the file it is made of: a result holds while that stays."""

    file: str
    place: str
    kind: str
    before: str
    after: str
    start: int
    end: int
    key: str

    number: int = 1  # of those that read the same, in the order of the source

    @property
    def name(self) -> str:
        after = self.after if self.kind not in RETURNS else "..."
        number = f" (no. {self.number})" if self.number > 1 else ""
        return f"{self.file}:{self.place}: {self.kind}: {self.before} -> {after}{number}"

    def applied(self, text: str) -> str:
        return text[: self.start] + self.after + text[self.end :]


def find(package: Path, every: bool = False) -> list[Mutant]:
    """Return the mutants of a package's sources, in an order of which any beginning is a fair sample.

    `every`: and not only some of each function. Which ones those are does not change with other functions.
    """
    functions = [found for path in _files(package, PYTHON) for found in _of_python(package, path)]
    functions += [found for path in _files(package, C) for found in _of_c(package, path)]
    like: Counter[str] = Counter()
    met: Counter[tuple[str, str]] = Counter()

    def numbered(mutant: Mutant) -> Mutant:
        like[mutant.name] += 1
        return replace(mutant, number=like[mutant.name])

    def turn(mutant: Mutant) -> int:
        met[mutant.file, mutant.place] += 1
        return met[mutant.file, mutant.place]

    functions = [[numbered(mutant) for mutant in found] for found in functions]
    found = [mutant for found in functions for mutant in (found if every else _sample(found))]
    shuffled = sorted(found, key=lambda mutant: _digest(mutant.name))
    return sorted(shuffled, key=turn)  # every function once, then every function again


def _sample(mutants: list[Mutant]) -> list[Mutant]:
    """Some of one function's: its output and mask if it is a rule, and different kinds within it."""
    options: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        options[mutant.kind].append(mutant)
    returns = [mutant for kind in RETURNS for mutant in _some(options.pop(kind, []), 1)]
    each, most = (1, PER_FUNCTION) if mutants and mutants[0].file.endswith(".py") else (2, PER_KERNEL)
    return returns + _some([mutant for kind in options for mutant in _some(options[kind], each)], most)


def _some(mutants: list[Mutant], most: int) -> list[Mutant]:
    return sorted(mutants, key=lambda mutant: _digest(mutant.name))[:most]


def _files(package: Path, patterns: list[str]) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(package.glob(pattern))]
    return [path for path in found if path.name != "__init__.py"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_python(package: Path, path: Path) -> Iterator[list[Mutant]]:
    text, file = path.read_text(), str(path.relative_to(package))
    for place, function in _functions(ast.parse(text)):
        yield [_mutant(file, text, place, *change) for change in _changes(function)]


def _functions(tree: ast.AST, place: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every outermost function or method, with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield place + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{place}{node.name}.")
        elif not isinstance(node, ast.expr):
            yield from _functions(node, place)


def _changes(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr, str]]:
    for node in _read(function):
        if isinstance(node, ast.Return) and node.value is not None and _returns_numbers(function):
            for kind, how in RETURNS.items():
                if kind == "output" or _is_rule(function):
                    yield (
                        kind,
                        node.value,
                        f"__import__('layermask._broken')._broken.{how}({ast.unparse(node.value)})",
                    )
        if isinstance(node, ast.expr):
            for kind, change in KINDS.items():
                if (after := change(node)) is not None:
                    yield kind, node, after


def _read(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What a function runs: neither annotations, defaults and decorators, nor its errors' texts."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            continue
        yield node
        if isinstance(node, ast.FunctionDef):
            waiting += node.body
        elif isinstance(node, ast.AnnAssign):
            waiting += [node.value] if node.value else []
        else:
            waiting += ast.iter_child_nodes(node)


def _returns_numbers(function: ast.FunctionDef) -> bool:
    words = ast.unparse(function.returns) if function.returns else ""
    return _is_rule(function) or any(word in words for word in ("Tensor", "Masked", "SparseMasked"))


def _is_rule(function: ast.FunctionDef) -> bool:
    calls = [mark.func if isinstance(mark, ast.Call) else mark for mark in function.decorator_list]
    return any(name_of(call) in ("rule", "sparse_form") for call in calls)


def _mutant(file: str, text: str, place: str, kind: str, node: ast.expr, after: str) -> Mutant:
    start, end = (_offset(text, *at) for at in _ends(node))
    return Mutant(file, place, kind, text[start:end], after, start, end, _digest(text))


def _ends(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _offset(text: str, line: int, column: int) -> int:
    """Where a place of the syntax tree is in the text; its columns count bytes."""
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


_HEAD = re.compile(r"^(?!#|//|\s|\}|typedef|return)[\w *]*?\b(\w+)\(", re.M)


def _of_c(package: Path, path: Path) -> Iterator[list[Mutant]]:
    text = path.read_text()
    heads = [*_HEAD.finditer(text)]
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=False):
        begin = text.find("{", head.start())
        yield [*_in_kernel(package, path, text, head[1], begin, end)]


def _in_kernel(package: Path, path: Path, text: str, place: str, begin: int, end: int) -> Iterator[Mutant]:
    file, key = str(path.relative_to(package)), _digest(text)
    for kind, (pattern, after) in C_KINDS.items():
        for hit in re.compile(pattern).finditer(text, begin, end):
            line = text[text.rfind("\n", 0, hit.start()) + 1 : text.find("\n", hit.end())].strip()
            if not line.startswith(("#", "//", "for (")):
                yield Mutant(file, place, kind, line, hit.expand(after), hit.start(), hit.end(), key)
