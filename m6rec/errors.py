import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The message names the value, what is wrong, and the fix; the command line exits with 2."""


def nearest(word: str, known: Iterable[str], n: int = 3, cutoff: float = 0.0) -> list[str]:
    return difflib.get_close_matches(word, known, n, cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""
