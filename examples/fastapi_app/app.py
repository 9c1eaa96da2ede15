"""A small service for notes: FastAPI, and the backend that aiovec.toml names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from aiovec import VectorStore
from aiovec.asgi import add_error_handlers, get_store, lifespan
from retriever import Retriever

CONFIG = Path(__file__).with_name("aiovec.toml")


@asynccontextmanager
async def start(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
    """Open the store when the app starts, create the table, and close the store at the end."""
    async with lifespan(config=CONFIG)(app) as state:
        await Retriever(get_store({"app": app})).prepare()
        yield state


def retriever(store: Annotated[VectorStore, Depends(get_store)]) -> Retriever:
    return Retriever(store)


Notes = Annotated[Retriever, Depends(retriever)]
app = FastAPI(title="Notes", lifespan=start)
add_error_handlers(app)


class Note(BaseModel):
    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    topic: str | None = None
    year: int | None = None


class Question(BaseModel):
    text: str
    limit: int = Field(default=5, ge=1, le=100)
    where: str | None = Field(default=None, examples=["topic = 'sql' AND year >= 2024"])


class Answer(BaseModel):
    id: str
    score: float
    text: str
    topic: str | None
    year: int | None


@app.post("/notes", status_code=201)
async def add(notes: list[Note], retriever: Notes) -> dict[str, int]:
    return {"count": await retriever.add([note.model_dump() for note in notes])}


@app.post("/search")
async def search(question: Question, retriever: Notes) -> list[Answer]:
    hits = await retriever.search(question.text, limit=question.limit, where=question.where)
    return [Answer(id=hit.id, score=round(hit.score, 4), **hit.fields) for hit in hits]


@app.delete("/notes/{id}")
async def delete(id: str, retriever: Notes) -> dict[str, int]:
    return {"deleted": await retriever.delete([id])}


@app.get("/count")
async def count(retriever: Notes, where: str | None = None) -> dict[str, int]:
    return {"count": await retriever.count(where)}


@app.get("/health")
async def health(retriever: Notes) -> dict[str, str]:
    return await retriever.health()
