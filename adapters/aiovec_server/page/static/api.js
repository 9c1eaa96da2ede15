// Requests to the page's own server. An unsuccessful answer becomes a Problem.

const KEY = "aiovec.key";
const base = new URL(".", document.baseURI);

export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail);
    this.status = status;
    this.title = title;
  }
}

export const UNREACHABLE = 0;

// Return whether a form stays next to the error. If the server or the key is missing, it cannot help.
export const isOfTheCall = (error) => error instanceof Problem && ![UNREACHABLE, 401].includes(error.status);

// Kept only in this tab, until it is closed.
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

// Keep integers beyond 2^53 exact, as BigInt, if the browser passes their digits on.
function exact(_, value, context) {
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)
      && /^-?\d+$/.test(context?.source ?? "")) return BigInt(context.source);
  return value;
}

async function problemOf(response) {
  const text = await response.text();
  let said = {};
  try { said = JSON.parse(text) ?? {}; } catch { /* not JSON, perhaps a proxy's page */ }
  const detail = typeof said.detail === "string" && said.detail
    ? said.detail : `The server answered ${response.status}.`;
  return new Problem(response.status, typeof said.title === "string" ? said.title : "", detail);
}

async function send(method, path, { body, signal } = {}) {
  const headers = { Accept: "application/json, application/problem+json" };
  const secret = key.get();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, base), {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit", redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(UNREACHABLE, "", "The server does not answer.");
  }
  if (!response.ok) throw await problemOf(response);
  const text = await response.text();
  return text === "" ? null : JSON.parse(text, exact);
}

const at = (table, rest) => `tables/${encodeURIComponent(table)}${rest}`;
const given = (body) => Object.fromEntries(
  Object.entries(body).filter(([, value]) => value !== undefined && value !== null && value !== ""));

const get = (path, signal) => send("GET", path, { signal });
const post = (path, body, signal) => send("POST", path, { body: given(body), signal });

export const about = (signal) => get("page/about", signal);
export const overview = (offset, signal) => get(`page/overview?offset=${offset}`, signal);
export const facts = (table, signal) => get(`page/${at(table, "")}`, signal);

export function map(table, { rows, color }, signal) {
  const query = new URLSearchParams(given({ rows, color }));
  return get(`page/${at(table, "/map")}?${query}`, signal);
}

export async function find(table, { where, orderBy, descending, limit, offset }, signal) {
  const body = { where, orderBy, descending: descending || undefined, limit, offset };
  return (await post(at(table, "/find"), body, signal)).records;
}

export async function count(table, where, signal) {
  const query = where ? `?${new URLSearchParams({ where })}` : "";
  return (await get(at(table, `/count${query}`), signal)).count;
}

export async function record(table, id, signal) {
  return (await post(at(table, "/get"), { ids: [id] }, signal)).records[0] ?? null;
}

const ROUTES = { words: "/search_text", both: "/search_hybrid" };

// Return the path and the body of a search's request.
export function searchRequest(table, { by, query, id, vector, where, limit, exact: wholly }) {
  const body = { limit, where, exact: (by !== "words" && wholly) || undefined };
  if (by === "words") Object.assign(body, { query, highlight: true });
  if (by === "meaning") body.text = query;
  if (by === "both") Object.assign(body, { query, text: query, highlight: true });
  if (by === "like") body.ids = id;
  if (by === "vector") body.vector = vector;
  const path = by === "like" ? "/search_like" : ROUTES[by] ?? "/search";
  return { path: at(table, path), body: given(body) };
}

// Return hits, and the seconds from the request to its answer.
export async function search(table, options, signal) {
  const { path, body } = searchRequest(table, options);
  const began = performance.now();
  const { hits } = await post(path, body, signal);
  return { hits, seconds: (performance.now() - began) / 1000 };
}

export const remove = async (table, id) => (await send("DELETE", at(table, "/records"), { body: { ids: [id] } })).deleted;
export const optimize = (table) => post(at(table, "/optimize"), {});
export const health = () => get("health");
export const address = (path) => new URL(path, base).href;
