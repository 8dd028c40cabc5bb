from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.sources import load

__all__ = ["Dataset", "Split", "Targets", "load"]
