// node demo.mjs [URL]: the six classic calls.

import { AiovecError, Client } from "./client.mjs";

const client = new Client(process.argv[2], { apiKey: process.env.AIOVEC_API_KEY });
console.log(await client.health());

await client.createTable("node_notes", { dim: 3, fields: { year: "int", body: "text" } });
const notes = client.table("node_notes");
try {
  const written = await notes.insert([
    { id: "walk", embedding: [0.6, 0.8, 0], year: 2024, body: "A walk by the sea" },
    { id: "a/b", embedding: [0, 0.6, 0.8], year: 2023, body: "Rain" },
    { id: "..", embedding: [0, 0, 1], year: 2022, body: "Snow" },
  ]);
  console.log("written:", written);

  for (const hit of await notes.search([0.6, 0.8, 0], { limit: 2, where: "year >= 2023" })) {
    console.log("hit:", hit.id, hit._score.toFixed(3), hit.body);
  }

  try {
    await notes.search([1, 2]);
  } catch (error) {
    if (!(error instanceof AiovecError)) throw error;
    console.log("refused:", error.name, error.status, error.facts.expected);
  }

  console.log("count:", await notes.count(), await notes.count("year = 2024"));
  for await (const record of notes.records()) {
    console.log("record:", record.id, record.embedding.length);
  }
  console.log("deleted:", await notes.delete("a/b", "..", "gone"));
} finally {
  await client.dropTable("node_notes");
}
console.log("tables:", (await client.tables()).filter((t) => t.name === "node_notes").length);
