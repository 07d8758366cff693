// Talks to the server: its configuration, and one call as a stream of chunks.

import * as storage from "./storage.js";

export class Refused extends Error {}

const KEY = "a1.key";

export const key = () => storage.read(KEY) ?? "";
export const setKey = (value) => storage.write(KEY, value);

export async function config() {
  const answer = await fetch("page/config");
  if (!answer.ok) throw new Refused(await reason(answer));
  return answer.json();
}

// Yields the chunks of a chat completion; throws Refused with the server's own words.
export async function* stream(body, bearer, signal) {
  const headers = { "content-type": "application/json" };
  if (bearer) headers.authorization = `Bearer ${bearer}`;
  const answer = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Refused(await reason(answer));
  let rest = "";
  let done = false;
  for await (const text of texts(answer.body)) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") { done = true; continue; }
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Refused(chunk.error.message);
      yield chunk;
    }
  }
  if (!done) throw new Refused("the connection ended before the answer was there: ask again");
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered ${answer.status}`;
  }
}
