"""The command line. Exit codes: 0 done, 1 failed, 2 bad input (one sentence on stderr), 130 interrupted."""

import logging
import signal
import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

import m6rec

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Words = Annotated[list[str] | None, typer.Argument(metavar="[NB]... [name=value]...")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Folder for what is written.")]


def main() -> None:
    # A scheduler's SIGTERM ends a run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("m6rec").setLevel(logging.INFO)
    try:
        app(prog_name="m6rec")
    except Exception as error:
        if not isinstance(error, m6rec.InputError | OSError):
            raise
        print(f"m6rec: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, m6rec.InputError) else 1)


def notebooks(names: list[str] | None) -> list[Path]:
    """Of the clone that holds this package, else of the working directory."""
    from m6rec.runs import execute

    clone = Path(__file__).resolve().parents[1] / "notebooks"
    return execute.find(clone if clone.is_dir() else Path("notebooks").absolute(), names)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """m6rec: generative pretrained, multimodal, context-aware recommendations, in notebooks."""
    if version:
        print(f"m6rec {m6rec.__version__}")


@app.command()
def run(words: Words = None, out: Out = Path("runs")) -> None:
    """Execute notebooks into runs/<time>/ with a report, all or those named; name=value sets parameters."""
    from m6rec.config import plain
    from m6rec.runs import execute

    names, given = ([word for word in words or () if ("=" in word) == pair] for pair in (False, True))
    done = execute.run_all(notebooks(names), out, execute.assignments(given))
    ok = all(one.ok for one in done)
    if ok and not words:
        recommend(user="196")
    for sentence in execute.headlines(done):
        print(textwrap.fill(plain(sentence, 400), 80, initial_indent="· ", subsequent_indent="  "))
    print(f"Report: {out.absolute() / 'latest' / 'index.html'}")
    raise typer.Exit(int(not ok))


@app.command()
def sweep(
    notebook: Annotated[str, typer.Argument(help="A notebook's path or name.")],
    grid: Annotated[list[str] | None, typer.Argument(metavar="name=value,value...")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time; the cores are shared between them.")] = 1,
    by: Annotated[str, typer.Option(help="Figure that ranks the runs; -name: lower is better.")] = "",
    out: Out = None,
) -> None:
    """Run a notebook through every combination of parameters: m6rec sweep 04_recommendations width=32,64 seed=0,1,2

    preset=tiny,small and config.dropout=0.1,0.3 vary any setting of the models."""
    from m6rec.runs import execute

    path = Path(notebook) if Path(notebook).is_file() else notebooks([notebook])[0]
    values, out = execute.assignments(grid or []), out or Path("runs") / "sweeps" / path.stem
    ends = execute.sweep(path, values, out, jobs=jobs, by=by)
    print(f"The table of finished runs: {out / 'results.csv'}")
    raise typer.Exit(int(any(not end.startswith("finished") for end in ends.values())))


@app.command()
def recommend(
    user: Annotated[str | None, typer.Option(help="A known user's id.")] = None,
    history: Annotated[list[str] | None, typer.Option(help="A title or id, oldest first; repeat it.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="How many.")] = 10,
    hour: Annotated[int | None, typer.Option(help="Hour of the request, 0 to 23.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set, or a folder of your own; default ml-100k.")] = None,
    preset: Annotated[str, typer.Option(help="Size of the model.")] = "tiny",
    checkpoint: Annotated[str | None, typer.Option(help="Folder of a saved model, in place of the preset.")] = None,
    method: Annotated[str, typer.Option(help="generated, dense, exact or hybrid.")] = "generated",
) -> None:
    """Recommend for a known user or for a history given on the spot."""
    from m6rec.config import choose
    from m6rec.generate import METHODS, check_length

    if (user is None) == (not history):
        raise m6rec.InputError("recommend needs either --user ID or --history TITLE (repeated): give one of them.")
    choose("method", method, METHODS)
    loaded = m6rec.load(data or "ml-100k") if data or not checkpoint else None
    asked = {"user": user, "history": history, "context": None if hour is None else {"hour": hour}}
    model = m6rec.M6Rec.from_pretrained(checkpoint, loaded) if checkpoint else m6rec.M6Rec(loaded, preset)
    check_length(k, model.data.n_items)
    person = model.person(**asked)  # bad input fails before a minute of training
    if user is not None:
        print_items(f"the last of user {user}, oldest first", model.data.items.iloc[person.history[-10:]])
    if not checkpoint:
        with redirect_stdout(sys.stderr):
            model = m6rec.M6Rec.cached(loaded, preset)
    found = model.recommend(**asked, k=k, method=method)
    print_items(f"{method} for user {user}" if user is not None else f"{method} after {', '.join(history)}", found)


def print_items(title: str, items) -> None:
    from m6rec.config import plain

    score = "  {0.score:.3f}" if "score" in items else ""
    print(plain(title))
    for place, row in enumerate(items.itertuples(), 1):
        print(f"{place:3}  {plain(row.title, 64)}{score.format(row)}")


if __name__ == "__main__":
    main()
