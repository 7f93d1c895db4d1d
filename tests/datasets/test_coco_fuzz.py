"""Spoilt files in COCO's format: refused with a sentence, or loaded as the rules say."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from halvit_mm.datasets.coco_rules import RULES

FUZZ = Path(__file__).with_name("coco_fuzz.py")
RANDOM_SEEDS, MANY_SEEDS = 150, 2500


def fuzz(folder: Path, seeds: int) -> list[dict]:
    process = subprocess.run(
        [sys.executable, FUZZ, folder / "set", str(seeds)],
        capture_output=True,
        text=True,
        timeout=550,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert process.returncode == 0, (
        f"{process.returncode} at {lines[-1:]}: {process.stderr[-2000:]}"
    )
    return [line for line in lines if "started" not in line]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return fuzz(tmp_path_factory.mktemp("fuzz"), RANDOM_SEEDS)


def check_outcomes(outcomes: list[dict]) -> Counter:
    """Refused or as the rules say, within a moment and in little memory."""
    for outcome in outcomes:
        for mode in ("training", "evaluation"):
            assert outcome[mode] in ("refused", "loaded"), f"{outcome['name']}: {outcome[mode]}"
            if outcome[mode] == "refused":
                sentence = outcome[f"{mode} message"].split("\n")[0]
                assert "spoilt.json" in sentence or "/images" in sentence, sentence
                assert ": " in sentence and sentence.count(". ") == 0, "one sentence, with the cure"
                assert len(sentence) < 6000, sentence  # a file's name may have 4000 letters
        # What is good enough for evaluation is so for training.
        assert (outcome["training"], outcome["evaluation"]) != ("refused", "loaded"), outcome[
            "name"
        ]
        assert outcome["seconds"] < 5, outcome["name"]
    assert outcomes[-1]["megabytes"] - outcomes[0]["megabytes"] < 500
    return Counter((outcome["training"], outcome["evaluation"]) for outcome in outcomes)


def test_no_traceback_and_no_wrong_load(outcomes: list[dict]) -> None:
    assert len(outcomes) >= 1000
    counts = check_outcomes(outcomes)
    assert counts["refused", "refused"] >= 800
    assert counts["loaded", "loaded"] >= 60
    assert counts["loaded", "refused"] >= 5, "what only the metric cannot deal with"


def test_each_fault_is_recognised(outcomes: list[dict]) -> None:
    known = [outcome for outcome in outcomes if outcome["expected"]]
    assert len(known) >= 100
    missed = {o["name"]: o["kinds"] for o in known if o["expected"] not in o["kinds"]}
    assert not missed
    assert {o["expected"] for o in known} | {"not an object", "missing key"} >= set(RULES)


def test_refused_faults_are_refused_and_others_loaded(outcomes: list[dict]) -> None:
    for outcome in outcomes:
        refused = [k for k in outcome["kinds"] if RULES[k].refuses(evaluated=False)]
        if refused:
            assert outcome["training"] == "refused", (outcome["name"], refused)
        if outcome["training"] == "refused" and outcome["kinds"] and not refused:
            # Nothing is wrong with the entries, but the config wants other classes or files.
            assert re.search(
                r"categories|no annotation|cannot be read", outcome["training message"]
            )


def test_messages_name_the_annotation(outcomes: list[dict]) -> None:
    named = 0
    for outcome in outcomes:
        if outcome["name"].startswith(("bbox = ", "polygon ", "RLE ")):
            number = 4 if outcome["name"].startswith("RLE") else 1
            message = outcome.get("training message")
            if message is not None:
                assert f"annotation {number} of image " in message.split("\n")[0], message
                named += 1
    assert named >= 40


@pytest.mark.full
def test_many_random_files(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, MANY_SEEDS)
    assert len(outcomes) >= 5000
    check_outcomes(outcomes)
