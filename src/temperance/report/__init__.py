"""What was measured, and the page that shows it: one HTML file that needs nothing else, and its JSON twin.

A page is a title and a tuple of blocks (`Table`, `Figures`, `Gallery`, `Notes`, `Facts`); `comparison` and
`audit_page` compose them, `html` draws them, `write_text` puts them on disk in one step.
"""

from temperance.report.audit_page import audit_page
from temperance.report.audit_tables import MEASURES
from temperance.report.blocks import (
    COPY_RATIO,
    Block,
    Card,
    Cell,
    Class,
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
    Sign,
    Table,
    Tile,
)
from temperance.report.comparison_page import Series, comparison
from temperance.report.figures import curves, histogram
from temperance.report.render import card, facts, gallery, html, write_json, write_page, write_text

__all__ = [
    "COPY_RATIO",
    "MEASURES",
    "Block",
    "Card",
    "Cell",
    "Class",
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
    "Sign",
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
