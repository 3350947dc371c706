"""The public names, and what importing Sparring costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import sparring

PUBLIC_NAMES = {
    # records
    *("PairKind", "PreferencePair", "StopReason", "Task", "Trajectory", "Turn"),
    # errors
    *("ConfigError", "DataError", "EnvFault", "ModelError", "SparringError", "TrainingError"),
    # worlds
    *("Benchmark", "Env", "EnvConfig", "EnvPool", "EnvStep", "load_benchmark", "select_tasks"),
    # policies and what they say
    *("Chat", "ChatConfig", "Episode", "LocalPolicy", "ModelConfig", "OpenAIConfig", "OpenAIPolicy", "Policy"),
    *("Dialogue", "RandomPolicy", "ReplayPolicy", "Reply", "ScriptedPolicy", "load_model"),
    # whole runs
    *("Evaluation", "RunResult", "evaluate", "load_run", "train"),
    # parts of one's own
    *("Agent", "Method", "PartnerKind", "Session"),
    # from episodes to figures and pairs
    *("EpisodeSpec", "PairConfig", "RolloutConfig", "Summary", "expert_pairs", "failure_pairs", "paired_difference"),
    *("summarise", "target_pairs"),
}
HEAVY = {"datasets", "httpx", "numpy", "pandas", "py4j", "safetensors", "scienceworld", "tokenizers", "torch"}
HEAVY |= {"transformers"}
LOADED = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the top-level packages it loaded."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_public_names_are_pinned():
    assert set(sparring.__all__) == PUBLIC_NAMES


def test_public_names_are_listed_once_and_sorted():
    assert sparring.__all__ == sorted(set(sparring.__all__))


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_name_resolves_to_the_object_of_that_name(name):
    value = getattr(sparring, name)
    assert value.__name__ == name
    assert value.__module__.startswith("sparring.")
    assert name in dir(sparring)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Trajectories'"):
        sparring.Trajectories  # noqa: B018


def test_submodules_are_never_shadowed_by_public_names():
    """`from sparring import rollout` would mean the function or the module by the order of imports."""
    package = sparring.__path__[0]
    code = f"import pkgutil; print(*(module.name for module in pkgutil.iter_modules([{package!r}])))"
    assert not loaded_by(code) & set(sparring.__all__)


def test_version_is_the_installed_one():
    try:
        installed = metadata.version("sparring")
    except metadata.PackageNotFoundError:
        pytest.skip("sparring runs from its folder, not installed")
    assert sparring.__version__ == installed


def test_import_loads_nothing_heavy():
    loaded = loaded_by(f"import sparring; {LOADED}")
    assert "sparring" in loaded
    assert not loaded & HEAVY


def test_first_use_of_a_record_loads_nothing_heavy():
    assert not loaded_by(f"from sparring import Task, Trajectory, SparringError; {LOADED}") & HEAVY


def test_help_loads_neither_torch_nor_transformers():
    pytest.importorskip("sparring.cli.main")
    code = f"""
import sys
from sparring.cli.main import main
sys.argv = ["sparring", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
{LOADED}
"""
    loaded = loaded_by(code)
    assert "sparring" in loaded
    assert not loaded & (HEAVY - {"numpy"})


def test_what_is_checked_before_a_run_loads_no_code_of_models():
    """The process of `--jobs` only watches, and one that finds a run finished has nothing to load."""
    code = """
import sys
from pathlib import Path
from sparring.core.progress import SilentProgress
from sparring.runs.memory_check import check_memory
from sparring.runs.recipe import _check_models
from sparring.runs.recipe_files import load_recipe
recipe = load_recipe(Path("recipes/quickstart.toml"))
_check_models(recipe)
check_memory(recipe, SilentProgress(), 2)
print(*(name for name in sys.modules if name in ("transformers.modeling_utils", "sparring.engines.learner")))
"""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    assert not done.stdout.split()
