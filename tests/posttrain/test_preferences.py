"""Preference pairs: every step on its own, their order, every form of a row, and near duplicates against plain Jaccard."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from megatron_bielik.data.errors import DataError
from megatron_bielik.posttrain.preference_rows import BadRow, read_pair
from megatron_bielik.posttrain.preferences import PreferenceOptions, PreferenceReport, prepare_preferences

TOOL = Path(__file__).parents[2] / "tools" / "prepare_preferences.py"
Row = dict[str, Any]

WORDS = ["żółw", "jaźń", "gęś", "kość", "pięść", "łąka", "źdźbło", "mrok", "świt", "trawa", "rzeka", "most", "dom"]


def row(number: int = 0, gap: float = 5.0, **fields: Any) -> Row:
    """A pair about something no other number's is about."""
    words = random.Random(number).choices(WORDS, k=30)
    prompt = f"Pytanie {' '.join(words)}"
    return {
        "prompt": prompt, "chosen": f"dobra {number}", "rejected": f"zła {number}", "chosen_score": 4.0 + gap,
        "rejected_score": 4.0, **fields,
    }  # fmt: skip


def write(path: Path, rows: Iterable[Row | bytes]) -> str:
    path.write_bytes(b"".join(r + b"\n" if isinstance(r, bytes) else orjson.dumps(r) + b"\n" for r in rows))
    return str(path)


def prepare(folder: Path, rows: Iterable[Row | bytes], **options: Any) -> tuple[list[Row], PreferenceReport]:
    source, output = write(folder / "raw.jsonl", rows), folder / "pairs.jsonl"
    report = prepare_preferences([source], output, PreferenceOptions(**options))
    return [orjson.loads(line) for line in output.read_bytes().splitlines()], report


def step(report: PreferenceReport, name: str) -> tuple[int, int, dict[str, int]]:
    found = next(s for s in report.steps if s.name == name)
    return found.rows_in, found.rows_out, found.details


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def test_a_row_of_text_becomes_messages_and_keeps_its_fields(tmp_path: Path) -> None:
    found, report = prepare(tmp_path, [row(1, source="ręczne", tools=[{"name": "f"}], meta={"a": [1, None]})])
    assert found == [
        {
            "prompt": [user(row(1)["prompt"])], "chosen": [assistant("dobra 1")], "rejected": [assistant("zła 1")],
            "chosen_score": 9.0, "rejected_score": 4.0, "source": "ręczne", "tools": [{"name": "f"}],
            "meta": {"a": [1, None]},
        }
    ]  # fmt: skip
    assert (report.rows_in, report.rows_out, report.first_bad) == (1, 1, [])


SYSTEM = {"role": "system", "content": "Odpowiadaj krótko."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "content": "7"}


@pytest.mark.parametrize(
    ("given", "prompt", "chosen", "rejected"),
    [
        # whole conversations without and with a prompt
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]}, ["a"], ["b"], ["c"]),
        ({"prompt": "a", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]}, ["a"], ["b"], ["c"]),
        ({"prompt": "a", "chosen": [SYSTEM, user("a"), assistant("b")], "rejected": [SYSTEM, user("a"), assistant("c")]},
         [SYSTEM["content"], "a"], ["b"], ["c"]),
        # a first turn in common belongs to the prompt, an answer's beginning does not
        ({"chosen": [user("a"), assistant("b"), user("d"), assistant("e")],
          "rejected": [user("a"), assistant("b"), user("d"), assistant("f")]}, ["a", "b", "d"], ["e"], ["f"]),
        ({"chosen": [user("a"), assistant("b"), user("d"), assistant("e")],
          "rejected": [user("a"), assistant("b"), user("x"), assistant("f")]}, ["a"], ["b", "d", "e"], ["b", "x", "f"]),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b"), user("d"), assistant("e")]},
         ["a"], ["b"], ["b", "d", "e"]),
        # tools
        ({"chosen": [user("a"), CALL, RESULT, assistant("7")], "rejected": [user("a"), CALL, RESULT, assistant("8")]},
         ["a", "", "7"], ["7"], ["8"]),
        ({"prompt": [user("a")], "chosen": [CALL, RESULT, assistant("7")], "rejected": "nie wiem"},
         ["a"], ["", "7", "7"], ["nie wiem"]),
    ],
)  # fmt: skip
def test_forms_of_a_row(given: Row, prompt: list[str], chosen: list[str], rejected: list[str]) -> None:
    pair = read_pair({**given, "chosen_score": 1, "rejected_score": 0}, "chosen_score", "rejected_score", True)
    found = [[m["content"] for m in messages] for messages in (pair.prompt, pair.chosen, pair.rejected)]
    assert found == [prompt, chosen, rejected]
    assert pair.scores == (1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        ({"prompt": None}, "no prompt", "no prompt beside answers that are text"),
        ({"prompt": 5}, "not messages", "prompt is 5, it must be text or a list"),
        ({"prompt": []}, "not messages", "prompt is []"),
        ({"prompt": ["x"]}, "not messages", "prompt: message 1 is 'x'"),
        ({"prompt": [assistant("x")]}, "bad roles", "prompt: message 1: assistant after nothing"),
        ({"prompt": [user("x"), assistant("y")]}, "bad roles", "prompt: the prompt ends with assistant"),
        ({"chosen": None}, "not messages", "chosen is None"),
        ({"chosen": "  "}, "empty answer", "chosen: message 2"),
        ({"rejected": ""}, "empty answer", "rejected: message 2"),
        ({"rejected": [user("x")]}, "no prompt", "chosen and rejected do not begin with the same messages"),
        ({"rejected": [{"role": "tool", "content": "x"}]}, "bad roles", "rejected: message 2: tool after user"),
        ({"rejected": [assistant("x"), user("y")]}, "no answer", "rejected: the last message is user's"),
        ({"prompt": "x", "chosen": [user("y"), assistant("b")], "rejected": [user("y"), assistant("c")]},
         "not the prompt", "do not begin with the prompt"),
        ({"prompt": None, "chosen": [user("x"), assistant("b")], "rejected": [user("y"), assistant("c")]},
         "no prompt", "do not begin with the same"),
        ({"chosen_score": "8.5"}, "bad score", "chosen_score is '8.5', it must be a finite number"),
        ({"rejected_score": float("nan")}, "bad score", "rejected_score is nan"),
        ({"rejected_score": float("inf")}, "bad score", "rejected_score is inf"),
        ({"chosen_score": True}, "bad score", "chosen_score is True"),
        ({"chosen_score": None}, "bad score", "chosen_score is None"),
        ({"chosen_score": None, "rejected_score": None}, "no scores", "neither chosen_score nor rejected_score"),
        ({"tools": {"name": "f"}}, "bad tools", "tools is {'name': 'f'}, it must be a list"),
    ],
)  # fmt: skip
def test_bad_rows(change: Row, kind: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_pair({**row(), **change}, "chosen_score", "rejected_score", True)
    assert caught.value.kind == kind
    assert detail in str(caught.value)


def test_bad_rows_are_counted_by_kind_and_place(tmp_path: Path) -> None:
    rows: list[Row | bytes] = [row(1), b"{broken", b'{"prompt": "a", "chosen_score": NaN}', b"[1]", b""]
    rows += [{**row(2), "chosen_score": "8"}, {**row(3), "chosen": ""}, {**row(4), "chosen_score": None}, row(5)]
    found, report = prepare(tmp_path, rows)
    assert [r["chosen"][0]["content"] for r in found] == ["dobra 1", "dobra 5"]
    assert step(report, "bad rows") == (8, 2, {"no JSON": 3, "bad score": 2, "empty answer": 1})
    assert [bad.split(":")[0].rsplit(" ", 1)[1] for bad in report.first_bad] == ["2", "3", "4", "6", "7", "8"]
    many, _ = prepare(tmp_path, [b"x"] * 30 + [row(1)])
    assert len(many) == 1


def test_equal_answers_are_dropped(tmp_path: Path) -> None:
    composed, decomposed = "za\u017c\u00f3\u0142\u0107", "zaz\u0307o\u0301\u0142c\u0301"
    rows = [
        row(1, chosen=composed, rejected=f" {decomposed}\n"),
        row(2, chosen="😀", rejected="😁"),
        row(3, prompt=None, chosen=[user("a"), assistant("b")], rejected=[user("a"), assistant("b")]),
    ]
    found, report = prepare(tmp_path, rows)
    assert [r["chosen"][0]["content"] for r in found] == ["😀"]
    assert step(report, "equal answers") == (3, 1, {})


def test_inverted_pairs_are_swapped_with_all_that_belongs_to_an_answer(tmp_path: Path) -> None:
    fields = {"chosen_model": "a", "rejected_model": "b", "chosen_only": 1}
    found, report = prepare(tmp_path, [row(1, gap=-3.0, **fields), row(2)])
    assert found[0]["chosen"] == [assistant("zła 1")]
    assert (found[0]["chosen_score"], found[0]["rejected_score"]) == (4.0, 1.0)
    assert (found[0]["chosen_model"], found[0]["rejected_model"], found[0]["chosen_only"]) == ("b", "a", 1)
    assert step(report, "inverted") == (2, 2, {"swapped": 1})


def test_the_gap_is_measured_after_the_swap_and_forgives_rounding(tmp_path: Path) -> None:
    rows = [
        row(1, chosen_score=4.1, rejected_score=2.1),  # 1.9999999999999996 in floating point
        row(2, chosen_score=5.0, rejected_score=6.99),
        row(3, chosen_score=5.0, rejected_score=7.0),
        row(4, chosen_score=5, rejected_score=5),
    ]
    found, report = prepare(tmp_path, rows)
    assert [r["chosen_score"] for r in found] == [4.1, 7.0]
    assert step(report, "gap") == (4, 2, {})
    assert len(prepare(tmp_path, rows, min_gap=0)[0]) == 4


def test_score_names(tmp_path: Path) -> None:
    given = {**row(1), "good": 8, "bad": 2}
    found, _ = prepare(tmp_path, [given], chosen_score="good", rejected_score="bad")
    assert (found[0]["chosen_score"], found[0]["rejected_score"]) == (8.0, 2.0)
    assert "good" not in found[0]
    # Where a row has fields of the output's names as well, they are kept, and go with their answers.
    inverted, _ = prepare(tmp_path, [{**row(1), "good": 2, "bad": 8}], chosen_score="good", rejected_score="bad")
    assert (inverted[0]["chosen_score"], inverted[0]["rejected_score"]) == (8.0, 2.0)
    scores = row(1)["chosen_score"], row(1)["rejected_score"]
    assert (found[0]["source_chosen_score"], found[0]["source_rejected_score"]) == scores
    assert (inverted[0]["source_rejected_score"], inverted[0]["source_chosen_score"]) == scores


def test_rows_without_scores(tmp_path: Path) -> None:
    bare = [{k: v for k, v in row(n).items() if "score" not in k} for n in (1, 2)]
    with pytest.raises(DataError, match=r"no row has the scores 'chosen_score' and 'rejected_score'.*--no-scores"):
        prepare(tmp_path, bare)
    assert not (tmp_path / "pairs.jsonl").exists()
    found, _ = prepare(tmp_path, bare, no_scores=True)
    assert [set(r) for r in found] == [{"prompt", "chosen", "rejected"}] * 2
    # Among rows with scores one without is a bad one; with no_scores those with scores still have to be apart.
    assert step(prepare(tmp_path, [*bare, row(3)])[1], "bad rows") == (3, 1, {"no scores": 2})
    assert len(prepare(tmp_path, [*bare, row(3, gap=1)], no_scores=True)[0]) == 2


def test_of_near_duplicates_the_largest_gap_stays(tmp_path: Path) -> None:
    alike = [row(1, gap, chosen=f"odpowiedź {gap} {n}") for n, gap in enumerate((3.0, 5.0, 5.0, 2.0))]
    alike[2]["prompt"] = alike[2]["prompt"].upper() + "!"
    found, report = prepare(tmp_path, [row(7), *alike, row(8)])
    assert [r["chosen"][0]["content"] for r in found] == ["dobra 7", "odpowiedź 5.0 1", "dobra 8"]
    assert step(report, "near duplicates") == (6, 3, {"clusters": 1})
    assert len(prepare(tmp_path, alike, near_duplicates="none")[0]) == 4


def test_short_prompts_are_compared_too(tmp_path: Path) -> None:
    """Fewer words than MinHash needs."""
    rows = [row(1, 3.0, prompt="Która godzina?"), row(2, 4.0, prompt="która  GODZINA?"), row(3, prompt="Który rok?")]
    assert [r["chosen_score"] for r in prepare(tmp_path, rows)[0]] == [8.0, 9.0]


def test_a_system_message_in_common_makes_nobody_alike(tmp_path: Path) -> None:
    system = {"role": "system", "content": " ".join(random.Random(0).choices(WORDS, k=2000))}
    rows = [{**row(n), "prompt": [system, user(row(n)["prompt"])]} for n in range(5)]
    assert len(prepare(tmp_path, rows)[0]) == 5


def test_pairs_may_be_compared_with_their_answers(tmp_path: Path) -> None:
    rows = [row(1, chosen=row(n)["prompt"]) for n in (2, 3, 3)]
    assert len(prepare(tmp_path, rows)[0]) == 1
    assert len(prepare(tmp_path, rows, near_duplicates="pair")[0]) == 2


def test_the_order_of_the_steps(tmp_path: Path) -> None:
    """A pair that falls to an earlier step must not take another one with it."""
    rows = [
        row(1, gap=6.0, rejected="dobra 1"),  # equal answers, the largest gap
        row(1, gap=1.0),  # too close
        row(1, gap=-4.0, chosen="wygrywa po zamianie", rejected="lepsza"),
        row(1, gap=3.0),
    ]
    found, report = prepare(tmp_path, rows)
    assert [r["chosen"][0]["content"] for r in found] == ["lepsza"]
    assert [(s.rows_in, s.rows_out) for s in report.steps] == [(4, 4), (4, 3), (3, 3), (3, 2), (2, 1)]


def test_near_duplicates_are_those_of_plain_jaccard(tmp_path: Path) -> None:
    """Texts changed in few or in many words, so that every two overlap by over 0.9 or by under 0.5."""
    rng = random.Random(5)
    vocabulary = ["".join(rng.choices("aąbcćdeęłńóśźż", k=6)) for _ in range(2000)]  # no digits: all numbers are alike
    prompts: list[str] = []
    for _ in range(25):
        words = rng.choices(vocabulary, k=200)
        prompts.append(" ".join(words))
        for _ in range(rng.randrange(3)):
            near = list(words)
            near[rng.randrange(200)] = "inne"
            prompts.append(" ".join(near))
        far = list(words)
        for place in range(0, 200, 8):
            far[place] = rng.choice(vocabulary)
        prompts.append(" ".join(far))
    rng.shuffle(prompts)
    sets = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in map(str.split, prompts)]
    cluster = list(range(len(prompts)))
    for a, b in combinations(range(len(prompts)), 2):
        overlap = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        assert overlap > 0.9 or overlap < 0.5
        if overlap > 0.9:
            old, new = cluster[b], cluster[a]
            cluster = [new if c == old else c for c in cluster]
    gaps = [rng.choice([3.0, 4.0, 5.0]) for _ in prompts]
    wanted = []
    for name in dict.fromkeys(cluster):
        members = [n for n, c in enumerate(cluster) if c == name]
        wanted.append(max(members, key=lambda n: (gaps[n], -n)))
    assert 25 < len(wanted) < len(prompts)
    found, _ = prepare(tmp_path, [row(n, gaps[n], prompt=prompt) for n, prompt in enumerate(prompts)])
    assert [int(r["chosen"][0]["content"].split()[1]) for r in found] == sorted(wanted)


@pytest.mark.parametrize(
    ("rows", "told"), [([], "among 0 rows"), ([b"{", {"body": "a"}], "among 2 rows; first: "), ([b"{}"] * 3, "among 3")]
)
def test_e9_nothing_usable_is_an_error(rows: list[Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"--input: no pair {told}"):
        prepare(tmp_path, rows)
    assert not (tmp_path / "pairs.jsonl").exists()


def test_one_row(tmp_path: Path) -> None:
    found, report = prepare(tmp_path, [row(1)])
    assert (len(found), report.rows_in, report.rows_out) == (1, 1, 1)


def test_parquet_and_compressed_and_the_same_bytes_again(tmp_path: Path) -> None:
    messages = [[user(row(n)["prompt"])] for n in range(3)]
    answers = {name: [[assistant(f"{name} {n}")] for n in range(3)] for name in ("chosen", "rejected")}
    scores = {"chosen_score": [9.0, float("nan"), 8.0], "rejected_score": [1.0, 2.0, 3.0]}
    # A field that one message has is None in all others.
    messages[0][0]["name"] = "Ala"
    table = pa.table({"prompt": messages, **answers, **scores})
    pa.parquet.write_table(table, tmp_path / "raw.parquet")
    outputs = [tmp_path / "a.jsonl.zst", tmp_path / "b.jsonl.zst"]
    for threads, output in enumerate(outputs, 1):
        report = prepare_preferences([str(tmp_path / "raw.parquet")], output, threads=threads)
    assert step(report, "bad rows") == (3, 2, {"bad score": 1})
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    prepare_preferences([str(outputs[0])], tmp_path / "c.jsonl")
    lines = [orjson.loads(line) for line in (tmp_path / "c.jsonl").read_bytes().splitlines()]
    assert [line["prompt"][0] for line in lines] == [messages[0][0], messages[2][0]]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "pairs.jsonl"
    Path(f"{output}.tmp").symlink_to("/dev/full")
    source = write(tmp_path / "raw.jsonl", [row(n, chosen="x" * 100_000) for n in range(20)])
    with pytest.raises(DataError, match="the disk is full"):
        prepare_preferences([source], output)
    assert list(output.parent.iterdir()) == []


def test_a_disk_too_small_for_what_waits_is_one_line(tmp_path: Path) -> None:
    """The rows that wait for their near duplicates need room as well: files of this process end at 100 kB."""
    source = write(tmp_path / "raw.jsonl", [row(n, chosen="x" * 10_000) for n in range(60)])
    (tmp_path / "out").mkdir()
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(TOOL), "--input", source, "--output", str(tmp_path / "out" / "p.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write" in done.stderr
    assert "file too large" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_gap": -1.0}, "--min-gap is -1.0, needs 0 or more"),
        ({"min_gap": float("nan")}, "--min-gap is nan"),
        ({"rejected_score": "chosen_score"}, "are both 'chosen_score', need two fields"),
    ],
)
def test_bad_options(options: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PreferenceOptions(**options)


def test_the_tool(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", [row(1), b"{", row(2, gap=-3), row(2, gap=5), row(3, gap=1)])
    command = [sys.executable, str(TOOL), "--output", str(tmp_path / "p.jsonl"), "--report", str(tmp_path / "r.json")]
    done = subprocess.run([*command, "--input", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "raw.jsonl, line 2: no JSON" in done.stderr
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/p.jsonl: 2 of 5 pairs"
    report = json.loads((tmp_path / "r.json").read_text())
    assert [(s["name"], s["rows_in"], s["rows_out"]) for s in report["steps"]] == [
        ("bad rows", 5, 4), ("equal answers", 4, 4), ("inverted", 4, 4), ("gap", 4, 3), ("near duplicates", 3, 2),
    ]  # fmt: skip
    assert report["steps"][0]["details"] == {"no JSON": 1}
    done = subprocess.run([*command, "--input", "none.jsonl"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--input none.jsonl: no such file" in done.stderr
