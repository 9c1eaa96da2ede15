"""Keyword search: the query language, analyzers, filters, freshness, and whatever users type."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest
from tests.contract.base import ContractBase, case
from tests.contract.cancellation import STOPS, stopped_at
from tests.contract.machine import long_run
from tests.harness.loop_time import own_work
from tests.harness.text_oracle import folded, matching_ids
from tests.harness.values import DIM, HOSTILE_TEXTS, ids_of, vectors

from aiovec import F, Field, Schema, VectorStore, Weighted
from aiovec._text.query import parse
from aiovec.errors import (
    FilterError,
    InvalidArgumentError,
    InvalidNameError,
    TableNotFoundError,
    UnsupportedError,
)

TEXTS = Schema(
    DIM,
    fields={
        "title": Field(str, text=True),
        "body": Field(str, text=True),
        "plain": str,
        "year": int,
    },
)
"""Two fields that keyword search covers, and two that it does not."""

ENGLISH = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer="english")
NGRAM = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer="ngram")

_PAGES: dict[str, tuple[str | None, str | None]] = {
    "a": ("Wool care", "Wash the wool sweater cold. Don't wring it."),
    "b": ("Knitting patterns", "A pattern for a WOOL hat, size 42."),
    "c": ("Café guide", "The résumé of a naïve barista at São Paulo's café."),
    "d": ("E-mail tips", "Send e-mail, not email. Version 2.5.1 of the client: error E1042."),
    "e": (None, "cold wash only"),
    "f": ("Empty", ""),
    "g": (None, None),
    "h": ("Привет, мир", "ΑΘΗΝΑ und Köln 12; the naive O'Brien's co-op"),
    "i": ("cat dog", "A dog sleeps, one cat wakes; cat cat"),
    "j": ("Wash", "sweater"),
    "k": ("operators", "this OR that AND those NOT these NEAR a b; col"),
}

# Query: the ids that match, of ``_PAGES`` on a table with the analyzer "plain".
QUERIES: dict[str, str] = {
    # Words
    "wool": "a b", "WOOL": "a b", "Wool wool": "a b", "wool sweater": "a", "sweater wool": "a",
    "wash sweater": "a j", "wool nowhere": "", "nowhere": "", "the": "a c d h", "it": "a",
    "woo": "", "wools": "", "ool": "",
    # Phrases
    '"wash the wool"': "a", '"the wash wool"': "", '"wool wash"': "", '"cold wash"': "e",
    '"wash cold"': "", '"wash sweater"': "", '"wool"': "a b", '"WASH   the wool"': "a",
    '"cat cat"': "i", '"cat cat cat"': "", '"sweater cold don t wring"': "a",
    '"wash the" wring': "a", 'cold "wash only"': "e",
    # Exclusion
    "wash -cold": "j", "-cold wash": "j", "wash -title:wash": "a e", '-"cold wash" wash': "a j",
    "wool -hat -sweater": "", "wool -nowhere": "a b", "-wool": "", "-wool -cold": "",
    "cat -cat": "", "wool -": "a b", "--wool": "a b", "wool -!!!": "a b", "co-op": "h",
    # Fields
    "title:wash": "j", "body:wash": "a e", "title:wool body:wool": "a", "wool -title:wool": "b",
    'title:"wool care"': "a", 'body:"wool care"': "", 'body:"cold wash"': "e",
    "title:wool hat": "", "title:wool wring": "a", "-title:wash": "", "title:nowhere": "",
    "plain:wool": "", "id:a": "", "rowid:1": "", "title:": "", "wool:care": "a", ":wool": "a b",
    "title::wash": "j", "title:-wash": "j",
    # Accents, upper case, other scripts
    "cafe": "c", "café": "c", "CAFÉ": "c", "resume": "c", "résumé": "c", "naive": "c h",
    "naïve": "c h", "sao paulo": "c", "SÃO": "c", "koln": "h", "KÖLN": "h", "привет": "h",
    "ПРИВЕТ мир": "h", "αθηνα": "h", '"cafe guide"': "c",
    # Digits, apostrophes, hyphens, punctuation
    "42": "b", "4": "", "2.5.1": "d", '"2 5 1"': "d", "1.5.2": "", "e1042": "d", "E1042": "d",
    "don't": "a", "dont": "", "don t": "a", "o'brien": "h", "brien": "h",
    "O\u2019Brien\u2019s": "h",
    "e-mail": "d", "email": "d", "mail": "d", "wool, sweater!": "a", "(wool)": "a b",
    "wool/sweater": "a", "wool & sweater": "a", "'wool'": "a b", "#wool @sweater": "a",
    "paulo's": "c", "«wool»": "a b", "wool…": "a b", "wool😀": "a b",
    # Nothing
    "": "", "   ": "", "\t\n": "", '"': "", '""': "", '"""': "", "-": "", "*": "", ":": "",
    "!!!": "", "😀": "",
    "-*:\"'": "", "\0": "", '"  "': "", '"!!!"': "", '-""': "", "\ud800": "", "٪": "",
    # What other query languages take for operators is text here.
    '") OR *': "k", "OR": "k", "NEAR(a b)": "k", "NEAR(a b, 5)": "", "a AND": "k", "col:": "k",
    "AND OR NOT": "k", "NOT these": "k", "{title body}: wool": "", "^wool": "a b", "wool^2": "",
    "wool + sweater": "a", "wool*sweater": "a", "wool~": "a b", "wool~1 sweater": "",
    "+wool": "a b", "[wool TO sweater]": "", "title:[a TO z]": "", "(wool OR sweater": "",
    "wool) sweater": "a", "wool\\": "a b", "wool\\ sweater": "a", '\\"wool\\"': "a b",
    "wool'; DROP TABLE notes; --": "", "' wool --": "a b", "?": "", "%": "", "$1": "d", "?1": "d",
    "wool\0sweater": "a", "\ud800wool": "a b", "wool\udfff sweater": "a", "\ufeffwool": "a b",
    "\u200fwool\u200e": "a b", "\u200f-wool wash": "e j", "\u202ewool\u202c sweater": "a",
    'wool "sweater': "a", '"wool sweater': "a", 'wool"sweater': "a", 'wool"the wool"': "a",
    "wool\nsweater": "a", "wool\u00a0sweater": "a", "wool\u3000sweater": "a",
    "wool\u200bsweater": "a",
}  # fmt: skip

ANY: dict[str, str] = {
    "cat wool": "a b i", "cat wool -hat": "a i", "nowhere cat": "i", "nowhere": "", "-hat": "",
    'title:wash "cold wash"': "e j", "wool -title:wool cat": "b i", "": "", "!!! cat": "i",
}  # fmt: skip

PREFIXES: dict[str, str] = {
    "woo*": "a b", "WOO*": "a b", "wool*": "a b", "swea*": "a j", "e10*": "d", "swea* wo*": "a",
    "title:wa*": "j", "wash -swea*": "e", '"wool sw*"': "", "co-o*": "h", "caf*": "c",
    "nothin*": "",    "CAFÉ*": "c", "wo**": "a b",
}  # fmt: skip

_STEMS = {
    "s1": "She is running daily",
    "s2": "He runs",
    "s3": "connected connections",
    "s4": "two knitted hats",
    "s5": "The cat jumped",
}
_STEM_QUERIES: dict[str, str] = {
    "run": "s1 s2", "RUNS": "s1 s2", "running": "s1 s2", "connect": "s3", "connection": "s3",
    "hat": "s4", "knitting": "s4", "cats": "s5", "jumping cats": "s5", "the": "s5", "is": "s1",
    '"is run"': "s1", '"run is"': "", "run -daily": "s2", "body:connecting": "s3", "hatter": "",
    "dog": "", "a": "",
}  # fmt: skip

_GRAMS = {
    "n1": "東京都は日本の首都です。",
    "n2": "京都へ行く",
    "n3": "Unbelievable concatenation",
    "n4": "C++ and c# code",
    "n5": "ab",
    "n6": "a table, x.y_z",
    "n7": None,
    "n8": "",
    "n9": "서울특별시 Москва",
}
_GRAM_QUERIES: dict[str, str] = {
    "東京": "n1", "京都": "n1 n2", "京": "n1 n2", "日本の首都": "n1", "首都です": "n1",
    "首都 京都": "n1",
    "京都 -首都": "n2", "大阪": "", "東京都は京": "", "특별시": "n9", "москва": "n9",
    "МОСК": "n9",  # noqa: RUF001
    "believ": "n3", "BELIEV": "n3", "cat": "n3", "cat believ": "n3", "cate conc": "n3", "catt": "",
    "ab": "n3 n5 n6", "c": "n3 n4", "b": "n3 n5 n6", "ab -tab": "n3 n5", "table": "n6",
    "c++": "n4", "C++ c#": "n4", '"++ and"': "n4", "+ and": "n4", "#": "n4",
    '"ble con"': "n3", '"con ble"': "", "ble con": "n3", "body:cat": "n3", "cat -c": "",
    "x.y_z": "n6", ".y_": "n6", "%": "", "_": "n6", "a_b": "", "believ*": "n3", "ca*": "n3",
    "": "", '""': "", "-": "", "*": "", '"': "", "abc": "", "abcd": "",
}  # fmt: skip

# Of these a fuzzed query is made. Letters that engines fold in different ways are left out.
_PIECES = [
    *("wool", "wash", "cold", "cat", "dog", "the", "a", "b", "é", "É", "42", "1", "don't"),
    *("e-mail", "col", "rowid"),
    *('"', '"', '"', "-", "-", "*", ":", "title:", "body:", "plain:", " ", " ", " ", "(", ")"),
    *("^", "+", "~", "\\", "'", ";", "--", "/", "{", "}", "[", "]", "<", ">", "&", "|", "!", "?"),
    *(" AND ", " OR ", " NOT ", " NEAR ", "NEAR(", "%", "_", "$", "\0", "\t", "\n", "\ud800"),
    *("😀", "東京", "мир", "\u200f", "\ufeff", "\u3000", "…", "“", "”", "\u2019", ",", ".", "0"),
]  # fmt: skip


def pages(texts: Mapping[str, tuple[str | None, ...] | str | None]) -> list[dict[str, Any]]:
    """Rows of these texts: of ``title`` and ``body``, or of ``body`` alone."""
    made = []
    for n, (id, vector) in enumerate(zip(texts, vectors(len(texts)), strict=True)):
        held = texts[id]
        fields = (
            dict(zip(("title", "body"), held, strict=True))
            if isinstance(held, tuple)
            else {"body": held}
        )
        made.append({"id": id, "embedding": vector, **fields})
        if isinstance(held, tuple):
            made[-1] |= {"plain": "plain wool text", "year": 2000 + n}
    return made


@own_work()
def fuzzed(count: int, seed: int) -> list[str]:
    """Queries of known pieces in any order."""
    chance = random.Random(seed)
    return ["".join(chance.choices(_PIECES, k=chance.randrange(1, 12))) for _ in range(count)]


@own_work()
def noise(count: int, seed: int) -> list[str]:
    """Queries of any characters at all."""
    chance = random.Random(seed)

    def char() -> str:
        return chr(chance.choice((chance.randrange(0x80), chance.randrange(0x110000))))

    return ["".join(char() for _ in range(chance.randrange(30))) for _ in range(count)]


class TextContract(ContractBase):
    """``search_text`` on the backends with the ability "text", and ``search_hybrid`` over it."""

    async def _texts(
        self,
        store: VectorStore,
        schema: Schema = TEXTS,
        texts: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        self.need(store, "text")
        rows = pages(_PAGES if texts is None else texts)
        await self.table(store, schema, rows)
        return rows

    async def _compare(
        self, store: VectorStore, expected: Mapping[str, str], **options: Any
    ) -> None:
        for query, ids in expected.items():
            with case(query):
                hits = await store.search_text("notes", query, limit=50, **options)
                assert sorted(ids_of(hits)) == ids.split()

    # The query language

    async def test_queries(self, store: VectorStore) -> None:
        await self._texts(store)
        await self._compare(store, QUERIES)

    async def test_any_word(self, store: VectorStore) -> None:
        await self._texts(store)
        await self._compare(store, ANY, any=True)

    async def test_accents_of_two_characters(self, store: VectorStore) -> None:
        """An accent of its own behind its letter is folded as the letter with it is."""
        await self._texts(store, texts={"a": (None, "cafe\u0301 ole"), "b": ("café", "other")})
        for query in ("cafe", "café", "cafe\u0301", "CAFE\u0301"):
            with case(query):
                assert sorted(ids_of(await store.search_text("notes", query))) == ["a", "b"]

    async def test_prefixes(self, store: VectorStore) -> None:
        await self._texts(store)
        if store.supports("text-prefix"):
            await self._compare(store, PREFIXES)
            return
        for query in ("woo*", "wash woo*", "wash -woo*", "title:woo*"):
            with case(query), pytest.raises(UnsupportedError, match="whole words") as caught:
                await store.search_text("notes", query)
            assert caught.value.ability == "text-prefix"
        for query in ('"wool sw*"', "*", "wool *", "wool*sweater"):
            with case(query):
                await store.search_text("notes", query)

    async def test_stems_of_english(self, store: VectorStore) -> None:
        await self._texts(store, ENGLISH, _STEMS)
        await self._compare(store, _STEM_QUERIES)
        hits = await store.search_text("notes", "run dog", any=True)
        assert sorted(ids_of(hits)) == ["s1", "s2"]

    async def test_parts_of_words(self, store: VectorStore) -> None:
        """Texts that are written without spaces, parts of words, one and two letters."""
        await self._texts(store, NGRAM, _GRAMS)
        await self._compare(store, _GRAM_QUERIES)

    async def test_parts_of_words_behind_a_nul(self, store: VectorStore) -> None:
        await self._texts(store, NGRAM, {"nul": "be\0after", "b": "before"})
        expected = {
            "af": ["nul"],
            "t": ["nul"],
            "after": ["nul"],
            "be": ["b", "nul"],
            "be -t": ["b"],
        }
        for query, ids in expected.items():
            with case(query):
                assert sorted(ids_of(await store.search_text("notes", query))) == ids

    async def test_tables_without_text_are_refused(self, notes: VectorStore) -> None:
        self.need(notes, "text")
        for call in (
            notes.search_text("notes", "wool"),
            notes.search_text("notes", ""),
            notes.search_hybrid("notes", "wool", [1.0] * DIM),
        ):
            with pytest.raises(UnsupportedError, match=r"^the table 'notes' .*text=True") as caught:
                await call
            assert (caught.value.ability, caught.value.table) == ("text", "notes")
        with pytest.raises(TableNotFoundError):
            await notes.search_text("absent", "wool")

    async def test_bad_arguments_of_a_keyword_search(self, store: VectorStore) -> None:
        await self._texts(store)
        wrong: dict[str, dict[str, Any]] = {
            "query": {"query": 5}, "limit": {"limit": 0}, "highlight": {"highlight": "<b>"},
            "diversity": {"diversity": 2}, "rerank": {"rerank": 5}, "fetch_k": {"fetch_k": 0},
        }  # fmt: skip
        for name, options in wrong.items():
            with case(name), pytest.raises(InvalidArgumentError) as caught:
                await store.search_text("notes", **{"query": "wool", **options})
            assert caught.value.argument == name
        with pytest.raises(InvalidNameError):
            await store.search_text("notes", "wool", select=["absent"])
        with pytest.raises(FilterError):
            await store.search_text("notes", "wool", where="absent = 1")
        for query in ("x" * 1_000_000, " ".join(map(str, range(2_000)))):
            with pytest.raises(InvalidArgumentError) as caught:
                await store.search_text("notes", query)
            assert caught.value.argument == "query"
        assert ids_of(await store.search_text("notes", f"cold {'x' * 50_000}", any=True)) == [
            "e", "a",
        ]  # fmt: skip

    # Ranking and what a hit carries

    async def test_the_best_words_come_first(self, store: VectorStore) -> None:
        texts = {
            "rare": "alpha and some more of the usual words of a text",
            "often": "beta beta beta",
            "once": "beta and some more of the usual words of a text",
            "long": "beta " + "other words " * 60,
        }
        texts |= {f"x{n:02}": "usual words of a text" for n in range(40)}
        await self._texts(store, ENGLISH, texts)
        hits = await store.search_text("notes", "beta")
        assert ids_of(hits) == ["often", "once", "long"]
        scores = [hit.score for hit in hits]
        assert all(type(score) is float and score > 0 for score in scores)
        assert scores == sorted(scores, reverse=True)
        assert [hit.distance for hit in hits] == [None] * 3
        assert not any(hit.ranks or hit.highlights for hit in hits)
        first = await store.search_text("notes", "alpha usual words", any=True, limit=5)
        assert first[0].id == "rare"
        assert len(first) == 5

    @pytest.mark.parametrize("schema", [ENGLISH, NGRAM], ids=["english", "ngram"])
    async def test_every_word_of_a_question_counts(
        self, store: VectorStore, schema: Schema
    ) -> None:
        """Of parts of words the first eight counted alone, on LanceDB: the last ones are rare."""
        texts = {"answer": "zebra zebra crossing", "other": "what on earth"}
        texts |= {f"a{n}": f"what {word}" for n, word in enumerate(("is", "the", "way"))}
        texts |= {f"x{n}": "filler text" for n in range(10)}
        await self._texts(store, schema, texts)
        for question in (
            "what is the very best way for me to find zebra crossing",
            "what might very possibly then have been considered the best zebra crossing",
        ):
            with case(question):
                hits = await store.search_text("notes", question, any=True)
                assert hits[0].id == "answer"
                vector = [1.0] * DIM
                fusion = Weighted(vector=0, text=1)
                hits = await store.search_hybrid("notes", question, vector, fusion=fusion, limit=4)
                assert hits[0].id == "answer"

    @pytest.mark.parametrize("schema", [TEXTS, NGRAM], ids=["plain", "ngram"])
    async def test_a_text_is_found_by_itself(self, store: VectorStore, schema: Schema) -> None:
        """Also where Unicode's normal forms write other characters in their place."""
        texts = {
            "hindi": "\u0932\u095c\u0915\u093e", "cjk": "x\uf916y\uf9165",
            "hebrew": "\u05d0\ufb41\u05d1\u05d2", "composed": "r\u00e9sum\u00e9",
            "apart": "ce\u0301le\u0300bre", "hangul": "\u1112\u1161\u11ab\uae00",
        }  # fmt: skip
        await self._texts(store, schema, texts)
        for id, text in texts.items():
            with case(id):
                assert ids_of(await store.search_text("notes", text)) == [id]
                assert ids_of(await store.search_text("notes", f"{text} zebra", any=True)) == [id]

    async def test_symbols_have_no_accents(self, store: VectorStore) -> None:
        await self._texts(store, NGRAM, {"equal": "if a=b then", "unequal": "if a\u2260b then"})
        for part, id in (("a=b", "equal"), ("a\u2260b", "unequal")):
            assert ids_of(await store.search_text("notes", part)) == [id]
            assert ids_of(await store.search_text("notes", f"if -{part}")) != [id]

    async def test_equal_texts_come_by_id(self, store: VectorStore) -> None:
        ids = ["b", "a", "é", "B", "10", "9", "😀", "\uffff", "a "]
        await self._texts(store, ENGLISH, dict.fromkeys(ids, "one wool hat"))
        hits = await store.search_text("notes", "wool", limit=20)
        assert ids_of(hits) == sorted(ids)
        assert len({hit.score for hit in hits}) == 1

    @pytest.mark.parametrize("schema", [ENGLISH, NGRAM], ids=["english", "ngram"])
    async def test_equal_texts_across_the_limit(self, store: VectorStore, schema: Schema) -> None:
        """Hits of a lower limit are the first of those of a higher one."""
        chance = random.Random(5)
        texts = ["wool", "wool hat", "wool hat red", "a hat of red wool"]
        ids = [f"{n:04}" for n in range(1_500)]
        chance.shuffle(ids)
        await self._texts(store, schema, {id: chance.choice(texts) for id in ids})
        for query in ("wool", "red hat", "re"):
            for where in (None, "id < '0500'"):
                every = ids_of(await store.search_text("notes", query, limit=2_000, where=where))
                for limit in (1, 9, 100, len(every) - 1):
                    if limit < 1:
                        continue
                    with case((query, where, limit)):
                        hits = await store.search_text("notes", query, limit=limit, where=where)
                        assert ids_of(hits) == every[:limit]

    async def test_limits_of_a_keyword_search(self, store: VectorStore) -> None:
        await self._texts(store, ENGLISH, {f"r{n:02}": "wool " * (n + 1) for n in range(30)})
        everything = ids_of(await store.search_text("notes", "wool", limit=30))
        assert sorted(everything) == [f"r{n:02}" for n in range(30)]
        assert len(await store.search_text("notes", "wool")) == 10
        for limit in (1, 7, 29, 31, 5_000, 2**31, 2**63, 10**20):
            with case(limit):
                hits = await store.search_text("notes", "wool", limit=limit)
                assert len(hits) == min(limit, 30)
                assert ids_of(hits) == everything[:limit]

    async def test_a_keyword_search_selects(self, store: VectorStore) -> None:
        rows = await self._texts(store)
        found = {hit.id: hit for hit in await store.search_text("notes", "wool")}
        assert found.keys() == {"a", "b"}
        for row in rows[:2]:
            hit = found[row["id"]]
            assert dict(hit) == {k: v for k, v in row.items() if k != "embedding"}
            assert hit.vector is None
        (hit,) = await store.search_text("notes", "sweater wool", select=["year"])
        assert hit.fields == {"year": 2000}
        (hit,) = await store.search_text("notes", "sweater wool", select=[])
        assert hit.fields == {}
        (hit,) = await store.search_text("notes", "sweater wool", select=["embedding"])
        assert hit.vector is not None
        assert hit.vector.tolist() == rows[0]["embedding"].tolist()

    async def test_highlights(self, store: VectorStore) -> None:
        await self._texts(store)
        (hit,) = await store.search_text("notes", '"wash the" sweater', highlight=True)
        assert set(hit.highlights) == {"body"}
        snippet = hit.highlights["body"]
        assert "<mark>sweater</mark>" in snippet
        assert snippet.startswith(("<mark>Wash the</mark>", "<mark>Wash</mark> <mark>the</mark>"))
        assert hit.to_dict()["_highlights"] == {"body": snippet}
        found = {h.id: h for h in await store.search_text("notes", "wool", highlight=("[", "]"))}
        assert found["a"].highlights["title"] == "[Wool] care"
        assert "[wool]" in found["a"].highlights["body"]
        assert set(found["b"].highlights) == {"body"}
        assert "[WOOL]" in found["b"].highlights["body"]
        (hit,) = await store.search_text("notes", "cafe barista", highlight=("", "\x01"))
        assert "café\x01" in hit.highlights["body"]
        (hit,) = await store.search_text("notes", "title:wool care", highlight=True)
        assert hit.highlights["title"] == "<mark>Wool</mark> <mark>care</mark>"
        (hit,) = await store.search_text("notes", "wool hat", highlight=True, select=["year"])
        assert (hit.fields, set(hit.highlights)) == ({"year": 2001}, {"body"})
        assert all(
            not hit.highlights for hit in await store.search_text("notes", "wool", highlight=False)
        )

    async def test_highlights_of_long_texts_are_snippets(self, store: VectorStore) -> None:
        filler = "many other words " * 500
        await self._texts(
            store, ENGLISH, {"a": f"{filler} the needle is here {filler}", "b": "needles & <b>"}
        )
        found = {h.id: h for h in await store.search_text("notes", "needle", highlight=True)}
        snippet = found["a"].highlights["body"]
        assert "<mark>needle</mark>" in snippet
        assert len(snippet) < 1_000
        assert found["b"].highlights["body"] == "<mark>needles</mark> & <b>"

    async def test_highlights_behind_a_nul(self, store: VectorStore) -> None:
        texts = {
            "a": "before\0needle\0after", "b": "\x01\0needle",
            "c": "be\0fore " * 900 + "needle\0z",
        }  # fmt: skip
        for n, schema in enumerate((ENGLISH, NGRAM)):
            self.need(store, "text")
            await self.table(store, schema, pages(texts), name=f"t{n}")
            hits = await store.search_text(f"t{n}", "needle", highlight=("[", "]"))
            found = {hit.id: hit.highlights["body"] for hit in hits}
            assert (found["a"], found["b"]) == ("before\0[needle]\0after", "\x01\0[needle]")
            assert found["c"].endswith("be\0fore [needle]\0z")

    async def test_highlights_of_a_word_that_a_text_repeats(self, store: VectorStore) -> None:
        """An engine that compares each match with every other one takes hours, and cannot stop."""
        self.need(store, "text")
        filler = "many other words " * 20_000
        texts = {"a": "wool " * 100_000, "b": f"{filler}wool of sheep {filler}"}
        for n, schema in enumerate((TEXTS, ENGLISH, NGRAM)):
            await self.table(store, schema, pages(texts), name=f"t{n}")
            async with asyncio.timeout(60):
                hits = await store.search_text(f"t{n}", "wool", highlight=("[", "]"))
            found = {hit.id: hit.highlights["body"] for hit in hits}
            assert found["a"].startswith("[wool] [wool] ")
            assert "words [wool] of sheep many" in found["b"]
            assert max(map(len, found.values())) < 1_000

    async def test_highlights_of_parts_of_words(self, store: VectorStore) -> None:
        await self._texts(store, NGRAM, _GRAMS)
        for query, id, marked in (
            ("believ", "n3", "<mark>believ</mark>"), ("日本の", "n1", "<mark>日本の</mark>"),
            ("東京", "n1", "<mark>東京</mark>"), ("#", "n4", "<mark>#</mark>"),
        ):  # fmt: skip
            with case(query):
                (hit,) = await store.search_text("notes", query, highlight=True)
                assert hit.id == id
                assert marked in hit.highlights["body"]

    # Filters

    async def test_a_filter_never_starves_a_keyword_search(self, store: VectorStore) -> None:
        self.need(store, "text")
        with own_work():
            drawn = vectors(3_000)
            # The filtered rows are the last by score: their texts are long.
            rows = [
                {
                    "id": f"r{n:04}", "embedding": drawn[n], "year": n,
                    "body": "wool" if n < 2_960 else "wool " + "other " * (50 + n - 2_960),
                }
                for n in range(3_000)
            ]  # fmt: skip
        await self.table(store, TEXTS, rows)
        cases: tuple[tuple[Any, int], ...] = (
            (F.year >= 2_960, 40), (F.id == "r2999", 1), ("year = 2999 OR id = 'r0000'", 2),
            (F.id.in_([f"r{n}" for n in range(2_960, 2_990)]), 30), ("year < 0", 0),
            ("year IS NULL", 0), ("year IS NOT NULL", 3_000), ("title IS NULL", 3_000),
        )  # fmt: skip
        for where, count in cases:
            for limit in (1, 10, 40):
                with case((where, limit)):
                    hits = await store.search_text("notes", "wool", where=where, limit=limit)
                    assert len(hits) == min(limit, count)
                    hybrid = await store.search_hybrid(
                        "notes", "wool", [1.0] * DIM, where=where, limit=limit, select=[]
                    )
                    assert len(hybrid) == min(limit, count)
        (hit,) = await store.search_text("notes", "wool", where="year = 2999", select=["year"])
        assert (hit.id, hit.fields) == ("r2999", {"year": 2_999})

    # Freshness

    async def test_a_keyword_search_sees_every_write(self, store: VectorStore) -> None:
        await self._texts(store)

        async def found(query: str, **options: Any) -> list[str]:
            return sorted(ids_of(await store.search_text("notes", query, **options)))

        vector = [1.0] * DIM
        assert await found("fresh") == []
        await store.insert("notes", [{"id": "x", "embedding": vector, "body": "fresh snow"}])
        assert await found("fresh") == ["x"]
        await store.upsert("notes", [{"id": "x", "embedding": vector, "body": "old snow"}])
        assert await found("fresh") == []
        assert await found('"old snow"') == ["x"]
        await store.update("notes", {"title": "Fresh air"}, ids="x")
        assert await found("fresh") == ["x"]
        assert await found("fresh snow") == ["x"]
        assert await found("title:fresh") == ["x"]
        await store.update("notes", {"year": 1}, ids="x")
        assert await found("fresh", where="year = 1") == ["x"]
        await store.update("notes", {"body": None}, ids="x")
        assert await found("snow") == []
        assert await found("fresh") == ["x"]
        await store.update("notes", {"body": "wool for all"}, where="TRUE")
        assert await found('"wool for all"', limit=100) == sorted([*_PAGES, "x"])
        assert await found("sweater") == []
        await store.delete("notes", "x")
        assert await found("fresh") == []
        await store.delete_where("notes", "id < 'e'")
        assert await found("wool", limit=100) == sorted(id for id in _PAGES if id >= "e")
        await store.optimize("notes")
        assert await found("wool", limit=100) == sorted(id for id in _PAGES if id >= "e")
        await store.insert("notes", [{"id": "y", "embedding": vector, "body": "later wool"}])
        assert await found("later") == ["y"]
        assert await found("wool later") == ["y"]
        await store.delete_where("notes", "TRUE")
        assert await found("wool") == []

    async def test_keyword_search_of_an_empty_table(self, store: VectorStore) -> None:
        self.need(store, "text")
        await store.create_table("notes", TEXTS)
        for query in ("wool", '"a b"', "wool -hat", "", "title:x"):
            assert await store.search_text("notes", query, highlight=True) == []
            assert await store.search_hybrid("notes", query, [1.0] * DIM) == []
        await store.insert("notes", [{"id": "x", "embedding": [1.0] * DIM, "body": "wool"}])
        assert ids_of(await store.search_text("notes", "wool")) == ["x"]

    async def test_hostile_texts_are_found(self, store: VectorStore) -> None:
        """Whatever a text holds beside a word, the word is found."""
        texts = {f"r{n:02}": f"wool {text} hat" for n, text in enumerate(HOSTILE_TEXTS)}
        await self._texts(store, ENGLISH, texts)
        hits = await store.search_text("notes", "wool hat", limit=100, highlight=True)
        assert sorted(ids_of(hits)) == sorted(texts)
        for hit in hits:
            assert hit["body"] == texts[hit.id]

    # What nobody thought of

    async def _agrees(
        self, store: VectorStore, rows: Sequence[Mapping[str, Any]], schema: Schema, query: str
    ) -> None:
        for any_word in (False, True):
            clauses = parse(query, schema)
            if not store.supports("text-prefix") and [c for c in clauses if c.prefix]:
                continue
            expected = matching_ids(rows, schema, clauses, any_word)
            hits = await store.search_text("notes", query, limit=100, any=any_word, select=[])
            assert set(ids_of(hits)) == expected, (query, any_word)
            assert len(hits) == len(expected), (query, any_word)

    async def test_fuzzed_queries_match_the_oracle(self, store: VectorStore) -> None:
        rows = await self._texts(store)
        for query in fuzzed(10_000 if long_run() else 150, 1):
            await self._agrees(store, rows, TEXTS, query)

    async def test_fuzzed_parts_of_words_match_the_oracle(self, store: VectorStore) -> None:
        rows = await self._texts(store, NGRAM, _GRAMS)
        with own_work():
            chance = random.Random(3)
            text = " ".join(filter(None, _GRAMS.values()))
            queries = []
            for _ in range(3_000 if long_run() else 80):
                start = chance.randrange(len(text))
                part = text[start : start + chance.randrange(1, 6)]
                queries.append(chance.choice(["", "", "-", '"', "body:"]) + part)
        for query in queries:
            await self._agrees(store, rows, NGRAM, query)

    async def test_random_texts_match_the_oracle(self, store: VectorStore) -> None:
        self.need(store, "text")
        with own_work():
            chance = random.Random(2)
            words = [f"w{n}" for n in range(12)]
            rows: list[dict[str, Any]] = []
            for n, vector in enumerate(vectors(200)):
                title, body = (
                    None if chance.random() < 0.2
                    else " ".join(chance.choices(words, k=chance.randrange(8)))
                    for _ in range(2)
                )  # fmt: skip
                rows.append({"id": f"r{n:03}", "embedding": vector, "title": title, "body": body})
        await self.table(store, TEXTS, rows[:150])
        await store.insert("notes", rows[150:])
        for _ in range(500 if long_run() else 40):
            with own_work():
                clauses = []
                for _ in range(chance.randrange(1, 4)):
                    text = " ".join(chance.choices(words, k=chance.randrange(1, 3)))
                    text = f'"{text}"' if " " in text else text
                    field = chance.choice(["", "", "title:", "body:"])
                    clauses.append(chance.choice(["", "", "-"]) + field + text)
                query = " ".join(clauses)
                parsed = parse(query, TEXTS)
            for any_word in (False, True):
                expected = matching_ids(rows, TEXTS, parsed, any_word)
                hits = await store.search_text("notes", query, limit=500, any=any_word, select=[])
                assert set(ids_of(hits)) == expected, (query, any_word)
                assert len(hits) == len(expected)

    async def test_noise_is_no_error(self, store: VectorStore) -> None:
        """Any characters at all, on each analyzer: no error, and nothing hangs."""
        self.need(store, "text")
        count = 10_000 if long_run() else 50
        for n, schema in enumerate((TEXTS, ENGLISH, NGRAM)):
            await self.table(store, schema, pages({"a": "wool \ud7ff café"}), name=f"t{n}")
            for query in noise(count, n):
                try:
                    async with asyncio.timeout(20):
                        hits = await store.search_text(f"t{n}", query, highlight=True)
                except UnsupportedError:
                    assert "*" in query
                    assert not store.supports("text-prefix")
                    continue
                assert len(hits) <= 1
                assert hits == [] or any(map(str.isalnum, query)) or schema is NGRAM

    # Calls of any size, and many at once

    async def test_long_phrases_do_not_hang(self, store: VectorStore) -> None:
        """An engine looks at each row once for each word of a phrase, or gram of a part."""
        self.need(store, "text")
        line, count = "=" * 90, 500
        texts = {f"r{n:04}": f"{line} wool wool {n}" for n in range(count)}
        texts["long"] = f"{line} \u00c9t\u00e9 {'a' * 10_000} {'=' * 20_000}"
        for n, schema in enumerate((TEXTS, ENGLISH, NGRAM)):
            await self.table(store, schema, pages(texts), name=f"t{n}")
        async with asyncio.timeout(60):
            for length in (10_000, 49_000):
                found = await store.search_text("t2", "=" * length)
                assert ids_of(found) == (["long"] if length < 20_000 else [])
            part = f"ete {'A' * 10_000} {'=' * 19_000}"
            (hit,) = await store.search_text("t2", f'"{part}"', highlight=True)
            assert hit.id == "long"
            assert list(hit.highlights) == ["body"]
            assert ids_of(await store.search_text("t2", f'"{part}" -{"=" * 300}')) == []
            others = await store.search_text("t2", f"wool -{'=' * 300}", limit=count + 1)
            assert len(others) == count
            for table in ("t0", "t1"):
                assert await store.search_text(table, f'"{"wool " * 300}"') == []
                for phrase in (f'"{"wool " * 15_000}"', "body:" * 20_000):
                    with pytest.raises(InvalidArgumentError, match="words in phrases") as caught:
                        await store.search_text(table, phrase)
                    assert caught.value.argument == "query"
                    assert len(str(caught.value)) < 300

    async def test_questions_of_many_parts_of_words(self, store: VectorStore) -> None:
        """Each text is searched for each part. The fixture ``loop_time`` fails this test."""
        self.need(store, "text")
        await self._texts(store, NGRAM, {f"r{n:04}": f"note {n} of the box" for n in range(3_000)})
        parts = " ".join(f"\u00e9{n}" for n in range(300))
        with case("any"):
            assert len(await store.search_text("notes", f"{parts} ox", any=True)) == 10
        with case("hybrid"):
            assert len(await store.search_hybrid("notes", f"{parts} ox", [1.0] * DIM)) == 10
        with case("exclusions"):
            excluded = " ".join(f"-{part}" for part in parts.split())
            assert len(await store.search_text("notes", f"note {excluded}")) == 10

    async def test_large_keyword_searches(self, store: VectorStore) -> None:
        """The fixture ``loop_time`` fails this test, and says where."""
        self.need(store, "text")
        count = 19_000  # below what a store may index by itself
        with own_work():
            columns = {
                "id": [f"r{n:05}" for n in range(count)],
                "embedding": vectors(count),
                "title": [f"title {n % 7}" for n in range(count)],
                "body": [f"wool and word{n % 100} more{n}" for n in range(count)],
                "extra": [{"n": n} for n in range(count)],
            }
        await store.create_table("notes", TEXTS)
        await store.insert("notes", columns)
        with case("text"):
            hits = await store.search_text("notes", "wool", limit=count)
            assert len(hits) == count
            with own_work():
                del hits
        with case("highlight"):
            hits = await store.search_text("notes", "wool", limit=5_000, highlight=True)
            assert len(hits) == 5_000
            with own_work():
                del hits
        with case("hybrid"):
            hits = await store.search_hybrid("notes", "wool", [1.0] * DIM, limit=count)
            assert len(hits) == count
            with own_work():
                del hits
        with case("rerank"):
            hits = await store.search_hybrid(
                "notes", "wool", [1.0] * DIM, limit=4_000, rerank=lambda hits: hits[::-1]
            )
            assert len(hits) == 4_000
            with own_work():
                del hits
        with case("diversity"):
            hits = await store.search_text("notes", "wool", limit=300, diversity=0.5)
            assert len(hits) == 300
        with case("a long query"):
            query = " ".join(f"word{n}" for n in range(900))
            hits = await store.search_text("notes", query, any=True)
            assert len(hits) == 10

    async def test_keyword_searches_beside_writers(self, store: VectorStore) -> None:
        """Each search sees whole calls: all rows of one, or none."""
        self.need(store, "text")
        await store.create_table("notes", ENGLISH)
        over = False

        async def write(name: str) -> None:
            for n in range(12):
                rows = pages({f"{name}{n}-{i}": f"wool {name} turn{n}" for i in range(10)})
                await store.insert("notes", rows)
                if n % 3 == 2:
                    await store.delete("notes", [row["id"] for row in rows])

        async def read(name: str) -> None:
            while not over:
                hits = await store.search_text("notes", f"wool {name}", limit=1_000, select=[])
                assert len(hits) % 10 == 0
                assert {hit.id[0] for hit in hits} <= {name}
                await asyncio.sleep(0)

        readers = [asyncio.ensure_future(read(name)) for name in "vw"]
        try:
            await asyncio.gather(*(write(name) for name in "vw"))
        finally:
            over = True
            await asyncio.gather(*readers)
        for name in "vw":
            assert len(await store.search_text("notes", name, limit=1_000)) == 80

    async def test_cancelled_keyword_searches(self, store: VectorStore) -> None:
        await self._texts(store)
        calls: tuple[Callable[[], Coroutine[Any, Any, Any]], ...] = (
            lambda: store.search_text("notes", "wool", highlight=True),
            lambda: store.search_hybrid("notes", "wool", [1.0] * DIM),
        )
        for call in calls:
            for name, stop in STOPS.items():
                for at in range(1, 40):
                    with case((name, at)):
                        far, _ = await stopped_at(call(), at, stop)
                    if not far:
                        break
        assert sorted(ids_of(await store.search_text("notes", "wool"))) == ["a", "b"]

    async def test_no_word_matches_another_accent_wrongly(self, store: VectorStore) -> None:
        texts = {f"r{n}": word for n, word in enumerate(["pêche", "PÉCHÉ", "peche", "perche"])}
        await self._texts(store, TEXTS, {id: (None, text) for id, text in texts.items()})
        for word in texts.values():
            hits = await store.search_text("notes", word)
            assert {folded(texts[hit.id]) for hit in hits} == {folded(word)}
