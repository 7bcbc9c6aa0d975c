"""What was measured, and the page that shows it: one HTML file that needs nothing else, and its JSON twin.

A page is a title and a tuple of blocks (`Table`, `Figures`, `Gallery`, `Notes`, `Facts`); `pages.py`
composes them, `html` draws them, `write_text` puts them on disk in one step.
"""

from temperance.report.blocks import (
    Block,
    Card,
    Cell,
    Column,
    Facts,
    Figure,
    Figures,
    Gallery,
    Measurement,
    Neighbor,
    Notes,
    Page,
    Pair,
    Report,
    Row,
    Table,
    Tile,
)
from temperance.report.pages import Distances, Series, audit_page, comparison
from temperance.report.render import html, write_json, write_page, write_text

__all__ = [
    "Block",
    "Card",
    "Cell",
    "Column",
    "Distances",
    "Facts",
    "Figure",
    "Figures",
    "Gallery",
    "Measurement",
    "Neighbor",
    "Notes",
    "Page",
    "Pair",
    "Report",
    "Row",
    "Series",
    "Table",
    "Tile",
    "audit_page",
    "comparison",
    "html",
    "write_json",
    "write_page",
    "write_text",
]
