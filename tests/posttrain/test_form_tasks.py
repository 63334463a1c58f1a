"""Conversations whose answers have a form: right, varied, and what is held out is not trained on."""

from __future__ import annotations

import re
from itertools import islice

from megatron_bielik.posttrain import form_tasks


def test_conversations_are_right_and_differ_in_length() -> None:
    rows = list(islice(form_tasks.tuning_rows(5), 300))
    assert rows == list(islice(form_tasks.tuning_rows(5), 300))
    lengths: dict[str, list[int]] = {"temat": [], "lista": []}
    for row in rows:
        assert re.fullmatch(row["form"], row["messages"][1]["content"])
        lengths[row["kind"]].append(len(row["messages"][1]["content"]))
    assert sum(lengths["lista"]) > 3 * sum(lengths["temat"])
    assert 0.15 < len(lengths["lista"]) / len(rows) < 0.35
    topics = [row["messages"][0]["content"] for row in rows if row["kind"] == "temat"]
    assert len(set(topics)) == len(topics)


def test_lists_are_written_as_asked() -> None:
    days = [
        form_tasks.list_row(("dni tygodnia", form, order), "Podaj {}.")["messages"]
        for form, order in (("po przecinku", ""), ("w punktach", ""), ("z numerami", " od końca"))
    ]
    assert days[0][0]["content"] == "Podaj dni tygodnia po przecinku."
    assert days[0][1]["content"].startswith("poniedziałek, wtorek, środa")
    assert days[1][1]["content"].splitlines()[-1] == "- niedziela"
    assert days[2][1]["content"].splitlines()[:2] == ["1. niedziela", "2. sobota"]


def test_what_is_held_out_is_not_trained_on_and_its_parts_are() -> None:
    trained = [row["messages"][0]["content"] for row in islice(form_tasks.tuning_rows(2), 1600)]
    held_out = [row["messages"][0]["content"] for row in form_tasks.held_out_rows(3, 90) if row["kind"] != "lista"]
    assert len(held_out) == 90 + 3 * len(form_tasks.HELD_OUT_WAYS)
    assert not set(trained) & set(held_out)
    ways = [way for way in form_tasks.WAYS if way not in form_tasks.HELD_OUT_WAYS]
    for place in range(3):
        assert {way[place] for way in form_tasks.HELD_OUT_WAYS} <= {way[place] for way in ways}
