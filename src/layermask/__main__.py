"""`python -m layermask`: the command line, where its script is not on the PATH."""

from layermask.cli import main

main()
