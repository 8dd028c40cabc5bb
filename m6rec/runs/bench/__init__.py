"""The benchmark: m6rec beside its baselines and beside other people's code, on one machine and one split."""
