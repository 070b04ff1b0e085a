"""``--model``: the sizes of published models fill the ranks that a cascade has."""

import json

import pytest

from penstock import zoo
from penstock.cli import main
from penstock.zoo import models


@pytest.mark.parametrize(
    ("cascade", "model", "shapes", "constants"),
    [
        ("gqa_causal", "llama3-8b", {"h": 32, "g": 8, "e": 128, "f": 128}, {}),
        ("mqa", "bert-base", {"h": 12, "e": 64, "f": 64}, {}),
        ("soft_cap", "gemma2-9b", {"h": 16, "e": 256, "f": 256}, {"CAP": 50}),
        ("sliding_window", "mistral-7b", {"h": 32, "e": 128, "f": 128}, {"W": 4096}),
        ("mla", "deepseek-v3", {"h": 128, "e": 128, "f": 128, "r": 64, "c": 512}, {}),
        ("attention_sink", "gpt-oss-20b", {"h": 64, "g": 8, "e": 64, "f": 64}, {"W": 128}),
    ],
)
def test_a_model_fills_what_a_cascade_has(cascade, model, shapes, constants):
    assert models.get(model).shapes(zoo.load(cascade)) == shapes
    assert models.get(model).constants(zoo.load(cascade)) == constants


def test_explore_with_a_model(capsys):
    line = "explore gqa_causal --target fusemax --model llama3-8b --shape p=64 m=64 h=16 --json"
    assert main(line.split()) == 0
    said = json.loads(capsys.readouterr().out)
    expected = {"h": 16, "g": 8, "p": 64, "m": 64, "e": 128, "f": 128}  # --shape h wins
    assert said["shapes"] == expected


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "deepseek-v3" in text
    assert max(map(len, text.splitlines())) <= 100
    assert main(["models", "--json"]) == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)} == set(models.MODELS)


def test_an_unknown_model(capsys):
    assert main(["show", "attention", "--model", "lama3-8b"]) == 1
    assert "fix: did you mean 'llama3-8b'" in capsys.readouterr().err


def test_every_command_has_an_example(capsys):
    from penstock.cli import EXAMPLES
    from penstock.cli.commands import COMMANDS

    assert set(EXAMPLES) == set(COMMANDS)
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"example: penstock {command}" in capsys.readouterr().out
