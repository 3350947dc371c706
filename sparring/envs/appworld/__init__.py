"""AppWorld: everyday apps on the real engine, acted on in Python code."""

from sparring.envs.appworld.benchmark import AppWorld as AppWorld
from sparring.envs.appworld.tasks import Draft as Draft
from sparring.envs.appworld.tasks import make_task as make_task
