"""What docs/extending.md tells is true: a method, a loss, a pair rule and a partner of one's own run from a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from examples.own_loss import hinge
from sparring.core.convert import type_hints
from sparring.core.errors import ConfigError
from sparring.core.journal import read_jsonl
from sparring.core.progress import SilentProgress
from sparring.learning.objectives import LossConfig, _own_loss
from sparring.methods.partners import PARTNERS, PartnerConfig, find_partner
from sparring.methods.table import METHODS, find_method
from sparring.runs.recipe import run_recipe
from sparring.runs.recipe_files import load_recipe, recipe_from_dict

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The example's recipe with a small random model and little training."""
    from tests.tiny_models import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("extending")
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    small = {
        "model.path": str(folder / "model"),
        "expert.path": str(ROOT / "examples/treasure.jsonl"),
        "sft.epochs": 8,
        "sft.lr": 1e-2,
        "dpo.epochs": 1,
        "eval.num_tasks": 4,
        "chat.max_context": 512,
        "chat.instruction": "",
        "loop.accept_tasks": 0,
        "rollout.num_per_task": 6,
        "rollout.num_tasks": 10,
        "fail.min_pairs": 1,
    }
    recipe = load_recipe(ROOT / "examples/extending.toml", small)
    return folder / "run", run_recipe(recipe, folder / "run", SilentProgress())


def pairs_of(run: Path, arm: str, agent: str) -> list[dict[str, Any]]:
    return read_jsonl(run / f"seed-0/{arm}/round-1/train-{agent}/pairs.jsonl")


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    files = ("own_method", "own_loss", "own_pairs", "own_partner")
    assert shown[:4] == [(ROOT / f"examples/{name}.py").read_text() for name in files]


def test_all_four_run_to_results_and_a_report(run: tuple[Path, dict[str, Any]]) -> None:
    folder, results = run
    labels = {name: arm["label"] for name, arm in results["arms"].items()}
    assert labels["own_method"] == "own_best"
    assert list(labels) == ["own_method", "own_loss", "own_pairs", "own_partner"]
    for arm in results["arms"].values():
        (seed,) = arm["seeds"].values()
        assert [one["round"] for one in seed["evaluations"] if one["agent"] == "target"] == [0, 1]
    page = (folder / "report.html").read_text()
    assert "introvert partner" in page and "hinge loss" in page


def test_the_methods_pairs_prefer_its_own_best_episodes(run: tuple[Path, dict[str, Any]]) -> None:
    pairs = pairs_of(run[0], "own_method", "target")
    assert pairs
    assert not any(str(pair["chosen"]).startswith("expert/") for pair in pairs)


def test_the_loss_is_the_one_that_is_trained_on(run: tuple[Path, dict[str, Any]]) -> None:
    """Before the first step policy and reference agree, so that the hinge is 1, and DPO's would be log 2."""
    first = read_jsonl(run[0] / "seed-0/own_loss/round-1/train-target/log.jsonl")[0]
    assert first["expert>target/margin"] == pytest.approx(0, abs=1e-4)
    assert first["expert>target/loss"] == pytest.approx(1, abs=1e-4)


def test_the_rule_keeps_one_pair_for_each_chosen_episode(run: tuple[Path, dict[str, Any]]) -> None:
    chosen = [pair["chosen"] for pair in pairs_of(run[0], "own_pairs", "target")]
    assert chosen and len(chosen) == len(set(chosen))
    usual = [pair["chosen"] for pair in pairs_of(run[0], "own_partner", "target")]
    assert len(usual) > len(set(usual))


def test_the_partner_learns_from_its_own_failures(run: tuple[Path, dict[str, Any]]) -> None:
    pairs = pairs_of(run[0], "own_partner", "partner")
    assert pairs
    assert all("partner" in str(pair[side]) for pair in pairs for side in ("chosen", "rejected"))


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "nonesuch:f"}, r"method: can't import 'nonesuch'.*PYTHONPATH"),
        ({"method": "examples.own_method:nothing"}, r"method: module 'examples\.own_method' has no 'nothing'"),
        ({"method": "sparring:__version__"}, r"method: 'sparring:__version__' is a str, not a function"),
        ({"method": "etoo"}, r"unknown method 'etoo'\. Did you mean 'eto'\?.*package\.module:function"),
        ({"method": "a b:c"}, r"method: expected text, found one that is not package\.module:name"),
        (
            {"method": "eto", "loss": {"variant": "dpoo"}},
            r"loss\.variant: expected one of 'dpo', 'ipo', 'dpop' or pack",
        ),
        ({"method": "eto", "loss": {"variant": "nonesuch:f"}}, r"loss\.variant: can't import 'nonesuch'"),
        ({"method": "eto", "pairs": {"rule": "sparring:__version__"}}, r"pairs\.rule: .* is a str, not a function"),
        ({"method": "coevolving_agents", "partner": {"kind": "sparring:__version__"}}, r"partner\.kind: .*PartnerKind"),
        ({"method": "eto", "loss": {"variant": "__main__:nothing"}}, r"has no 'nothing'.*notebook"),
    ],
)
def test_what_can_not_be_found_is_refused_before_anything_runs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from_dict(values)


def test_a_loss_of_another_shape_is_refused_with_its_key() -> None:
    side_P = torch.zeros(3)
    assert _own_loss("examples.own_loss:hinge", (side_P, side_P, side_P, side_P, 0.1)).tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match=r"loss\.variant: .* not one loss for each of 3 pairs"):
        _own_loss("torch:logical_and", (side_P, side_P[:, None]))


def test_the_hinge_leaves_a_pair_alone_once_it_is_told_apart() -> None:
    """Margins of 0, 5 and 20 nats with beta .1: losses of 1, .5 and 0."""
    none_P, margin_P = torch.zeros(3), torch.tensor([0.0, 5.0, 20.0])
    assert hinge(margin_P, none_P, none_P, none_P, 0.1).tolist() == [1.0, 0.5, 0.0]


def test_words_of_the_config_and_tables_agree() -> None:
    words, _ = get_args(type_hints(PartnerConfig)["kind"])
    assert set(get_args(words)) == set(PARTNERS)
    words, _ = get_args(type_hints(LossConfig)["variant"])
    assert get_args(words) == ("dpo", "ipo", "dpop")
    for kind, known in PARTNERS.items():
        assert find_partner(kind) is known
    for name, method in METHODS.items():
        assert find_method(name) is method


def test_a_partner_without_weights_is_asked_for_none() -> None:
    base = {"method": "coevolving_agents", "partner": {"kind": "scripted"}}
    recipe_from_dict(base)
    for more, key in (
        ({"partner": {"kind": "scripted", "evaluate": True}}, r"partner\.evaluate"),
        ({"partner": {"kind": "scripted", "checkpoint": "x"}}, r"partner\.checkpoint"),
        ({"late": {"num": 2}}, r"late\.num"),
    ):
        with pytest.raises(ConfigError, match=rf"{key}: a scripted partner has no weights"):
            recipe_from_dict({**base, **more})
