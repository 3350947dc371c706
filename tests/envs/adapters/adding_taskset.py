"""A taskset of verifiers for tests: sums, with a reward for the right one and a smaller one for a number."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["Adding"]


class SumData(vf.TaskData):
    answer: int


class SumTask(vf.Task[SumData, vf.State, vf.TaskConfig]):
    @vf.reward(weight=0.75)
    async def is_right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == str(self.data.answer))

    @vf.reward(weight=0.25)
    async def is_number(self, trace: vf.Trace) -> float:
        return float(trace.last_reply.isdecimal())


class Adding(vf.Taskset[SumTask, vf.TasksetConfig]):
    def load(self) -> Iterator[SumTask]:
        for number in range(30):
            data = SumData(
                prompt=f"What is {number} + {number}?", system_prompt="Answer with a number.", answer=2 * number
            )
            yield SumTask(data, self.config.task)
