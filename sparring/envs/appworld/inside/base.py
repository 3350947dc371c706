"""Make the data folder that every task of ours starts from: the engine's own API documentation and empty databases.

Runs in the engine's own Python, once, at installation. Argument: the data folder.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# The engine's packages are in its own environment alone.

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

OWN_TASK = "own_1"


def build(data: Path) -> None:
    """Write `api_docs/standard/APP.json` and `tasks/own_1/dbs/APP.db`, in the layout of AppWorld's own data."""
    from appworld.api_docs import prepare_api_docs
    from appworld.apps import get_all_apps
    from appworld.apps.api_docs.models import ApiDoc
    from appworld.common.constants import CANARY_STRING
    from appworld.common.utils import import_models_module

    documents, databases = data / "api_docs" / "standard", data / "tasks" / OWN_TASK / "dbs"
    documents.mkdir(parents=True)
    databases.mkdir(parents=True)
    for app in get_all_apps():
        import_models_module(app).SQLModel.set_db(str(databases), str(databases), create=True)
    rows = []
    for app in get_all_apps(skip_admin=True):
        docs = prepare_api_docs(app, include_private_apis=False)
        by_name = {doc["api_name"]: {**doc, "canary_string": CANARY_STRING} for doc in docs}
        (documents / f"{app}.json").write_text(json.dumps(by_name), encoding="utf-8")
        rows += [ApiDoc.create(app_name_=app, **{k: v for k, v in doc.items() if k != "app_name"}) for doc in docs]
    ApiDoc.save_all(rows)


if __name__ == "__main__":
    os.environ["APPWORLD_ROOT"] = str(Path(sys.argv[1]).parent)
    os.environ["APPWORLD_CACHE"] = str(Path(sys.argv[1]).parent / "cache")
    build(Path(sys.argv[1]))
