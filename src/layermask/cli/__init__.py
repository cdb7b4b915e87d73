"""The command `layermask`. Nothing heavy is imported before a command runs: --help answers at once."""

from __future__ import annotations

import sys

from layermask.cli.allocator import keep_blocks


def main() -> None:
    """Run the command line: exit status 0, 1 (failed), 2 (bad input) or 130 (interrupted)."""
    try:
        from layermask.cli.app import app
    except ModuleNotFoundError as error:
        from layermask.extras import install

        package = (error.name or "").partition(".")[0]
        sys.exit(f"layermask: the command line needs {package}: {install('cli', package)}")
    keep_blocks()
    app()
