"""The local policy on the toy world, and models on disk. What must hold:

- what the cache holds is what `Chat.encode` gives for the finished trajectory;
- greedy actions are the argmax of a plain forward of the whole history;
- a draw depends on the episode's id and seed, the turn and the token, not on batch mates or lanes;
- nothing is cut: an episode that might not fit stops with its own reason;
- a model folder that is not whole, or not safe, is refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparring.core.errors import ConfigError, ModelError
from sparring.core.types import StopReason, Task, Turn
from sparring.data.chat import Chat, ChatConfig
from sparring.envs.pool import EnvPool
from sparring.models.loading import BUNDLED, ModelConfig, end_ids_of, load_model, resolve_model, save_model
from sparring.policies.base import Episode
from sparring.policies.local.decoding import SlotDecoder
from sparring.policies.local.policy import MIN_PREFIX, LocalPolicy, uniforms
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import cut_waves, rollout
from tests.policies.architectures import tiny
from tests.tiny_models import TEMPLATES, tiny_model, tiny_tokenizer, with_gap
from tests.toy_world import ToyWorld

WORLD = ToyWorld(size=2, num_turns=3)
TASK = Task(id="short/0", kind="short", data={"goal": ["red", "green"]})


def policy_for(
    name="chatml", kind="qwen3", *, temperature=0.0, max_new_tokens=8, num_slots=2, returns_early=False, **options
):
    tokenizer = tiny_tokenizer(name)
    chat = Chat(tokenizer, ChatConfig(**{"max_context": 1024, **options}), instruction=WORLD.instruction)
    num_tokens = len(tokenizer) + 3
    model = tiny_model(kind, num_tokens=num_tokens) if kind in ("qwen3", "llama") else tiny(kind, num_tokens)
    return LocalPolicy(
        model,
        chat,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        num_slots_per_lane=num_slots,
        returns_early=returns_early,
    )


def episode(id="a", *, observation="Press in this order: red green.", turns=(), seed=0):
    return Episode(id=id, task=TASK, seed=seed, observation=observation, turns=list(turns))


def play(policy, episodes, observations, lane=0):
    """Play turns in lockstep and return each episode's replies; every observation is the same for all."""
    replies = [[] for _ in episodes]
    for observation in observations:
        for one in episodes:
            one.observation = observation
        for one, reply, given in zip(episodes, policy.act(episodes, lane=lane), replies, strict=True):
            given.append(reply)
            turn = {"text": reply.text, "action": reply.action, "token_ids": reply.token_ids}
            one.turns.append(Turn(observation=observation, reward=0.0, **turn))
    return replies


class Watched(LocalPolicy):
    """Notes what the cache held when an episode ended."""

    held: dict[str, list[int]]

    def close(self, episode_id):
        self.held[episode_id] = self.held_ids(episode_id)
        super().close(episode_id)


@pytest.mark.parametrize(
    ("name", "kind", "temperature"),
    [(name, "qwen3", 0.0) for name in TEMPLATES]
    + [("chatml", "llama", 0.0), ("llama2", "llama", 1.0), ("chatml", "bloom", 0.0)],
)
@pytest.mark.filterwarnings("ignore:Bloom.* is decoded with its own cache")
def test_the_cache_holds_what_training_encodes(name, kind, temperature):
    policy = policy_for(name, kind, temperature=temperature)
    policy.__class__, policy.held = Watched, {}
    with EnvPool("tests.toy_world:ToyWorld", {"size": 2, "num_turns": 3}, num_envs=4) as pool:
        specs = episode_specs("x", WORLD.tasks("train"), agent="target", seed=0, num_per_task=1)
        played = rollout(policy, pool, WORLD, cut_waves(specs, 2), num_slots=4)
    assert len(played) == 4
    for trajectory in played:
        encoded = policy._chat.encode(trajectory)
        assert tuple(policy.held[trajectory.id]) == encoded.ids[:-1]
        assert [encoded.ids[start:end] for start, end in encoded.spans] == [turn.token_ids for turn in trajectory.turns]
        if temperature == 0:
            with torch.inference_mode():
                logits_TV = policy._model(torch.tensor([encoded.ids])).logits[0, :, : policy._chat.num_tokens]
            for start, end in encoded.spans:
                assert logits_TV[start - 1 : end - 1].argmax(-1).tolist() == list(encoded.ids[start:end])


LONG = "Press the buttons in the order that is asked for, one a turn, and mind the colours. " * 4


@pytest.mark.parametrize("name", ["chatml", "llama2", "bare"])
def test_what_all_episodes_begin_with_is_computed_once_and_changes_nothing(name, monkeypatch):
    fed: list[int] = []
    prefill = SlotDecoder.prefill

    def counted(self, rows, starts, pieces):
        fed.extend(map(len, pieces))
        return prefill(self, rows, starts, pieces)

    monkeypatch.setattr(SlotDecoder, "prefill", counted)
    played, num_fed, policies = {}, {}, {}
    for least in (10_000, MIN_PREFIX):
        monkeypatch.setattr("sparring.policies.local.policy.MIN_PREFIX", least)
        fed.clear()
        policies[least] = policy_for(name, instruction=LONG, num_slots=4)
        observations = ["Press in this order: red green.", "Nothing happens.", "Nothing happens."]
        played[least] = []
        for ids in ("abcd", "efg", "h"):  # rows are used again, and by others beside them
            played[least] += play(policies[least], [episode(id) for id in ids], observations)
            for id in ids:
                policies[least].close(id)
        num_fed[least] = sum(fed)
    assert played[MIN_PREFIX] == played[10_000]
    prefix = policies[MIN_PREFIX]._prefix
    assert len(prefix) >= MIN_PREFIX and not policies[10_000]._prefix
    assert num_fed[10_000] - num_fed[MIN_PREFIX] == (8 - 1) * len(prefix)


def test_a_beginning_that_leaves_no_room_ends_the_episode_like_any_other():
    (reply,) = policy_for(instruction=LONG * 4, max_context=128).act([episode()])
    assert reply.stop is StopReason.CONTEXT_LIMIT


def test_a_shared_beginning_does_not_depend_on_who_else_plays():
    observations = ["Press in this order: red green.", "Nothing happens."]
    options = {"temperature": 1.0, "instruction": LONG}
    together = play(policy_for(num_slots=5, **options), [episode(id) for id in "cabed"], observations)
    for i, id in enumerate("cabed"):
        assert play(policy_for(**options), [episode(id)], observations) == [together[i]]


def test_draws_do_not_depend_on_batch_mates_or_lanes():
    observations = ["Press in this order: red green.", "Nothing happens."]
    together = play(policy_for(temperature=1.0, num_slots=5), [episode(id) for id in "cabed"], observations, lane=1)
    for i, id in enumerate("cabed"):
        assert play(policy_for(temperature=1.0), [episode(id)], observations) == [together[i]]
    assert len({reply.text for replies in together for reply in replies}) > 5


def test_other_seeds_and_ids_draw_otherwise():
    policy = policy_for(temperature=1.0, num_slots=3)
    (one,), (two,), (three,) = play(policy, [episode("a"), episode("b"), episode("c", seed=1)], ["x"])
    assert len({one.text, two.text, three.text}) == 3


def test_uniforms_are_keyed_by_episode_turn_and_token():
    base = uniforms(episode(), 8)
    assert ((base >= 0) & (base < 1)).all()
    assert (uniforms(episode(), 16)[:8] == base).all()
    turn = Turn(observation="", text="", action="", reward=0.0)
    others = [uniforms(episode("b"), 8), uniforms(episode(seed=1), 8), uniforms(episode(turns=[turn]), 8)]
    assert all((other != base).all() for other in others)
    many = torch.tensor(uniforms(episode(), 100_000))
    assert abs(many.mean() - 0.5) < 0.005 and abs(many.var() - 1 / 12) < 0.005


def test_slots_are_used_again():
    policy = policy_for(num_slots=2)
    for id in "abc":
        play(policy, [episode(id), episode(f"{id}-mate")], ["x"])
        policy.close(id)
        policy.close(f"{id}-mate")
        policy.close("unknown")
    assert policy._lane(0).decoder.cache.num_rows == 2


def test_an_episode_left_out_of_a_batch_keeps_its_place():
    """Episodes pause, end and begin in turns; each plays as if it were alone."""
    observations = ["x", "y", "z"]
    alone = {id: play(policy_for(), [episode(id)], observations)[0] for id in "abcd"}
    policy, open_ = policy_for(num_slots=4), {id: episode(id) for id in "abcd"}
    replies = {id: [] for id in "abcd"}
    for batch in ("ab", "c", "cd", "da", "b", "acbd"):
        for id in batch:
            done = len(replies[id])
            replies[id] += play(policy, [open_[id]], observations[done : done + 1])[0] if len(batch) == 1 else []
        if len(batch) > 1:
            group = [open_[id] for id in batch if len(replies[id]) < 3]
            for one in group:
                one.observation = observations[len(replies[one.id])]
            for one, reply in zip(group, policy.act(group), strict=True):
                replies[one.id].append(reply)
                turn = {"text": reply.text, "action": reply.action, "token_ids": reply.token_ids}
                one.turns.append(Turn(observation=one.observation, reward=0.0, **turn))
    assert replies == alone


def test_an_early_answer_changes_no_action():
    """Whoever is ready plays on, others end and begin meanwhile, and each plays as if it were alone."""
    observations, ids, options = ["x", "y", "z"], "abcdefghij", {"temperature": 1.0, "max_new_tokens": 24}
    alone = {id: play(policy_for(**options), [episode(id)], observations)[0] for id in ids}
    policy = policy_for(num_slots=4, returns_early=True, **options)
    waiting, open_, replies, num_awaited = list(ids), [], {id: [] for id in ids}, 0
    while waiting or open_:
        while waiting and len(open_) < 4:
            open_.append(episode(waiting.pop(0), observation=observations[0]))
        batch = policy.act(open_)
        assert any(batch)
        for one, reply in zip(list(open_), batch, strict=True):
            if reply is None:
                num_awaited += 1
                continue
            replies[one.id].append(reply)
            turn = {"text": reply.text, "action": reply.action, "token_ids": reply.token_ids}
            one.turns.append(Turn(observation=one.observation, reward=0.0, **turn))
            if len(one.turns) == len(observations):
                policy.close(one.id)
                open_.remove(one)
            else:
                one.observation = observations[len(one.turns)]
    assert replies == alone
    assert num_awaited > 10


def test_another_past_than_the_cached_one_is_read_anew():
    """A prefix that an expert played, and a turn that was replaced."""
    expert = Turn(observation="x", text="Action: press red", action="press red", reward=0.5)
    fresh_policy = policy_for()
    fresh = fresh_policy.act([episode(turns=[expert], observation="y")])
    used = policy_for()
    for past in (["x"], ["x", "q"]):
        used.close("a")
        play(used, [episode()], past)
        for _ in range(2):
            assert used.act([episode(turns=[expert], observation="y")]) == fresh
            assert used.held_ids("a") == fresh_policy.held_ids("a")


def test_what_might_not_fit_stops_and_nothing_is_cut():
    first = len(policy_for()._chat.first("x"))
    policy = policy_for(max_context=first + 8)
    (fits,), (too_long,) = play(policy, [episode("a")], ["x"]), policy.act([episode("b", observation="x x x x x")])
    assert fits[0].stop is None and fits[0].token_ids
    assert too_long.stop is StopReason.CONTEXT_LIMIT and not too_long.text and not too_long.token_ids
    mixed = policy_for(max_context=first + 8).act(
        [episode("b", observation="x x x x x"), episode("a", observation="x")]
    )
    assert [reply.stop for reply in mixed] == [StopReason.CONTEXT_LIMIT, None]
    assert mixed[1] == fits[0]


def test_a_cut_action_stays_as_sampled():
    policy = policy_for(max_new_tokens=3)
    one = episode()
    (replies,) = play(policy, [one], ["x", "y"])
    cut = replies[0].token_ids
    assert len(cut) == 3 and not set(cut) & policy._chat.end_ids
    held = policy.held_ids("a")
    before = len(policy._chat.first("x"))
    assert tuple(held[before : before + 3]) == cut
    assert held[before + 3] in policy._chat.end_ids


def test_a_model_with_fewer_positions_than_the_context_is_refused():
    policy = policy_for()
    policy._model.config.max_position_embeddings = 100
    with pytest.raises(ConfigError, match="max_context is 1024, but the model has 100 positions"):
        LocalPolicy(policy._model, policy._chat, temperature=0.0, max_new_tokens=8, num_slots_per_lane=1)


# ---------------------------------------------------------------------------------------------------- models on disk


@pytest.fixture
def folder(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    save_model(tiny_model(num_tokens=len(tokenizer)), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_saved_model_is_loaded_whole(kind, tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    model = tiny_model(kind, num_tokens=len(tokenizer))
    for _ in range(2):  # the second time it replaces what is there
        save_model(model, tokenizer, tmp_path / "deep" / "model")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["model"]
    loaded, found = load_model(ModelConfig(path=str(tmp_path / "deep" / "model"), dtype="float32"))
    saved = model.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    assert found.chat_template == tokenizer.chat_template
    assert found.get_vocab() == tokenizer.get_vocab()
    assert not loaded.training
    assert load_model(ModelConfig(path=str(tmp_path / "deep" / "model"), dtype="bfloat16"))[0].dtype == torch.bfloat16


def test_bundled_models_are_folders_of_the_package():
    import sparring

    models = Path(sparring.__file__).parent / "models/bundled"
    assert {f"sparring-{name}": models / name for name in ("worlds", "tools", "code")} == BUNDLED
    assert resolve_model("someone/some-model") == "someone/some-model"


def test_missing_folders_are_named():
    with pytest.raises(ModelError, match="no folder '/nowhere/model'"):
        load_model("/nowhere/model")
    with pytest.raises(ModelError, match=r"no folder 'runs/a/model'"):
        load_model("runs/a/model")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights \(\*\.safetensors\)\. Was it saved in full"):
        load_model(str(folder))


def test_pickles_are_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="are pickles and are not opened"):
        load_model(str(folder))


def test_torn_weights_are_refused(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="can't load"):
        load_model(str(folder))


def test_missing_weights_are_not_made_up(folder):
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"lacks 1 weights: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_size": 48},
            r"tokens\.weight has the shape \[400, 32\] in the weights, \[400, 48\] by the config",
        ),
        (
            {"vocab_size": 500},
            r"tokens\.weight has the shape \[400, 32\] in the weights, \[500, 32\] by the config",
        ),
        (
            {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
            "11 weights that its config leaves unused: mod",
        ),
        (
            {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            "lacks 11 weights: model.layers.2.input",
        ),
        (
            {"model_type": "llama"},
            "4 weights that its config leaves unused: model.layers.0.self_attn.k_norm",
        ),
    ],
)
def test_a_config_of_another_model_is_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=rf"^[^\n]*{message}[^\n]*not of the same model\.$"):
        load_model(str(folder))


def test_weights_beside_the_decoder_and_layers_that_predict_further_tokens_are_left_aside(folder):
    def add(weights):
        weights["visual.blocks.0.proj.weight"] = torch.zeros(2, 2)
        weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(2, 2)
        weights["model.layers.2.eh_proj.weight"] = torch.zeros(2, 2)

    change_weights(folder, add)
    load_model(str(folder))


def change_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_tokenizer_model_without_its_reader_is_named(folder, capfd):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(ModelError, match="pip install sentencepiece protobuf"):
        load_model(str(folder))
    assert "SentencePiece" not in capfd.readouterr().err


def test_a_folder_without_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load_model(str(folder))


def test_a_folder_without_tokenizer_or_config_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_model(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(str(folder))


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    tokenizer = tiny_tokenizer("chatml")
    save_model(tiny_model(num_tokens=len(tokenizer) - 1), tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match=f"the tokenizer has {len(tokenizer)} tokens, the model only"):
        load_model(str(tmp_path / "model"))


def test_a_tokenizer_with_gaps_needs_embeddings_up_to_its_largest_id(tmp_path):
    tokenizer = with_gap(tiny_tokenizer("chatml"), 7)
    save_model(tiny_model(num_tokens=len(tokenizer)), tokenizer, tmp_path / "model")
    largest = max(tokenizer.get_vocab().values())
    with pytest.raises(ModelError, match=f"the tokenizer has {largest + 1} tokens, the model only {len(tokenizer)}"):
        load_model(str(tmp_path / "model"))


def test_an_action_ends_where_the_models_own_generation_stops(folder):
    """A model whose generation config lists several ends plays as `generate` does."""
    tokenizer, config = tiny_tokenizer("chatml"), ChatConfig(max_context=1024)
    chat = Chat(tokenizer, config, instruction="")
    model, _ = load_model(ModelConfig(path=str(folder), dtype="float32"))
    prompt = chat.first("Press in this order: red green.")
    free = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8, eos_token_id=chat.num_tokens)
    stop = int(free[0, len(prompt) + 3])  # what it writes fourth becomes an end
    written = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps(written | {"eos_token_id": [tokenizer.eos_token_id, stop]})
    )
    model, _ = load_model(ModelConfig(path=str(folder), dtype="float32"))
    own = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0, len(prompt) :].tolist()
    chat = Chat(tokenizer, config, instruction="", end_ids=end_ids_of(model))
    (reply,) = LocalPolicy(model, chat, temperature=0, max_new_tokens=8, num_slots_per_lane=1).act([episode()])
    assert list(reply.token_ids) == own
    assert own[-1] == stop and len(own) <= 4


def test_an_end_that_is_no_token_id_is_named(folder):
    model, _ = load_model(str(folder))
    model.generation_config.eos_token_id = [1, "x"]
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id: 'x' is no token id"):
        end_ids_of(model)


def test_code_that_comes_with_a_model_is_not_run(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="can't load"):
        load_model(str(folder))
    assert not (folder / "ran").exists()


def test_an_unknown_device_is_named(folder):
    with pytest.raises(ConfigError, match="torch has no 'abacus' here"):
        load_model(ModelConfig(path=str(folder), device="abacus"))
