"""ScienceWorld: see `benchmark` for the world, `jvm` for its simulator, `synthesis` for its part in new tasks."""

from sparring.envs.scienceworld.benchmark import ScienceWorld

__all__ = ["ScienceWorld"]
