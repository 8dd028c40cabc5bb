from m6rec.config import InputError, did_you_mean

__all__ = ["InputError", "did_you_mean"]
