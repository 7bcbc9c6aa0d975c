"""What pages of reports are made of, and a reader that collects what accessibility needs."""

import re
from html.parser import HTMLParser

import numpy as np

from temperance import report as tr
from temperance.report.audit_tables import MEASURES


def pair(i=0, size=8, channels=1, **more):
    g = np.random.default_rng(i)
    images = g.integers(0, 256, (4, size, size, channels), dtype=np.uint8)
    near = tuple(tr.Neighbor(f"class/{j}.png", float(j), images[j]) for j in range(1, 4))
    return tr.Pair(f"gen{i}.png", images[0], near, **({"distance": 1.0, "ratio": 0.5, "p_value": 0.01} | more))


def measured(name, value=0.1, **more):
    given = {"low": value / 2, "high": 2 * value, "n": 150, "higher_is_better": False, "source": "Someone 2020"}
    return tr.Measurement(name, value, **(given | {"null": 0.05} | more))


def audited(**more):
    """A report with everything on it: two encoders, classes, an attack, a set without copies."""
    g = np.random.default_rng(0)
    far = tr.Distances(g.random(150) + 1, g.random(150))
    found = {name: measured(name) for group in MEASURES.values() for name in group}
    found["memorized_fraction"] = measured("memorized_fraction", 0.0, high=0.025)
    found["eidetic_k"] = measured("eidetic_k", 3.0, low=None, high=None)
    names = ("pixels", "dct")
    given = {
        "measurements": dict.fromkeys(names, found),
        "pairs": dict.fromkeys(names, (pair(0), pair(1, distance=0.0, ratio=0.0, flagged=True))),
        "distances": dict.fromkeys(names, {"generated": far, "heldout": far}),
        "copies": (),
        "provenance": {"sha256": {"train": "ab" * 32}, "seed": 0},
        "sizes": {"train": 90, "generated": 150, "heldout": 80},
        "tested": ("Every image.",),
        "untested": ("Parts of images.",),
        "flags": {"pixels": 2, "dct": None},
        "classes": {
            "pixels": (
                tr.Class("cat", 50, 140, measured("memorized_fraction", 0.0, n=140), 1),
                tr.Class("dog", 40, 0, None, 0),
            )
        },
        "membership": (
            measured("membership_auc", 0.7, null=0.5),
            measured("membership_tpr", 0.2, null=0.01),
            measured("loss at 0.1", 0.8),
        ),
    } | more
    return tr.Report(**given)


class Outline(HTMLParser):
    """Collects what accessibility needs: ids, links, headings, images, tables."""

    void = {"meta", "img", "br", "link", "use", "path", "rect"}

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.headings, self.tags, self.open = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
