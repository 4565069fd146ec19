// Talks to the server: sends requests with the token, measures their time, and raises the server's errors.

export class Refused extends Error {
  constructor(status, code, message, requestId) {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

let token = "";
let askForToken = null;
let asking = null;

// ask: called when the server wants a token, or another one; takes the server's message, promises the token
export function onTokenWanted(ask) {
  askForToken = ask;
}

// Returns the answer to a request, and the milliseconds from sending it to the end of the answer.
// read: a method of Response, such as "json"; fields: fields of a form to send, or null for a GET
// throws Refused for an error of the server, and AbortError when the signal aborts
export async function ask(path, { fields = null, read = "json", signal } = {}) {
  for (;;) {
    const sent = token;
    const start = performance.now();
    const response = await reach(path, fields, signal);
    if (response.ok) {
      return { answer: await response[read](), milliseconds: performance.now() - start };
    }
    const refused = await refusal(response);
    if (refused.status !== 401) {
      throw refused;
    }
    if (sent === token) {
      // Several requests may need the token at the same time: ask the visitor once.
      asking ??= askForToken(refused.message).finally(() => (asking = null));
      token = await asking;
    }
  }
}

async function reach(path, fields, signal) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let body;
  if (fields) {
    body = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      body.append(name, value);
    }
  }
  try {
    return await fetch(path, { method: fields ? "POST" : "GET", headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    const size = fields?.image?.size ?? 0;
    const hint = size > 1e6 ? `; the file (${(size / 1e6).toFixed(1)} MB) may be larger than the server accepts` : "";
    throw new Refused(0, "unreachable", `The server cannot be reached, or closed the connection${hint}.`, "");
  }
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new Refused(response.status, error.code, error.message, error.request_id);
  } catch {
    return new Refused(response.status, "", `The server answered ${response.status} ${response.statusText}.`, "");
  }
}
