"""Runs on disk: what `temperance train` and `temperance sample` read and write."""
