"""Options that could not mean anything are refused in one sentence, with exit code 3, before any work."""

import argparse
import contextlib
import io

import pytest

from benchmarks import __main__ as command
from benchmarks import options, terminal
from convzoo import limits

NUMBERS = [
    (verb, option)
    for verb, offered in {
        "compare": ("--rounds", "--budget", "--timeout", "--threads", "--batch", "--seed"),
        "regress": ("--screen", "--confirm", "--minimum", "--timeout", "--threads", "--seed"),
        "check": ("--timeout", "--seed"),
        "cost": ("--timeout", "--threads"),
        "history": ("--minimum",),
        "selftest": ("--null", "--seed"),
    }.items()
    for option in offered
]


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        command.main(list(words))
    assert end.value.code == command.USAGE
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("verb, option", NUMBERS)
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e999", "", "zero"])
def test_a_number_that_means_nothing(capsys, verb, option, value):
    assert f"argument {option}: invalid " in refused(capsys, verb, f"{option}={value}")


@pytest.mark.parametrize("option", ["--rounds", "--budget", "--timeout", "--threads", "--batch"])
def test_none_of_what_must_be_some(capsys, option):
    assert f"argument {option}: invalid " in refused(capsys, "compare", f"{option}=0")


def test_more_threads_than_processors(capsys, monkeypatch):
    monkeypatch.setattr(limits, "cpus", lambda: 2)
    said = refused(capsys, "compare", "--threads", "9")
    assert "at most the 2 usable CPUs, got 9" in said and "--oversubscribe" in said
    assert options.too_many(argparse.Namespace(threads=9, oversubscribe=True)) == ""


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", ".", "..", "a/b", "a\\b", "", "-x", "a\nb", "~"])
def test_a_machines_name_stays_in_its_folder(capsys, name):
    assert "argument --machine: " in refused(capsys, "compare", f"--machine={name}")
    assert options.machine_name("zen4-2cpu_16.GB") == "zen4-2cpu_16.GB"


@pytest.mark.parametrize("text", ["features[/0]", "Net/Sequential[layer1]/Conv2d[conv1]", "[bold]x", ":warning:"])
def test_text_that_is_not_ours_is_printed_as_it_is(text):
    from rich.table import Table

    with contextlib.redirect_stdout(io.StringIO()) as out:
        table = Table(title=text)
        table.add_column("layer")
        table.add_row(text)
        terminal.console().print(table, text)
    assert out.getvalue().count(text) == 3
