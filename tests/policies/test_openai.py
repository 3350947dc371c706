"""A policy behind a server, and the command line with it. What must hold:

- a served policy plays as it does in process, to the letter, where its text gives back its tokens;
- the messages are the worked examples and turns that training would show, world's text broken up as there;
- a request's seed depends on the episode's id and seed and on the turn alone;
- a fault of the server is no reward: one that hits an episode breaks it off, one that hits all is raised.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError, EnvFault
from sparring.core.records import read_trajectories, trajectory_to_json
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.data.batches import groups_from_trajectories
from sparring.data.chat import Chat, ChatConfig, Dialogue
from sparring.envs.base import EnvConfig, select_tasks
from sparring.envs.pool import EnvPool
from sparring.learning.objectives import SFTObjective
from sparring.learning.trainer import TrainConfig
from sparring.models.loading import load_model, save_model
from sparring.policies.base import Episode
from sparring.policies.completions import OpenAIConfig
from sparring.policies.local.policy import LocalPolicy
from sparring.policies.openai import MAX_FAULTS, OpenAIPolicy, request_seed
from sparring.rollouts.episodes import episode_specs
from sparring.rollouts.loop import cut_waves, rollout
from sparring.runs.config import PlayConfig
from tests.serving import Answer, PolicyServer, ScriptedServer, Seen, completion, error
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.toy_world import TOY_RECIPE, ToyWorld
from tests.training_toys import fit

OPTIONS = {"size": 4, "num_turns": 7}
WORLD = ToyWorld(size=4, num_turns=7)
CONFIG = ChatConfig(max_context=512)
MAX_NEW_TOKENS = 32
KEY = "sk-test-7Qz1-do-not-tell"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("sparring.policies.transport.BACKOFF_S", 0.02)


def expert(task: Task) -> Trajectory:
    """Look, then press what is asked for, with a thought each time."""
    env, turns = WORLD.make_env(), []
    observation = env.reset(task, 0)
    for action in ("look", *WORLD.expert_actions([task])[task.id]):
        text = f"Thought: I press the next colour.\nAction: {action}"
        step = env.step(action)
        turns.append(Turn(observation=observation, text=text, action=action, reward=step.reward))
        observation = step.observation
    return Trajectory(
        id=task.id,
        task=task,
        agent="expert",
        turns=tuple(turns),
        final_observation=observation,
        reward=1.0,
        stop=StopReason.DONE,
    )


@pytest.fixture(scope="session")
def player(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder: it has learnt to write thoughts and actions, and to press some right colours."""
    folder = tmp_path_factory.mktemp("player")
    tokenizer = tiny_tokenizer()
    model = tiny_model(num_tokens=len(tokenizer) + 3, scale=1.0)
    experts, examples = ([expert(task) for task in WORLD.tasks(split)] for split in ("test", "train"))
    groups = []
    for num_examples in (0, 1):
        config = ChatConfig(max_context=512, num_examples=num_examples)
        chat = Chat(tokenizer, config, instruction=WORLD.instruction, examples=examples)
        groups += groups_from_trajectories(experts, chat.encode)
    train = TrainConfig(lr=1e-2, epochs=25, batch_size=4, schedule="constant")
    fit(model, groups, SFTObjective(), train, seed=0, state_dir=folder / "state")
    save_model(model, tokenizer, folder / "model")  # pyright: ignore[reportArgumentType]
    return folder / "model"


def server_of(player: Path, *, max_context: int = CONFIG.max_context) -> PolicyServer:
    """Serve the model as a server would: it takes the messages as they are, whatever they say."""
    model, tokenizer = load_model(str(player))
    chat = Chat(tokenizer, ChatConfig(instruction="", max_context=max_context), instruction="")

    def make(temperature: float, max_tokens: int) -> LocalPolicy:
        return LocalPolicy(model, chat, temperature=temperature, max_new_tokens=max_tokens, num_slots_per_lane=1)

    return PolicyServer(make)


def local(player: Path, config: ChatConfig = CONFIG, examples=()) -> LocalPolicy:
    model, tokenizer = load_model(str(player))
    chat = Chat(tokenizer, config, instruction=WORLD.instruction, examples=examples)
    return LocalPolicy(model, chat, temperature=0.0, max_new_tokens=MAX_NEW_TOKENS, num_slots_per_lane=2)


def remote(server, config: ChatConfig = CONFIG, examples=(), *, temperature: float = 0.0, **options) -> OpenAIPolicy:
    dialogue = Dialogue(config, instruction=WORLD.instruction, examples=examples)
    settings = OpenAIConfig(base_url=server.base_url, model="tiny", **{"timeout_s": 60.0, **options})
    return OpenAIPolicy(settings, dialogue, temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)


def play(policy, *, num_per_task: int = 1) -> list[Trajectory]:
    specs = episode_specs("x", WORLD.tasks("test"), agent="target", seed=0, num_per_task=num_per_task)
    with EnvPool("tests.toy_world:ToyWorld", OPTIONS, num_envs=4) as pool:
        return rollout(policy, pool, WORLD, cut_waves(specs, 2), num_slots=4)


def episode(id: str = "a", *, turns=(), seed: int = 0, observation: str = "Press in this order: red.") -> Episode:
    task = Task(id="short/0", kind="short", data={"goal": ["red"]})
    return Episode(id=id, task=task, seed=seed, observation=observation, turns=list(turns))


def without_ids(trajectories: list[Trajectory]) -> list[dict]:
    records = [trajectory_to_json(trajectory) for trajectory in trajectories]
    for record in records:
        for turn in record["turns"]:
            del turn["token_ids"]
    return records


# ── The same as in process ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("num_examples", [0, 1])
def test_a_served_policy_plays_as_it_does_in_process(player, num_examples):
    config = ChatConfig(max_context=512, num_examples=num_examples)
    examples = [expert(task) for task in WORLD.tasks("train")]
    in_process = play(local(player, config, examples))
    turns = [turn for trajectory in in_process for turn in trajectory.turns]
    chat = Chat(tiny_tokenizer(), config, instruction=WORLD.instruction, examples=examples)
    written = [Turn(observation="", text=turn.text, action=turn.action, reward=0.0) for turn in turns]
    round_trips = [chat.action_ids(text) == list(turn.token_ids) for text, turn in zip(written, turns, strict=True)]
    assert all(round_trips)  # else the two would see different tokens, and may differ
    assert len(turns) > len(in_process)
    with server_of(player) as server:
        served = play(remote(server, config, examples))
    assert without_ids(served) == without_ids(in_process)
    assert all(turn.token_ids == () for trajectory in served for turn in trajectory.turns)
    assert len({trajectory.reward for trajectory in served}) > 1 or num_examples
    assert all(seen.body["temperature"] == 0 and seen.body["max_tokens"] == MAX_NEW_TOKENS for seen in server.seen)
    assert all(seen.body["stop"] == ["\nObservation:"] for seen in server.seen)


def test_token_ids_that_the_server_gives_are_those_that_were_sampled(player):
    with server_of(player) as server:
        served = play(remote(server, extra={"return_token_ids": True}))
    assert [trajectory_to_json(one) for one in served] == [trajectory_to_json(one) for one in play(local(player))]
    assert all(turn.token_ids for trajectory in served for turn in trajectory.turns)
    assert not any("stop" in seen.body for seen in server.seen)


def test_draws_are_the_same_again_and_differ_between_episodes(player):
    with server_of(player) as server:
        policy = remote(server, temperature=2.0)
        one, other = policy.act([episode("a"), episode("b")])
        assert policy.act([episode("b"), episode("a")]) == [other, one]
    assert one != other
    assert server.seen[0].body["temperature"] == 2.0


# ── Messages ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def roles_and_contents(seen: Seen) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in seen.body["messages"]]


def test_messages_are_instruction_examples_and_turns():
    config = ChatConfig(num_examples=1, template_kwargs={"enable_thinking": False})
    example = expert(WORLD.tasks("train")[0])
    played = Turn(
        observation="You see a sign: <|im_end|>", text="Thought: </s>.\nAction: look", action="look", reward=0
    )
    with ScriptedServer([Answer(body=completion(" \nThought: so.\nAction: press red\nObservation: x\n"))]) as server:
        (reply,) = remote(server, config, [example]).act([episode(turns=[played], observation="1 of 2 [INST] done.")])
    assert (reply.text, reply.action) == ("Thought: so.\nAction: press red\nObservation: x", "press red")
    contents = roles_and_contents(server.seen[0])
    shown = [pair for turn in example.turns for pair in (("user", turn.observation), ("assistant", turn.text))]
    rule = "Answer with one thought and one action, in this form:\nThought: why you act so\nAction: the action"
    assert contents[0] == ("user", f"{WORLD.instruction}\n\n{rule}\n\n{shown[0][1]}")
    assert contents[1 : len(shown)] == shown[1:]
    assert contents[len(shown) :] == [
        ("user", "A new task begins.\n\nYou see a sign: <\u2060|im_end|>"),
        ("assistant", "Thought: <\u2060/s>.\nAction: look"),
        ("user", "1 of 2 [\u2060INST] done."),
    ]
    assert server.seen[0].body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_action_format_shows_actions_and_reads_one_line():
    config = ChatConfig(format="action", num_examples=1, instruction="Win.")
    example = expert(WORLD.tasks("train")[0])
    with ScriptedServer([Answer(body=completion("press red\nor green"))]) as server:
        (reply,) = remote(server, config, [example]).act([episode()])
    assert (reply.text, reply.action) == ("press red\nor green", "press red")
    contents = roles_and_contents(server.seen[0])
    assert contents[0][1].startswith("Win.\n\nPress in this order")
    assert contents[1] == ("assistant", "look")
    assert not {"stop", "chat_template_kwargs"} & set(server.seen[0].body)


def test_fewer_examples_than_asked_for_are_refused():
    with pytest.raises(ConfigError, match=r"num_examples is 1, but there are 0"):
        Dialogue(ChatConfig(num_examples=1), instruction="")


def test_seeds_depend_on_episode_seed_and_turn_alone():
    turn = Turn(observation="", text="", action="", reward=0.0)
    variants = [episode(), episode("b"), episode(seed=1), episode(turns=[turn])]
    with ScriptedServer([Answer(body=completion("look"))]) as server:
        policy = remote(server, num_concurrent=1)
        policy.act(variants)
        policy.act([episode(observation="Something else.")], lane=1)
    *seeds, repeated = [seen.body["seed"] for seen in server.seen]
    assert seeds == [request_seed(one) for one in variants]
    assert len(set(seeds)) == 4
    assert repeated == seeds[0]
    assert all(0 <= seed < 2**31 for seed in seeds)


# ── Answers that are odd, and servers that fail ───────────────────────────────────────────────────────────────────────


def test_whatever_a_model_writes_is_played():
    """The world answers it, the episode goes on, and the record can be written and read."""
    odd = ["", None, "\x00\x1b[2J\r\n", "\ud800", "x" * 3_000_000, "<think>\nAction: look", 7, {"a": [None]}]
    with ScriptedServer(
        lambda seen: Answer(body=completion(odd[len(seen.body["messages"]) // 2 % len(odd)]))
    ) as server:
        played = play(remote(server))
    for trajectory in played:
        assert trajectory.stop is StopReason.TURN_LIMIT
        assert trajectory.final_observation == "Nothing happens."
        assert max(len(turn.text) for turn in trajectory.turns) == 32_768


def test_a_full_context_ends_the_episode_and_its_reward_counts(player, caplog):
    with server_of(player, max_context=150) as server:
        played = play(remote(server))
    limited = [one for one in played if one.stop is StopReason.CONTEXT_LIMIT]
    assert limited
    assert all(one.turns for one in limited)
    assert "first prompt" not in caplog.text
    with server_of(player, max_context=60) as server:
        played = play(remote(server))
    assert {one.stop for one in played} == {StopReason.CONTEXT_LIMIT}
    assert caplog.text.count("the first prompt does not fit. Fewer chat.num_examples?") == 1


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=500, body="burning"),
        Answer(body="<html>"),
        Answer(hangs_up=True),
        Answer(status=400, body=error("content filter")),
        Answer(status=403, body=error("moderation")),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body}",
)
def test_a_fault_breaks_off_its_episode_alone_and_is_no_reward(failure):
    """Of the four tasks one always fails, after its first turn."""

    def answer(seen: Seen) -> Answer:
        told = seen.body["messages"][0]["content"]
        is_victim = told.endswith(told_victim) and len(seen.body["messages"]) > 1
        return failure if is_victim else Answer(body=completion("Action: look"))

    victim = WORLD.tasks("test")[2]
    told_victim = WORLD.make_env().reset(victim, 0)
    with ScriptedServer(answer) as server:
        played = play(remote(server, max_retries=1))
    by_stop = {one.task.id: one.stop for one in played}
    assert by_stop.pop(victim.id) is StopReason.ENV_FAULT
    assert set(by_stop.values()) == {StopReason.TURN_LIMIT}
    (broken,) = [one for one in played if one.stop is StopReason.ENV_FAULT]
    assert broken.error.startswith(("EnvFault: http://127.0.0.1", "ConfigError: http://127.0.0.1"))
    assert len(broken.turns) == 1
    assert KEY not in json.dumps([trajectory_to_json(one) for one in played])


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(status=500, body="burning"), EnvFault, "answered 500: burning"),
        (Answer(body="<html>"), EnvFault, "sent something else than was asked for: <html>"),
        (Answer(status=400, body=error("no seed, please")), ConfigError, "no seed, please"),
        (Answer(status=401, body=error("who are you?")), ConfigError, "Check the key in OPENAI_API_KEY"),
    ],
)
def test_a_server_that_never_answers_ends_the_run(answer, kind, message):
    with ScriptedServer([answer]) as server, pytest.raises(kind) as raised:
        play(remote(server, max_retries=0))
    assert message in str(raised.value)


def test_a_server_that_dies_ends_the_run_after_a_while():
    with ScriptedServer([Answer(body=completion("look")), Answer(status=500)]) as server:
        policy = remote(server, max_retries=0)
        policy.act([episode()])
        for _ in range(MAX_FAULTS - 1):
            assert policy.act([episode()])[0].stop is StopReason.ENV_FAULT
        with pytest.raises(EnvFault, match="answered 500"):
            policy.act([episode()])


def test_settings_that_cant_be_meant_are_refused():
    dialogue = Dialogue(CONFIG, instruction="")
    for settings in ({"temperature": -1.0, "max_new_tokens": 1}, {"temperature": 0.0, "max_new_tokens": 0}):
        with pytest.raises(ConfigError, match="temperature must be at least 0"):
            OpenAIPolicy(OpenAIConfig(model="tiny"), dialogue, **settings)


# ── The command line ──────────────────────────────────────────────────────────────────────────────────────────────────


def called(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    from sparring.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(words)
    out, errors = capsys.readouterr()
    return int(stop.value.code or 0), out, errors


@pytest.fixture
def recipe(tmp_path: Path, player: Path) -> Path:
    demonstrations = tmp_path / "experts.jsonl"
    lines = []
    for task in WORLD.tasks("train"):
        turns = [
            {"observation": turn.observation, "thought": "I press the next colour.", "action": turn.action}
            for turn in expert(task).turns
        ]
        lines.append(json.dumps({"task_id": task.id, "reward": 1.0, "turns": turns}))
    demonstrations.write_text("\n".join(lines) + "\n")
    text = TOY_RECIPE.format(model=player).replace("{ size = 3 }", "{ size = 4, num_turns = 7 }")
    text = text.replace('format = "action"\ninstruction = ""\nmax_context = 384', 'format = "react"\nmax_context = 512')
    text = text.replace("max_new_tokens = 6", f"max_new_tokens = {MAX_NEW_TOKENS}")
    path = tmp_path / "toy.toml"
    path.write_text(f'{text}[expert]\npath = "{demonstrations}"\n')
    return path


def cells(table: str) -> list[str]:
    """Return the figures of a table of one model."""
    (row,) = [line.split("│")[2:] for line in table.splitlines() if re.search(r"│\s+4 │", line)]
    return [cell.strip() for cell in row]


def test_eval_measures_a_servers_model_as_it_does_one_of_ours(player, recipe, tmp_path, capsys):
    """The same model, in this process and behind a server, with one worked example: the same row but for its name."""
    words = ["eval", "--recipe", str(recipe), "--chat.num_examples", "1", "--quiet"]
    code, expected, errors = called([*words, "--out", str(tmp_path / "local.jsonl"), str(player)], capsys)
    assert code == 0, errors
    with server_of(player) as server:
        served = [*words, "--policy", "openai", "--openai.base-url", server.base_url]
        out = tmp_path / "served.jsonl"
        code, table, errors = called([*served, "--openai.model", "tiny", "--out", str(out)], capsys)
        assert code == 0, errors
        code, again, _ = called([*served, "tiny"], capsys)
    assert code == 0
    assert again == table
    assert cells(table) == cells(expected)
    assert [one.reward for one in read_trajectories(out)] == [
        one.reward for one in read_trajectories(tmp_path / "local.jsonl")
    ]
    assert KEY not in out.read_text() + table + errors
    assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
    assert all(roles_and_contents(seen)[1][0] == "assistant" for seen in server.seen)


@pytest.mark.parametrize("step", [1, 2, 100])
def test_worked_examples_are_the_first_experts_however_many_are_played(step, monkeypatch):
    from sparring.runs import play as playing

    monkeypatch.setattr(playing, "EXAMPLE_STEP", step)
    config = PlayConfig(chat=ChatConfig(format="action", num_examples=3), env=EnvConfig(num_envs=2))
    with EnvPool("tests.toy_world:ToyWorld", OPTIONS, num_envs=2) as pool:
        shown = playing._examples(playing.World(config=config, benchmark=WORLD, pool=pool))
    assert [one.task for one in shown] == select_tasks(WORLD.tasks("train"))[:3]
    assert [[turn.action for turn in one.turns] for one in shown] == [
        WORLD.expert_actions([one.task])[one.task.id] for one in shown
    ]


def test_rollout_plays_a_servers_model(player, recipe, tmp_path, capsys):
    out = tmp_path / "t.jsonl"
    with server_of(player) as server:
        words = ["rollout", "--recipe", str(recipe), "--policy", "openai", "--split", "test", "--out", str(out)]
        words += ["--openai.base_url", server.base_url, "--openai.model", "tiny", "--rollout.temperature", "0"]
        code, told, errors = called([*words, "--quiet"], capsys)
    assert code == 0, errors
    assert told.startswith("4 trajectories, mean reward 0.")
    assert len(read_trajectories(out)) == 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "eval: name at least one model: as the server calls it."),
        (["tiny", "--openai.base_url", "http://127.0.0.1:9/v1"], 1, "can't be reached"),
        (["tiny", "--openai.base_urll", "x"], 2, "Did you mean --openai.base_url?"),
        (["tiny", "--openai.api_key_env", "sk-secret"], 2, "takes the name of an environment variable"),
    ],
)
def test_wrong_words_and_absent_servers_get_a_message(words, code, message, recipe, capsys):
    found, out, errors = called(["eval", "--recipe", str(recipe), "--policy", "openai", "--quiet", *words], capsys)
    assert (found, out) == (code, "")
    assert message in " ".join(errors.replace("│", " ").split())
    assert "sk-secret" not in errors
    assert "Traceback" not in errors


def test_an_unknown_model_is_named(player, recipe, capsys):
    with server_of(player) as server:
        words = ["eval", "--recipe", str(recipe), "--policy", "openai", "--openai.base_url", server.base_url]
        code, _, errors = called([*words, "--quiet", "other"], capsys)
    assert code == 2
    assert "The model `other` does not exist" in errors
