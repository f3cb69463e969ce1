"""Terminal, Markdown, page and pick name the same winner, ratio and certainty, for every committed record."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compare, evidence, record, summary
from benchmarks import words as say
from reports import advice, markdown, tables, views
from reports import pick as picking
from reports.load import load

RECORDS = sorted((record.ROOT / "reports" / "records").glob("*/*.jsonl"))


def test_there_are_records_of_two_makers():
    assert len({path.parent.name.partition("-")[0] for path in RECORDS}) >= 2


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_the_closing_sentence_is_the_same_everywhere(path: Path):
    header, *lines = record.read(path)
    cells = compare.cells_of(header)
    by_key = {tuple(c.key.values()): c for c in cells}
    for line in lines:
        if line["kind"] in ("round", "skip"):
            compare.replay(by_key[tuple(line[k] for k in compare.cell_key)], line)
    run = load(path)
    terminal = summary.closing(cells, run.baseline, header["threads"], header["machine"])
    assert views.sentences(run) == [terminal]
    groups = evidence.groups(run.cells, run.baseline)
    assert terminal.count(" is fastest over ") + terminal.count("No kernel that") == len(groups) > 0
    page = views.page(run, 1)
    text = "\n".join(markdown._answers(page))
    for group, told in zip(groups, page["headlines"], strict=True):
        winner, line = group.winners[0], told["lines"][0]
        assert line["kernel"] == (winner.kernel or "") and f"`{line['kernel']}`" in text
        assert line["sure"] == (winner.ahead is not None and not winner.ties)
        if winner.kernel:
            assert evidence.margin(winner) == line["margin"] and line["margin"] in terminal
        if winner.kernel and winner.speed and winner.kernel != group.baseline:
            assert line["speed"].startswith(say.speed_text(winner.speed[0]))
            assert f"{say.speed_text(winner.speed[0])} (" in terminal


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
def test_each_problem_has_one_winner(path: Path):
    run = load(path)
    for scenario in run.scenarios:
        told = {w["problem"]: w for w in tables.winners(run, scenario)}
        for race in evidence.races(run.cells, scenario):
            if race.best is None:
                assert race.problem not in told
                continue
            best, w = race.best, told[race.problem]
            layers = [picking.Layer(race.layer, race.problem, 1)]
            wish = picking.Wish(race.problem, layers, best.accuracy, scenario)
            answer = picking.answer(run, wish)
            (picked,) = answer["layers"]
            assert w["kernel"] == picked["kernel"] == race.fastest(best.accuracy).kernel
            assert w["guarantee"] == picked["guarantee"] == best.accuracy
            assert picked["tied"] == [c.kernel for c in race.ties(best.accuracy)] and w["ties"] == picked["tied"]
            assert w["time"] == say.seconds_text(picked["seconds"]) and w["time"] in advice.headline(answer)
            if picked["next"]:
                lead = say.speed_text(picked["next"]["speed"])
                assert w["ahead"].startswith(f"{lead} (") and w["ahead"].endswith(f"of {picked['next']['kernel']}")
                assert w["sure"] in ("told apart", "tie")
            else:
                assert w["ahead"] == say.NOTHING and w["sure"] in ("alone", "tie", "cannot tell")
