"""Pages, plots and files of reports."""

import base64
import io
import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from pages import Outline, pair
from temperance import report as tr
from temperance.metrics.interval import wilson
from temperance.report import figures
from temperance.report.blocks import between, number, percent
from temperance.report.render import difference, picture


def row(method="conditional", seed=0, **more):
    keys = {
        "method": method, "sampler": "heun", "nfe": 63, "seed": seed, "n_train": 100,
        "memorized_fraction": 0.8, "memorized_ci": [0.7, 0.9], "heldout_memorized_fraction": 0.01,
        "ratio_median": 0.1,
        "heldout_ratio_median": 0.9, "copy_auc": 0.95, "fd_train": 0.2, "fd_heldout": 0.4, "fd_floor": 0.3,
        "precision": 0.9, "recall": 0.3, "final_sigma": 0.002, "train_seconds": 30.0, "sample_seconds": 3.0,
    }  # fmt: skip
    return keys | more


def page(**more):
    g = np.random.default_rng(0)
    far = tr.Distances(g.random(50) + 1, g.random(50))
    rows = [
        row(),
        row(seed=1, memorized_fraction=0.9),
        row("tangent", memorized_fraction=0.05, fd_heldout=0.5),
    ]
    series = [tr.Series(m, far, (pair(0), pair(1))) for m in ("conditional", "tangent")]
    given = {"title": "A <b>title</b>", "provenance": {"seed": 0}, "series": series, "heldout": far} | more
    return tr.comparison(rows, **given)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"), (0.5, "0.500"), (0.0123, "0.0123"), (1.234, "1.23"), (12.34, "12.3"),
        (1234.5, "1,234"),
        (-0.5, "−0.500"), (2.5e9, "2.5 × 10⁹"), (1e-7, "1.0 × 10⁻⁷"), (math.nan, "–"), (None, "–"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_intervals():
    assert between(0.1, 0.25, percent) == "10.0–25.0 %"
    assert between(-1.0, 2.0) == "−1.00 to 2.00"
    assert between(None, 1.0) == ""


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0 %"), (12 / 50_000, "0.024 %"), (1 / 3_000_000, "0.000033 %"), (0.00094, "0.094 %"),
        (0.000996, "0.1 %"), (0.0012, "0.1 %"), (0.123, "12.3 %"), (1.0, "100.0 %"), (None, "–"),
    ],
)  # fmt: skip
def test_some_are_never_written_as_none(share, text):
    assert percent(share) == text


def test_the_interval_of_a_small_share_has_digits_too():
    assert between(*wilson(12 / 50_000, 50_000), percent) == "0.014–0.042 %"


def test_page_needs_no_network_and_no_script():
    text = tr.html(page())
    stripped = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?:|<script|<link|@import|url\((?!#)|<iframe", stripped)
    assert "default-src 'none'" in text


def test_page_is_deterministic():
    assert tr.html(page()) == tr.html(page())


def test_page_outline_is_accessible():
    text = tr.html(page())
    found = Outline(text)
    assert '<html lang="en">' in text
    assert len(found.ids) == len(set(found.ids))
    assert all(link[1:] in found.ids for link in found.links)
    assert found.headings[0] == 1 and found.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(found.headings, found.headings[1:]))
    assert found.images and all(i["alt"] and i["src"].startswith("data:image/png") for i in found.images)
    names = [tag for tag, _ in found.tags]
    assert names.count("caption") == names.count("table") == 1
    assert all("scope" in a for tag, a in found.tags if tag == "th")
    assert all(a.get("aria-label") for tag, a in found.tags if tag == "figure")


def test_references_inside_drawings_stay_in_their_drawing():
    text = tr.html(page())
    ids = set(Outline(text).ids)
    assert set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', text)) <= ids
    assert "#0102" not in text and "#0103" not in text  # every stand-in colour became a variable


def test_text_from_outside_is_escaped():
    evil = '<img src=x onerror="alert(1)">'
    shown = page(series=[tr.Series(evil, tr.Distances(np.ones(3), np.ones(3)), (replace(pair(), generated=evil),))])
    text = tr.html(replace(shown, lede=evil))
    assert evil not in text
    assert "A &lt;b&gt;title" in text


def test_seeds_are_averaged_and_the_best_is_marked():
    table = page().blocks[0]
    assert [r.null for r in table.rows] == [True, False, False]
    assert (table.rows[1].cells[1].text, table.rows[1].cells[1].detail) == ("85.0 %", "80.0–90.0 %")
    assert table.rows[2].cells[1].best and not table.rows[1].cells[1].best
    assert table.rows[2].cells[1].detail == "70.0–90.0 %"
    labels = [c.label for c in table.columns]
    assert not any(r.cells[labels.index("FD to training")].best for r in table.rows)
    assert table.rows[0].cells[labels.index("FD to unseen")].text == "0.300"


def test_who_copies_most_is_said_only_where_they_differ():
    def lede(*rows):
        return tr.comparison(list(rows), title="t", provenance={}).lede

    copies, none = row(memorized_fraction=0.8), row("tangent", memorized_fraction=0.0)
    assert "Most copies: conditional, where 80.0 %" in lede(copies, none)
    assert "Fewest: tangent, 0.0 %" in lede(copies, none)
    assert "Of the samples of all 2 methods, 0.0 % are" in lede(row(memorized_fraction=0.0), none)
    assert "Of the samples of tangent, 0.0 % are" in lede(none)


def test_every_column_is_explained():
    table = page().blocks[0]
    assert all(c.help.endswith(".") for c in table.columns)
    assert all(len(r.cells) == len(table.columns) for r in table.rows)


def test_rows_that_differ_in_more_than_the_seed_stay_apart():
    shown = tr.comparison([row(), row(sampler="pc"), row(steps=5, n_train=300)], title="t", provenance={})
    assert len(shown.blocks[0].rows) == 4
    assert [t.label for t in shown.tiles][2] == "conditional (pc, n 100)"


def test_sizes_have_floors_of_their_own():
    one = tr.comparison([row(fd_floor=4.0), row("tangent", fd_floor=4.0)], title="t", provenance={})
    two = tr.comparison([row(fd_floor=4.0), row(n_train=50, fd_floor=9.0)], title="t", provenance={})
    assert "the floor" in [c.detail for c in one.blocks[0].rows[0].cells]
    (cell,) = (c for c in two.blocks[0].rows[0].cells if c.detail == "the floor, by n")
    assert cell.text == "4.00–9.00"
    line = "FD of the training images"
    assert line in tr.html(one) and line not in tr.html(two)


def test_missing_figures_are_dashes():
    blank = {k: None for k in row() if k not in ("method", "sampler", "nfe", "seed", "n_train")}
    text = tr.html(tr.comparison([row(**blank), row("tangent")], title="t", provenance={}))
    assert "nan" not in re.sub("<svg.*?</svg>", "", text, flags=re.DOTALL).lower().replace("provenance", "")


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="rows is empty"):
        tr.comparison([], title="t", provenance={})


def test_galleries_shrink_until_the_page_fits():
    large = [pair(i, size=96, channels=3) for i in range(12)]
    far = tr.Distances(np.ones(12), np.ones(12))
    shown = page(series=[tr.Series("conditional", far, tuple(large))])
    full = len(tr.html(shown).encode())
    text = tr.html(shown, limit=full // 2)
    assert 0 < text.count("<li><div") < 12
    assert len(text.encode()) <= full // 2
    assert "worst of 12 images" in text
    with pytest.raises(ValueError, match="without pictures"):
        tr.html(shown, limit=1000)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1), (300, 200, 3)])
def test_pictures_are_small_pngs(shape):
    head, data = picture(np.full(shape, 200, np.uint8)).split(",")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64" and shown.format == "PNG" and len(data) < 2000
    h, w, channels = shape
    assert shown.size == ((w, h) if max(h, w) <= 96 else (64, 96))
    assert shown.mode == ("L" if channels == 1 else "RGB") and set(np.asarray(shown).ravel()) == {200}


def test_difference_is_black_where_images_agree():
    a = np.array([[[0], [255]]], np.uint8)
    assert difference(a, a).max() == 0
    assert difference(a, 255 - a).min() == 255


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tr.write_text(tmp_path / "new" / "a.txt", "old")

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        tr.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_json_has_no_nan(tmp_path):
    data = {"a": math.nan, "b": [np.float32(0.5), np.int64(3), math.inf], "c": (1, None)}
    loaded = json.loads(tr.write_json(tmp_path / "x.json", data).read_text())
    assert loaded == {"a": None, "b": [0.5, 3, None], "c": [1, None]}


def test_plots_of_curves():
    figure = tr.curves(
        [("one line", [1, 10, 100], [0.5, 0.2, 0.1], 0), ("another", [1, 10], [0.4, 0.3], 1)],
        name="c",
        xlabel="steps",
        ylabel="share",
        level=("null", 0.05),
        log=(True, False),
    )
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure.svg)
    assert {"steps", "share", "null", "one line", "another"} <= set(texts)
    assert figure.svg.startswith("<svg") and "var(--s0)" in figure.svg and "var(--s1)" in figure.svg
    assert figure.alt == "Line plot of share against steps for 2 series."


def test_importing_stays_light():
    code = "import sys, temperance.report; print(sorted({'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_early_stops_that_differ_by_seed_are_one_method():
    rows = [row(steps=800), row(seed=1, steps=900, nfe=70)]
    table = tr.comparison(rows, title="t", provenance={}).blocks[0]
    assert len(table.rows) == 2
    assert table.rows[1].cells[0].detail == "heun · 63–70 evaluations · step 800–900"


def test_labels_of_lines_that_end_together_do_not_cover_each_other():
    same = [(f"line {i}", [1, 2], [0.5, 1.0], i) for i in range(5)]
    drawn = tr.curves(same, name="c", xlabel="x", ylabel="y").svg
    heights = re.findall(r"translate\([\d.]+ ([\d.]+)\)[^>]*>line \d", drawn) or re.findall(
        r'<text[^>]* y="([\d.]+)"[^>]*>line \d', drawn
    )
    places = sorted(map(float, heights))
    assert len(places) == 5 and all(b - a > 9 for a, b in zip(places, places[1:]))


class Drawn:
    """What a figure's labels and markers cover, in points, as matplotlib draws them."""

    def __init__(self, monkeypatch):
        self.canvas, write = None, figures._svg
        monkeypatch.setattr(
            figures, "_svg", lambda canvas, name: setattr(self, "canvas", canvas) or write(canvas, name)
        )

    def boxes(self):
        self.canvas.draw_without_rendering()
        (ax,), point = self.canvas.axes, self.canvas.dpi / 72
        labels = [(t.get_text(), np.array(Text.get_window_extent(t).extents) / point) for t in ax.texts]
        points = [
            ax.transData.transform(line.get_xydata())[0] / point for line in ax.lines if len(line.get_xydata()) == 1
        ]
        return labels, [("marker", np.array([x - 5, y - 5, x + 5, y + 5])) for x, y in points]


def covers(a, b):
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


SEVEN = ("conditional", "unconditional", "tangent", "ambient", "temperature", "hot tangent (pc, n 100)", "early stop")


@pytest.mark.parametrize("scale", [0.5, 6, 60])
@pytest.mark.parametrize(
    ("copied", "fd"),
    [
        ((0.95, 0.93, 0.9, 0.02, 0.01, 0.4, 0.05), (1.0, 0.98, 1.03, 1.4, 1.3, 1.2, 0.95)),
        ((0.8, 0.75, 0.01, 0.02, 0.03, 0.3, 0.0), (1.0, 1.1, 0.9, 1.0, 1.1, 1.2, 1.3)),
    ],
)
def test_names_of_a_frontier_cover_neither_markers_nor_each_other(scale, copied, fd, monkeypatch):
    drawn = Drawn(monkeypatch)
    points = [(name, x, scale * y, f"recall 0.{i}00", i) for i, (name, x, y) in enumerate(zip(SEVEN, copied, fd))]
    figures.frontier(points, name="f", xlabel="x", ylabel="y", floor=0.8 * scale, null=0.001)
    labels, markers = drawn.boxes()
    assert len(labels) == 9 and len(markers) == 7
    pairs = [*itertools.combinations(labels, 2), *itertools.product(labels, markers)]
    assert [(a, b) for (a, one), (b, other) in pairs if covers(one, other)] == []


def test_a_card_says_which_distance_is_of_the_image_as_it_is():
    plain, moved = (dict(tr.card(p, show_difference=True).facts) for p in (pair(), pair(view="mirrored")))
    assert plain["d1/d2"] == "0.500" and "view" not in plain
    assert (moved["d1/d2 as it is"], moved["view"]) == ("0.500", "mirrored") and "d1/d2" not in moved


def test_names_that_are_not_utf8_are_written_escaped(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert tr.write_json(tmp_path / "a.json", {"name": name}) and r"caf\udce9.png" in (tmp_path / "a.json").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["name"] == name
