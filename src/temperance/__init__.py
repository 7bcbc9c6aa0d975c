"""Temperance: diffusion models that do not hand back their training data.

Public names are loaded on first use, so that `import temperance` stays light.
"""
