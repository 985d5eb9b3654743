"""Claims of publications: verdicts over paired seeds, in the documents and in the checks."""

from dataclasses import dataclass, replace

import pytest
from matplotlib.figure import Figure
from scipy import stats

from bmo_cli.config.schema import Claim, Preset, Table
from bmo_cli.errors import InputError
from bmo_cli.tables.claims import judge
from bmo_cli.tables.curves import TrainingRun, draw_training
from bmo_cli.tables.latex import format_latex
from bmo_cli.tables.markdown import format_markdown
from bmo_cli.tables.plan import check_table, scale_table
from bmo_cli.tables.summary import Sheet

CLAIM = Claim(
    text="a is lower", column="c", row="a", score="loss", direction="below", reading="1 & 2",
    than=["b"],
)  # fmt: skip


@dataclass
class FakeCell:
    row: str
    seed: int
    scores: dict
    column: str = "c"

    def score(self, name):
        return self.scores.get(name)


def cells(**values):
    return [
        FakeCell(row, seed, {"loss": value})
        for row, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 2.0, 3.0], [1.1, 2.15, 3.1], "reproduced"),  # paired: the seeds differ by more
        ([1.1, 2.15, 3.1], [1.0, 2.0, 3.0], "not reproduced"),
        ([1.0, 2.0, 3.0], [1.1, 1.9, 3.1], "not decidable"),
        ([1.0], [2.0], "not decidable"),  # one seed decides nothing
        ([1.0, 2.0, 3.0, None], [1.1, 2.15, 3.1, 9.0], "not decidable"),  # a seed diverged
        ([1.0, 2.0, 3.0, 4.0], [1.1, 2.15, 3.1], "not decidable"),  # a seed is missing
        ([1.0, 1.1, 1.2], [2.0], "reproduced"),  # a row that trains nothing has one run
        ([], [1.0, 2.0], "not decidable"),
    ],
)
def test_verdict_is_that_of_paired_differences(a, b, verdict):
    judgement = judge(CLAIM, cells(a=a, b=b))
    assert judgement.verdict == verdict
    reverse = {"reproduced": "not reproduced", "not reproduced": "reproduced"}
    other = judge(replace(CLAIM, direction="above"), cells(a=a, b=b))
    assert other.verdict == reverse.get(verdict, verdict)
    if len(a) == len(b) == 3:
        p = stats.ttest_rel(a, b).pvalue
        assert (p < 0.05) == (verdict != "not decidable")


def test_every_row_that_is_named_has_to_agree():
    claim = replace(CLAIM, than=["b", "d"])
    low, lower, high = [1.0, 2.0], [0.5, 1.5001], [2.0, 3.0001]
    assert judge(claim, cells(a=low, b=high, d=high)).verdict == "reproduced"
    assert judge(claim, cells(a=low, b=high, d=lower)).verdict == "not reproduced"
    assert judge(claim, cells(a=low, b=high)).verdict == "not decidable"


def test_a_number_and_a_ratio():
    """0.5 and 0.51 against 1: the interval of two values has the quantile 12.7."""
    claim = replace(CLAIM, than=[], limit=1.0, relative_to="start")
    own = [FakeCell("a", i, {"loss": v, "start": 2.0}) for i, v in enumerate((1.0, 1.02))]
    judgement = judge(claim, own)
    assert judgement.verdict == "reproduced"
    assert judgement.ours == "a 0.505; 1 (difference -0.495 ± 0.0635)"
    assert judge(claim, [FakeCell("a", 0, {"loss": 1.0})]).ours == "a: no value; 1"
    elsewhere = [replace(cell, column="d") for cell in own]
    assert judge(claim, elsewhere).verdict == "not decidable"


def test_documents_show_claims():
    judgement = judge(replace(CLAIM, relative_to=None), cells(a=[1.0, 2.0], b=[1.5, 2.5001]))
    sheet = Sheet("T", {"loss": ".2f"}, {}, [], [0, 1], claims=[judgement])
    text = format_markdown(sheet)
    assert "## Claims" in text and "| 1 & 2 | reproduced |" in text
    assert "| a is lower | c | loss | a 1.5; b 2 (difference -0.5 ± 0.000635) |" in text
    latex = format_latex(sheet, "t")
    assert r"1 \& 2 & reproduced" in latex and "T: claims." in latex


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"row": "z"}, r"table.claims\[0\].row: 'z' is not in this table"),
        ({"than": ["bb"]}, "did you mean 'b'"),
        ({"column": "k"}, r"table.claims\[0\].column"),
        ({"score": "los"}, r"table.claims\[0\].score: 'los' .* did you mean 'loss'"),
        ({"relative_to": "step"}, r"table.claims\[0\].relative_to: 'step' is not in this table"),
        ({"than": []}, "give one"),
        ({"limit": 1.0}, "give one"),
        ({"than": ["b", "a"]}, "has the row itself"),
        ({"reading": " "}, "reading is empty"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(changes, text):
    table = Table(
        title="", common=[], rows={"a": [], "b": []}, columns={"c": []}, scores={"loss": ".2f"},
        seeds=[0], claims=[replace(CLAIM, **changes)],
    )  # fmt: skip
    with pytest.raises(InputError, match=text):
        check_table(table)
    check_table(replace(table, claims=[CLAIM]))


def test_a_preset_without_the_rows_or_with_short_runs_has_no_claims():
    other = replace(CLAIM, row="d", than=["b"])
    table = Table(
        title="", common=[], rows={"a": [], "b": [], "d": []}, columns={"c": []},
        scores={"loss": ".2f"}, seeds=[0], claims=[CLAIM, other],
        presets={"few": Preset(rows=["a", "b"]), "smoke": Preset(claims=False), "cpu": Preset()},
    )  # fmt: skip
    kept = {name: scale_table(table, name).table.claims for name in table.presets}
    assert kept == {"few": [CLAIM], "smoke": [], "cpu": [CLAIM, other]}


def test_figure_of_training(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    history = [{"step": t, "loss": 1 / t, "hypergrad_norm": 2 / t} for t in (1, 2, 3)]
    steps = {1: 0.5, 5: 0.1, 9: float("nan")}
    runs = [TrainingRun(row, 5, history, steps) for row in ("a", "a", "b")]
    draw_training(runs, "c", tmp_path / "x.png")
    loss, gradient, step = figures[0].axes
    assert [line.get_color() for line in loss.lines] == ["C0", "C0", "C1"]
    assert loss.lines[0].get_xydata().tolist() == [[1, 1], [2, 1 / 2], [3, 1 / 3]]
    assert gradient.lines[2].get_xydata().tolist() == [[1, 2], [2, 1], [3, 2 / 3]]
    assert step.lines[0].get_xydata().tolist() == [[1, 0.5], [5, 0.1]]
    assert step.lines[-1].get_xdata() == pytest.approx([5, 5])  # K
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
