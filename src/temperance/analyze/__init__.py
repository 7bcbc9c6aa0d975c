"""What a training set says before any training: where its posterior collapses, and which settings suit it."""

from temperance.analyze.analysis import analyze

__all__ = ["analyze"]
