from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.sources import load, photographs

__all__ = ["Dataset", "Split", "Targets", "load", "photographs"]
