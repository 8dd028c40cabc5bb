"""Running: notebooks executed and swept, their results, and the report."""
