"""A checkpoint goes to the Hugging Face Hub with a model card; or to a folder, which shows what would go there.

The token is the environment's (`HF_TOKEN`) or the Hub's own login (`hf auth login`). It is never shown or written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.core.convert import to_dict
from sparring.core.errors import ConfigError, ModelError, SparringError, quote
from sparring.core.journal import read_json
from sparring.core.phases import check_checkpoint
from sparring.models.adapter_folders import is_adapter, read_adapter
from sparring.models.folders import read_json as read_model_json
from sparring.models.loading import BUNDLED
from sparring.report.folder import list_phases
from sparring.report.model_card import Made, render, scores_of
from sparring.report.view import read_results
from sparring.runs.config import Config
from sparring.runs.recipe_files import find_config, recipe_from_dict

CARD = "README.md"
PAGE = "https://huggingface.co/"


def made_by(checkpoint: Path) -> Made | None:
    """Return where a run made a checkpoint; none where no run did.

    Raises:
        DataError: the run's files can't be read.
    """
    run = find_config(checkpoint)
    if run is None:
        return None
    config_path = run / "config.json"
    recipe = recipe_from_dict(read_json(config_path), source=str(config_path))
    phases = list_phases(run, list(map(str, recipe.seeds)), list(recipe.arms))
    own = checkpoint.resolve().parent
    there = [phase for phase in phases if phase.path == own]
    names = checkpoint.absolute().relative_to(run).parts
    phase = next((one for one in there if one.arm in names), there[0] if there else None)
    if phase is None:
        return None
    arm = recipe.arms[phase.arm]
    return Made(
        phase=phase,
        config=to_dict(arm.config),
        defaults=to_dict(Config()),
        label=arm.label,
        method=arm.method,
        results=read_results(run) if (run / "results.json").exists() else None,
    )


def make_card(checkpoint: Path, repo_id: str) -> str:
    """Return a checkpoint's model card, metadata included.

    Raises:
        ModelError: the folder holds no model and no adapter.
        DataError: what its run wrote can't be read.
        ConfigError: the repository's name is no name.
    """
    from huggingface_hub import EvalResult, ModelCardData

    from sparring import __version__

    made, with_adapter = made_by(checkpoint), is_adapter(checkpoint)
    base, on_hub = _base(checkpoint, made, with_adapter)
    results = []
    if made and (scores := scores_of(made)):
        world = made.config["env"]["id"] if made.method != "prefer" else "held-out preferences"
        split = made.results.split if made.results and made.method != "prefer" else None
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=world,
                dataset_name=world,
                dataset_split=split,
                metric_type=one.name,
                metric_value=round(one.number, 4),
            )
            for one in scores
        ]
    data = ModelCardData(
        base_model=base if on_hub else None,
        library_name="peft" if with_adapter else "transformers",
        license="apache-2.0" if base in BUNDLED else None,
        model_name=repo_id.rpartition("/")[2] if results else None,
        pipeline_tag="text-generation",
        tags=["sparring", *([made.method.replace("_", "-")] if made else []), "agent"],
        eval_results=results or None,
    )
    text = render(made, repo_id=repo_id, base=base, base_on_hub=on_hub, is_adapter=with_adapter, version=__version__)
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def stage(checkpoint: Path, repo_id: str, out: Path) -> list[str]:
    """Write the folder that would be uploaded, and return its files' names.

    Raises:
        ConfigError: the folder exists, or the repository's name is no name.
        ModelError: as for `make_card`.
    """
    check_names(checkpoint, repo_id)
    if out.exists():
        raise ConfigError(f"{out}: exists already. Choose another --out, or delete it.")
    card = make_card(checkpoint, repo_id)
    out.mkdir(parents=True)
    for path in _files(checkpoint):
        place = out / path.relative_to(checkpoint)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (out / CARD).write_text(card, encoding="utf-8")
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def upload(checkpoint: Path, repo_id: str, *, private: bool) -> str:
    """Upload a checkpoint with its card, in one commit, and return the page's address.

    Raises:
        ConfigError: nobody is logged in, or the repository's name is no name.
        SparringError: the Hub can't be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    check_names(checkpoint, repo_id)
    if not (token := get_token()):
        raise ConfigError("push: nobody is logged in to the Hub. Run `hf auth login`, or set HF_TOKEN.")
    card = make_card(checkpoint, repo_id)
    operations = [
        CommitOperationAdd(path_in_repo=path.relative_to(checkpoint).as_posix(), path_or_fileobj=str(path))
        for path in _files(checkpoint)
    ]
    operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
    with _told(token):
        api = HfApi(library_name="sparring")
        created = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(created.repo_id, operations, commit_message="Upload a checkpoint with Sparring")
    return f"{PAGE}{created.repo_id}"


def check_names(checkpoint: Path, repo_id: str) -> None:
    """Refuse what is no model's folder, a damaged checkpoint, and a repository's name that the Hub would refuse.

    Raises:
        ConfigError, ModelError, DataError: in this order of what is wrong.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        what = str(error).splitlines()[0]
        raise ConfigError(f"push: {quote(repo_id)} is no repository's name: {what:.200}") from None
    if not is_adapter(checkpoint) and not (checkpoint / "config.json").is_file():
        raise ModelError(f"push: {checkpoint} holds no model (config.json) and no adapter (adapter_config.json).")
    if not any(checkpoint.glob("*.safetensors")):
        raise ModelError(f"push: {checkpoint} holds no weights (*.safetensors).")
    check_checkpoint(str(checkpoint))


def _files(checkpoint: Path) -> list[Path]:
    """List what belongs to the model; a card that lies there is replaced."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CARD)


def _base(checkpoint: Path, made: Made | None, with_adapter: bool) -> tuple[str, bool]:
    """Return what the base model is called, and whether that is a name on the Hub."""
    name = str(made.config["model"]["path"]) if made else ""
    if with_adapter and not name:
        name = read_adapter(checkpoint).base
    if not name:
        name = str(read_model_json(checkpoint / "config.json", checkpoint).get("model_type", "a language model"))
        return name, False
    is_local = name in BUNDLED or Path(name).expanduser().exists() or name.startswith(("/", "~", "."))
    return (name if name in BUNDLED or not is_local else Path(name).name), not is_local


@contextmanager
def _told(token: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one message, in which no token stands."""
    try:
        yield
    except SparringError:
        raise
    except Exception as error:
        lines = [line for line in str(error).replace(token, "…").splitlines() if line.strip()]
        what = f"{type(error).__name__}: {lines[0]:.300}" if lines else type(error).__name__
        raise SparringError(
            f"push: the Hub can't be reached, or refuses: {what}. With --dry_run the folder is written here instead."
        ) from None
