"""python -m m6rec: the command line."""

from m6rec.cli import main

if __name__ == "__main__":
    main()
