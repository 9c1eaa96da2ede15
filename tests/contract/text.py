"""Contract tests for keyword search: queries, analyzers, filters, freshness, and odd input."""

from __future__ import annotations

import asyncio
import itertools
import random
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.text_oracle import matching_ids
from tests.harness.values import DIM, HOSTILE_TEXTS, ids_of, vectors
from tests.harness.vec0 import needs_recent_sqlite

import aiovec
from aiovec import (
    RRF,
    F,
    Field,
    InvalidArgumentError,
    InvalidNameError,
    Schema,
    VectorStore,
    Weighted,
)
from aiovec.backend import TextClause

TEXTS = Schema(
    DIM,
    fields={
        "title": Field(str, text=True),
        "body": Field(str, text=True),
        "plain": str,
        "year": int,
    },
)
"""Two fields that keyword search uses, and two that it does not."""

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

# Queries, and the ids of the ``_PAGES`` that match them in a table with the analyzer "plain".
QUERIES: dict[str, str] = {
    # Clauses that random texts never contain
    "ool": "", "--wool": "a b", "wool -!!!": "a b", "rowid:1": "", "title:": "", ":wool": "a b",
    "title::wash": "j", "title:-wash": "j", "wool -": "a b", '-"cold wash" wash': "a j",
    '"wool sw*"': "", "wo**": "a b", "co-o*": "h", "CAFÉ*": "c", "title:wa*": "j",
    # Accents, upper case, other scripts
    "CAFÉ": "c", "sao paulo": "c", "SÃO": "c", "koln": "h", "ПРИВЕТ мир": "h", "αθηνα": "h",
    # Digits, apostrophes, hyphens, punctuation
    "4": "", "2.5.1": "d", '"2 5 1"': "d", "1.5.2": "d", '"1.5.2"': "", "E1042": "d",
    "don't": "a", "dont": "",
    "o'brien": "h", "O\u2019Brien\u2019s": "h", "e-mail": "d", "co-op": "h", "paulo's": "c",
    "wool/sweater": "a", "#wool @sweater": "a", "«wool»": "a b", "wool…": "a b", "wool😀": "a b",
    # Nothing
    "": "", "\t\n": "", '"': "", '"""': "", "-": "", "*": "", ":": "", "!!!": "", "😀": "",
    "-*:\"'": "", "\0": "", '"!!!"': "", '-""': "", "\ud800": "", "٪": "", "?": "", "%": "",
    # Operators of other query languages are plain text here.
    '") OR *': "k", "NEAR(a b)": "k", "NEAR(a b, 5)": "", "AND OR NOT": "k",
    "{title body}: wool": "", "^wool": "a b", "wool^2": "", "wool*sweater": "a", "wool~": "a b",
    "+wool": "a b", "title:[a TO z]": "", "(wool OR sweater": "", "wool\\ sweater": "a",
    '\\"wool\\"': "a b", "wool'; DROP TABLE notes; --": "", "$1": "d", "?1": "d",
    "wool\0sweater": "a", "\ud800wool": "a b", "\ufeffwool": "a b", "\u200f-wool wash": "e j",
    'wool"the wool"': "a", '"wool sweater': "a", "wool\u00a0sweater": "a", "wool\u200bsweater": "a",
}  # fmt: skip

_STEMS = {
    "s1": "She is running daily",
    "s2": "He runs",
    "s3": "connected connections",
    "s4": "two knitted hats",
    "s5": "The cat jumped",
}
_STEM_QUERIES: dict[str, str] = {
    "RUNS": "s1 s2", "running": "s1 s2", "connection": "s3", "knitting": "s4", "jumping cats": "s5",
    "is": "s1", '"is run"': "s1", '"run is"': "", "run -daily": "s2", "body:connecting": "s3",
    "hatter": "", "a": "",
}  # fmt: skip

# For each language: texts, the ids that queries find, and the words that one query marks.
# Frequent words whose stems change if their accents are removed.
_ACCENTED = {
    "portuguese": "não são também tão informação educação português população você informações",
    "french": "très après université déjà première près dernière journée sécurité voilà",
    "spanish": "también después había aquí además tenía través podría quién todavía",
    "italian": "qualità verità responsabilità quantità novità dignità arriverà città perché più",
    "german": "café häuser über müde für können größer Mädchen schön Bücher",
    "dutch": "financiële creëren commerciële comité industriële één café ideeën coördinatie België",
    "swedish": "också varför ändå förstår alltså därför utanför flöjt år språk",
    "norwegian": "også altså forstår nivå består ennå etterpå foregår på så",
    "hungarian": "első miért azért hát saját köszönöm idő hozzá utolsó való",
    "romanian": "începând românești legătură singură românească sunteți și după să băiat",
    "english": "résumé résumés cliché exposé protégé café naïve façade fiancé jalapeño",
}


_LANGUAGES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "german": (
        {
            "d1": "Die Häuser am Hafen",
            "d2": "ein altes HAUS, kein Garten",
            "d3": "Er läuft; wir laufen gern",
            "d4": "Katzen und Straßen",
        },
        {
            "haus": "d1 d2", "häusern": "d1 d2", "Hauses": "d1 d2", "hauser": "d1 d2",
            "laufe": "d3", "katze": "d4", "straße": "d4", "haus -garten": "d1", "der": "",
            '"alte häuser"': "d2", '"häuser alte"': "", "body:katze": "d4", "katz*": "d4",
            "gart*": "d2",
        },
        {"hause": "Die <mark>Häuser</mark> am Hafen", "katz*": "<mark>Katzen</mark> und Straßen"},
    ),
    "russian": (
        {"r1": "Красивые книги на столе", "r2": "Я читаю книгу", "r3": "столы"},
        {
            "книга": "r1 r2", "КНИГ": "r1 r2", "стол": "r1 r3", '"красивая книга"': "r1",
            "книга -читаю": "r1", "книг*": "r1 r2",
        },
        {"читает книги": "Я <mark>читаю</mark> <mark>книгу</mark>"},
    ),
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
    "o1": "Ёлка йод Fête がく 구름 क्षमा",
    "o2": "елка иод fete かく 가름 कषमा",
}
_GRAM_QUERIES: dict[str, str] = {
    "京都": "n1 n2", "京": "n1 n2", "日本の首都": "n1", "首都 京都": "n1", "京都 -首都": "n2",
    "東京都は京": "", "특별시": "n9", "МОСК": "n9",  # noqa: RUF001
    "BELIEV": "n3", "cate conc": "n3", "catt": "", "ab": "n3 n5 n6", "c": "n3 n4",
    "ab -tab": "n3 n5", "C++ c#": "n4", '"++ and"': "n4", "#": "n4", '"con ble"': "",
    "body:cat": "n3", "cat -c": "", "x.y_z": "n6", "%": "", "_": "n6", "a_b": "", "believ*": "n3",
    "": "", '""': "", "-": "", "*": "", "abcd": "",
    # Accents are ignored only on Latin letters, however long the part is.
    "ё": "o1", "ЁЛ": "o1", "ёлк": "o1", "ел": "o2", "ЕЛК": "o2", "й": "o1", "и": "o2",
    "ê": "n3 n4 n6 o1 o2", "FÉ": "o1 o2", "FET": "o1 o2", "fèté": "o1 o2", "が": "o1", "か": "o2",
    "구": "o1", "가": "o2", "क्ष": "o1", "कष": "o2",
}  # fmt: skip

# For each analyzer, words in several spellings, each of which finds the others.
_SPELLINGS: dict[str, list[list[str]]] = {
    "plain": [
        ["パスワード", "ﾊﾟｽﾜｰﾄﾞ"], ["iPhone15", "ｉＰｈｏｎｅ１５"], ["ﬁle", "file"], ["x2", "x²"],  # noqa: RUF001
        *([word, unicodedata.normalize("NFD", word)] for word in (
            "мой", "ガイド", "μόνο", "أحمد", "서울", "việt", "café",
        )),
    ],
    "english": [
        ["паролей", unicodedata.normalize("NFD", "паролей")], ["ﬁle", "file"],
        ["passwords", "ｐａｓｓｗｏｒｄ", "PASSWORDS"],  # noqa: RUF001
    ],
    "ngram": [
        ["パスワード", "ﾊﾟｽﾜｰﾄﾞ"], ["iPhone", "ｉＰｈｏｎｅ"],  # noqa: RUF001
        *([word, unicodedata.normalize("NFD", word)] for word in ("мой", "ガイ", "서울", "أحمد")),
    ],
    "cjk": [
        ["パスワード", "ﾊﾟｽﾜｰﾄﾞ"], ["iPhone", "ｉＰｈｏｎｅ"], ["café", "CAFE"],  # noqa: RUF001
        *([word, unicodedata.normalize("NFD", word)] for word in ("서울", "ガイド", "мой")),
    ],
    "russian": [["мой", unicodedata.normalize("NFD", "МОЙ")]],
    "turkish": [
        ["sayı", "SAYI"], ["Aşağı", "AŞAĞI"], ["kullanıcı", "KULLANICI"],  # noqa: RUF001
        ["ışık", "IŞIK"], ["kadın", "KADIN", "kadin"], ["izmir", "İZMİR"],  # noqa: RUF001
        ["internet", "İNTERNET", "INTERNET"],
    ],
    "arabic": [["محمد", "مُحَمَّد", "محـــمد"], ["الإنجليزية", "الإنجليزيّة"]],
}  # fmt: skip

_CJK = {
    "c1": "東京都は日本の首都です。Python 3で書く",
    "c2": "京都へ行く",
    "c3": "서울특별시에서 Москва까지, e-mail",
    "c4": "第3章 数据库的安装",
    "c5": "knitting 本",
    "c6": "都", "c7": None, "c8": "",
}  # fmt: skip
_CJK_QUERIES: dict[str, str] = {
    "京都": "c1 c2", "東京都": "c1", '"京都は"': "c1", '"都京"': "", "京都 -首都": "c2",
    # A single letter is found wherever it stands.
    "都": "c1 c2 c6", "東": "c1", "く": "c1 c2", "行": "c2", "ロ": "", '"は 日"': "",
    # A question matches by its pairs, a phrase as a whole.
    "首都は京都": "", "日本首都": "", "首都です": "c1", "京都 -東京都は": "c2",
    "京都 -東京都に": "c1 c2",
    '"本の首都です Python 3で"': "c1", '"都です"': "c1", "특별시": "c3", "서울특별": "c3",
    # Other words are words.
    "python": "c1", "pyth": "", "pyth*": "c1", "москва": "c3", "email": "", "e-mail": "c3",
    "第3章": "c4", "3": "c1 c4", "3章": "c4", "kni*": "c5", "body:本": "c1 c5", "安装数据库": "",
    '"knitting 本"': "c5", "": "", "。": "",
}  # fmt: skip

# Pieces of fuzzed queries. They have no letters that the engines fold in different ways.
_PIECES = [
    *("wool", "wash", "cold", "cat", "dog", "the", "a", "b", "é", "É", "42", "1", "don't"),
    *("e-mail", "col", "rowid", " zzz*", " zz", " woo*", "-zz* "),
    *('"', '"', '"', "-", "-", "*", ":", "title:", "body:", "plain:", " ", " ", " ", "(", ")"),
    *("^", "+", "~", "\\", "'", ";", "--", "/", "{", "}", "[", "]", "<", ">", "&", "|", "!", "?"),
    *(" AND ", " OR ", " NOT ", " NEAR ", "NEAR(", "%", "_", "$", "\0", "\t", "\n", "\ud800"),
    *("😀", "東京", "мир", "\u200f", "\ufeff", "\u3000", "…", "“", "”", "\u2019", ",", ".", "0"),
]  # fmt: skip


# Words of random texts, and parts that are joined without spaces in "ngram" tables.
_WORDS = [*(f"w{n}" for n in range(9)), "café", "CAFE", "É42", "мир", "w12", "sub-jumble"]
_PARTS = ["a", "b", "c", "é", "й", "и", "ab", "c a", "E", "wo"]
_RUNS = ["東", "京都", "都", "ア", " ", "ab", " wo ", "c1", "東京"]


def pages(texts: Mapping[str, tuple[str | None, ...] | str | None]) -> list[dict[str, Any]]:
    """Return rows with these texts as ``title`` and ``body``, or only as ``body``."""
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


def fuzzed(count: int, seed: int) -> list[str]:
    """Return queries made of random pieces."""
    chance = random.Random(seed)
    return ["".join(chance.choices(_PIECES, k=chance.randrange(1, 12))) for _ in range(count)]


def noise(count: int, seed: int) -> list[str]:
    """Return queries made of random characters."""
    chance = random.Random(seed)

    def char() -> str:
        return chr(chance.choice((chance.randrange(0x80), chance.randrange(0x110000))))

    return ["".join(char() for _ in range(chance.randrange(30))) for _ in range(count)]


def _typed(clause: TextClause) -> str:
    """Return a clause as a user types it."""
    text = clause.text + "*" * clause.prefix
    text = f'"{text}"' if " " in text or max(text, default="") > "\u3000" else text
    return "-" * clause.excluded + (f"{clause.field}:" if clause.field else "") + text


class TextContract(ContractBase):
    """``search_text`` and ``search_hybrid`` on backends with the ability "text"."""

    async def _texts(
        self, store: VectorStore, schema: Schema = TEXTS, texts: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        self.need(store, "text")
        rows = pages(_PAGES if texts is None else texts)
        await filled(store, schema, rows)
        return rows

    async def _compare(
        self, store: VectorStore, expected: Mapping[str, str], **options: Any
    ) -> None:
        options = {"match": "all", **options}
        for query, ids in expected.items():
            with case(query):
                hits = await store.search_text("notes", query, limit=50, **options)
                assert sorted(ids_of(hits)) == ids.split()

    # The query language

    @pytest.mark.core
    async def test_queries_match_their_rows(self, store: VectorStore) -> None:
        await self._texts(store)
        await self._compare(store, QUERIES)

    async def test_an_english_table_matches_by_stem(self, store: VectorStore) -> None:
        await self._texts(store, ENGLISH, _STEMS)
        await self._compare(store, _STEM_QUERIES)
        hits = await store.search_text("notes", "run dog", match="any")
        assert sorted(ids_of(hits)) == ["s1", "s2"]

    @pytest.mark.parametrize("language", _LANGUAGES)
    async def test_a_table_of_each_language_matches_by_stem(
        self, store: VectorStore, language: Any
    ) -> None:
        """Rows match however they were written, and whichever letters the stems have."""
        pytest.importorskip("Stemmer")
        self.need(store, "text")
        texts, queries, marked = _LANGUAGES[language]
        fields = {"body": Field(str, text=True)}
        rows = pages(texts)
        empty = [row | {"body": "nichts rien"} for row in rows]
        await filled(store, Schema(DIM, fields=fields, analyzer=language), empty)
        await store.update("notes", {"body": rows[0]["body"]}, ids=[rows[0]["id"]])
        await store.upsert("notes", rows[1:])
        await self._compare(store, queries)
        for query, snippet in marked.items():
            with case(query):
                hits = await store.search_text("notes", query, highlight=True)
                assert snippet in [hit.highlights["body"] for hit in hits]
        await store.drop_field_index("notes", "body", "text")
        await store.create_field_index("notes", "body", "text")
        await self._compare(store, queries)

    async def test_stems_are_marked_among_many_words(self, store: VectorStore) -> None:
        pytest.importorskip("Stemmer")
        self.need(store, "text")
        many = [f"wort{n}" for n in range(3_000)]
        text = f"{' '.join(many)} Die Häuser am Fluss, 000000000000 a_b sind alt."
        schema = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer="german")
        await filled(store, schema, pages({"a": text, "b": "Haus am See 0000000000000"}))
        for query, marked in (
            ('häusern "am fluss"', "Die <mark>Häuser</mark> <mark>am Fluss</mark>, 000"),
            ('000000000000 "b sind"', "<mark>000000000000</mark> a_<mark>b sind</mark> alt."),
            ("wort29*", "<mark>wort29</mark> wort30"),
        ):
            with case(query):
                (hit,) = await store.search_text("notes", query, match="all", highlight=True)
                assert (hit.id, marked in hit.highlights["body"]) == ("a", True)
        others = " ".join(many[:500])
        (hit,) = await store.search_text("notes", f"{others} alt", match="any", highlight=True)
        assert hit.highlights["body"].startswith("<mark>wort0</mark> <mark>wort1</mark>")

    @needs_recent_sqlite
    async def test_an_ngram_table_finds_parts_of_words(self, store: VectorStore) -> None:
        """Queries find texts without spaces, parts of words, and one or two letters."""
        await self._texts(store, NGRAM, _GRAMS)
        await self._compare(store, _GRAM_QUERIES)

    async def test_a_cjk_table_finds_pairs_of_letters(self, store: VectorStore) -> None:
        """Queries find words of languages without spaces, single letters, and whole other words."""
        await self._texts(store, replace(NGRAM, analyzer="cjk"), _CJK)
        await self._compare(store, _CJK_QUERIES)
        hits = await store.search_text("notes", "日本の首都はどこですか", highlight=("[", "]"))
        assert ids_of(hits)[0] == "c1"
        assert hits[0].highlights["body"].startswith("東京[都は][日本の首都][です]")
        for query, marked in (
            ("都は", "東京[都は]日本"),
            ("本の", "日[本の]首"),
            ("で書く", "3[で書く]"),
        ):
            with case(query):
                (hit, *_) = await store.search_text("notes", query, highlight=("[", "]"))
                assert marked in hit.highlights["body"]

    async def test_an_ngram_table_cuts_long_questions(self, store: VectorStore) -> None:
        """A short term matches as a whole; a question matches by its parts."""
        await self._texts(store, NGRAM, _GRAMS)
        hits = await store.search_text("notes", "日本の首都はどこですか")
        assert ids_of(hits) == ["n1"]
        assert await store.search_text("notes", '"日本の首都はどこですか"') == []
        assert await store.search_text("notes", "日本首都") == []

    async def test_many_parts_and_words_find_all_their_rows(self, store: VectorStore) -> None:
        """Each row matches another one of many words, among them rows of pairs of letters."""
        self.need(store, "text")
        texts = {f"r{n:02}": f"{'x' * n}word{n}y 東京{n}区" for n in range(40)}
        query = " ".join([*(f"word{n}y" for n in range(0, 40, 2)), "京都", '"京1区"', '"京3区"'])
        for analyzer, found in (("ngram", [*range(0, 40, 2), 1, 3]), ("cjk", [0, 1, 3])):
            with case(analyzer):
                schema = replace(NGRAM, analyzer=cast("Any", analyzer))
                await filled(store, schema, pages(texts), name=analyzer)
                for match in ("any", "best"):
                    hits = await store.search_text(analyzer, query, match=match, limit=50)
                    assert sorted(ids_of(hits)) == [f"r{n:02}" for n in sorted(found)]

    @pytest.mark.parametrize("analyzer", _SPELLINGS)
    async def test_letters_match_however_they_are_written(
        self, store: VectorStore, analyzer: Any
    ) -> None:
        """In full or half width, composed or decomposed, in a ligature, in capitals of a language.

        Snippets are parts of the stored texts.
        """
        self.need(store, "text")
        pytest.importorskip("Stemmer")
        words = {
            f"{group}-{n}": word
            for group, spellings in enumerate(_SPELLINGS[analyzer])
            for n, word in enumerate(spellings)
        }
        texts = {id: f"(first, {word}) last" for id, word in words.items()}
        schema = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer=analyzer)
        await filled(store, schema, pages(texts))
        for id, word in words.items():
            with case(word):
                hits = await store.search_text("notes", word, match="all", highlight=("[", "]"))
                alike = {other for other in words if other.split("-")[0] == id.split("-")[0]}
                assert set(ids_of(hits)) == alike
                for hit in hits:
                    assert hit.highlights == {"body": f"(first, [{words[hit.id]}]) last"}

    async def test_tables_without_text_are_refused(self, notes: VectorStore) -> None:
        self.need(notes, "text")
        for call in (
            notes.search_text("notes", "wool"),
            notes.search_text("notes", ""),
            notes.search_hybrid("notes", "wool", [1.0] * DIM),
        ):
            with pytest.raises(
                aiovec.UnsupportedError, match=r"^the table 'notes' .*text=True"
            ) as caught:
                await call
            assert (caught.value.ability, caught.value.table) == ("text", "notes")
        with pytest.raises(aiovec.TableNotFoundError):
            await notes.search_text("absent", "wool")

    # Ranking and what a hit carries

    async def test_equal_texts_come_by_id(self, store: VectorStore) -> None:
        """This holds even if the limit separates them, so that pages have every row once."""
        ids = ["b", "a", "é", "B", "10", "9", "😀", "\uffff", "a "]
        ids += [f"{n:04}" for n in range(300)]
        await self._texts(store, ENGLISH, dict.fromkeys(ids, "one wool hat"))
        for limit in (1, 9, 100, 50_000):
            with case(limit):
                hits = await store.search_text("notes", "wool", limit=limit)
                assert ids_of(hits) == sorted(ids)[:limit]
                assert len({hit.score for hit in hits}) == 1
        await store.delete("notes", [f"{n:04}" for n in range(0, 300, 2)])
        await store.insert("notes", [{"id": "0", "embedding": [1] * DIM, "body": "wool wool"}])
        for query in ("wool", "wool cap"):  # no row has all words of the second query
            with case(query):
                whole = ids_of(await store.search_text("notes", query, limit=300))
                assert whole == ["0", *whole[1:]]
                assert whole[1:] == sorted(whole[1:])
                pages = [
                    await store.search_text(
                        "notes", query, limit=40, offset=offset, highlight=True, select=["body"]
                    )
                    for offset in range(0, 200, 40)
                ]
                assert [hit.id for page in pages for hit in page] == whole
                assert all(hit["body"] and hit.highlights for page in pages for hit in page)

    async def test_equal_hybrid_hits_come_by_id(self, store: VectorStore) -> None:
        self.need(store, "text")
        chance = random.Random(2)
        ids = chance.sample([f"{n:04}" for n in range(200)], 200)
        rows = [{"id": id, "embedding": [1.0] * DIM, "body": "one wool hat"} for id in ids]
        await filled(store, ENGLISH, rows)
        for limit, fusion in itertools.product((1, 10, 200), (Weighted(), RRF())):
            hits = await store.search_hybrid(
                "notes", "wool cap", [1.0] * DIM, limit=limit, fusion=fusion
            )
            with case((limit, fusion)):
                assert ids_of(hits) == sorted(ids)[:limit]
                assert [hit.ranks["text"].rank for hit in hits] == [*range(1, limit + 1)]

    async def test_rows_with_all_words_come_first_wherever_the_others_rank(
        self, store: VectorStore
    ) -> None:
        """This holds even if rows with one word score higher, and after most were deleted."""
        chance = random.Random(3)
        texts = {f"short{n:03}": "heddle " * (1 + n % 7) for n in range(90)}
        texts |= {f"long{n:02}": "heddle loom " + "wool " * (400 + n) for n in range(12)}
        texts |= {f"near{n:02}": "loom heddle" for n in range(12)}
        order = dict(chance.sample([*texts.items()], len(texts)))
        await self._texts(store, ENGLISH, order)

        async def check() -> None:
            for limit in (1, 5, 12, 15, 30, 200):
                every, some, best = [
                    await store.search_text("notes", "heddle loom", match=match, limit=limit)
                    for match in ("all", "any", "best")
                ]
                whole = ids_of(every)
                with case(limit):
                    behind = [id for id in ids_of(some) if id not in whole]
                    assert ids_of(best) == [*whole, *behind][:limit]
                    assert [hit.score for hit in best[: len(whole)]] == [hit.score for hit in every]

        await check()
        await store.optimize("notes")
        await store.delete("notes", [f"near{n:02}" for n in range(12)])
        await check()
        await store.delete("notes", [f"long{n:02}" for n in range(11)])
        await check()

    @needs_recent_sqlite
    async def test_accents_are_folded_and_symbols_are_kept(self, store: VectorStore) -> None:
        words = ["pêche", "PÉCHÉ", "peche", "perche", "cafe\u0301 ole", "café"]
        await self._texts(store, texts={f"r{n}": (None, word) for n, word in enumerate(words)})
        await self._compare(store, dict.fromkeys(("peche", "pêche", "PÉCHÉ"), "r0 r1 r2"))
        await self._compare(store, dict.fromkeys(("cafe", "cafe\u0301", "CAFE\u0301"), "r4 r5"))
        symbols = pages({"equal": "if a=b then", "unequal": "if a\u2260b then", "nul": "be\0after"})
        await filled(store, NGRAM, symbols, name="grams")
        for part, id in {
            "a=b": "equal", "a\u2260b": "unequal", "after": "nul", "be": "nul",
        }.items():  # fmt: skip
            with case(part):
                assert ids_of(await store.search_text("grams", part)) == [id]
        hits = await store.search_text("grams", "after", highlight=("[", "]"))
        assert hits[0].highlights["body"] == "be\0[after]"

    @pytest.mark.parametrize("language", _ACCENTED)
    async def test_accents_do_not_count_with_stems_either(
        self, store: VectorStore, language: str
    ) -> None:
        pytest.importorskip("Stemmer")
        self.need(store, "text")
        words = _ACCENTED[language].split()
        bare = ["".join(c for c in unicodedata.normalize("NFD", w) if c < "\u0300") for w in words]
        schema = Schema(DIM, fields={"body": Field(str, text=True)}, analyzer=cast("Any", language))
        texts = {f"a{n}": word for n, word in enumerate(words)}
        texts |= {f"b{n}": word for n, word in enumerate(bare)}
        await filled(store, schema, pages(texts))
        for n, pair in enumerate(zip(words, bare, strict=True)):
            for typed in (*pair, pair[0].upper()):
                with case((language, typed)):
                    hits = await store.search_text("notes", typed, limit=100, highlight=("[", "]"))
                    found = {hit.id: hit.highlights["body"] for hit in hits}
                    assert found[f"a{n}"] == f"[{pair[0]}]"
                    assert found[f"b{n}"] == f"[{pair[1]}]"

    async def test_a_prefix_finds_words_in_capitals(self, store: VectorStore) -> None:
        self.need(store, "text")
        texts = {"caps": "ΣΟΦΟΣ ΛΟΓΟΣ", "small": "σοφος λογος", "dots": "İstanbul İZMİR"}
        await filled(store, TEXTS, pages(texts))
        for prefix, ids in {
            "ΣΟΦΟ*": "caps small", "λογ*": "caps small", "İst*": "dots", "İZM*": "dots",
        }.items():  # fmt: skip
            with case(prefix):
                assert sorted(ids_of(await store.search_text("notes", prefix))) == ids.split()

    async def test_a_snippet_of_ngrams_is_of_the_stored_text(self, store: VectorStore) -> None:
        self.need(store, "text")
        await filled(store, NGRAM, pages({"a": "cafe\u0301 東京都"}))
        (hit,) = await store.search_text("notes", "東京", highlight=("[", "]"))
        assert hit.highlights["body"] == "cafe\u0301 [東京]都"

    async def test_every_word_of_a_question_counts(self, store: VectorStore) -> None:
        """This includes a long question that ends with the rare words."""
        self.need(store, "text")
        texts = {"answer": "zebra zebra crossing", "other": "what on earth"}
        texts |= {f"a{n}": f"what {word}" for n, word in enumerate(("is", "the", "way"))}
        texts |= {f"x{n}": "filler text" for n in range(10)}
        question = "what might very possibly then have been considered the best zebra crossing"
        for schema in (ENGLISH, NGRAM):
            name = schema.analyzer
            await filled(store, schema, pages(texts), name=name)
            hits = await store.search_text(name, question, match="any")
            assert hits[0].id == "answer"
            fusion = Weighted(vector=0, text=1)
            hits = await store.search_hybrid(name, question, [1.0] * DIM, fusion=fusion, limit=4)
            assert hits[0].id == "answer"

    @pytest.mark.core
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
        first = await store.search_text("notes", "alpha usual words", match="any", limit=5)
        assert first[0].id == "rare"
        assert len(first) == 5

    @pytest.mark.parametrize("schema", [TEXTS, NGRAM], ids=["plain", "ngram"])
    async def test_a_text_is_found_by_itself(self, store: VectorStore, schema: Schema) -> None:
        """This holds even for characters that Unicode normalization would replace."""
        texts = {
            "hindi": "\u0932\u095c\u0915\u093e", "cjk": "x\uf916y\uf9165",
            "hebrew": "\u05d0\ufb41\u05d1\u05d2", "composed": "r\u00e9sum\u00e9",
            "apart": "ce\u0301le\u0300bre", "hangul": "\u1112\u1161\u11ab\uae00",
        }  # fmt: skip
        await self._texts(store, schema, texts)
        for id, text in texts.items():
            with case(id):
                assert ids_of(await store.search_text("notes", text)) == [id]
                assert ids_of(await store.search_text("notes", f"{text} zebra", match="any")) == [
                    id
                ]

    @pytest.mark.core
    async def test_rows_with_some_of_words_fill_up_those_with_all(self, store: VectorStore) -> None:
        texts = {
            "both": "wool and hat in a long text about other things that takes many words",
            "left": "wool wool wool", "right": "hat", "none": "felt",
            "excluded": "wool felt scarf", "both2": "a hat of wool",
        }  # fmt: skip
        await self._texts(store, texts=texts)
        query = "wool hat -scarf"
        every = await store.search_text("notes", query, match="best")
        assert sorted(ids_of(every)[:2]) == ["both", "both2"]
        assert sorted(ids_of(every)[2:]) == ["left", "right"]
        scores = [hit.score for hit in every]
        assert scores == sorted(scores, reverse=True)
        assert scores[2] < scores[1]
        for limit in (1, 2, 3):
            hits = await store.search_text("notes", query, match="best", limit=limit)
            assert ids_of(hits) == ids_of(every)[:limit]
        page = await store.search_text("notes", query, match="best", limit=2, offset=2)
        assert ids_of(page) == ids_of(every)[2:]
        assert [hit.score for hit in page] == pytest.approx(scores[2:])
        for match, ids in (("all", ["both", "both2"]), ("any", ["both", "both2", "left", "right"])):
            hits = await store.search_text("notes", query, match=match)  # type: ignore[arg-type]
            assert sorted(ids_of(hits)) == ids
        (hit,) = await store.search_text("notes", "scarf nowhere", highlight=True)
        assert hit.highlights["body"].count("<mark>") == 1
        assert await store.search_text("notes", "nowhere nobody") == []
        hits = await store.search_hybrid("notes", "scarf nowhere", vectors(1)[0], limit=20)
        assert [hit.id for hit in hits if "text" in hit.ranks] == ["excluded"]
        assert hits[0].id == "excluded"  # the best match, although no row has all words
        with pytest.raises(InvalidArgumentError, match="'all', 'any' or 'best'"):
            await store.search_text("notes", query, match="most")  # type: ignore[arg-type]

    @pytest.mark.core
    async def test_highlights_mark_the_words_of_the_query(self, store: VectorStore) -> None:
        await self._texts(store)
        (hit,) = await store.search_text("notes", '"wash the" sweater', match="all", highlight=True)
        assert set(hit.highlights) == {"body"}
        snippet = hit.highlights["body"]
        assert "<mark>sweater</mark>" in snippet
        assert snippet.startswith(("<mark>Wash the</mark>", "<mark>Wash</mark> <mark>the</mark>"))
        assert hit.to_dict()["_highlights"] == {"body": snippet}
        matches = {h.id: h for h in await store.search_text("notes", "wool", highlight=("[", "]"))}
        assert matches["a"].highlights["title"] == "[Wool] care"
        assert "[wool]" in matches["a"].highlights["body"]
        assert set(matches["b"].highlights) == {"body"}
        assert "[WOOL]" in matches["b"].highlights["body"]
        (hit,) = await store.search_text(
            "notes", "cafe barista", match="all", highlight=("", "\x01")
        )
        assert "café\x01" in hit.highlights["body"]
        (hit,) = await store.search_text("notes", "title:wool care", match="all", highlight=True)
        assert hit.highlights["title"] == "<mark>Wool</mark> <mark>care</mark>"
        (hit,) = await store.search_text(
            "notes", "wool hat", match="all", highlight=True, select=["year"]
        )
        assert (hit.fields, set(hit.highlights)) == ({"year": 2001}, {"body"})
        assert all(
            not hit.highlights for hit in await store.search_text("notes", "wool", highlight=False)
        )

    @pytest.mark.core
    async def test_a_snippet_of_a_long_text_shows_the_best_part_and_where_it_is_cut(
        self, store: VectorStore
    ) -> None:
        """It shows a phrase wherever that is, or the part with the most different words."""
        self.need(store, "text")
        await store.create_table("notes", TEXTS)
        filler = "some other words " * 1_000
        spread = {f"{n}": f"{'x' * n} red wool hats {filler}" for n in range(0, 2_200, 71)}
        texts = {
            "first": f"yarn {filler}", "middle": f"{filler} yarn {filler}",
            "last": f"{filler} yarn", "nul": f"a\0yarn {filler}", "short": "yarn & <b>",
        }  # fmt: skip
        many = {"many": f"{'loom ' * 2_000}{filler} loom hat {filler}"}
        await store.insert("notes", pages(spread | texts | many))

        async def snippets(query: str) -> dict[str, str]:
            hits = await store.search_text("notes", query, highlight=("[", "]"), limit=100)
            return {hit.id: hit.highlights["body"] for hit in hits}

        shown = await snippets('"red wool hats"')
        assert shown.keys() == spread.keys()
        assert all("[red wool hats]" in snippet for snippet in shown.values())
        shown = await snippets("yarn")
        assert shown.keys() == texts.keys()
        assert (shown["first"][:6], shown["first"][-1]) == ("[yarn]", "…")
        assert 20 < len(shown["first"].split()) < 40
        assert (shown["middle"][0], shown["middle"][-1]) == ("…", "…")
        assert (shown["last"][0], shown["last"][-6:]) == ("…", "[yarn]")
        assert "[yarn]" in shown["nul"]
        assert shown["short"] == "[yarn] & <b>"
        assert "[loom] [hat]" in (await snippets("loom hat"))["many"]

    async def test_parts_with_white_space_are_found_as_they_are(self, store: VectorStore) -> None:
        gaps = {"space": " ", "two": "  ", "line": "\n", "tab": "\t", "lines": "\r\n\r\n"}
        await self._texts(
            store, NGRAM, {id: f"the first{gap}and second" for id, gap in gaps.items()}
        )
        for id, gap in gaps.items():
            for part in (f"first{gap}and", f"t{gap}a", f"the first{gap}and second"):
                with case(part):
                    (hit,) = await store.search_text("notes", f'"{part}"', highlight=True)
                    assert hit.id == id
                    assert f"<mark>{part}</mark>" in hit.highlights["body"]
        assert len(await store.search_text("notes", "first\n\tand")) == len(gaps)

    # Filters

    @pytest.mark.core
    async def test_a_filter_never_starves_a_keyword_search(self, store: VectorStore) -> None:
        self.need(store, "text")
        # The rows that the filter selects have the lowest scores, because their texts are long.
        rows = [
            {
                "id": f"r{n:04}", "embedding": vector, "year": n,
                "body": "wool" if n < 960 else "wool " + "other " * (n - 910),
            }
            for n, vector in enumerate(vectors(1_000))
        ]  # fmt: skip
        await filled(store, TEXTS, rows)
        cases: tuple[tuple[Any, int], ...] = (
            (F.year >= 960, 40), (F.id == "r0999", 1), ("year = 999 OR id = 'r0000'", 2),
            (F.id.in_([f"r0{n}" for n in range(960, 990)]), 30), ("year IS NULL", 0),
        )  # fmt: skip
        for where, count in cases:
            for limit in (1, 40):
                with case((where, limit)):
                    hits = await store.search_text("notes", "wool", where=where, limit=limit)
                    assert len(hits) == min(limit, count)
                    hybrid = await store.search_hybrid(
                        "notes", "wool", [1.0] * DIM, where=where, limit=limit, select=[]
                    )
                    assert len(hybrid) == min(limit, count)

    # Freshness

    @pytest.mark.core
    async def test_deleted_rows_take_no_place_among_the_best(self, store: VectorStore) -> None:
        self.need(store, "text")
        fields = {"body": Field(str, text=True), "year": Field(int, index="btree")}
        await store.create_table("notes", Schema(DIM, fields=fields))
        await store.insert(
            "notes",
            [
                {"id": f"r{n:02}", "embedding": [1.0] * DIM, "body": f"wool {n}", "year": n}
                for n in range(40)
            ],
        )
        await store.optimize("notes")
        await store.delete("notes", [f"r{n:02}" for n in range(40) if n % 3 == 0])
        await store.optimize("notes")  # rewrites the remaining rows
        for where in (None, "year >= 0"):
            for limit in (5, 23, 26, 27, 100):
                with case((where, limit)):
                    hits = await store.search_text("notes", "wool", limit=limit, where=where)
                    assert len(set(ids_of(hits))) == min(limit, 26)

    @pytest.mark.core
    async def test_a_keyword_search_sees_every_write(self, store: VectorStore) -> None:
        await self._texts(store)

        async def matches(query: str, **options: Any) -> list[str]:
            return sorted(ids_of(await store.search_text("notes", query, **options)))

        vector = [1.0] * DIM
        assert await matches("fresh") == []
        await store.insert("notes", [{"id": "x", "embedding": vector, "body": "fresh snow"}])
        assert await matches("fresh") == ["x"]
        await store.upsert("notes", [{"id": "x", "embedding": vector, "body": "old snow"}])
        assert await matches("fresh") == []
        assert await matches('"old snow"') == ["x"]
        await store.update("notes", {"title": "Fresh air"}, ids="x")
        assert await matches("fresh") == ["x"]
        assert await matches("fresh snow") == ["x"]
        assert await matches("title:fresh") == ["x"]
        await store.update("notes", {"year": 1}, ids="x")
        assert await matches("fresh", where="year = 1") == ["x"]
        await store.update("notes", {"body": None}, ids="x")
        assert await matches("snow") == []
        assert await matches("fresh") == ["x"]
        await store.update("notes", {"body": "wool for all"}, where="TRUE")
        assert await matches('"wool for all"', limit=100) == sorted([*_PAGES, "x"])
        assert await matches("sweater") == []
        await store.delete("notes", "x")
        assert await matches("fresh") == []
        await store.delete("notes", where="id < 'e'")
        assert await matches("wool", limit=100) == sorted(id for id in _PAGES if id >= "e")
        await store.optimize("notes")
        assert await matches("wool", limit=100) == sorted(id for id in _PAGES if id >= "e")
        await store.insert("notes", [{"id": "y", "embedding": vector, "body": "later wool"}])
        assert await matches("later") == ["y"]
        assert await matches("wool later", match="all") == ["y"]
        await store.delete("notes", where="TRUE")
        assert await matches("wool") == []

    @pytest.mark.core
    async def test_a_hybrid_search_sees_one_state(self, store: VectorStore) -> None:
        """If a row's text and vector change together, no search finds the text of one state with
        the vector of another."""
        self.need(store, "text")
        await filled(store, TEXTS, pages({f"r{n:02}": f"felt {n}" for n in range(30)}))
        states = ("wool", [1.0, 0, 0, 0]), ("felt", [-1.0, 0, 0, 0])
        over = False

        async def write() -> None:
            for n in range(20):
                word, vector = states[n % 2]
                row = {"embedding": vector, "title": word, "body": word}
                await store.upsert("notes", [{"id": f"x{i}", **row} for i in range(3)])

        async def read() -> None:
            while not over:
                hits = await store.search_hybrid(
                    "notes", "wool cap", states[0][1], limit=40, highlight=("[", "]")
                )
                changing = [hit for hit in hits if hit.id[0] == "x"]
                assert len({hit["body"] for hit in changing}) <= 1
                for hit in changing:
                    wool = hit["body"] == "wool"
                    assert ("text" in hit.ranks, hit.distance) == (wool, 0.0 if wool else 2.0)
                    assert hit.highlights == ({"title": "[wool]", "body": "[wool]"} if wool else {})
                await asyncio.sleep(0)

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        try:
            await write()
        finally:
            over = True
            await asyncio.gather(*readers)

    async def test_a_keyword_search_of_an_empty_table_has_no_hits(self, store: VectorStore) -> None:
        self.need(store, "text")
        await store.create_table("notes", TEXTS)
        for query in ("wool", '"a b"', "wool -hat", "", "title:x"):
            assert await store.search_text("notes", query, highlight=True) == []
            assert await store.search_hybrid("notes", query, [1.0] * DIM) == []
        await store.insert("notes", [{"id": "x", "embedding": [1.0] * DIM, "body": "wool"}])
        assert ids_of(await store.search_text("notes", "wool")) == ["x"]

    async def test_hostile_texts_are_found(self, store: VectorStore) -> None:
        """A word is found whatever else its text contains."""
        texts = {f"r{n:02}": f"wool {text} hat" for n, text in enumerate(HOSTILE_TEXTS)}
        await self._texts(store, ENGLISH, texts)
        hits = await store.search_text("notes", "wool hat", limit=100, highlight=True)
        assert sorted(ids_of(hits)) == sorted(texts)
        for hit in hits:
            assert hit["body"] == texts[hit.id]

    # Random input

    @pytest.mark.parametrize("analyzer", ["plain", "ngram", "cjk"])
    async def test_random_texts_match_the_oracle(self, store: VectorStore, analyzer: Any) -> None:
        """Rows are added, changed and deleted before and after ``optimize``."""
        chance, schema = random.Random(2), replace(TEXTS, analyzer=analyzer)
        words = {"plain": _WORDS, "ngram": _PARTS, "cjk": _RUNS}[analyzer]
        between = " " if analyzer == "plain" else ""

        def text() -> str | None:
            drawn = between.join(chance.choices(words, k=chance.randrange(8)))
            return None if chance.random() < 0.2 else drawn

        def drawn(id: str, year: int) -> dict[str, Any]:
            row = {"id": id, "embedding": [1.0, chance.random(), 0.0, 0.0], "year": year}
            return {**row, "title": text(), "body": text()}

        self.need(store, "text")
        await store.create_table("notes", schema)
        rows: dict[str, dict[str, Any]] = {}
        for turn in range(3):
            new = [drawn(f"r{turn}{n:02}", turn) for n in range(60)]
            await store.insert("notes", new)
            rows |= {row["id"]: row for row in new}
            await self._match(store, schema, rows, chance, words)
            if turn == 1:
                await store.optimize("notes")
            changed = [drawn(id, turn) for id in chance.sample(sorted(rows), 20)]
            await store.upsert("notes", changed)
            rows |= {row["id"]: row for row in changed}
            await store.update("notes", {"body": words[0]}, where=f"year = {turn - 1}")
            for row in rows.values():
                row["body"] = words[0] if row["year"] == turn - 1 else row["body"]
            gone = chance.sample(sorted(rows), 10)
            await store.delete("notes", gone)
            rows = {id: row for id, row in rows.items() if id not in gone}
            await self._match(store, schema, rows, chance, words)

    async def _match(
        self, store: VectorStore, schema: Schema, rows: dict[str, Any], chance: random.Random,
        words: Sequence[str],
    ) -> None:  # fmt: skip
        """Check that random queries find the same rows as the oracle."""
        for _ in range(7):
            clauses = []
            for _ in range(chance.randrange(1, 4)):
                field = chance.choice([None, None, "title", "body"])
                prefix = schema.analyzer == "plain" and chance.random() < 0.2
                length = 1 if prefix else chance.randrange(1, 3)
                text = " ".join(chance.choices(words, k=length))[: 2 if prefix else None]
                if prefix and chance.random() < 0.3:
                    text = "zz"  # no word begins with it
                excluded = chance.random() < 0.3
                clauses.append(TextClause(text, field, prefix=prefix, excluded=excluded))
            query, first = " ".join(map(_typed, clauses)), chance.randrange(2)
            selected = [row for row in rows.values() if row["year"] >= first]
            for match in ("all", "any", "best"):
                with case((query, match, first)):
                    where = "year >= 1" if first else None
                    options: dict[str, Any] = {"match": match, "where": where}
                    expected = matching_ids(selected, schema, clauses, match != "all")
                    hits = await store.search_text("notes", query, limit=500, **options)
                    assert sorted(ids_of(hits)) == sorted(expected)
                    best = await store.search_text("notes", query, limit=3, **options)
                    assert len({*ids_of(best)} & expected) == min(3, len(expected))
                    hybrid = await store.search_hybrid(
                        "notes", query, [1.0] * DIM, limit=500, fetch_k=500, select=[], **options
                    )
                    assert {hit.id for hit in hybrid if "text" in hit.ranks} == expected

    async def test_noise_is_no_error(self, store: VectorStore) -> None:
        """With each analyzer, no characters in a query cause an error."""
        self.need(store, "text")
        for n, schema in enumerate((TEXTS, ENGLISH, NGRAM)):
            await filled(store, schema, pages({"a": "wool \ud7ff café"}), name=f"t{n}")
            for query in [*noise(40, n), *fuzzed(40, n)]:
                with case(query):
                    hits = await store.search_text(f"t{n}", query, highlight=True)
                    assert len(hits) <= 1
                    assert hits == [] or any(map(str.isalnum, query)) or schema is NGRAM
                    assert await store.search_hybrid(f"t{n}", query, [1.0] * DIM)

    async def test_a_field_that_is_not_covered_is_an_error(self, store: VectorStore) -> None:
        self.need(store, "text")
        await filled(store, TEXTS, pages({"a": "hello"}))
        for query, fix in (
            ("titel:hello", "did you mean 'title'"), ("bodi:hello", "did you mean 'body'"),
            ("bdoy:hello", "did you mean 'body'"), ("x -Title:hello", "did you mean 'title'"),
            ('year:2024 x', "where"), ('id:"a"', "where"),
        ):  # fmt: skip
            with case(query):
                with pytest.raises(InvalidNameError, match=fix):
                    await store.search_text("notes", query)
                with pytest.raises(InvalidNameError, match=fix):
                    await store.search_hybrid("notes", query, vectors(1)[0])
        for query in ("http://hello", "12:30", "C:", r"C:\hello", "note:hello", '"titel:hello"'):
            with case(query):
                assert len(await store.search_text("notes", f"hello {query}", match="any")) == 1

    async def test_long_phrases_do_not_hang(self, store: VectorStore) -> None:
        """An engine checks each row once for each word of a phrase, or for each n-gram."""
        self.need(store, "text")
        line, count = "=" * 90, 300
        texts = {f"r{n:04}": f"{line} wool wool {n}" for n in range(count)}
        texts["long"] = f"{line} \u00c9t\u00e9 {'a' * 10_000} {'=' * 20_000}"
        texts["many"] = "cat " * 100_000
        await filled(store, ENGLISH, pages(texts), name="words")
        await filled(store, NGRAM, pages(texts), name="grams")
        matches = await store.search_text("grams", "=" * 10_000)
        assert ids_of(matches) == ["long"]
        part = f"ete {'A' * 10_000} {'=' * 19_000}"
        (hit,) = await store.search_text("grams", f'"{part}"', highlight=True)
        assert (hit.id, list(hit.highlights)) == ("long", ["body"])
        assert await store.search_text("words", f'"{"wool " * 300}"') == []
        with pytest.raises(InvalidArgumentError, match="words in phrases"):
            await store.search_text("words", f'"{"wool " * 15_000}"')
        for table in ("words", "grams"):
            (hit,) = await store.search_text(table, "cat", highlight=("[", "]"))
            assert hit.highlights["body"].startswith("[cat] [cat] ")
            assert len(hit.highlights["body"]) < 1_000

    @pytest.mark.core
    async def test_keyword_searches_beside_writers_see_whole_calls(
        self, store: VectorStore
    ) -> None:
        """Each search finds all rows of a call, or none of them."""
        self.need(store, "text")
        await store.create_table("notes", ENGLISH)
        over = False

        async def write(name: str) -> None:
            for n in range(6):
                rows = pages({f"{name}{n}-{i}": f"wool {name} turn{n}" for i in range(10)})
                await store.insert("notes", rows)
                if n % 3 == 2:
                    await store.delete("notes", [row["id"] for row in rows])

        async def read(name: str) -> None:
            while not over:
                hits = await store.search_text(
                    "notes", f"wool {name}", limit=1_000, match="all", select=[]
                )
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
            assert len(await store.search_text("notes", name, limit=1_000)) == 40
