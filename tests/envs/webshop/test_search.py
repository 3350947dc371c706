"""Analysis and ranking: Porter's own examples, BM25 worked by hand, and an index against the formula written out."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sparring.envs.webshop import search
from sparring.envs.webshop.analysis import STOP_WORDS, stem, terms
from sparring.envs.webshop.generated import generate_products
from sparring.envs.webshop.products import build_catalogue
from sparring.envs.webshop.search import build_index, open_index, round_length
from sparring.envs.webshop.store import cached_catalogue, open_catalogue
from sparring.envs.webshop.words import _any_word, words

_EXAMPLES = (
    "caresses caress ponies poni ties ti caress caress cats cat feed feed agreed agre plastered plaster bled bled "
    "motoring motor sing sing conflated conflat troubled troubl sized size hopping hop tanned tan falling fall "
    "hissing hiss fizzed fizz failing fail filing file happy happi sky sky relational relat conditional condit "
    "rational ration valenci valenc hesitanci hesit digitizer digit conformabli conform radicalli radic "
    "differentli differ vileli vile analogousli analog vietnamization vietnam predication predic operator oper "
    "feudalism feudal decisiveness decis hopefulness hope callousness callous formaliti formal sensitiviti sensit "
    "sensibiliti sensibl triplicate triplic formative form formalize formal electriciti electr electrical electr "
    "hopeful hope goodness good revival reviv allowance allow inference infer airliner airlin gyroscopic gyroscop "
    "adjustable adjust defensible defens irritant irrit replacement replac adjustment adjust dependent depend "
    "adoption adopt homologou homolog communism commun activate activ angulariti angular homologous homolog "
    "effective effect bowdlerize bowdler probate probat rate rate cease ceas controll control roll roll"
)
PORTER = _EXAMPLES.split()
"""The examples of Porter's paper, each carried through all steps: word, stem, word, stem, …"""

TEXTS = ("red bottle", "a red red mug", "blue bottle for water")


@pytest.mark.parametrize(("word", "expected"), list(zip(PORTER[::2], PORTER[1::2], strict=True)))
def test_porters_examples(word: str, expected: str):
    assert stem(word) == expected


def test_lucenes_departures_from_the_paper():
    assert [stem(word) for word in ("possibly", "technology", "us", "trekking")] == [
        "possibl",
        "technolog",
        "us",
        "trek",
    ]


def test_words_are_found_as_lucene_finds_them():
    assert terms("The men's 3X-Large L'eau d'Issey, 6.76 fl.oz (pack of 1) U.S.A. 1,000") == [
        *("men", "3x", "larg", "l'eau", "d'issei", "6.76", "fl.oz", "pack", "1", "u.s.a", "1,000")
    ]
    assert len(STOP_WORDS) == 33
    assert terms("it is for the " + "x" * 256) == ["x" * 255, "x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Crocs™ shoes®, ★★ ☆ ✓ ✔️", ["croc", "™", "shoe", "®", "★", "★", "✔️"]),
        ("漢字かなカタカナ한국어", ["漢", "字", "か", "な", "カタカナ", "한국어"]),
        ("ภาษาไทย 々々 ＡＢ１２", ["ภาษาไทย", "々々", "ａｂ１２"]),
        ("👩\u200d⚕️👍🏽👍 ❤️x", ["👩\u200d⚕️", "👍🏽", "👍", "❤️", "x"]),
        ("🇩🇪🇫🇷🇩 #️⃣ 5️⃣6 # *", ["🇩🇪", "🇫🇷", "#️⃣", "5️⃣6"]),
        ("½ m² 20° × 3 € → cafe\u0301", ["m", "20", "3", "cafe\u0301"]),
        (
            "_ a__b a_.b u.s.a. 1960's men’s 1,5a 3.x",
            ["a__b", "a_", "b", "u.s.a", "1960", "s", "men", "1,5a", "3", "x"],
        ),
        ("שלום צ\"ל ג'", ["שלום", 'צ"ל', "ג'"]),
    ],
)
def test_symbols_emoji_and_other_scripts_as_lucene_finds_them(text: str, expected: list[str]):
    """Each was given to Anserini 0.14.3, which the benchmark searches with."""
    assert terms(text) == expected


def test_parts_in_ascii_are_read_as_the_rules_for_all_of_unicode_read_them():
    rng = random.Random(0)
    for _ in range(2_000):
        text = "".join(rng.choices("abz019__..,;:''é™👍 \"- #*", k=rng.randint(1, 30)))
        assert [word for word in _any_word().findall(text) if word] == words(text), text


@pytest.mark.parametrize("unit", ["_", "_\u0301", "\u200d", "👍\u200d", "#\u0301", "a.", "👍\u0301", "'s", "\u0301"])
def test_long_odd_texts_take_no_time(unit: str):
    start = time.process_time()
    words(unit * 20_000)
    assert time.process_time() - start < 1.0


def test_document_lengths_are_rounded_as_in_one_byte():
    """Below 24 exact; above, 24 plus what has four significant bits: 41 = 24 + 17 (10001) → 24 + 16 = 40."""
    assert [round_length(n) for n in (0, 23, 24, 39, 40, 41, 42, 57, 100, 1000)] == [
        *(0, 23, 24, 39, 40, 40, 42, 56, 96, 984)
    ]
    assert len({round_length(n) for n in range(100_000)}) <= 256


def test_bm25_by_hand():
    """N = 3; lengths without stop words 2, 3, 3, mean 8/3.

    red: in 2 of 3, idf = ln(1 + 1.5 / 2.5) = ln 1.6 = 0.470004
      document 0: 1 / (1 + 0.9 (0.6 + 0.4 · 2 · 3/8)) = 1 / 1.81  = 0.552486 → 0.259671
      document 1: 2 / (2 + 0.9 (0.6 + 0.4 · 3 · 3/8)) = 2 / 2.945 = 0.679117 → 0.319188
    mug: in 1 of 3, idf = ln(1 + 2.5 / 1.5) = 0.980829
      document 1: 1 / (1 + 0.945) = 0.514139 → 0.504283
    """
    index = build_index(TEXTS)
    assert index.scores("red") == pytest.approx([0.259671, 0.319188, 0], abs=2e-6)
    assert index.scores("the reds and mug") == pytest.approx([0.259671, 0.319188 + 0.504283, 0], abs=2e-6)
    assert index.scores("red red") == pytest.approx([2 * 0.259671, 2 * 0.319188, 0], abs=2e-6)
    assert index.search("red mug", 10) == [1, 0]
    assert index.search("red mug", 1) == [1]
    assert index.search("for the unknown", 10) == []


def test_ties_go_to_the_earlier_document():
    index = build_index(["green cup", "blue cup", "red cup", "red hat"])
    assert index.search("cup", 10) == [0, 1, 2]
    assert index.search("cup", 2) == [0, 1]


def written_out(texts: list[str], query: str) -> list[float]:
    """Score by the formula, document by document."""
    documents = [Counter(terms(text)) for text in texts]
    average = sum(document.total() for document in documents) / len(documents)
    scores = []
    for document in documents:
        length, score = round_length(document.total()), 0.0
        for term in terms(query):
            holders = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            score += idf * document[term] / (document[term] + 0.9 * (0.6 + 0.4 * length / average))
        scores.append(score)
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_an_index_scores_as_the_formula_does(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = random.Random(seed)
    words = [f"word{i}" for i in range(60)]
    texts = [" ".join(rng.choices(words, weights=range(1, 61), k=rng.choice((0, 3, 30, 90)))) for _ in range(50)]
    monkeypatch.setattr(search, "DOCS_PER_PART", 7)  # so that an index is put together from several parts
    index, stored = build_index(texts), build_index(texts, folder=tmp_path)
    for _ in range(20):
        query = " ".join(rng.choices(words, k=rng.randint(1, 6)))
        assert index.scores(query) == pytest.approx(written_out(texts, query), abs=1e-5)
        assert np.array_equal(index.scores(query), stored.scores(query))
        assert np.array_equal(index.scores(query), open_index(tmp_path, len(texts)).scores(query))


def test_no_documents_no_hits():
    assert build_index([]).search("anything", 10) == []


def test_a_stored_catalogue_is_the_one_in_memory(tmp_path: Path):
    products = list(generate_products(3_000))
    kept, memory = cached_catalogue(iter(products), tmp_path / "kept"), build_catalogue(products)
    assert len(kept) == len(memory) == 3_000
    assert [kept.products[i] for i in range(0, 3_000, 37)] == [memory.products[i] for i in range(0, 3_000, 37)]
    for product in products[::600]:
        assert kept.get(product.id) == product
        assert kept.search(product.title) == memory.search(product.title)
        for shelf in (f"<a> {product.attributes[0]}", f"<c> {product.kind}", f"<q> {product.query}"):
            assert product.id in {hit.id for hit in kept.search(shelf)}
            assert list(kept.search(shelf)) == list(memory.search(shelf))
    assert kept.get("P") is None and kept.get("Z\udc80") is None
    assert not list(tmp_path.rglob("*.pkl")) and [entry.name for entry in tmp_path.iterdir()] == ["kept"]
    again = cached_catalogue(iter(()), tmp_path / "kept")
    assert len(again) == 3_000, "what is kept is not written again"


def test_a_torn_stored_catalogue_is_written_again(tmp_path: Path):
    def torn():
        yield from generate_products(40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_catalogue(torn(), tmp_path / "kept")
    assert not list(tmp_path.iterdir())
    assert len(cached_catalogue(generate_products(40), tmp_path / "kept")) == 40
    assert len(open_catalogue(tmp_path / "kept")) == 40
