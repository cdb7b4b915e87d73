"""Linearity (supplement): are the features of an image the sum of those of its patches?"""

from __future__ import annotations

from areas import NAMES, cell, kept, rows
from setting import images, measure, options
from table1 import REMOVALS

from layermask.studies import LinearityStudy
from layermask.studies.registry import experiment_of

PATCHES = (16, 32)


def section() -> list[str]:
    columns, content = kept("linearity")
    table = experiment_of(content).summarise(columns, content)[0]
    body = [[NAMES.get(str(text), cell(text)) for text in row] for row in table.rows]
    return [
        f"{content['images']} images. The authors' code stored no figures.",
        "",
        *rows([*table.header], body),
    ]


if __name__ == "__main__":
    given = options(__doc__, limit=10).parse_args()
    measure(LinearityStudy(REMOVALS, PATCHES), images(), given, "linearity")
