"""The one error that a user's input can raise: a sentence that says what is wrong and how to mend it."""


class InputError(ValueError):
    """Bad input. The message names the value, what is wrong with it, and the fix; the command line exits with 2."""
