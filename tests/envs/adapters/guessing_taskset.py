"""A taskset of verifiers with an environment of its own for tests: a number is guessed, turn by turn."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["Guessing", "GuessingEnv"]


class NumberData(vf.TaskData):
    number: int


class NumberTask(vf.Task[NumberData, vf.State, vf.TaskConfig]):
    pass


class GuessingConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class GuessingEnv(vf.Env[GuessingConfig]):
    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        turns = 1
        async with agents.player.interaction(task) as talk:
            segment = await talk.turn()
            while segment.last_reply != str(task.data.number) and not segment.terminated:
                is_low = segment.last_reply.isdecimal() and int(segment.last_reply) < task.data.number
                segment = await talk.turn("Higher." if is_low else "Lower.")
                turns += 1
        talk.trace.record_reward("found", 1 / turns, 1.0)


class Guessing(vf.Taskset[NumberTask, vf.TasksetConfig]):
    def load(self) -> Iterator[NumberTask]:
        for number in range(30):
            yield NumberTask(NumberData(prompt="Guess my number.", number=number % 7), self.config.task)
