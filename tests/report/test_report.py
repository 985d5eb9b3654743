"""The page of `bmo report`: what it says, that nothing in a run can break it, and in a browser."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from made_runs import make_run
from PIL import Image

from bmo_cli.errors import InputError
from bmo_cli.report import pictures
from bmo_cli.report.charts import Axis, Series, lines, scatter
from bmo_cli.report.page import page, write_report
from bmo_cli.report.problem import Problem, convergence
from bmo_cli.report.summary import training_entries
from bmo_cli.results.iteration_curves import Curve, Curves, score_range
from bmo_cli.results.runs import find_runs

ALLOWED = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "main", "section", "nav"),
    *("div", "p", "h1", "h2", "h3", "h4", "ul", "li", "span", "strong", "b", "small", "i", "code"),
    *("table", "thead", "tbody", "tr", "th", "td", "button", "label", "select", "option", "input"),
    *("output", "figure", "figcaption", "img", "noscript", "details", "summary", "a", "script"),
    *("svg", "g", "path", "polyline", "circle", "text"),
}
VOID = {"meta", "link", "img", "input"}


class Reader(HTMLParser):
    """Elements and text of a page; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.scripts = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


def entries(root):
    return training_entries(find_runs([root]))


@pytest.fixture
def runs(tmp_path):
    """Two settings with two seeds each; the better one by validation is not that by test."""
    for seed in (0, 1):
        for hyper, score, validation in (("bmo", 30.0, 32.0), ("unrolled", 31.0, 29.0)):
            make_run(
                tmp_path / f"{hyper}{seed}",
                score + 0.25 * seed,
                validation=validation,
                hyper=hyper,
                seed=seed,
                painted=True,
                config={"hyper": {"mu": 0.05 if hyper == "bmo" else 0}, "seed": seed},
            )
    return tmp_path


def certify(folder, verdict, residuals, curves=None):
    finding = {
        "name": "D is nonexpansive in G",
        "verdict": "holds",
        "number": 1.0,
        "meaning": "why",
    }
    content = {
        "verdict": verdict,
        "iterations_trained": 5,
        "assumptions": [finding],
        "predictions": [],
        "trajectories": {"zero": {"residuals": residuals}},
        "val_psnr": {"1": 20.0, "5": 30.0},
        "bound": {"value": 1.0, "evidence": "proved"},
        "ratios": {"random": 0.5, "adversarial": 0.75},
        **({} if curves is None else {"curves": curves}),
    }
    (folder / "certificate.json").write_text(json.dumps(content))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "certificate": verdict}))


def test_a_certificate_of_earlier_weights_is_not_shown(runs):
    """A run that went on without `certify` has a certificate.json that is not about it."""
    certify(runs / "bmo0", "certified", [0.1, 1e-6])
    assert {bool(entry.certificate) for entry in entries(runs)} == {True, False}
    result = json.loads((runs / "bmo0" / "result.json").read_text())
    del result["certificate"]
    (runs / "bmo0" / "result.json").write_text(json.dumps(result))
    assert not any(entry.certificate or entry.verdict for entry in entries(runs))


def curves(iterations, top=30.0, starts=("the task's start", "zero"), **changes):
    """Curves whose residual halves, and whose score rises to `top` by steps that halve."""
    counts = [k for k in (1, 2, 5, 10, 20) if k <= iterations]
    curve = {
        "residuals": [0.5**k for k in range(iterations)],
        "scores": [top - 8 * 0.5**k for k in counts],
    }
    content = {"case": "coins", "metric": "psnr", "unit": "dB", "larger_is_better": True}
    return {**content, "counts": counts, "starts": dict.fromkeys(starts, curve), **changes}


def charts_of_panels(text):
    """The SVG charts of every run of the picture, by its heading."""
    panels = re.findall(r'<figure class="panel">.*?</figure>', text, re.S)
    return {
        re.search(r"<b>(.*?)</b>", panel).group(1): re.findall(r"<svg.*?</svg>", panel, re.S)
        for panel in panels
    }


def ticks(chart):
    return re.findall(r'<text class="tick"[^>]*>[^<]*</text>', chart)


def test_a_certified_run_and_the_best_other_one_are_shown_side_by_side(runs):
    """Validation ranks bmo0 and bmo1 before unrolled0 and unrolled1."""
    certify(runs / "bmo0", "not certified", [0.1], curves(20, 30.0))
    certify(runs / "bmo1", "refused", [0.1], curves(20, 29.0))
    certify(runs / "unrolled0", "certified", [0.1], curves(10, 27.0))
    certify(runs / "unrolled1", "certified", [0.1], curves(10, 27.0))
    text = page(entries(runs))
    shown = charts_of_panels(text)
    assert list(shown) == ["hyper=unrolled seed=0", "hyper=bmo seed=0"]
    for charts in zip(*shown.values(), strict=True):
        assert ticks(charts[0]) == ticks(charts[1])  # equal axes
        assert [chart.count("<polyline") for chart in charts] == [2, 2]
        assert all("K = 5" in chart for chart in charts)
        assert charts[0] != charts[1]
    words = " ".join(Reader(text).text)
    assert "bound of D 1 (proved), largest measured ratio 0.75" in words
    assert "T iterated up to 20 times on the validation problem coins" in " ".join(words.split())


def test_the_picture_takes_the_first_two_runs_where_none_is_certified(runs):
    for name in ("bmo0", "bmo1", "unrolled0"):
        certify(runs / name, "not certified", [0.1], curves(20))
    assert list(charts_of_panels(page(entries(runs)))) == ["hyper=bmo seed=0", "hyper=bmo seed=1"]


@pytest.mark.parametrize("kept", [None, {}, {"starts": {}}, [1], {"counts": [1], "starts": [2]}])
def test_certificates_without_curves_are_shown_as_before(runs, kept):
    certify(runs / "bmo0", "certified", [0.1, 0.01], kept)
    text = page(entries(runs))
    assert charts_of_panels(text) == {} and "No certificate here has curves" in text
    assert "slowest start" in text and "Certificate of hyper=bmo seed=0" in text
    certify(runs / "bmo1", "certified", [0.1, 0.01], curves(20))
    text = page(entries(runs))
    assert list(charts_of_panels(text)) == ["hyper=bmo seed=1"]
    assert "No certificate here has curves" not in text


def test_scores_of_iterates_that_are_not_finite_lie_on_the_edge(runs):
    content = curves(20)
    lost = {"residuals": [0.5, 0.4, 0.3], "scores": [28.0, 27.0, None, None, None]}
    content["starts"] = {**content["starts"], "noise": lost}
    certify(runs / "bmo0", "not certified", [0.1], content)
    (charts,) = charts_of_panels(page(entries(runs))).values()
    paths = re.findall(r'<polyline points="([^"]*)"', charts[1])
    heights = [[float(pair.split(",")[1]) for pair in path.split()] for path in paths]
    assert heights[2][-1] == max(max(each) for each in heights)  # SVG counts downwards
    assert len(heights[2]) == 5 and heights[2][1] < heights[2][2] == heights[2][4]


def test_decibels_are_shown_from_the_best_score_downwards():
    def reading(*scores, **changes):
        curve = Curve(scores=scores)
        counts = range(1, len(scores) + 1)
        return Curves(counts=counts, starts={"zero": curve}, **changes)

    psnr = {"unit": "dB", "larger_is_better": True}
    assert score_range([reading(-20.0, 25.0, 31.0, **psnr)]) == (21.0, 31.0)
    assert score_range([reading(29.0, 31.0, **psnr), reading(28.0, **psnr)]) == (28.0, 31.0)
    assert score_range([reading(5.0, -30.0, unit="dB", larger_is_better=False)]) == (-30.0, -20.0)
    assert score_range([reading(1e6, 3.0)]) == (3.0, 1e6)
    assert score_range([reading(None, math.inf)]) is None


def test_the_first_view_names_the_best_by_validation(runs):
    for name in ("bmo0", "bmo1"):
        certify(runs / name, "certified", [0.1, 0.01, 1e-6])
    text = page(entries(runs))
    first = text[text.index('<section class="verdict">') :]
    words = " ".join(Reader(first[: first.index("</section>") + 10]).text)
    assert "best by validation" in words and "hyper=bmo" in words
    assert "30.12 ± 1.59 dB" in words  # Student: 0.125 * 12.706
    assert "hyper=unrolled is 1.00 ± 0.00 dB better on these data, which choose nothing" in words
    assert (
        "converges (certified): 2 of 2 runs" in words
        and "residual 1e-06 after 3 iterations" in words
    )


def test_convergence_in_words(runs):
    by_name = {entry.run.path.name: entry for entry in entries(runs)}
    assert convergence(by_name["bmo0"]).verdict == "no certificate"
    for verdict, kind in (("certified", "good"), ("not certified", "unsure"), ("refused", "bad")):
        certify(runs / "bmo1", verdict, [0.1])
        (found,) = (e for e in entries(runs) if e.run.path.name == "bmo1")
        assert convergence(found).kind == kind


def test_the_page_is_well_formed_and_asks_no_host(runs):
    certify(runs / "bmo0", "certified", [0.1, 0.01])
    make_run(runs / "lost", None, status="failed", message="no memory")
    text = page(entries(runs))
    reader = Reader(text)
    assert set(reader.tags) <= ALLOWED
    make_run(runs / "bare", 29.0, pictures={"camera": [], "moon": ["clean"]})
    (album,) = json.loads(Reader(page(entries(runs))).scripts[0])
    assert [case["name"] for case in album["cases"]] == ["camera"]  # none without pictures
    for tag, name, value in reader.attributes:
        assert name not in ("src", "srcset", "style", "background", "action")
        assert not name.startswith("on")
        if name == "href":
            assert value.startswith("#") or value == "data:,"
        assert tag != "meta" or "refresh" not in (value or "")
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "no memory" in text and "bmo train resume=" in text
    policy = next(v for t, n, v in reader.attributes if n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:;")
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    for part in (style, reader.scripts[-1]):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "]]><!--",
    "\x1b[31m\x00‮",
    "&lt;b&gt;",
    "{{ 7 * 7 }}{% endif %}{# ",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_a_run_becomes_markup(tmp_path, text):
    plain = Reader(page(entries_of_hostile(tmp_path / "plain", "harmless")))
    shown = page(entries_of_hostile(tmp_path / "hostile", text))
    assert all(character.isprintable() or character == "\n" for character in shown)
    hostile = Reader(shown)
    assert hostile.tags == plain.tags
    assert [a[:2] for a in hostile.attributes] == [a[:2] for a in plain.attributes]
    assert len(hostile.scripts) == len(plain.scripts) == 2
    assert json.loads(hostile.scripts[0])


def entries_of_hostile(root, text):
    """Three runs with this text wherever a run can say something."""
    name = re.sub(r"[/\x00]", "_", text)
    for i, hyper in enumerate(("bmo", text)):
        folder = make_run(
            root / f"{i}{name}",
            30.0 + i,
            painted=True,
            hyper=hyper,
            task=text,
            net=text,
            seed=text if i else 0,
            protocol=text,
            images={re.sub(r"[/\x00]", "_", text): {"psnr_input": 20.0, text: 1.0}},
            data={"test": {"hash": text}},
            metric={
                "name": "psnr",
                "unit": text,
                "larger_is_better": True,
                "formats": {text: text, "psnr": ".2f"},
            },
            metrics={"test/psnr": 30.0, "val/psnr": 30.0, f"test/{text}": 3.0},
            config={"hyper": {f"k{i}": text, "mu": f"{text}{i}"}},
            certificate=text,
        )
        content = {
            "assumptions": [{"name": text, "verdict": text, "number": 1, "meaning": text}],
            "predictions": [],
            "trajectories": {text: {"residuals": [1.0, 0.5]}},
            "val_psnr": {"1": 2.0, text: 3.0},
            "bound": {"value": 1.0, "evidence": text},
            "ratios": {text: 0.5},
            "curves": curves(20, case=text, metric=text, unit=text, starts=(text, "zero")),
        }
        (folder / "certificate.json").write_text(json.dumps(content))
    make_run(root / "lost", None, status=text, message=text, task=text)
    return entries(root)


def test_pictures_are_those_of_the_runs_held_once(runs):
    text = page(entries(runs))
    (album,) = json.loads(Reader(text).scripts[0])
    (case,) = album["cases"]
    names = [picture["name"] for picture in case["pictures"]]
    assert names[:2] == ["clean", "degraded"] and len(names) == 6
    assert len(album["data"]) == 6  # not 12: what the runs share is held once
    for picture in case["pictures"]:
        uri = album["data"][picture["key"]]
        found = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        if picture["name"] == "clean":
            stored = np.asarray(Image.open(runs / "bmo0" / "images" / "01_camera_clean.png"))
            assert np.array_equal(np.asarray(found.convert("L")), stored)


def test_pictures_stay_within_their_budget(runs, monkeypatch):
    monkeypatch.setattr(pictures, "BUDGET", 3000)
    monkeypatch.setattr(pictures, "_SIDES", (1000, 16, 8))
    problem = Problem(entries(runs))
    album = pictures.collect(problem.labelled_runs)
    assert album.side in (16, 8)
    assert sum(map(len, album.data.values())) <= 3000
    assert "pixels of their middle" in page(entries(runs))


def test_a_link_out_of_the_run_folder_is_not_followed(runs, tmp_path_factory):
    secret = tmp_path_factory.mktemp("secret") / "s.png"
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(secret)
    for folder in runs.iterdir():
        file = folder / "images" / "01_camera_restored.png"
        file.unlink()
        file.symlink_to(secret)
    (album,) = json.loads(Reader(page(entries(runs))).scripts[0])
    assert [picture["name"] for picture in album["cases"][0]["pictures"]] == ["clean", "degraded"]


@pytest.mark.parametrize("case", ["../../x", "/etc/x", "..", "a\x00b", "a/b"])
def test_a_case_cannot_name_a_file_elsewhere(tmp_path, case):
    make_run(tmp_path / "a", 30.0, pictures={case: ["clean", "../clean", "x/y"]})
    assert json.loads(Reader(page(entries(tmp_path))).scripts[0])[0]["data"] == {}


def test_runs_of_several_problems_have_a_part_each(runs):
    make_run(runs / "other", 25.0, task="derain", data={"test": {"hash": "q"}})
    text = page(entries(runs))
    assert text.count('<section class="verdict">') == text.count('<section class="problem">') == 2
    numbers = [
        int(n)
        for n in re.findall(r'<button type="button" aria-pressed="true" data-run="(\d+)"', text)
    ]
    assert sorted(numbers) == sorted(set(numbers)) == list(range(5))


def test_a_report_replaces_a_report_and_nothing_else(runs):
    said = write_report([str(runs)])
    assert said.startswith(f"{runs}/report.html: 4 runs, ")
    write_report([str(runs)])
    (runs / "notes.html").write_text("mine")
    with pytest.raises(InputError, match="exists and is no report"):
        write_report([str(runs), f"output={runs}/notes.html"])
    assert (runs / "notes.html").read_text() == "mine"
    with pytest.raises(InputError, match="no folder"):
        write_report([str(runs), f"output={runs}/none/x.html"])
    with pytest.raises(InputError, match="is a folder"):
        write_report([str(runs), f"output={runs}"])


def assert_places(axis, low, high, share):
    for tick in axis.ticks():
        assert low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)
        assert axis.at(tick) == pytest.approx(10 + 100 * share(tick), abs=1e-6)


def test_linear_axes_have_ticks_at_multiples_of_1_2_or_5(rng):
    for _ in range(200):
        low = float(10 ** rng.uniform(-6, 4))
        high = low * float(10 ** rng.uniform(0.05, 6))
        axis = Axis([low, high], 10, 110)
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 8, (low, high, ticks)
        step = ticks[1] - ticks[0]
        assert np.allclose(np.diff(ticks), step, rtol=1e-6)
        assert min(abs(step / 10 ** math.floor(math.log10(step)) - m) for m in (1, 2, 5, 10)) < 1e-4
        assert abs(ticks[0] / step - round(ticks[0] / step)) < 1e-4
        assert_places(axis, low, high, lambda t, low=low, high=high: (t - low) / (high - low))


def test_logarithmic_axes_have_ticks_at_powers_of_ten(rng):
    for _ in range(200):
        low = float(10 ** rng.uniform(-6, 4))
        high = low * float(10 ** rng.uniform(2, 12))
        axis = Axis([low, high], 10, 110, logarithmic=True)
        powers = np.log10(axis.ticks())
        assert 2 <= len(powers) <= 7 and np.allclose(powers, np.round(powers), atol=1e-9)
        assert len(set(np.round(np.diff(powers)))) == 1
        assert_places(
            axis, low, high, lambda t, low=low, high=high: math.log(t / low) / math.log(high / low)
        )
    assert Axis([2.0, 40.0], 0, 1, logarithmic=True).ticks() == [2, 3, 5, 10, 20, 30]
    assert not Axis([0.0, 40.0], 0, 1, logarithmic=True).logarithmic


def test_lines_keep_their_extremes_and_leave_out_what_is_not_finite():
    points = [(float(k), math.sin(k / 50)) for k in range(5000)]
    points[1234] = (1234.0, 9.0)
    points[77] = (77.0, math.nan)
    drawn = lines("t", "x", [Series(3, "a", points)])
    (path,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    heights = [float(pair.split(",")[1]) for pair in path.split()]
    assert len(heights) <= 240 and "nan" not in path
    assert min(heights) == pytest.approx(38.0, abs=0.1)  # the spike reaches the top
    drawn = lines("t", "x", [Series(3, "a", [(k, 1 / k) for k in range(1, 5000)])], log_x=True)
    (path,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    places = [float(pair.split(",")[0]) for pair in path.split()]
    assert len(places) <= 240
    assert all(b - a < 10 for a, b in pairwise(places[8:]))  # also at the left
    assert "no values" in lines("t", "x", [Series(0, "a", [(1.0, math.nan)])])
    assert "no values" in lines("t", "x", [Series(0, "a", [(1.0, -1.0)])], log_y=True)


def test_points_on_the_front_are_filled():
    series = [
        Series(i, str(i), [(cost, quality)]) for i, (cost, quality) in enumerate([(1, 2), (2, 1)])
    ]
    drawn = scatter("q", "c", series, [True, False])
    assert drawn.count('class="filled"') == drawn.count('class="hollow"') == 1


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def browser():
    """Headless Chromium, where one is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=binary, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


def opened(browser, file, **options):
    page_ = browser.new_context(**options).new_page()
    seen = {"requests": [], "messages": []}
    page_.on("request", lambda request: seen["requests"].append(request.url))
    page_.on("console", lambda message: seen["messages"].append(message.text))
    page_.on("pageerror", lambda error: seen["messages"].append(str(error)))
    page_.goto(file.as_uri())
    return page_, seen


@pytest.mark.slow
def test_the_divider_the_zoom_the_legend_and_the_table_work(runs, browser):
    write_report([str(runs)])
    file = runs / "report.html"
    page_, seen = opened(browser, file, viewport={"width": 1280, "height": 800})

    clip = "document.querySelector('.side').style.clipPath"
    assert page_.evaluate(clip) == "inset(0px 0px 0px 50%)"
    slider = page_.locator(".viewer input").first
    slider.focus()
    page_.keyboard.press("Home")
    assert page_.evaluate(clip) in ("inset(0px)", "inset(0px 0px 0px 0%)")
    for _ in range(3):
        page_.keyboard.press("ArrowRight")
    assert page_.evaluate(clip) == "inset(0px 0px 0px 3%)"

    page_.locator(".stage").first.focus()
    page_.keyboard.press("+")
    shifts = page_.evaluate(
        "[...document.querySelectorAll('.viewer img')].map(i => i.style.transform)"
    )
    assert len(set(shifts)) == 1 and "scale(1.5)" in shifts[0]
    page_.keyboard.press("ArrowRight")
    moved = page_.evaluate("document.querySelector('.viewer img').style.transform")
    assert moved != shifts[0]
    page_.keyboard.press("0")
    assert "scale(1)" in page_.evaluate("document.querySelector('.viewer img').style.transform")
    page_.locator(".stage").first.scroll_into_view_if_needed()
    box = page_.locator(".stage").first.bounding_box()
    page_.mouse.move(box["x"] + 10, box["y"] + 10)
    page_.mouse.down()
    page_.mouse.move(box["x"] + box["width"] / 4, box["y"] + 10)
    page_.mouse.up()
    assert page_.evaluate(clip) == "inset(0px 0px 0px 25%)"

    shown = "document.querySelector('.viewer img.right').src"
    before = page_.evaluate(shown)
    page_.locator(".choose-right").select_option("clean")
    assert page_.evaluate(shown) != before
    widths = "[...document.querySelectorAll('.viewer img')].map(image => image.naturalWidth)"
    assert page_.evaluate(widths) == [32, 32]

    button = page_.locator(".legend button").first
    number = button.get_attribute("data-run")
    line = page_.locator(f'.problem .charts[data-axis="step"] .series[data-run="{number}"]').first
    assert line.is_visible()
    button.click()
    assert not line.is_visible() and button.get_attribute("aria-pressed") == "false"

    page_.locator(".axis-choice").select_option("seconds")
    assert page_.locator('.charts[data-axis="seconds"]').is_visible()
    assert not page_.locator('.charts[data-axis="step"]').is_visible()

    column = (
        "[...document.querySelector('.sortable').tBodies[0].rows].map(r => r.cells[4].textContent)"
    )
    page_.locator(".sortable th button", has_text=re.compile("^psnr$")).first.click()
    assert page_.evaluate(column) == ["31.25", "31.00", "30.25", "30.00"]

    theme = "document.documentElement.dataset.theme"
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page_.evaluate(colour)
    page_.locator("#theme").click()
    assert page_.evaluate(theme) == "dark" and page_.evaluate(colour) != light

    assert seen["messages"] == []
    assert [url for url in seen["requests"] if not url.startswith("data:")] == [file.as_uri()]


@pytest.mark.slow
def test_a_page_without_pictures_has_no_viewer(tmp_path, browser):
    make_run(tmp_path / "a", 30.0, pictures={"camera": []})
    write_report([str(tmp_path)])
    page_, seen = opened(browser, tmp_path / "report.html")
    assert page_.locator(".viewer").count() == 0 and seen["messages"] == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(runs, browser, scheme):
    write_report([str(runs)])
    page_, seen = opened(
        browser,
        runs / "report.html",
        viewport={"width": 360, "height": 740},
        color_scheme=scheme,
        has_touch=True,
    )
    assert page_.evaluate("document.documentElement.scrollWidth") <= 360
    assert page_.evaluate("document.documentElement.dataset.theme") == scheme
    score = page_.locator(".verdict .score").first.bounding_box()
    badge = page_.locator(".verdict .badge").first.bounding_box()
    assert score["y"] + score["height"] < 740 and badge["y"] + badge["height"] < 740
    assert seen["messages"] == []


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_run_does_nothing_in_the_browser(tmp_path, browser, text):
    file = tmp_path / "report.html"
    file.write_text(page(entries_of_hostile(tmp_path / "runs", text)))
    page_, seen = opened(browser, file)
    page_.on("dialog", lambda dialog: seen["messages"].append("dialog"))
    page_.wait_for_timeout(50)
    assert seen["messages"] == []
    assert [url for url in seen["requests"] if not url.startswith("data:")] == [file.as_uri()]
