"""A training phase: what an agent trains on comes in, with its folder; its checkpoint and log go out, resumable.

A `Training` is an objective, how to optimise it, and how trajectories become groups. It knows no method and no order of
phases.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.core.errors import DataError
from sparring.core.journal import disk_errors, sync_tree
from sparring.core.phases import CHECKPOINT, Phase
from sparring.core.records import pair_to_json
from sparring.core.types import PreferencePair, Trajectory
from sparring.data.batches import Group
from sparring.data.chat import Chat, ContextOverflow, Encoded
from sparring.data.pairs import count_kinds
from sparring.learning.advantages import (
    Credit,
    Encode,
    Scores,
    Spread,
    groups_with_advantages,
    groups_with_critic,
    mean_reward,
    score,
)
from sparring.learning.policy_gradient import EXACT, ROUNDED, mismatch
from sparring.learning.trainer import FitResult, Start, TrainConfig, Watch, compute_of, fit

if TYPE_CHECKING:
    from sparring.core.progress import Bar
    from sparring.engines.base import Learner, Objective
    from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective

MOMENTS = "optimizer.safetensors"
"""The optimizer's state beside a checkpoint, for the training that follows."""

SCORES = "state/scores"
"""Where a phase keeps what models said of its trajectories; it goes when the phase is finished."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a phase trains on, and how."""

    objective: Objective
    train: TrainConfig
    make_groups: Callable[[Encode, Learner], list[Group]]
    """Makes the groups from an encoder and the learner, which has its value head on if there is one."""
    pairs: Sequence[PreferencePair] = ()
    """What the groups are made of, where it is pairs: they are written down, and counted."""
    value_lr: float | None = None
    """Learning rate of the agent's value head; none: it has none."""
    expected: float = 0.0
    """Where a new value head begins."""
    is_continued: bool = False
    """The optimizer goes on from where the agent's last training left it, and its state is kept for the next."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What every line of the log and the phase's result say besides."""

    def at_rate(self, factor: float) -> Training:
        """Return the same training at `factor` times the learning rate."""
        return replace(self, train=replace(self.train, lr=self.train.lr * factor))


def grpo_training(
    objective: PolicyGradientObjective,
    train: TrainConfig,
    trajectories: Sequence[Trajectory],
    advantages: Mapping[str, float],
    reference: Scores | None,
    path: Path,
) -> Training:
    """Return GRPO's training; arguments as for `advantages.groups_with_advantages`.

    Args:
        path: keeps what the agent says before it learns, where that is told from what a server said.
    """

    def make_groups(encode: Encode, learner: Learner) -> list[Group]:
        own = None
        if objective.max_server_ratio is not None:
            own = score(learner, trajectories, encode, path, compute_of(train, objective.temperature))
        return groups_with_advantages(trajectories, advantages, encode, reference, own)

    return Training(
        objective=objective,
        train=train,
        make_groups=make_groups,
        is_continued=True,
        counts=Spread.of(trajectories).record(),
    )


def ppo_training(
    objective: ActorCriticObjective,
    train: TrainConfig,
    trajectories: Sequence[Trajectory],
    credit: Credit,
    reference: Scores | None,
    path: Path,
) -> Training:
    """Return PPO's training, in which a value head says what to expect at every token.

    Args:
        objective: actor and critic.
        train: how to optimise.
        trajectories: what was played.
        credit: how rewards become advantages.
        reference: as for `advantages.groups_with_critic`.
        path: keeps what the agent and its value head say before they learn.
    """

    def make_groups(encode: Encode, learner: Learner) -> list[Group]:
        scores = score(learner, trajectories, encode, path, compute_of(train, objective.temperature))
        return groups_with_critic(trajectories, encode, scores, reference, credit)

    return Training(
        objective=objective,
        train=train,
        make_groups=make_groups,
        value_lr=credit.value_lr,
        expected=mean_reward(trajectories),
        is_continued=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingPhase:
    """One training of one agent, in a folder of its own."""

    learner: Learner
    """Its weights."""
    chat: Chat
    """How its trajectories become tokens."""
    phase: Phase
    """Where pairs, log, states and checkpoint go."""
    name: str
    """The phase's, for warnings."""
    warn: Callable[[str], None]
    """Told of what goes wrong."""
    watch: Callable[[Mapping[str, Any]], None] = lambda record: None
    """Gets the lines of the log as they are written."""

    def run(self, training: Training, *, seed: int, bar: Bar) -> None:
        """Train, save the checkpoint and finish the phase; steps that were taken before are not taken again.

        Args:
            training: what it trains on.
            seed: of the order of groups.
            bar: gets steps done and steps in all.

        Raises:
            ModelError: the trained model could not be saved.
            TrainingError: there is nothing to train on, or training ran into a loss that is not finite.
            DataError: what was saved of this training is damaged beyond going on.
        """
        if training.pairs:
            self.phase.journal("pairs.jsonl").replace(pair_to_json(pair) for pair in training.pairs)
        self.learner.check_savable()
        if training.value_lr is not None:
            self.learner.attach_value_head(lr=training.value_lr, expected=training.expected)
        encode = Encoder(self.chat)
        groups = training.make_groups(encode, self.learner)
        if encode.overflows:
            self.warn(f"{self.name}: {len(encode.overflows)} trajectories exceed chat.max_context and are left out.")
        result = self._fit(training, groups, seed, bar)
        self._save(training)
        self._finish(training, result, num_overflows=len(encode.overflows))

    def _fit(self, training: Training, groups: Sequence[Group], seed: int, bar: Bar) -> FitResult:
        journal = self.phase.journal("log.jsonl")
        bounds = ROUNDED if self.learner.is_rounded(training.train.autocast) else EXACT

        def resumed(done: int) -> None:
            steps = [record for record in journal.read() if record.get("step") in range(1, done + 1)]
            if [record["step"] for record in steps] != list(range(1, done + 1)):
                raise DataError(f"{journal.path}: lacks steps that were taken. Delete {self.phase.path} to train anew.")
            journal.replace(steps)

        def log(record: dict[str, Any]) -> None:
            journal.append([{**record, **training.counts}])
            self.watch(record)
            if record["step"] == 1 and (difference := mismatch(record, bounds)):
                self.warn(f"{self.name}: {difference}")

        state_dir, is_continued = self.phase.path / "state", training.is_continued
        return fit(
            self.learner,
            groups,
            training.objective,
            training.train,
            Start(seed=seed, state_dir=state_dir, is_continued=is_continued, saves_last=False),
            Watch(resumed=resumed, log=log, progress=bar.update),
        )

    def _save(self, training: Training) -> None:
        """Save what was trained: the checkpoint, and the optimizer's state where the next training goes on from it."""
        target = self.phase.path / CHECKPOINT
        with disk_errors(target):
            self.learner.publish(target, moments=self.phase.path / MOMENTS if training.is_continued else None)
            sync_tree(self.phase.path if training.is_continued else target)

    def _finish(self, training: Training, result: FitResult, *, num_overflows: int) -> None:
        self.phase.finish(
            {
                "steps": result.steps,
                "stopped": result.stopped,
                "overflows": num_overflows,
                "pairs": {str(kind): num for kind, num in count_kinds(training.pairs).items() if num},
                "metrics": result.metrics,
                **training.counts,
            }
        )
        drop_state(self.phase)


class Encoder:
    """Encodes trajectories; answers none for one that exceeds the context, and keeps its id."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.overflows: set[str] = set()

    def __call__(self, trajectory: Trajectory) -> Encoded | None:
        try:
            return self._chat.encode(trajectory)
        except ContextOverflow:
            self.overflows.add(trajectory.id)
            return None


def drop_state(phase: Phase) -> None:
    """Delete what only an unfinished training needs."""
    shutil.rmtree(phase.path / "state", ignore_errors=True)


def keep_weights(checkpoint: str, phase: Phase) -> None:
    """Finish a training phase with the weights that the agent came with: what was trained is not used."""
    target = phase.path / CHECKPOINT
    with disk_errors(target):
        shutil.copytree(checkpoint, target, dirs_exist_ok=True)
        sync_tree(target)
    phase.finish({"steps": 0, "stopped": "", "overflows": 0, "pairs": {}, "metrics": {}})
