"""What was measured, and the page that shows it: one HTML file that needs nothing else, and its JSON twin.

A page is a title and a tuple of blocks (`Table`, `Figures`, `Gallery`, `Notes`, `Facts`); `pages.py`
composes them, `html` draws them, `write_text` puts them on disk in one step.
"""

from temperance.report.blocks import (
    Block,
    Card,
    Cell,
    Column,
    Distances,
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
from temperance.report.figures import curves, histogram
from temperance.report.pages import Series, audit_page, comparison, facts
from temperance.report.render import card, gallery, html, write_json, write_page, write_text

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
    "card",
    "comparison",
    "curves",
    "facts",
    "gallery",
    "histogram",
    "html",
    "write_json",
    "write_page",
    "write_text",
]
