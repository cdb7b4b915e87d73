"""How large the package is: `make size` prints it, and test_size.py holds it to the budget in size.json."""

from __future__ import annotations

import ast
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "layermask"
BUDGET = Path(__file__).with_name("size.json")
RUN = 6  # lines that make a duplicate


def measure() -> dict[str, int]:
    """Count the Python of the package. A function's length leaves out its decorators and docstring."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
    files = sorted(text.count("\n") for text in texts.values())
    lengths = sorted(n for text in texts.values() for n in _functions(ast.parse(text)))
    return {
        "files": len(files),
        "lines": sum(files),
        "functions": len(lengths),
        "median of a function": round(statistics.median(lengths)),
        "9 of 10 functions at most": lengths[len(lengths) * 9 // 10],
        "longest function": lengths[-1],
        "functions above 40 lines": sum(n > 40 for n in lengths),
        "files above 350 lines": sum(n > 350 for n in files),
        f"runs of {RUN} lines that stand twice": _repeated(texts.values()),
    }


def _functions(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def _repeated(texts: Iterable[str]) -> int:
    """Runs of lines, stripped, that occur again; lines of fewer than four letters do not count."""
    runs: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        lines = [line.strip() for line in text.splitlines() if sum(map(str.isalpha, line)) > 3]
        runs.update(tuple(lines[i : i + RUN]) for i in range(len(lines) - RUN + 1))
    return sum(count - 1 for count in runs.values())


def main() -> None:
    found, budget = measure(), json.loads(BUDGET.read_text())
    for name, count in found.items():
        print(f"{count:8,}  {name}" + (f" (budget {budget[name]:,})" if name in budget else ""))


if __name__ == "__main__":
    main()
