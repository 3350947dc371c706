"""Our own AppWorld tasks: a seed in, three splits out that share no names and, unless asked to, no template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.appworld import templates_held, templates_money, templates_notes
from sparring.envs.appworld.scene import NAMES, Scene
from sparring.envs.appworld.tasks import Draft, make_task

Template = Callable[[Scene], Draft]

TEMPLATES: Mapping[str, Mapping[str, Sequence[Template]]] = {
    "train": {
        "simple_note": templates_notes.NOTES,
        "todoist": templates_notes.TODOIST,
        "phone": templates_notes.PHONE,
        "venmo": templates_money.MONEY,
        "spotify": templates_money.MUSIC,
        "file_system": templates_money.FILES,
        "gmail": templates_money.MAIL,
    },
    "dev": templates_held.DEV,
    "test": templates_held.TEST,
}
"""Split → main app → templates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTasks:
    """Which tasks of ours there are."""

    seed: int = 0
    num_per_template: int = 6
    shared_templates: bool = False
    """`dev` and `test` have the training templates, over names of their own."""

    def draw(self) -> dict[str, list[Task]]:
        """Generate all splits. Raises ConfigError: no tasks are asked for."""
        return own_tasks(self.seed, self.num_per_template, shared_templates=self.shared_templates)


def own_tasks(seed: int, num_per_template: int, *, shared_templates: bool = False) -> dict[str, list[Task]]:
    """Generate all splits, app by app, template by template. The same seed gives the same tasks.

    Args:
        shared_templates: the evaluation splits have the training templates, over names of their own: the easier half
            of what a split asks for.

    Raises:
        ConfigError: no tasks are asked for.
    """
    if num_per_template < 1:
        raise ConfigError(f"env.options.num_per_template: {num_per_template} makes no tasks. Give 1 or more.")
    splits = {}
    for split, by_app in TEMPLATES.items():
        is_borrowed = shared_templates and split != "train"
        splits[split] = [
            own_task(split, app, template, seed, f"{split}-{i}" if is_borrowed else i)
            for app, templates in (TEMPLATES["train"] if is_borrowed else by_app).items()
            for template in templates
            for i in range(num_per_template)
        ]
    return splits


def own_task(split: str, app: str, template: Template, seed: int, index: int | str) -> Task:
    """Generate one task. Numbers are the benchmark's own tasks; what else is drawn has a word in its place."""
    name = template.__name__.replace("_", "-")
    scene = Scene.draw(NAMES[split], f"{seed}/{split}/{app}/{name}/{index}")
    draft = template(scene)
    id = f"{app}/{name}/{index}" if not seed else f"{app}/{name}/{seed}-{index}"
    return make_task(id=id, kind=app, rows=scene.rows, moment=scene.now.isoformat(), draft=draft)


def find_template(id: str) -> tuple[str, str, Template] | None:
    """Return the split, the main app and the template that a task of ours was drawn from, by the task's id."""
    app, _, rest = id.partition("+")[0].partition("/")
    name = rest.partition("/")[0].replace("-", "_")
    for split, by_app in TEMPLATES.items():
        for template in by_app.get(app, ()):
            if template.__name__ == name:
                return split, app, template
    return None
