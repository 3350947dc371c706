"""WebShop: find a product in a text shop, set its options and buy it, in an invented catalogue or the official one.

Comes in: nothing, or a folder with the benchmark's own files. Goes out: tasks, live worlds, experts' actions.
Source: arXiv 2207.01206 (the world and its reward); 2403.02502 (ten turns, the best reward of an episode).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from sparring.core.errors import ConfigError, DataError
from sparring.core.types import Task
from sparring.envs.measures import Measures, Rewards, mean_points, solved_points
from sparring.envs.rewards import RewardRule
from sparring.envs.webshop.env import WebShopEnv
from sparring.envs.webshop.expert import expert_actions
from sparring.envs.webshop.generated import generated_catalogue, generated_goals
from sparring.envs.webshop.goals import OFFICIAL_RANGES, official_goals, split_by_product, split_officially, to_task
from sparring.envs.webshop.official import Source
from sparring.envs.webshop.products import Catalogue, build_catalogue
from sparring.envs.webshop.reward import Goal
from sparring.envs.webshop.store import COMPLETE, FORMAT, cached_catalogue
from sparring.envs.webshop.synthesis import WebShopSynthesis

TURN_LIMIT = 10
"""Most actions of an episode, ETO's."""

KEPT_IN_MEMORY = 64_000_000
"""A source of more bytes than this is written to the cache folder once and mapped from there."""


class WebShop:
    """The benchmark. Splits `train`, `dev` and `test`, as far as there are goals; with `indices`, the named ones."""

    instruction = (
        "You are in a web shop and buy what the instruction asks for. Do one action per turn:\n"
        "search[WORDS]: look for products.\n"
        "click[TEXT]: press what the page shows: a product's id, an option's value, Next >, < Prev, Back to Search, "
        "Description, Features, Reviews or Buy Now.\n"
        "Choose the options before you buy. Buy Now ends the visit: the product's type, attributes, options and price "
        "count."
    )
    reward: RewardRule = "so_far"
    env_per_process = False

    def __init__(
        self,
        *,
        path: str | None = None,
        goals: str = "synthetic",
        split: str = "product",
        indices: Mapping[str, str] | None = None,
        num_products: int | None = None,
        show_attributes: bool = False,
    ) -> None:
        """Load a catalogue and list its goals.

        Args:
            path: a folder with WebShop's own files; none given: a catalogue invented by Sparring.
            goals: with `path`, `synthetic` (expanded from products) or `human` (written by people).
            split: with `path`, `product` (no product on two sides) or `official` (the benchmark's ranges of goals).
            indices: with `path`, split → a JSON file with numbers of shuffled goals, such as ETO's.
            num_products: with `path`, read the first so many products only.
            show_attributes: give item pages the sub-page that lists the attributes which the reward compares.

        Raises:
            ConfigError: an option is unknown, or the catalogue has too few goals for the split.
            DataError: a file can't be read or is malformed.
        """
        _check_options(path, goals, split, indices, num_products)
        self._show_attributes = show_attributes
        self.is_generated = path is None
        if path is None:
            self.catalogue = generated_catalogue()
            self._splits = split_by_product(self._tasks(generated_goals(self.catalogue)))
            return
        self.catalogue = load_catalogue(Source(Path(path)), num_products)
        tasks = self._tasks(official_goals(self.catalogue, is_human=goals == "human"))
        if indices is not None:
            self._splits = {name: _pick(tasks, name, Path(file)) for name, file in indices.items()}
        else:
            self._splits = split_by_product(tasks) if split == "product" else split_officially(tasks)
        empty = [name for name, chosen in self._splits.items() if not chosen]
        if not tasks or (empty and split == "official"):
            raise ConfigError(_too_few(len(tasks), goals, empty[0]))
        for name in empty:
            del self._splits[name]

    def tasks(self, split: str) -> Sequence[Task]:
        """List a split's tasks; any first part of it is a fair sample.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in self._splits:
            raise ConfigError(f"split: WebShop has none called {split!r}. Splits: {', '.join(self._splits)}.")
        return self._splits[split]

    def turn_limit(self, task: Task) -> int:
        return TURN_LIMIT

    def make_env(self) -> WebShopEnv:
        return WebShopEnv(self.catalogue, shows_attributes=self._show_attributes)

    def measures(self, tasks: Sequence[Task], rewards: Rewards) -> Measures:
        """Return the paper's score, a hundred times the mean reward, and success rate."""
        return {"score": mean_points(rewards.values()), "success rate": solved_points(rewards.values())}

    def expert_actions(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Return for each task a search that finds its product, the way to it, its options and the purchase.

        A product that no search brings up within the turn limit has no expert. What a purchase earns is found by
        playing it: on the official catalogue not always 1.
        """
        whole = [task for task in tasks if "prefix" not in task.data]  # what begins on another page has no expert
        paths = {task.id: expert_actions(self.catalogue, task, TURN_LIMIT) for task in whole}
        return {task_id: path for task_id, path in paths.items() if path}

    @cached_property
    def synthesis(self) -> WebShopSynthesis:
        """What it offers to those who make new tasks (`sparring.envs.synthesis`)."""
        return WebShopSynthesis(self.catalogue, self._splits, is_generated=self.is_generated)

    def _tasks(self, goals: Sequence[tuple[str, Goal]]) -> list[Task]:
        kinds: dict[str, str] = {}
        for task_id, goal in goals:
            kinds.setdefault(goal.product_id, task_id.partition("/")[0])
        return [to_task(task_id, kinds[goal.product_id], goal) for task_id, goal in goals]


def load_catalogue(source: Source, num_products: int | None) -> Catalogue:
    """Load a catalogue: a small one into memory, a large one by way of the cache folder."""
    if sum(file.stat().st_size for file in source.files) <= KEPT_IN_MEMORY:
        return build_catalogue(source.read(num_products))
    facts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in source.files]
    digest = hashlib.sha256(json.dumps([FORMAT, facts, num_products]).encode()).hexdigest()
    folder = cache_folder() / digest[:16]
    if not (folder / COMPLETE).exists():
        print(f"Preparing {source.products}: some minutes, once. It is kept in {folder}.", file=sys.stderr)
    return cached_catalogue(source.read(num_products), folder)


def cache_folder() -> Path:
    """Return where prepared catalogues are kept: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparring" / "webshop"


def _check_options(
    path: str | None, goals: str, split: str, indices: Mapping[str, str] | None, num_products: int | None
) -> None:
    for name, value, known in (("goals", goals, ("synthetic", "human")), ("split", split, ("product", "official"))):
        if value not in known:
            raise ConfigError(f"env.options: {name} = {value!r} is unknown. Known: {', '.join(known)}.")
    if num_products is not None and num_products < 1:
        raise ConfigError(f"env.options: num_products = {num_products} must be at least 1.")
    if path is None and ((goals, split) != ("synthetic", "product") or indices or num_products):
        raise ConfigError("env.options: goals, split, indices and num_products are for official data: give path too.")


def _too_few(num: int, goals: str, split: str) -> str:
    official = ", ".join(
        f"{name} {start}–{'' if end is None else end - 1}" for name, (start, end) in OFFICIAL_RANGES.items()
    )
    return (
        f"env.options: of the catalogue's {num} {goals} goals none is left for {split!r} (the official split takes "
        f"{official}). Use goals = 'synthetic', split = 'product', or the full catalogue."
    )


def _pick(tasks: Sequence[Task], split: str, file: Path) -> list[Task]:
    """Pick tasks by a JSON list of their positions among the shuffled goals."""
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}). It should list the goals of {split!r}.") from None
    except ValueError as error:
        raise DataError(f"{file}: is not JSON ({error}). Fetch it again.") from None
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise DataError(f"{file}: must be a JSON list of goal numbers, such as [0, 3, 4].")
    over = [number for number in numbers if number >= len(tasks)]
    if over:
        raise DataError(f"{file}: goal {over[0]} does not exist: the catalogue has {len(tasks)}. Is it the full one?")
    return [tasks[number] for number in dict.fromkeys(numbers)]
