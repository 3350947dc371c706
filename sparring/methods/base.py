"""What a method is written against: an agent, a session, and the settings that methods read.

A method is a function of a session. Agents come in and go out as values; trajectories come out of rollouts, and pairs
go into training. A method says in which order. The session (`sparring.runs.session`) says where it is written, from
which seed it draws, and what is skipped because it was finished before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sparring.synthesis.curriculum import HasCoEvolveSections

if TYPE_CHECKING:
    from sparring.core.types import PreferencePair, Task, Trajectory
    from sparring.data.late import LateConfig
    from sparring.data.pairs import PairConfig
    from sparring.data.pivots import PivotConfig
    from sparring.data.preferences import Preferences
    from sparring.learning.objectives import LossConfig
    from sparring.methods.coevolving_agents import FailConfig
    from sparring.methods.grpo import GrpoConfig
    from sparring.methods.ipr import IprConfig
    from sparring.methods.loop import EtoConfig, LoopConfig
    from sparring.methods.partners import PartnerConfig
    from sparring.methods.ppo import PpoConfig
    from sparring.methods.prefer import PreferConfig
    from sparring.methods.rft import RftConfig
    from sparring.rollouts.branch import Branch, Script
    from sparring.rollouts.loop import RolloutConfig
    from sparring.synthesis.curriculum import Curriculum, SynthesisResult
    from sparring.synthesis.pool import PoolEvent
    from sparring.synthesis.signals import Pattern


@dataclass(frozen=True, kw_only=True)
class Agent:
    """An agent as it stands: a name and the weights it has now."""

    name: str
    """`target` or `partner`."""
    checkpoint: str
    """A Hugging Face folder, a Hub id or a bundled model's name."""
    lineage: str
    """A hash of everything that made the weights; equal lineages have equal weights."""
    is_start: bool = False
    """True until the agent learns from its own rollouts: its phases are then shared between arms."""


class MethodConfig(HasCoEvolveSections, Protocol):
    """The sections of a run's config that methods read."""

    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def loss(self) -> LossConfig: ...
    @property
    def pairs(self) -> PairConfig: ...
    @property
    def pivot(self) -> PivotConfig: ...
    @property
    def late(self) -> LateConfig: ...
    @property
    def partner(self) -> PartnerConfig: ...
    @property
    def fail(self) -> FailConfig: ...
    @property
    def loop(self) -> LoopConfig: ...
    @property
    def eto(self) -> EtoConfig: ...
    @property
    def ipr(self) -> IprConfig: ...
    @property
    def prefer(self) -> PreferConfig: ...
    @property
    def rft(self) -> RftConfig: ...
    @property
    def grpo(self) -> GrpoConfig: ...
    @property
    def ppo(self) -> PpoConfig: ...


class Session(Protocol):
    """One arm of a recipe with one seed. Every call is a resumable phase.

    A phase depends on its inputs and the config alone, never on time or on which phases were resumed.
    """

    @property
    def config(self) -> MethodConfig:
        """The arm's settings."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed, from which every draw derives its own."""
        ...

    @property
    def experts(self) -> Sequence[Trajectory]:
        """The expert trajectories of the training tasks."""
        ...

    @property
    def train_tasks(self) -> Sequence[Task]:
        """All training tasks."""
        ...

    @property
    def action_pattern(self) -> Pattern:
        """What kind of action a text is, as the world sees it."""
        ...

    def preferences(self) -> Preferences:
        """Return what the files of `prefer.*` hold, parted into what is trained on and what is held out.

        Raises:
            ConfigError: no file is named.
            DataError: one is missing or malformed; the message names path, line and field.
        """
        ...

    def judge(self, agent: Agent, round_number: int) -> None:
        """Ask the agent how likely it finds both sides of the held-out preferences, for results and report."""
        ...

    def base(self, name: str) -> Agent:
        """Return the base model as an agent, untrained."""
        ...

    def adopt(self, name: str, checkpoint: str) -> Agent:
        """Return weights that were trained elsewhere as an agent."""
        ...

    def imitate(self, name: str, *, extra: Sequence[Trajectory] = (), round_number: int = 0) -> Agent:
        """Fine-tune the base model on the experts' trajectories (and `extra` ones): behavioural cloning.

        Target and partner draw from seeds of their own, so that they start as two different agents.

        Args:
            name: the agent's.
            extra: what is cloned beside the experts.
            round_number: the round whose training it is; 0: it comes before the first.

        Source: arXiv 2511.22254, Eq. 5.
        """
        ...

    def bootstrap(self, agent: Agent) -> tuple[Sequence[Task], Sequence[Trajectory]]:
        """Return D_0, and how its tasks are solved.

        With `bootstrap.num` tasks are made by exploring without a goal, in a phase that arms share. Else they are the
        training tasks, with the experts' trajectories.

        Args:
            agent: plays where validation asks for an agent.

        Raises:
            ConfigError: the world can't be explored, or no server is named for a language model.
            DataError: exploration made no task.
        """
        ...

    def draw_tasks(self, round_number: int, num: int | None, among: Sequence[Task] | None = None) -> Sequence[Task]:
        """Draw a round's training tasks, the same for every agent; none, or more than there are: all of them.

        Args:
            round_number: from 1.
            num: how many.
            among: what to draw from; all training tasks where not given.
        """
        ...

    def rollout(
        self,
        agent: Agent,
        round_number: int,
        *,
        tasks: Sequence[Task] | None = None,
        num_per_task: int | None = None,
        is_refreshed: bool = False,
    ) -> list[Trajectory]:
        """Let the agent play training tasks, sampled; broken episodes are included and marked.

        With `loop.buffer_rounds` above 1 the trajectories of the last rounds are returned with this one's.

        Args:
            round_number: from 1; it enters the seeds, so that each round samples anew.
            tasks: what is played; the round's drawn tasks where not given.
            num_per_task: episodes a task; the config's `rollout.num_per_task` where not given.
            is_refreshed: this is the agent's second rollout in the round, after it has trained.
        """
        ...

    def rollouts(
        self, agents: Sequence[Agent], round_number: int, *, tasks: Sequence[Task] | None = None
    ) -> list[list[Trajectory]]:
        """Let agents play the same tasks, each as in `rollout`; a server plays them all at the same time."""
        ...

    def branch(
        self, agent: Agent, round_number: int, branches: Sequence[Branch], *, num_per_branch: int, name: str = ""
    ) -> list[Trajectory]:
        """Let the agent play on inside other episodes, sampled; in the order of the branches, each several times.

        Args:
            name: tells apart what an agent plays in this way in one round: the phase is `branch-AGENT-NAME`.
        """
        ...

    def script(self, round_number: int, scripts: Sequence[Script], *, is_refreshed: bool = False) -> list[Trajectory]:
        """Do given actions inside other episodes, as the partner; `is_refreshed` as in `rollout`."""
        ...

    def likelihoods(self, agent: Agent, round_number: int, trajectories: Sequence[Trajectory]) -> Mapping[str, float]:
        """Ask the agent how likely it is to act so: trajectory id → mean log-probability (nats) of an action token.

        Given turns do not count. What does not fit the context is left out.
        """
        ...

    def sample(self, agent: Agent, round_number: int, *, tasks: Sequence[Task], num_per_task: int) -> list[Trajectory]:
        """Let the agent play tasks several times each, and keep the log-probabilities it sampled at."""
        ...

    def evaluate(self, agent: Agent, round_number: int) -> list[Trajectory]:
        """Let the agent play the held-out tasks, greedily, one episode each."""
        ...

    def prefer(
        self, agent: Agent, pairs: Sequence[PreferencePair], round_number: int, *, loss: LossConfig | None = None
    ) -> Agent:
        """Train the agent on preference pairs; the reference is the agent as it is now.

        Args:
            round_number: from 1; the first round may have another rate and beta than the later ones.
            loss: in place of the config's.

        Raises:
            TrainingError: there are no pairs, or training ran into a loss that is not finite.
        """
        ...

    def improve(
        self,
        agent: Agent,
        trajectories: Sequence[Trajectory],
        advantages: Mapping[str, float],
        round_number: int,
        *,
        reference: Agent,
        tasks_change: bool = False,
    ) -> Agent:
        """Train the agent on what it sampled, by policy gradient with `grpo.*`.

        Where all groups have rewards that are alike and there is no KL term, the agent stays as it is.

        Args:
            trajectories: of `sample`.
            advantages: trajectory id → advantage; trajectories without one are left out.
            round_number: from 1.
            reference: whom the KL term holds on to; it is asked only if `grpo.kl_weight` is above 0.
            tasks_change: later rounds have other tasks, so that a first one without any reward is no reason to end.

        Raises:
            TrainingError: there is no trajectory to learn from, or training ran into a loss that is not finite; or no
                episode of the first round earned anything, and no easier tasks are to come.
        """
        ...

    def improve_with_critic(
        self, agent: Agent, trajectories: Sequence[Trajectory], round_number: int, *, reference: Agent
    ) -> Agent:
        """Train the agent and its value head by PPO with `ppo.*`.

        Args:
            trajectories: of `sample`; with `ppo.kind = "offline"` those of an earlier round.
            round_number: from 1.
            reference: the distance from it is taken off the reward, if `ppo.kl_weight` is above 0.

        Raises:
            TrainingError: as for `improve`.
        """
        ...

    def synthesise(self, agent: Agent, curriculum: Curriculum, round_number: int) -> SynthesisResult:
        """Make tasks where the agent is weak, and validate them by acting; with `kind = "replay"` none are made.

        Args:
            agent: probes what is proposed.
            curriculum: where the run stands.
            round_number: from 1; it enters the seeds.

        Raises:
            ConfigError: the world offers no synthesis, or no server is named for a language model.
        """
        ...

    def references(self, result: SynthesisResult) -> list[Trajectory]:
        """Return how the sound tasks of a synthesis were solved when they were validated: one episode a task."""
        ...

    def record_pool(self, round_number: int, events: Sequence[PoolEvent]) -> None:
        """Write down what happened to the pool of tasks in a round, for the report."""
        ...

    def warn(self, message: str) -> None:
        """Tell the user of something that changes what the run means, and go on."""
        ...
