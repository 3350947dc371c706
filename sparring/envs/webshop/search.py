"""Documents in, a BM25 index out: an inverted index in four numpy arrays, in memory or mapped from files.

Source: Robertson and Zaragoza (2009) for BM25; Lucene for its form of it: idf = ln(1 + (N − n + ½) / (n + ½)), no
factor k1 + 1, document lengths rounded to one byte (SmallFloat's 4-bit form), the average length not rounded.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparring.envs.webshop.analysis import terms

ARRAYS = ("keys", "starts", "docs", "weights")
"""The index's arrays, each in a file of that name where it is kept."""

DOCS_PER_PART = 20_000
"""Documents whose postings are held as Python objects at a time while an index is built."""

_EXACT_LENGTHS = 24
"""Lengths below this are kept as they are; above, four significant bits remain."""


def round_length(length: int) -> int:
    """Round a document's length down as Lucene does when it stores it in a byte.

    >>> [round_length(n) for n in (7, 24, 39, 40, 41, 57, 100, 1000)]
    [7, 24, 39, 40, 40, 56, 96, 984]
    """
    if length < _EXACT_LENGTHS:
        return length
    rest = length - _EXACT_LENGTHS
    shift = max(0, rest.bit_length() - 4)
    return _EXACT_LENGTHS + (rest >> shift << shift)


def idf(num_docs: int, num_with_term: int) -> float:
    """Return a term's inverse document frequency, in nats."""
    return math.log(1 + (num_docs - num_with_term + 0.5) / (num_with_term + 0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchIndex:
    """An inverted index. P postings: the document numbers of a term lie in order in one slice of `docs`."""

    num_docs: int
    keys: np.ndarray
    """The terms' hashes, sorted (uint64)."""
    starts: np.ndarray
    """Where each term's postings start, and after the last, P (int64)."""
    docs: np.ndarray
    """P document numbers (int32)."""
    weights: np.ndarray
    """P term weights without the idf: tf / (tf + k1 (1 − b + b length / average)) (float32)."""

    def scores(self, query: str) -> np.ndarray:
        """Return every document's score (float32); a word written twice counts twice."""
        total = np.zeros(self.num_docs)
        for term, num in Counter(terms(query)).items():
            key = term_key(term)
            at = int(np.searchsorted(self.keys, key))
            if at < len(self.keys) and self.keys[at] == key:
                start, end = int(self.starts[at]), int(self.starts[at + 1])
                boost = np.float32(num * idf(self.num_docs, end - start))
                total[self.docs[start:end]] += boost * self.weights[start:end]
        return total.astype(np.float32)

    def search(self, query: str, num: int) -> list[int]:
        """Return the numbers of the best documents that share a term with the query, ties in document order."""
        scores = self.scores(query)
        found = np.flatnonzero(scores)
        if len(found) > num:
            least = np.partition(scores[found], len(found) - num)[len(found) - num]
            found = found[scores[found] >= least]
        order = np.argsort(-scores[found], kind="stable")
        return [int(doc) for doc in found[order][:num]]


def build_index(texts: Iterable[str], *, folder: Path | None = None, k1: float = 0.9, b: float = 0.4) -> SearchIndex:
    """Index documents, numbered as they come.

    Args:
        texts: one text per document.
        folder: write the arrays there, as .npy files, and map them, rather than hold them in memory.
        k1: how soon repeating a term stops counting.
        b: how much long documents are held back.
    """
    keys: dict[str, int] = {}
    parts = list(_parts(texts, keys))
    lengths = np.concatenate([part.lengths for part in parts]) if parts else np.zeros(0, np.int64)
    average = lengths.mean() if len(lengths) else 1.0
    rounded = np.array([round_length(int(length)) for length in lengths])
    norms = (k1 * (1 - b + b * rounded / max(average, 1e-9))).astype(np.float32)

    hashes = np.fromiter((term_key(term) for term in keys), np.uint64, len(keys))
    rank = np.empty(len(keys), np.int64)
    rank[np.argsort(hashes)] = np.arange(len(keys))
    counts = np.zeros(len(keys) + 1, np.int64)
    for part in parts:
        counts[1:] += np.bincount(rank[part.terms], minlength=len(keys))
    arrays = {"keys": np.sort(hashes), "starts": np.cumsum(counts)}
    arrays |= {name: _empty(name, int(arrays["starts"][-1]), kind, folder) for name, kind in _POSTINGS.items()}
    free = arrays["starts"][:-1].copy()
    for part in parts:
        order = np.argsort(rank[part.terms], kind="stable")
        sorted_terms = rank[part.terms][order]
        places = free[sorted_terms] + _counted_within(sorted_terms)
        arrays["docs"][places] = part.docs[order]
        frequencies = part.frequencies[order].astype(np.float32)
        arrays["weights"][places] = frequencies / (frequencies + norms[part.docs[order]])
        free += np.bincount(sorted_terms, minlength=len(keys))
    if folder is None:
        return SearchIndex(num_docs=len(lengths), **arrays)
    for name in ("keys", "starts"):
        np.save(folder / f"{name}.npy", arrays[name])
    for name in _POSTINGS:
        arrays[name].flush()
    return open_index(folder, len(lengths))


def open_index(folder: Path, num_docs: int) -> SearchIndex:
    """Map an index that `build_index` has written."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    return SearchIndex(num_docs=num_docs, **arrays)


_POSTINGS = {"docs": np.int32, "weights": np.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The postings of a run of documents: three arrays of equal length, and one length per document."""

    terms: np.ndarray
    docs: np.ndarray
    frequencies: np.ndarray
    lengths: np.ndarray


def _parts(texts: Iterable[str], keys: dict[str, int]) -> Iterator[_Part]:
    """Analyse documents part by part; `keys` collects the terms in the order in which they turn up."""
    numbers, docs, frequencies, lengths = array("i"), array("i"), array("i"), array("i")

    def part() -> _Part:
        return _Part(
            terms=np.array(numbers, np.int32),
            docs=np.array(docs, np.int32),
            frequencies=np.array(frequencies, np.int32),
            lengths=np.array(lengths, np.int32),
        )

    for doc, text in enumerate(texts):
        found = Counter(terms(text))
        for term, frequency in found.items():
            numbers.append(keys.setdefault(term, len(keys)))
            frequencies.append(frequency)
        docs.extend([doc] * len(found))
        lengths.append(found.total())
        if len(lengths) == DOCS_PER_PART:
            yield part()
            for values in (numbers, docs, frequencies, lengths):
                del values[:]
    if lengths:
        yield part()


def term_key(term: str) -> np.uint64:
    """Hash a term to 64 bits: two of two million terms share a key with a chance of one in ten million."""
    return np.uint64(int.from_bytes(hashlib.blake2b(term.encode("utf-8", "replace"), digest_size=8).digest(), "little"))


def _counted_within(sorted_values: np.ndarray) -> np.ndarray:
    """Number the entries of each run of equal values from 0: [5, 5, 7, 9, 9] → [0, 1, 0, 0, 1]."""
    if not len(sorted_values):
        return np.zeros(0, np.int64)
    firsts = np.flatnonzero(np.concatenate([[True], sorted_values[1:] != sorted_values[:-1]]))
    sizes = np.diff(firsts, append=len(sorted_values))
    return np.arange(len(sorted_values)) - np.repeat(firsts, sizes)


def _empty(name: str, size: int, kind: type, folder: Path | None) -> np.ndarray:
    """Make room for postings: in memory, or in a file that is mapped."""
    if folder is None:
        return np.empty(size, kind)
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(size,))
