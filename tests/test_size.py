"""The package grows by two percent at most; more needs a new budget, in the same commit, in size.json."""

from __future__ import annotations

import json

import size


def test_the_package_keeps_to_its_budget() -> None:
    found, budget = size.measure(), json.loads(size.BUDGET.read_text())
    above = {name: (found[name], most) for name, most in budget.items() if found[name] > 1.02 * most}
    assert above == {}, "made larger than size.json allows: subtract, or say in the commit why it grew"


def test_long_functions_and_files_are_few() -> None:
    found = size.measure()
    assert found["functions above 40 lines"] == 0
    assert found["median of a function"] <= 5
