"""What is wrong with tables: the first problem is raised, or all are gathered into one table, by the same checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pandas as pd

from m6rec.data.media import shown
from m6rec.errors import InputError

LIMIT = 1000  # problems that the table lists
ROW = "row of the file"  # name of an index that holds where a frame's rows stood; other frames count from the top
T = TypeVar("T")


class Problems:
    """`gather`: keep every problem for `table()` instead of raising the first one."""

    def __init__(self, gather: bool = False, files: dict[str, str] | None = None):
        self.gather, self.files = gather, files or {}
        self.rows: list[tuple[str, int | None, str, str, str]] = []
        self.more = 0
        self.hopeless: InputError | None = None  # the first problem that leaves nothing to load

    def file(self, table: str) -> str:
        """The name of the file that a table came from; a frame goes by its table's name."""
        return self.files.get(table, table)

    def cells(self, good: np.ndarray | pd.Series, table: str, column: pd.Series, problem: str, fix: str) -> np.ndarray:
        """Add the cells of a column that are not good; -> (n,) bool, which are."""
        good = np.asarray(good, dtype=bool)
        wrong = np.flatnonzero(~good)
        for place in wrong[:LIMIT]:
            cell = shown(column.iloc[place])
            self.add(table, int(column.index[place]), str(column.name), f"{cell} {problem}", fix)
        self.more += max(0, len(wrong) - LIMIT)
        return good

    def add(self, table: str, row: int | None, column: str, problem: str, fix: str) -> None:
        """One problem; `row` counts from 0, the header not counted, None for the whole table."""
        if not self.gather:
            where = "" if row is None else f" row {row}"
            where += f", column '{column}'" if column and where else f" column '{column}'" if column else ""
            raise InputError(f"{self.file(table)}{where}: {problem}; {fix}.")
        if len(self.rows) < LIMIT:
            self.rows.append((self.file(table), row, column, problem, fix))
        else:
            self.more += 1

    def attempt(self, table: str, function: Callable[..., T], *args: object) -> T | None:
        """What the function returns; where problems are gathered, its InputError is one more of them and gives None."""
        try:
            return function(*args)
        except InputError as error:
            if not self.gather:
                raise
            self.hopeless = self.hopeless or error
            problem, _, fix = str(error).removeprefix(f"{self.file(table)} ").rstrip(".").partition("; ")
            self.add(table, None, "", problem, fix)
            return None

    def table(self) -> pd.DataFrame:
        """One row a problem: file, row, column, problem, fix; after LIMIT of them, a row that says how many more."""
        rows = list(self.rows)
        if self.more:
            rows.append(("", None, "", f"{self.more:,} more problems", "mend these and validate again"))
        found = pd.DataFrame(rows, columns=["file", "row", "column", "problem", "fix"], dtype=object)
        return found.astype({"file": "str", "row": "Int64", "column": "str", "problem": "str", "fix": "str"})
