from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.sources import Photographs, load, photographs

__all__ = ["Dataset", "Photographs", "Split", "Targets", "load", "photographs"]
