"""Scripts that run other people's code, each by the interpreter of its own environment; never imported."""
