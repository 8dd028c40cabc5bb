"""What a sweep found: one row a run (Parquet and CSV), mean and sd over seeds (CSV), and a plot of them (PNG)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.style import library

from m6rec.cache import whole


def write_tables(out: Path, code: str) -> list[Path]:
    """Gather the finished runs of one code hash below `out` into results.parquet, .csv, summary.csv and summary.png.

    Returns the files written, none if no run is finished.
    """
    done = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/done.json"))]
    done = [one for one in done if one["run"]["code_hash"] == code]
    if not done:
        return []
    parameters = list(done[0]["parameters"])
    names = list(dict.fromkeys(name for one in done for name in one["figures"]))
    # "width=64" and the default of 64 are one and the same run.
    table = pd.DataFrame([_row(one) for one in done]).drop_duplicates(parameters).sort_values(parameters)
    by_seed = summary(table, parameters, names)
    varied = [name for name in parameters if name != "seed" and by_seed[name].nunique(dropna=False) > 1]
    figure = plot(by_seed, varied, names)
    return [
        _place(out / "results.parquet", lambda path: table.to_parquet(path, index=False)),
        _place(out / "results.csv", lambda path: table.to_csv(path, index=False)),
        _place(out / "summary.csv", lambda path: by_seed.to_csv(path, index=False)),
        _place(out / "summary.png", lambda path: figure.savefig(path, dpi=120, format="png")),
    ]


def summary(table: pd.DataFrame, parameters: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Mean and standard deviation (n - 1) over seeds of every figure, for each combination of the other parameters."""
    others = [name for name in parameters if name != "seed"]
    groups = table.groupby(others or (lambda row: 0), dropna=False)
    columns = {"runs": groups.size()}
    for name in names:
        columns |= {f"{name}.mean": groups[name].mean(), f"{name}.sd": groups[name].std()}
    return pd.DataFrame(columns).reset_index(drop=not others)


def plot(by_seed: pd.DataFrame, varied: Sequence[str], names: Sequence[str]) -> Figure:
    """One panel a figure: along x the parameter with most values, one line for each combination of the others."""
    x, *others = sorted(varied, key=lambda name: -by_seed[name].nunique()) or [None]
    rows = -(-max(1, len(names)) // 3)
    figure = Figure(figsize=(11, 3 * rows), layout="constrained")
    colours = library["tableau-colorblind10"]["axes.prop_cycle"]
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, 3, place + 1, title=name, xlabel=x or "")
        axes.set_prop_cycle(colours)
        for label, line in by_seed.groupby(others) if others else [((), by_seed)]:
            words = ", ".join(f"{other}={value}" for other, value in zip(others, label, strict=True))
            along = line[x] if x else ["defaults"] * len(line)
            along = along if x and pd.api.types.is_numeric_dtype(line[x]) else [str(value) for value in along]
            axes.errorbar(along, line[f"{name}.mean"], line[f"{name}.sd"].fillna(0), marker="o", capsize=3, label=words)
        if others:
            axes.legend(fontsize="small")
    return figure


def _row(done: dict) -> dict[str, object]:
    lists = {name: json.dumps(value) for name, value in done["parameters"].items() if isinstance(value, list | dict)}
    row = {**done["parameters"], **lists}
    for name, (value, low, high) in done["figures"].items():
        row |= {name: value, **({} if low is None else {f"{name}.low": low, f"{name}.high": high})}
    run = done["run"]
    row |= {"seconds": done["seconds"], "commit": run["commit"], "dirty": run["dirty"], "code_hash": run["code_hash"]}
    return row | {f"version.{package}": version for package, version in run["versions"].items()}


def _place(path: Path, write: Callable[[Path], None]) -> Path:
    with whole(path) as new:
        write(new)
    return path
