"""Running: notebooks headlessly and in sweeps, what they record, the report, and the doctor."""
