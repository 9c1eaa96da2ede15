// A client of aiovec's server for Node.js 18 or later. It needs no package.

export class AiovecError extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title);
    this.name = problem.error ?? "AiovecError";
    this.status = problem.status;
    this.facts = problem.facts ?? {};
  }
}

export class Client {
  constructor(url = "http://127.0.0.1:4002", { apiKey } = {}) {
    this.url = url.replace(/\/$/, "");
    this.headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  }

  async request(method, path, body, headers = {}) {
    const answer = await fetch(this.url + path, {
      method,
      headers: {
        ...this.headers,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!answer.ok) {
      const text = await answer.text();
      let problem = { status: answer.status, title: answer.statusText };
      try {
        problem = { ...problem, ...JSON.parse(text) };
      } catch {
        // A proxy in front of the server may answer in another format.
      }
      throw new AiovecError(problem);
    }
    return answer;
  }

  async json(method, path, body) {
    const answer = await this.request(method, path, body);
    return answer.status === 204 ? null : answer.json();
  }

  health() {
    return this.json("GET", "/health");
  }

  createTable(name, schema) {
    return this.json("POST", "/tables", { name, schema });
  }

  async tables() {
    return (await this.json("GET", "/tables")).tables;
  }

  dropTable(name) {
    const table = encodeURIComponent(name);
    return this.json("DELETE", `/tables/${table}?confirm=${table}`);
  }

  table(name) {
    return new Table(this, name);
  }
}

export class Table {
  constructor(client, name) {
    this.client = client;
    this.path = `/tables/${encodeURIComponent(name)}`;
  }

  async insert(records) {
    return (await this.client.json("POST", `${this.path}/records`, records)).count;
  }

  async upsert(records) {
    return (await this.client.json("POST", `${this.path}/records?mode=upsert`, records)).count;
  }

  async search(vector, options = {}) {
    return (await this.client.json("POST", `${this.path}/search`, { vector, ...options })).hits;
  }

  async count(where) {
    const query = where === undefined ? "" : `?where=${encodeURIComponent(where)}`;
    return (await this.client.json("GET", `${this.path}/count${query}`)).count;
  }

  async delete(...ids) {
    // The ids are in the body, since fetch would resolve "." and ".." in a path like folders.
    return (await this.client.json("DELETE", `${this.path}/records`, { ids })).deleted;
  }

  // Yields all records, without keeping all of them in memory.
  async *records() {
    const answer = await this.client.request("GET", `${this.path}/records`);
    let rest = "";
    for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line) yield JSON.parse(line);
      }
    }
    if (rest) yield JSON.parse(rest);
  }
}
