"""What a phase trains on comes in, with its folder; the phase's checkpoint and log go out, resumable.

A `Training` is an objective, how to optimise it, and how trajectories become groups. This module loads the model, lets
the trainer fit it, and saves it; it knows no method and no order of phases.
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

if TYPE_CHECKING:
    from sparring.core.progress import Bar
    from sparring.engines.base import Objective
    from sparring.learning.advantages import Credit, Scores
    from sparring.learning.policy_gradient import ActorCriticObjective, PolicyGradientObjective
    from sparring.learning.trainer import TrainConfig
    from sparring.models.loading import ModelConfig

MOMENTS = "optimizer.safetensors"
"""The optimizer's state beside a checkpoint, for the training that follows."""

SCORES = "state/scores"
"""Where a phase keeps what models said of its trajectories; it goes when the phase is finished."""

Encode = Callable[[Trajectory], Encoded | None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a phase trains on, and how."""

    objective: Objective
    train: TrainConfig
    make_groups: Callable[[Encode, Any], list[Group]]
    """Makes the groups from an encoder and the agent's model, which has its value head on if there is one."""
    pairs: Sequence[PreferencePair] = ()
    """What the groups are made of, where it is pairs: they are written down, and counted."""
    value_lr: float | None = None
    """Learning rate of the agent's value head; none: it has none."""
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
) -> Training:
    """Return GRPO's training; arguments as for `experience.groups_with_advantages`."""
    from sparring.learning.advantages import Spread, groups_with_advantages

    def make_groups(encode: Encode, _: Any) -> list[Group]:
        return groups_with_advantages(trajectories, advantages, encode, reference)

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
        reference: as for `experience.groups_with_critic`.
        path: keeps what the agent and its value head say before they learn.
    """
    from sparring.learning.advantages import groups_with_critic, mean_reward, score

    def make_groups(encode: Encode, model: Any) -> list[Group]:
        if model.value_head.is_new:
            model.value_head.expect(mean_reward(trajectories))
        scores = score(model, trajectories, encode, path, train=train, temperature=objective.temperature)
        return groups_with_critic(trajectories, encode, scores, reference, credit)

    return Training(
        objective=objective, train=train, make_groups=make_groups, value_lr=credit.value_lr, is_continued=True
    )


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Whose weights a phase trains, how it reads, and who is told of what goes wrong."""

    model: ModelConfig
    """The agent's, as it comes in."""
    moments: Path | None = None
    """Where the agent's last training left its optimizer's state, if it did."""
    make_chat: Callable[[Any, Any], Chat]
    """From a model and its tokenizer."""
    warn: Callable[[str], None]

    def load(self, model: ModelConfig | None = None) -> tuple[Any, Any, Encode, set[str]]:
        """Load a model (the agent's where not given) and return it, its tokenizer, an encoder, and what overflowed.

        The encoder answers none for a trajectory that exceeds the context, and puts its id into the set.
        """
        from sparring.models.loading import check_context, load_model
        from sparring.models.rope import fix_rope

        loaded, tokenizer = load_model(replace(model or self.model, dtype="float32"))
        chat = self.make_chat(loaded, tokenizer)
        check_context(loaded.config, chat.config.max_context)
        fix_rope(loaded, chat.config.max_context)
        overflows: set[str] = set()

        def encode(trajectory: Trajectory) -> Encoded | None:
            try:
                return chat.encode(trajectory)
            except ContextOverflow:
                overflows.add(trajectory.id)
                return None

        return loaded, tokenizer, encode, overflows


def train_phase(learner: Learner, training: Training, phase: Phase, name: str, *, seed: int, bar: Bar) -> None:
    """Train, save the checkpoint and finish the phase; steps that were taken before are not taken again.

    Args:
        learner: the agent's model.
        training: what it trains on.
        phase: where its pairs, log, state and checkpoint go.
        name: the phase's, for warnings.
        seed: of the order of groups.
        bar: gets steps done and steps in all.

    Raises:
        ModelError: the trained model could not be saved.
        TrainingError: there is nothing to train on, or training ran into a loss that is not finite.
        DataError: what was saved of this training is damaged beyond going on.
    """
    from sparring.engines import value_head as critic
    from sparring.learning.policy_gradient import EXACT, ROUNDED, mismatch
    from sparring.learning.trainer import fit
    from sparring.models.saving import check_savable

    if training.pairs:
        phase.journal("pairs.jsonl").replace(pair_to_json(pair) for pair in training.pairs)
    model, tokenizer, encode, overflows = learner.load()
    check_savable(model, tokenizer, learner.model.path)
    if training.value_lr is not None:
        critic.attach(model, Path(learner.model.path), lr=training.value_lr)
    groups = training.make_groups(encode, model)
    if overflows:
        learner.warn(f"{name}: {len(overflows)} trajectories exceed chat.max_context and are left out.")
    state_dir, journal = phase.path / "state", phase.journal("log.jsonl")

    def resumed(done: int) -> None:
        steps = [record for record in journal.read() if record.get("step") in range(1, done + 1)]
        if [record["step"] for record in steps] != list(range(1, done + 1)):
            raise DataError(f"{journal.path}: lacks steps that were taken. Delete {phase.path} to train anew.")
        journal.replace(steps)

    bounds = ROUNDED if _is_rounded(model, learner.model, training.train) else EXACT

    def log(record: dict[str, Any]) -> None:
        journal.append([{**record, **training.counts}])
        if record["step"] == 1 and (difference := mismatch(record, bounds)):
            learner.warn(f"{name}: {difference}")

    result = fit(
        model,
        groups,
        training.objective,
        training.train,
        seed=seed,
        state_dir=state_dir,
        moments=learner.moments if training.is_continued else None,
        resumed=resumed,
        log=log,
        progress=bar.update,
    )
    _save(model, tokenizer, training, phase, state_dir)
    counts = {str(kind): num for kind, num in count_kinds(training.pairs).items() if num}
    phase.finish(
        {
            "steps": result.steps,
            "stopped": result.stopped,
            "overflows": len(overflows),
            "pairs": counts,
            "metrics": result.metrics,
            **training.counts,
        }
    )
    drop_state(phase)


def drop_state(phase: Phase) -> None:
    """Delete what only an unfinished training needs."""
    shutil.rmtree(phase.path / "state", ignore_errors=True)


def _is_rounded(model: Any, config: ModelConfig, train: TrainConfig) -> bool:
    """Say whether the agent plays or trains in half precision, on the device where it lies, or is saved in it."""
    from sparring.engines.scoring import autocast_dtype
    from sparring.models.loading import is_bfloat16
    from sparring.models.saving import came_in_half

    device = next(model.parameters()).device
    return came_in_half(model) or is_bfloat16(config, device) or autocast_dtype(device, train.autocast) is not None


def keep_weights(checkpoint: str, phase: Phase) -> None:
    """Finish a training phase with the weights that the agent came with: what was trained is not used."""
    target = phase.path / CHECKPOINT
    with disk_errors(target):
        shutil.copytree(checkpoint, target, dirs_exist_ok=True)
        sync_tree(target)
    phase.finish({"steps": 0, "stopped": "", "overflows": 0, "pairs": {}, "metrics": {}})


def _save(model: Any, tokenizer: Any, training: Training, phase: Phase, state_dir: Path) -> None:
    """Save what a phase trained: the checkpoint, with its value head and its optimizer's state where these go on."""
    from sparring.engines import value_head as critic
    from sparring.engines.checkpoint import add_weights, moments_path
    from sparring.models.loading import save_model
    from sparring.models.saving import came_in_half

    checkpoint = phase.path / CHECKPOINT
    with disk_errors(checkpoint):
        head = critic.detach(model) if training.value_lr is not None else None
        save_model(model, tokenizer, checkpoint)
        if head is not None:
            critic.save(head, checkpoint)
        if training.is_continued:
            shutil.copyfile(moments_path(state_dir), phase.path / MOMENTS)
            if came_in_half(model):  # the checkpoint is rounded, and small steps would be lost in it
                add_weights(phase.path / MOMENTS, model)
        sync_tree(phase.path if training.is_continued else checkpoint)
