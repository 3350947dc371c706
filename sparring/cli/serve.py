"""`sparring serve`: a model in this process behind OpenAI's chat completions."""

from __future__ import annotations

import ipaddress
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparring.cli.output import new_file, showing
from sparring.core.errors import ConfigError
from sparring.core.ranges import Count, Deadline, Name, Place, Range
from sparring.core.terminal import write
from sparring.models.loading import ModelConfig, hush_loading
from sparring.runs.recipe_files import find_config, play_config


@dataclass(frozen=True, kw_only=True)
class Options:
    """Serve a model as OpenAI's chat completions, for frameworks that drive the model themselves.

    `/v1/models`, `/v1/chat/completions` and `/v1/rewards`; requests that come together share batches. Ctrl-C ends it.
    """

    model: tyro.conf.Positional[Place]
    """A folder (a run's checkpoint, for instance), a Hub id, or a bundled model's name."""
    host: Name = "127.0.0.1"
    """Address to listen at. Any but the loopback's wants a key."""
    port: Annotated[int, Range(at_least=0, at_most=65_535)] = 8000
    """Port to listen at; 0: a free one."""
    record: Path | None = None
    """JSONL file that gets the conversations, a line each; it must not exist yet."""
    name: Name = ""
    """What clients call the model; none: as it is named here."""
    key_env: Name = "SPARRING_SERVE_KEY"
    """Environment variable with the key that clients must send; where it is not set, none is asked for."""
    max_context: Count | None = None
    """Most tokens of a conversation; none: `chat.max_context` of the run that the model lies in, else the default."""
    max_new_tokens: Count = 512
    """Most tokens of an answer where a request does not say."""
    num_slots: Annotated[int, Range(at_least=1, at_most=1024)] = 16
    """Most requests in a batch; as many conversations keep their place in the cache."""
    idle_s: Deadline = 60.0
    """Seconds without a request after which a conversation is written to the record."""
    device: Name = "auto"
    """As `model.device`."""


def do(options: Options, _: Mapping[str, Any]) -> None:
    """Serve until interrupted."""
    key = _key(options)
    record = new_file(options.record)
    hush_loading([options.model])
    source = find_config(Path(options.model))
    chat = play_config(source, arm_of=Path(options.model)).chat if source else play_config(None).chat
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    with showing(quiet=False) as progress:
        from sparring.policies.serving.start import start

        model = ModelConfig(path=options.model, device=options.device)
        with progress.phase(f"loading {options.model}"):
            served = start(
                model,
                chat,
                name=options.name or options.model,
                max_context=options.max_context,
                max_new_tokens=options.max_new_tokens,
                num_slots=options.num_slots,
            )
    server = served.listen((options.host, options.port), key, record, idle_s=options.idle_s)
    host, port = server.server_address[:2]
    write(f"http://{host!s}:{port}/v1 serves {served.name}. Ctrl-C ends it.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        served.model.close()
        conversations = server.service.conversations
        conversations.close()
    where = f"; {conversations.num_written} conversations are in {record}" if record else ""
    write(f"Ended{where}.")


def _key(options: Options) -> str:
    """Return the key that clients must send.

    Raises:
        ConfigError: it is no key, or there is none and others than this machine can connect.
    """
    key = os.environ.get(options.key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"The environment variable {options.key_env} holds no key: it has characters that none has.")
    try:
        is_here = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        is_here = options.host == "localhost"
    if not key and not is_here:
        raise ConfigError(
            f"--host {options.host}: others can connect there. Set a key for them in the environment variable "
            f"{options.key_env}."
        )
    return key
