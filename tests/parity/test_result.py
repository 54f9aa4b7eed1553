"""What a report says: the verdict, the findings, the numbers, and the exit status."""

import pytest

from jaxnet.parity._judgement import Judgement
from jaxnet.parity._result import Alternative, Coverage, Finding, Horizon, Report, SiteResult
from jaxnet.parity._text import explained, part

SAME = Judgement("same", torch=6e-8, jax=5e-8, double=1e-16, plain=7e-8, scale=1.0)
DIFFERENT = Judgement("different", torch=6e-8, jax=5e-8, double=3e-6, plain=3e-6, scale=0.5)
NULL = Judgement("null gradient", torch=1e-9, jax=1e-9, double=1e-18, plain=2e-9, scale=1e-18)


def result(site="forward:norm#0", judgement=SAME, step=0, level="layer"):
    return SiteResult(step, site, level, judgement)


def report(**fields):
    verdict = fields.pop("verdict", "same")
    return Report(verdict, results=fields.pop("results", [result()]), **fields)


LATER = result("loss:0", DIFFERENT, level="step")


def found(**fields):
    fields = {"message": "the output differs", "results": [result(judgement=DIFFERENT)]} | fields
    return Finding("forward:norm#0", 2, "layer", "different", **fields)


@pytest.mark.parametrize(
    ("verdict", "status"), [("same", 0), ("different", 1), ("not comparable", 2)]
)
def test_exit_status(verdict, status):
    assert report(verdict=verdict).exit_status == status


def test_only_the_same_raises_nothing():
    report().raise_for_difference()
    with pytest.raises(AssertionError, match=r"parity: DIFFERENT  1 difference,"):
        report(verdict="different", findings=[found()]).raise_for_difference()
    with pytest.raises(AssertionError, match="parity: NOT COMPARABLE"):
        report(verdict="not comparable").raise_for_difference()


WORDS = {
    "the verdict and what was counted": (
        {
            "verdict": "different",
            "results": [result(), result(judgement=DIFFERENT), result("forward:fc#0")],
            "findings": [found()],
            "environment": {
                "torch": {"torch": "2.13.0", "device": "cpu"},
                "jax": {"jax": "0.10.2", "device": "gpu"},
            },
            "subject": {"batch": 8},
        },
        "parity: DIFFERENT  1 difference, 2 of 3 arrays same  "
        "(torch 2.13.0 cpu, jax 0.10.2 gpu, 1 step, batch 8)",
    ),
    "arrays that follow from others are not counted": (
        {"results": [result(), result(judgement=DIFFERENT, level="chain")]},
        "parity: SAME  1 of 1 arrays same  (1 step)",
    ),
    "what differs in a whole step since a layer does is not counted either": (
        {
            "results": [result(judgement=DIFFERENT), LATER],
            "findings": [found(consequences=[LATER])],
        },
        "parity: SAME  1 difference, 0 of 1 arrays same  (1 step)",
    ),
    "what differs in a whole step alone is": (
        {
            "results": [result(), result("loss:0", DIFFERENT, level="step")],
            "findings": [found(results=[result("loss:0", DIFFERENT, level="step")])],
        },
        "parity: SAME  1 difference, 1 of 2 arrays same  (1 step)",
    ),
    "where": (
        {"findings": [found(torch_where="LayerNorm model.py:88", jax_where="port.py:71")]},
        "1. norm   forward   step 2   LayerNorm model.py:88  |  port.py:71",
    ),
    "the shares": (
        {"findings": [found()]},
        "   torch32-torch64 1.2e-07   torch64-jax64 6.0e-06   jax64-jax32 1.0e-07   (relative RMS)",
    ),
    "the cause": (
        {"findings": [found(cause="epsilon is 1e-6, torch's is 1e-5", proof="To 1e-16", tried=8)]},
        "   cause: epsilon is 1e-6, torch's is 1e-5",
    ),
    "the proof": (
        {"findings": [found(cause="epsilon is 1e-6", proof="to 1e-16")]},
        "   proof: to 1e-16",
    ),
    "no cause": (
        {"findings": [found(tried=8)]},
        "   cause: not known; none of the 8 that were tried gives your numbers",
    ),
    "causes that cannot be told apart": (
        {"findings": [found(cause="a", alternatives=["b", "c"])]},
        "   or:    b; c (this evidence cannot tell)",
    ),
    "the fix": ({"findings": [found(fix="eps=1e-5")]}, "   fix:   eps=1e-5"),
    "many findings": ({"findings": [found()] * 7}, "and 2 more: print(report.details())"),
    "all was compared": ({}, "not compared: nothing"),
    "exclusions": ({"exclusions": ["a: x", "b: y"]}, "not compared: a: x; b: y"),
    "what was not reached": (
        {
            "coverage": {
                "modules": Coverage(
                    ("a", "b"), dict.fromkeys(("head", "tail"), "it was not called")
                )
            }
        },
        "not reached: 2 of 4 modules: head, tail (it was not called)",
    ),
    "null gradients": (
        {"results": [result(f"param_grad:key{i}.bias", NULL) for i in range(6)]},
        "null gradients, which are rounding only and no part of the verdict: "
        "key0.bias, key1.bias, key2.bias, key3.bias and 2 more",
    ),
    "the free run": (
        {"horizon": Horizon((1e-8,) * 3, (1e-8,) * 3, (1e-8,) * 3, (1e-2,) * 3, equal_to=3)},
        "free run: equal within rounding for 3 of 3 steps; the horizon, where rounding alone is "
        "1e-2 of the way, is beyond step 3",
    ),
    "power": (
        {"power": [Alternative("norm", "eps", True, 1e9), Alternative("norm", "bias", False)]},
        "known mistakes of ports that it excludes: 1; that it does not: 1",
    ),
    "notes": ({"notes": ["the loss was not reached"]}, "note: the loss was not reached"),
}


@pytest.mark.parametrize(("fields", "line"), list(WORDS.values()), ids=list(WORDS))
def test_the_text_says(fields, line):
    assert line in str(report(**fields)).splitlines()


def test_a_clean_report_is_short():
    assert len(str(report(results=[result()] * 1000)).splitlines()) <= 12


def test_nothing_is_said_twice_nor_numbers_of_what_has_none():
    none = Judgement("different", 0.0, 0.0, float("inf"), float("inf"), 0.0)
    text = str(
        report(
            findings=[found(results=[result(judgement=none)])],
            exclusions=["head: not called"],
            coverage={"modules": Coverage(("a",), {"head": "not called"})},
        )
    )
    assert text.count("not called") == 1
    assert "inf" not in text


def test_details_have_one_line_an_array():
    finding = found(consequences=[LATER])
    lines = report(results=[result(), LATER], findings=[finding]).details().splitlines()
    assert len(lines) == 3
    assert lines[1].split() == [
        "0", "forward:norm#0", "layer", "same", "6.0e-08", "1.0e-16", "5.0e-08"
    ]  # fmt: skip
    # It differs because something before it does.
    assert "downstream" in lines[2]


def test_what_follows_from_a_finding_is_counted_under_it():
    updates = [result(f"update:{n}", DIFFERENT, level="step") for n in ("a", "b", "c")]
    text = str(report(findings=[found(consequences=[LATER, *updates, *updates])]))
    assert "\n   with it: 4 arrays differ: loss; update of a, b and 1 more\n" in text


def test_in_a_notebook_names_are_text():
    shown = report(verdict="different", findings=[found(message="<script>")])._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown


def test_the_repr_is_the_verdict():
    assert repr(report()) == "<Report SAME  1 of 1 arrays same  (1 step)>"


def test_the_part_of_one_layer_has_the_worst_step_of_each_array():
    results = [
        result("forward:a.norm#0"),
        result("forward:a.norm#0", DIFFERENT, step=1),
        result("update:a.norm.weight", DIFFERENT, step=1),
        result("forward:a.normal#0"),
        result("loss:0", DIFFERENT),
    ]
    whole = report(
        results=results, findings=[found(results=results[1:2]), found(results=results[4:])]
    )
    there = part(whole, "a.norm")
    assert there.results == results[1:3]
    assert there.findings == whole.findings[:1]
    assert part(whole, "loss").results == results[4:]
    assert part(whole, "a").results == [*results[1:3], results[3]]
    assert part(whole, "b").results == []


START = result("before:norm.weight", level="preflight")
EXPLAINED = {
    "the same": ({}, "norm: the same", 0),
    "the same, and a note": ({"notes": ["a note"]}, "norm: the same\nnote: a note", 0),
    "a difference": ({"findings": [found()]}, "   the output differs", 1),
    "a difference that follows from another": (
        {"results": [result(), result(judgement=DIFFERENT, level="step")]},
        "norm: differs only since something before it does",
        1,
    ),
    "a program that does not run": (
        {"verdict": "not comparable", "notes": ["the program does not run: boo"]},
        "norm: not all of it could be compared\nnote: the program does not run: boo",
        2,
    ),
    "a layer that is not called": (
        {"results": [], "exclusions": ["other: x", "norm: the program does not call it"]},
        "norm: not all of it could be compared\nnot compared: norm: the program does not call it",
        2,
    ),
    "a layer that was compared in part": (
        {"exclusions": ["norm.inner: the program does not call it"]},
        "not compared: norm.inner: the program does not call it",
        2,
    ),
    "initial weights alone": ({"results": [START]}, "norm: not all of it could be compared", 2),
    "a difference that is undecided": (
        {"verdict": "not comparable", "findings": [found(message="undecided")]},
        "   undecided",
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words", "status"), list(EXPLAINED.values()), ids=list(EXPLAINED)
)
def test_what_is_explained_is_the_same_only_where_it_was_compared(fields, words, status):
    text, found_status = explained(part(report(**fields), "norm"), "norm")
    assert found_status == status
    assert words in text
    assert ("the same" in text) == (status == 0)
    assert "other" not in text


def test_numbers_of_null_gradients_are_not_relative_to_rounding():
    assert report(results=[result(judgement=NULL)]).details().split()[-3:] == [
        "1.0e-09", "1.0e-18", "1.0e-09"
    ]  # fmt: skip
