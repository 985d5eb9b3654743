"""What a table says: exact Markdown and LaTeX, intervals, marks, verdicts; presets as data."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import composed
from matplotlib.figure import Figure
from scipy import stats

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import Preset, Published, Table
from bmo_cli.errors import InputError
from bmo_cli.results.result import RunResult
from bmo_cli.results.tables import latex_escaped
from bmo_cli.tables.cell import Cell
from bmo_cli.tables.collect import (
    _build_line,
    _leak_remarks,
    build_sheet,
    refuse_shared_images,
)
from bmo_cli.tables.crops import Panel, draw_crops, find_detailed_square
from bmo_cli.tables.curves import GuaranteeRun, draw_guarantee
from bmo_cli.tables.latex import format_latex
from bmo_cli.tables.markdown import format_markdown
from bmo_cli.tables.plan import check_table, combine_values, drop_overridden, scale_table
from bmo_cli.tables.summary import (
    Line,
    Section,
    Sheet,
    assign_marks,
    compare,
    is_same_protocol,
    join_flags,
    mean_and_interval,
)

PSNR = "test/psnr"


def section(**means):
    return Section("c", [Line(name, {PSNR: values}) for name, values in means.items()])


def sheet(lines, published=(), **changes):
    given = {
        "title": "100 % fun",
        "scores": {PSNR: ".2f"},
        "best": {PSNR: "max"},
        "sections": [Section("set_12", lines)],
        "seeds": [0],
        "published": published,
    }
    return Sheet(**{**given, **changes})


def entry(**changes):
    given = {"row": "bmo", "column": "set_12", "score": PSNR, "value": 30.0}
    return Published(**{**given, "source": "A & B", "protocol": "prenet", **changes})


@pytest.mark.parametrize("count", [2, 3, 7])
def test_interval_is_that_of_a_t_test(rng, count):
    values = rng.normal(size=count)
    mean, half = mean_and_interval(values.tolist())
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(interval), rel=1e-12)
    assert mean_and_interval([1.5]) == (1.5, None)


@pytest.mark.parametrize(
    ("means", "direction", "expected"),
    [
        ({"a": [1], "b": [3], "c": [2]}, "max", ["", "best", "second"]),
        ({"a": [1], "b": [3], "c": [2]}, "min", ["best", "", "second"]),
        ({"a": [3.001], "b": [3], "c": [2]}, "max", ["best", "best", "second"]),
        ({"a": [3], "b": [2, 2.002], "c": [2]}, "max", ["best", "second", "second"]),
        ({"a": [3], "b": []}, "max", ["", ""]),
        ({"a": [-30], "b": [-20], "c": []}, "min", ["best", "second", ""]),
    ],
)
def test_marks(means, direction, expected):
    assert assign_marks(section(**means), PSNR, ".2f", direction) == expected


def test_a_line_that_lacks_a_run_is_not_compared():
    lines = [Line("a", {PSNR: [31.5]}, runs=3), Line("b", {PSNR: [31, 31.1]}, runs=2)]
    lines.append(Line("c", {PSNR: [30]}))
    assert assign_marks(Section("c", lines), PSNR, ".2f", "max") == ["", "best", "second"]
    assert "| a | 31.50 (1 of 3 runs) |" in format_markdown(sheet(lines))
    assert "31.50 (1 of 3 runs)" in format_latex(sheet(lines), "tab")


def test_the_observation_does_not_compete():
    lines = [Line("rainy", {PSNR: [9]}, competes=False), Line("a", {PSNR: [3]})]
    lines.append(Line("b", {PSNR: [2]}))
    assert assign_marks(Section("c", lines), PSNR, ".2f", "max") == ["", "best", "second"]


@pytest.mark.parametrize(
    ("values", "changes", "verdict", "difference"),
    [
        ([30.09], {}, "reproduced", "+0.09"),
        ([30.11], {}, "not reproduced", "+0.11"),
        ([29.89], {}, "not reproduced", "-0.11"),
        ([29.0, 30.5], {}, "not reproduced", "-0.25"),  # scatter of ours is no tolerance
        ([30.004], {"tolerance": 0.0}, "reproduced", "+0.00"),  # it prints the same
        ([30.006], {"tolerance": 0.0}, "not reproduced", "+0.01"),
        ([29.0], {"tolerance": 1.0}, "reproduced", "-1.00"),
        ([30.0], {"protocol": "float"}, "protocol differs", "0.00"),
        ([], {}, "not run", "-"),
        ([30.0], {"row": "other"}, "not run", "-"),
    ],
)
def test_verdicts(values, changes, verdict, difference):
    line = Line("bmo", {PSNR: values}, protocols=["prenet: luminance"])
    (found,) = compare(sheet([line], [entry(**changes)]))
    assert (found.verdict, found.difference) == (verdict, difference)


def test_a_tenth_is_for_decibels_alone():
    line = Line("bmo", {"test/ssim": [0.85]}, protocols=["prenet"])
    given = sheet([line], [entry(score="test/ssim", value=0.86)], scores={"test/ssim": ".4f"})
    assert compare(given)[0].verdict == "not reproduced"


def test_protocols_are_equal_by_text_or_name():
    assert is_same_protocol("PreNet", "prenet: luminance, uint8")
    assert is_same_protocol("a:  b", "a: b")
    assert not is_same_protocol("prenet", "prenet2: luminance")
    assert not is_same_protocol("prenet: other", "prenet: luminance")


LINES = [
    Line("rainy", {PSNR: [13.536]}, protocols=["prenet"], competes=False),
    Line("a|b", {PSNR: [20.0, 22.0]}, chosen="task.weight=0.1", protocols=["prenet"]),
    Line("bmo", {PSNR: [30.0]}, protocols=["prenet"]),
    Line("bad", {PSNR: []}, failed="no data"),
]

MARKDOWN = """\
# 100 % fun

Mean and 95 % interval (Student t) over 2 seeds; without one: a single run. Best value **bold**, \
second <u>underlined</u>.

## set_12

|  | test/psnr | chosen by validation | failed because |
| --- | --- | --- | --- |
| rainy | 13.54 |  |  |
| a\\|b | <u>21.00</u> ± 12.71 | task.weight=0.1 |  |
| bmo | **30.00** |  |  |
| bad | - |  | no data |

Protocol: prenet.

## Published values

|  | column | score | ours | published | difference | verdict | protocol | source |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| bmo | set_12 | test/psnr | 30.00 | 30.00 | 0.00 | reproduced | prenet | A & B |

Every cell is one run:

    bmo train
"""

LATEX = r"""% \usepackage{booktabs}
\begin{table}
\centering
\caption{100 \% fun. Mean and 95 \% interval (Student t) over 2 seeds. Best value \textbf{bold}, second \underline{underlined}. Protocol: prenet.}
\label{tab:rain}
\begin{tabular}{lr}
\toprule
 & \multicolumn{1}{c}{set\_12} \\
\cmidrule(lr){2-2}
 & PSNR $\uparrow$ \\
\midrule
rainy & 13.54 \\
a\textbar{}b & \underline{21.00} $\pm$ 12.71 \\
bmo & \textbf{30.00} \\
bad & -- \\
\bottomrule
\end{tabular}
\par\raggedright\footnotesize bad failed: no data
\end{table}

\begin{table}
\centering
\caption{100 \% fun: published values.}
\label{tab:rain:published}
\begin{tabular}{lllrrrll}
\toprule
 & column & score & ours & published & difference & verdict & source \\
\midrule
bmo & set\_12 & test/psnr & 30.00 & 30.00 & 0.00 & reproduced & A \& B \\
\bottomrule
\end{tabular}
\end{table}
"""  # noqa: E501


def test_exact_documents():
    given = sheet(LINES, [entry()], seeds=[0, 1], commands=["bmo train"])
    assert format_markdown(given) == MARKDOWN
    assert format_latex(given, "rain") == LATEX


def test_remarks_of_runs_stand_below_their_column():
    lines = [Line("a", {PSNR: [1]}, flags=["far from 1 %", "clipped"]), Line("b", {PSNR: [2]})]
    text = format_markdown(sheet(lines))
    assert "| b | **2.00** |\n\nRemarks of the runs:\n\n- a: far from 1 %; clipped\n\n" in text
    assert "\n".join(
        [
            r"\end{tabular}",
            r"\par\raggedright\footnotesize a: far from 1 \%; clipped",
            r"\end{table}",
        ]
    ) in format_latex(sheet(lines), "t")
    sections = [Section("p", lines), Section("q", lines[1:]), Section("r", lines)]
    latex = format_latex(sheet(lines, sections=sections), "t")
    assert latex.count("footnotesize a (p; r): far") == latex.count("far from") == 1
    for document in (format_markdown(sheet(lines[1:])), format_latex(sheet(lines[1:]), "t")):
        assert "Remarks" not in document and "footnotesize" not in document


def test_verdicts_and_failures_stand_in_both_documents():
    lines = [Line("a", {PSNR: [1]}, verdict="2 certified, 1 refused"), Line("b", {}, failed="50 %")]
    text, latex = format_markdown(sheet(lines)), format_latex(sheet(lines), "t")
    assert "| a | 1.00 | 2 certified, 1 refused |  |" in text
    assert r"\begin{tabular}{lrl}" in latex and "& certificate " in latex
    assert r"a & 1.00 & 2 certified, 1 refused \\" in latex
    assert r"b & -- & -- \\" in latex
    assert r"\footnotesize b failed: 50 \%" in latex
    plain = Section("plain", [Line("a", {PSNR: [2]}), Line("c", {PSNR: [3]}, failed="far")])
    both = format_latex(sheet(lines, sections=[Section("p", lines), plain]), "t")
    assert r"\begin{tabular}{lrlr}" in both and r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in both
    assert "c & -- & -- & " in both and "c (plain) failed: far" in both


def test_remarks_of_several_seeds_are_joined():
    far = ["28.4 dB there and 27 dB after 1e2", "28.5 dB there and 26 dB after 1e2"]
    assert join_flags([[far[0], "clipped"]]) == [far[0], "clipped"]
    assert join_flags([[far[0]], [far[1], "clipped"], ["clipped", "other"]]) == [
        f"{far[0]} (2 of 3 seeds, numbers of the first)",
        "clipped (2 of 3 seeds)",
        "other (1 of 3 seeds)",
    ]
    assert join_flags([[far[0]], [far[0]]]) == [f"{far[0]} (2 of 2 seeds)"]
    assert join_flags([[], []]) == join_flags([]) == []


def test_different_protocols_in_a_column_are_flagged():
    lines = [Line("a", {PSNR: [1]}, protocols=["x"]), Line("b", {PSNR: [2]}, protocols=["y"])]
    text = format_markdown(sheet(lines))
    assert "**The protocols differ: these rows do not compare.**\n\n- a: x\n- b: y\n" in text
    assert r"\textbf{The protocols differ" in format_latex(sheet(lines), "t")


def test_scores_of_other_tasks_are_left_out_and_a_wide_table_is_split():
    scores = {PSNR: ".2f", "test/nmse": ".1f", **{f"s{i}": ".0f" for i in range(8)}}
    wide = Section("wide", [Line("a", {f"s{i}": [i] for i in range(8)})])
    codes = Section("codes", [Line("a", {"test/nmse": [-5.0]})])
    given = sheet([], scores=scores, sections=[wide, codes])
    assert "|  | test/nmse |\n| --- | --- |\n| a | -5.0 |" in format_markdown(given)
    latex = format_latex(given, "t")
    assert latex.count(r"\begin{tabular}") == 2
    assert r"\begin{tabular}{lr}" in latex and r"\begin{tabular}{lrrrrrrrr}" in latex
    assert "a & $-$5.0 \\\\" in latex


def test_latex_is_escaped():
    text = "\\ { } & % $ # _ ~ ^ < > |"
    assert latex_escaped(text) == (
        r"\textbackslash{} \{ \} \& \% \$ \# \_ \textasciitilde{} \textasciicircum{} "
        r"\textless{} \textgreater{} \textbar{}"
    )


def test_trainings_that_serve_several_columns_are_told():
    plain = sheet(LINES, trained_once=["a, b", "c"])
    timed = sheet(LINES, trained_once=["c"], scores={PSNR: ".2f", "cell_seconds": ".0f"})
    for document in (format_markdown, lambda content: format_latex(content, "t")):
        assert "One training serves several columns: a, b; c." in document(plain)
        assert "several columns: c. There cell" in document(timed)
        assert "There cell" not in document(plain)
        assert "One training" not in document(sheet(LINES))


SMOKE = Preset(common=["a=2"], rows={"x": ["b=2"]}, columns=["q", "p"], seeds=[3])
TABLE = Table(
    title="T",
    common=["a=1"],
    rows={"x": ["b=1"], "y": []},
    columns={"p": ["c=1"], "q": []},
    scores={"test/psnr": ".2f"},
    seeds=[0, 1],
    presets={"smoke": SMOKE, "cpu": Preset()},
)


def test_a_preset_selects_adds_and_replaces():
    smoke = scale_table(TABLE, "smoke")
    assert smoke.overrides("x", "p") == ["a=1", "c=1", "b=1", "a=2", "b=2"]
    assert smoke.overrides("x", "q") == ["a=1", "b=1", "a=2", "b=2"]
    assert (list(smoke.table.rows), list(smoke.table.columns)) == (["x"], ["q", "p"])
    assert smoke.table.seeds == [3]
    for preset in (None, "cpu"):
        assert scale_table(TABLE, preset).table == TABLE
        assert scale_table(TABLE, preset).overrides("x", "p") == ["a=1", "c=1", "b=1"]
    with pytest.raises(
        InputError, match="preset=paper is not one of this table; it has smoke, cpu"
    ):
        scale_table(TABLE, "paper")


def test_candidates_are_every_combination():
    tune = {"a": [1, 0.001], "b": [True, None, "disk", [1, 2]]}
    found = list(combine_values(tune))
    assert len(found) == 8
    assert found[0] == {"a": "1", "b": "true"}
    assert found[-1] == {"a": "0.001", "b": "[1, 2]"}
    assert {one["b"] for one in found} == {"true", "null", "disk", "[1, 2]"}
    assert list(combine_values({})) == []


def test_the_last_of_equal_keys_counts():
    given = ["a=1", "+b=1", "a=2", "~c", "b=2"]
    assert drop_overridden(given) == ["+b=1", "a=2", "~c", "b=2"]


@pytest.mark.parametrize("shape", [(20, 31, 1), (24, 17, 3)])
def test_the_most_detailed_square_by_brute_force(rng, shape):
    image, side = rng.random(shape), 7
    gray = image.mean(2)
    energy = np.pad(np.diff(gray, axis=0) ** 2, ((1, 0), (0, 0)))
    energy += np.pad(np.diff(gray, axis=1) ** 2, ((0, 0), (1, 0)))
    sums = {
        (i, j): energy[i : i + side, j : j + side].sum()
        for i in range(shape[0] - side + 1)
        for j in range(shape[1] - side + 1)
    }
    assert find_detailed_square(image, side) == max(sums, key=sums.get)


@pytest.mark.slow
def test_crops_are_the_pixels_enlarged(rng, tmp_path):
    from skimage.io import imread

    clean = np.round(rng.random((64, 60, 1)) * 255) / 255
    panels = [Panel("clean", clean, None)]
    panels += [Panel(f"a method with a rather long name {i}", clean * 0.9, 20.0) for i in range(13)]
    draw_crops(panels, "title", tmp_path / "crops.png")
    picture = imread(tmp_path / "crops.png")[..., 0] / 255
    top, left = find_detailed_square(clean, 48)
    crop = clean[top : top + 48, left : left + 48, 0]
    enlarged = np.kron(crop, np.ones((5, 5)))
    inside = enlarged[20:200, 20:200]  # away from the frame
    windows = np.lib.stride_tricks.sliding_window_view(picture[:140, :60], (20, 20))
    errors = np.abs(windows - inside[:20, :20]).max((2, 3))
    assert errors.min() < 0.01


@pytest.mark.parametrize(
    "file", sorted((config_dir() / "table").glob("*.yaml")), ids=lambda f: f.stem
)
def test_what_a_preset_says_of_every_cell_counts_in_every_cell(file):
    table = composed(f"table={file.stem}", command="table").table
    for preset, changes in table.presets.items():
        at_scale = scale_table(table, preset)
        for row, column in itertools.product(at_scale.table.rows, at_scale.table.columns):
            own = [
                word
                for entries, name in ((changes.columns, column), (changes.rows, row))
                if isinstance(entries, dict)
                for word in entries[name]
            ]
            last = [*changes.common, *own]
            words = at_scale.overrides(row, column)
            assert words[len(words) - len(last) :] == last


def test_images_in_two_splits_are_named_once():
    data = {"shared": ["2.png (train) = 2.png (test)"], "similar": []}
    cells = [SimpleNamespace(result=RunResult(status="ok", data=data)) for _ in range(2)]
    cells += [SimpleNamespace(result=None), SimpleNamespace(result=RunResult(status="ok"))]
    assert _leak_remarks(cells) == ["**Images in two splits:** 2.png (train) = 2.png (test)."]
    assert _leak_remarks(cells[2:]) == []


def test_a_score_may_be_of_one_image():
    images = {"a/090.png": {"psnr": 33.0, "ssim": None}}
    result = RunResult(status="ok", metrics={"test/psnr": 30.0}, steps=7, images=images)
    cell = SimpleNamespace(result=result)
    assert Cell.score(cell, "images/a/090.png/psnr") == 33.0
    for name in ("images/a/090.png/ssim", "images/b.png/psnr", "images/psnr", "images/"):
        assert Cell.score(cell, name) is None
    assert (Cell.score(cell, "test/psnr"), Cell.score(cell, "steps")) == (30.0, 7.0)


def test_runs_that_know_their_test_images_are_refused():
    known = {"shared": ["2.png (train) = 2.png (test)"], "similar": ["7 (test) ~ 5 (val)"]}
    inside = {"shared": ["2 (test).png (train) = 3.png (val)"]}  # no test image
    many = {"similar": [f"{i} (train) ~ {i} (test)" for i in range(9)]}
    cells = [
        SimpleNamespace(
            result=data and RunResult(status="ok", data=data),
            spec=SimpleNamespace(path=i, choices={"hyper": "none" if i == 4 else "bmo"}),
            chosen={},
        )
        for i, data in enumerate((known, inside, None, many, known))  # the last trains nothing
    ]
    refused = refuse_shared_images(TABLE, cells)
    assert list(refused) == [0, 3]
    assert "training or validation: 2.png (train) = 2.png (test); 7 (test) ~ 5 (val);" in refused[0]
    assert "2 (train) ~ 2 (test) and 6 more; train on other images" in refused[3]
    assert refuse_shared_images(replace(TABLE, shared_images="show"), cells) == {}


def test_refused_runs_have_no_scores():
    own = [
        SimpleNamespace(
            result=None, seed=0, chosen={}, score=lambda _, v=v: v, spec=SimpleNamespace(path=p)
        )
        for p, v in (("p", 1.0), ("q", 2.0))
    ]
    line = _build_line(TABLE, "x", own, [], {"p": "known"})
    assert all(values == [2.0] for values in line.values.values())
    assert line.failed == "known" and line.runs == 2


def test_a_row_is_compared_with_another_seed_by_seed():
    """The seeds differ by more than the rows do. A seed that one row lacks makes no pair."""
    scores = {"x": [30.0, 31.0, 32.0, None], "y": [30.2, 31.1, 32.3, 40.0]}
    cells = [
        SimpleNamespace(
            row=row, column="p", seed=seed, result=None, chosen={}, stale=False,
            score=lambda _, v=value: v, spec=SimpleNamespace(path=(row, seed)),
        )
        for row, values in scores.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    table = replace(TABLE, columns={"p": []}, best={"test/psnr": "max"}, against="x")
    built = build_sheet(table, cells, {}, [])
    x, y = built.sections[0].lines
    difference = "test/psnr - x"
    assert y.values[difference] == pytest.approx([0.2, 0.1, 0.3])
    assert difference not in x.values
    width = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    text = format_markdown(built)
    assert f"+0.20 ± {width:.2f} (3 of 4 runs) |" in text
    assert "Differences are those from 'x', between runs of equal seeds." in text
    assert "Differences are those from 'x'" in format_latex(built, "t") and not built.remarks
    assert rf"+0.20 $\pm$ {width:.2f}" in format_latex(built, "t")
    assert build_sheet(replace(table, against=None), cells, {}, []).scores == TABLE.scores


@pytest.mark.parametrize("against", ["x", "y"])
def test_a_row_that_trains_nothing_is_compared_with_every_seed(against):
    cells = [
        SimpleNamespace(
            row=row, column="p", seed=seed, result=None, chosen={}, stale=False,
            score=lambda _, v=value: v, spec=SimpleNamespace(path=(row, seed)),
        )
        for row, values in (("x", [30.0]), ("y", [30.2, 30.1, 30.3]))
        for seed, value in enumerate(values)
    ]  # fmt: skip
    table = replace(TABLE, columns={"p": []}, best={"test/psnr": "max"}, against=against)
    built = build_sheet(table, cells, {}, [])
    (other,) = [line for line in built.sections[0].lines if line.name != against]
    sign = 1 if against == "x" else -1
    differences = other.values[f"test/psnr - {against}"]
    assert differences == pytest.approx([0.2 * sign, 0.1 * sign, 0.3 * sign])
    assert "runs)" not in format_markdown(built)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": "z"}, "table.against: 'z' is not in this table"),
        ({"against": "x", "best": {}}, "compares the scores of table.best, which is empty"),
        ({"against": "x", "scores": {"test/psnr": "+.2f"}}, r"takes a format .*, got '\+.2f'"),
        ({"seeds": [0, 1, 0]}, "table.seeds has a seed twice: 0, 1, 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    table = replace(TABLE, best={"test/psnr": "max"})
    check_table(replace(table, against="x"))
    with pytest.raises(InputError, match=message):
        check_table(replace(table, **changes))


def test_a_preset_without_the_row_compares_with_none():
    table = replace(TABLE, best={"test/psnr": "max"}, against="y")
    assert scale_table(table, "smoke").table.against is None
    assert scale_table(table, "cpu").table.against == "y"


def verdicts(*given, scores=("certificate/bound",)):
    results = [RunResult(status="ok", certificate=verdict) for verdict in given]
    cells = [
        SimpleNamespace(
            result=result, seed=seed, chosen={}, score=lambda _: 1.0, spec=SimpleNamespace(path=0)
        )
        for seed, result in enumerate(results)
    ]
    table = replace(TABLE, scores=dict.fromkeys(scores, ".1f"))
    return _build_line(table, "x", cells, [], {}).verdict


def test_the_verdicts_of_the_seeds_are_counted_where_they_differ():
    assert verdicts("certified", "certified") == "certified"
    assert verdicts("refused", "certified", "certified") == "2 certified, 1 refused"
    assert verdicts(None, "certified") == "1 certified"
    assert verdicts(None) == ""
    assert verdicts("certified", scores=["certificate/ratio"]) == ""


def test_verdicts_are_a_column_of_their_own():
    lines = [Line("a", {PSNR: [1.0]}, verdict="certified"), Line("b", {PSNR: [2.0]})]
    text = format_markdown(sheet(lines))
    assert "|  | test/psnr | certificate |" in text
    assert "| a | <u>1.00</u> | certified |" in text and "| b | **2.00** |  |" in text
    assert "certificate" not in format_markdown(sheet([Line("b", {PSNR: [2.0]})]))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def curves_of(axis):
    """The curves of a guarantee figure by row, without the marks at its lower edge."""
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def test_guarantees_have_a_colour_and_their_methods_a_style(drawn, tmp_path):
    rows = ["none: a, bmo", "none: a, unrolled", "proved: b, bmo", "none: c, bmo"]
    runs = [GuaranteeRun(row, {10: 30.0 + s, 100: 29.0}) for s in range(3) for row in rows]
    draw_guarantee(runs, "minutes", tmp_path / "x.png")
    (figure,) = drawn
    (axis,) = figure.axes
    curves = curves_of(axis)
    assert list(curves) == rows
    assert [curve.get_color() for curve in curves.values()] == ["C0", "C0", "C1", "C0"]
    assert [curve.get_marker() for curve in curves.values()] == ["o", "s", "o", "^"]
    assert len({curve.get_linestyle() for curve in curves.values()}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == rows


def test_a_marker_is_the_mean_of_the_seeds_and_a_bar_their_range(drawn, tmp_path):
    scores = {"x: a": [30.0, 30.3, 31.2], "x: b": [29.0, 29.0, 29.3]}
    runs = [GuaranteeRun(row, {10: v, 30: 31.0}) for row, given in scores.items() for v in given]
    draw_guarantee(runs, "", tmp_path / "x.png")
    (axis,) = drawn[0].axes
    for (row, curve), bars in zip(curves_of(axis).items(), axis.collections, strict=True):
        places, means = curve.get_data()
        assert means == pytest.approx([np.mean(scores[row]), 31.0])
        segments = bars.get_segments()
        assert [segment[:, 0].tolist() for segment in segments] == [[p, p] for p in places]
        assert segments[0][:, 1].tolist() == [min(scores[row]), max(scores[row])]
    first, second = (curve.get_xdata() for curve in curves_of(axis).values())
    assert first[0] < 10 < second[0] < 1.1 * first[0]  # side by side at 10 iterations


def test_rows_that_fall_out_of_the_figure_are_marked_at_its_edge(drawn, tmp_path):
    runs = [
        GuaranteeRun("none: drifts", {10: 30.0, 100: 29.8, 1000: 7.0}),
        GuaranteeRun("none: diverges", {10: 31.0, 100: 31.0, 1000: np.nan}),
        GuaranteeRun("proved: stays", {10: 30.5, 100: 30.6, 1000: 30.6}),
    ]
    draw_guarantee(runs, "", tmp_path / "x.png")
    (axis,) = drawn[0].axes
    floor, top = axis.get_ylim()
    assert 29 < floor < 29.8 and 31 < top < 32
    marks = [line.get_xydata() for line in axis.lines if line.get_marker() == "v"]
    curves = curves_of(axis).values()
    assert [len(mark) for mark in marks] == [1, 1, 0]
    for mark, curve in zip(marks[:2], curves, strict=False):
        assert mark[0].tolist() == [curve.get_xdata()[-1], floor]
        assert np.isfinite(curve.get_ydata()).all() and curve.get_ydata()[-1] < floor


def test_a_figure_of_runs_without_finite_scores_is_drawn(drawn, tmp_path):
    draw_guarantee([GuaranteeRun("none: a", {10: np.nan})], "", tmp_path / "x.png")
    assert len(drawn) == 1
