/**
 * How pages talk to the server: JSON, streams of events that go on where they were, and the secret where one is needed.
 *
 * @module
 */

const KEY = "wishbone api key";

/** A refusal of the server, or its silence. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Fetches with the secret, which is asked for where it is missing. */
async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server does not answer: is it still running?", 0);
    }
    if (response.status === 401) {
      await askForKey(key !== null);
      continue;
    }
    if (!response.ok) {
      const told = await response.json().catch(() => undefined);
      throw new ServerError(
        told?.error?.message ?? `The server answered ${response.status}`,
        response.status,
      );
    }
    return response;
  }
}

let asking;

function askForKey(wasWrong) {
  return asking ??= new Promise((resolve) => {
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-labelledby", "key-title");
    dialog.innerHTML = `<form method="dialog"><h2 id="key-title"></h2>
      <label class="field"><span>API key</span><input type="password" autocomplete="off" required></label>
      <p class="actions"><button class="main">Go on</button></p></form>`;
    dialog.querySelector("h2").textContent = wasWrong
      ? "That key was not the right one"
      : "This server asks for a key";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, dialog.querySelector("input").value);
      dialog.remove();
      asking = undefined;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** The JSON at a path. */
export async function getJson(path) {
  return await (await request(path)).json();
}

/** Reads server-sent events from a response, one { id, event, data } at a time. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
      const fields = { event: "message", data: "" };
      for (const line of held.slice(0, end).split("\n")) {
        const colon = line.indexOf(":"),
          name = line.slice(0, colon),
          text = line.slice(colon + 1).trimStart();
        if (name === "data") fields.data += text;
        else if (name) fields[name] = text;
      }
      held = held.slice(end + 2);
      yield fields;
    }
  }
}

/** Sends a request whose answer is a stream, and passes on each object of it. */
export async function postStream(path, body, onObject, signal) {
  const response = await request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const { data } of eventsOf(response)) {
    if (data === "[DONE]") return;
    const object = JSON.parse(data);
    if (object.error) throw new ServerError(object.error.message, 500);
    onObject(object);
  }
  throw new ServerError("The server ended in the middle of the answer", 0);
}

/** Milliseconds before a lost connection is tried again, and without a word after which one is lost. */
const RETRY = 1500, PATIENCE = 15_000;

/**
 * Follows events for as long as the page is seen. After a lost connection, or when the page is looked at again, it goes on
 * behind the last event that came.
 * @param {(event: { event: string, data: string }) => void} onEvent
 * @param {(state: "live" | "lost" | "gone") => void} onState
 */
export function follow(path, onEvent, onState) {
  let last, controller, running = false;
  async function run() {
    if (running) return;
    running = true;
    while (!document.hidden) {
      controller = new AbortController();
      let watch = setTimeout(() => controller.abort(), PATIENCE);
      try {
        const headers = last === undefined ? {} : { "last-event-id": last };
        const response = await request(path, { headers, signal: controller.signal });
        onState("live");
        for await (const event of eventsOf(response)) {
          clearTimeout(watch);
          watch = setTimeout(() => controller.abort(), PATIENCE);
          onEvent(event);
          last = event.id ?? last;
        }
      } catch (error) {
        if (error.status === 404) {
          onState("gone");
          running = false;
          return;
        }
      } finally {
        clearTimeout(watch);
      }
      if (document.hidden) break;
      onState("lost");
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
    running = false;
  }
  document.addEventListener("visibilitychange", () => document.hidden ? controller?.abort() : run());
  run();
}
