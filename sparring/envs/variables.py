"""Environment variables in, those that an env process and its children get out: what programs need, and no keys.

An env process runs foreign code, a JVM does too, and what they are given can leak through them. So nothing is passed on
but the names below; a world that needs more is given more by name (`env.variables`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from sparring.core.errors import ConfigError

PLACES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        *("JAVA_HOME", "PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX", "VIRTUAL_ENV", "CONDA_PREFIX"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES"),
    }
)
"""Names that say where things are on a machine: on another one, its own are passed on."""

PASSED_ON = PLACES | {
    *("LANG", "LANGUAGE", "TZ", "JAVA_OPTS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"),
    *("PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("PYTHONWARNINGS", "PYTHONFAULTHANDLER", "PYTHONMALLOC", "PYTHONSAFEPATH", "PYTHONNOUSERSITE"),
}
"""Names that are passed on. `SPARRING_MYSQL_PASSWORD` and proxies, whose addresses may hold passwords, are not."""

PASSED_ON_PREFIXES = ("LC_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "BLIS_", "VECLIB_")
"""Beginnings of names that are passed on: how text is encoded, and how many threads numerical libraries start."""

SHORTEST_HINT = 3
"""Names of fewer characters are not looked for in an error: they stand in too many texts."""


def check_names(names: Sequence[str]) -> None:
    """Check the names of further variables.

    Raises:
        ConfigError: one is no name of a variable.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            # What follows an equals sign may be a key: it is not told again.
            shown = name.partition("=")[0][:40]
            raise ConfigError(
                f"env.variables: {shown!r}{' with a value' if '=' in name else ''} is not the name of an environment "
                "variable. Give names alone, and set the values in the shell that starts Sparring."
            )


def clean_environment(names: Sequence[str] = ()) -> dict[str, str]:
    """Return what is passed on of this process's environment: the names above, and `names`.

    Raises:
        ConfigError: one of `names` is not set.
    """
    check_names(names)
    for name in names:
        if name not in os.environ:
            raise ConfigError(f"env.variables: {name} is not set in this environment. Set it, or leave it out.")
    return {name: value for name, value in os.environ.items() if _is_passed_on(name) or name in names}


def portable_environment(names: Sequence[str] = ()) -> dict[str, str]:
    """Return what of `clean_environment` is passed on to another machine: all but the places on this one.

    Raises:
        ConfigError: one of `names` is not set.
    """
    passed_on = clean_environment(names)
    return {name: value for name, value in passed_on.items() if name not in PLACES or name in names}


def withheld_hint(text: str, names: Sequence[str] = ()) -> str:
    """Say how to pass on a variable that an env process's error speaks of and that is set here; empty: it is none."""
    words = set(re.findall(r"\w+", text))
    withheld = sorted(
        name
        for name in words & os.environ.keys()
        if len(name) >= SHORTEST_HINT and not _is_passed_on(name) and name not in names
    )
    if not withheld:
        return ""
    listed = ", ".join(f'"{name}"' for name in withheld)
    return (
        f" ({', '.join(withheld)} is set here, but env processes don't get it. If the world needs it: "
        f"variables = [{listed}] under [env].)"
    )


def _is_passed_on(name: str) -> bool:
    return name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
