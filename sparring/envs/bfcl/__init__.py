"""BFCL v3 multi-turn: users who ask for several things, agents who call the functions of eight simulated APIs.

`calls` reads an agent's text, `live` plays its calls on the episode's own APIs, `grading` compares them with the
reference's, `env` leads the conversation, `benchmark` lists tasks. `scenario` says what a task is, `made` makes new
ones. `wheel` is the only module that touches the `bfcl-eval` package.
"""

from sparring.envs.bfcl.benchmark import BFCL, expert
from sparring.envs.bfcl.calls import Call, read_calls, write_calls
from sparring.envs.bfcl.env import BFCLEnv, score
from sparring.envs.bfcl.functions import Function, functions_of
from sparring.envs.bfcl.grading import Score
from sparring.envs.bfcl.live import LiveApis
from sparring.envs.bfcl.made import make_task
from sparring.envs.bfcl.scenario import Reference, Scenario, benchmark_task, reference_of, scenario_of

__all__ = [
    "BFCL",
    "BFCLEnv",
    "Call",
    "Function",
    "LiveApis",
    "Reference",
    "Scenario",
    "Score",
    "benchmark_task",
    "expert",
    "functions_of",
    "make_task",
    "read_calls",
    "reference_of",
    "scenario_of",
    "score",
    "write_calls",
]
