"""python -m m6rec: the command line."""

from m6rec.cli import main

main()
