"""Sweeps: how copying and quality move with training steps, with the number of images, and with a method's strength."""

from temperance.study.cell import Cell, run
from temperance.study.methods import METHODS, Method
from temperance.study.plan import QUICK, Plan, cells
from temperance.study.sweep import study

__all__ = ["METHODS", "QUICK", "Cell", "Method", "Plan", "cells", "run", "study"]
