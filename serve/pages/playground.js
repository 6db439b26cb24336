/**
 * Two models side by side, token by token, through the same API that programs use.
 *
 * @module
 */
import { getJson, postStream } from "./connection.js";
import { byId, command, count, make, tell } from "./page.js";

const SIDES = ["left", "right"];
let models = [];
let controller;
/** The conversation on each side. */
const turns = { left: [], right: [] };

const mode = () => byId("form").elements.mode.value;
const options = () => ({
  temperature: Number(byId("temperature").value),
  top_p: Number(byId("top-p").value),
  max_tokens: Number(byId("tokens").value),
  seed: Number(byId("seed").value),
});

/** A word as a shell reads it. */
const quoted = (word) => /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;

/** The text that a conversation is read as. */
function chatText(messages) {
  const names = { user: "User", assistant: "Assistant" };
  const said = messages.map(({ role, content }) =>
    `${names[role]}: ${content.replaceAll("\r\n", "\n").trim().replace(/\n(?:[ \t]*\n)+/g, "\n")}`
  );
  return [...said, "Assistant:"].join("\n\n");
}

function conversation(side, prompt) {
  const open = turns[side].at(-1)?.role === "user" || !prompt.trim();
  return open ? turns[side] : [...turns[side], { role: "user", content: prompt }];
}

/** The flags that give a model the same to read; undefined where the command line has no way to say it. */
function promptFlags({ promptFormat, chatFormat }, side, prompt) {
  const given = (format, text) =>
    `${format === promptFormat ? "" : `--prompt_format ${quoted(format)} `}--prompt ${quoted(text)}`;
  if (mode() === "text") return given("plain", prompt);
  const messages = conversation(side, prompt);
  if (messages.length === 1) return given(chatFormat, messages[0].content);
  return chatFormat === "chat" ? given("plain", chatText(messages)) : undefined;
}

function showCommands() {
  const prompt = byId("prompt").value, { temperature, top_p, max_tokens, seed } = options();
  const lines = SIDES.map((side) => {
    const model = models.find(({ name }) => name === byId(side).value);
    const flags = model && promptFlags(model, side, prompt);
    return flags &&
      `${model.command} ${flags} --temperature ${temperature} --top_p ${top_p} --tokens ${max_tokens} --seed ${seed}`;
  });
  const shown = [...new Set(lines)].filter((line) => line).map(command);
  byId("commands").replaceChildren(
    ...(shown.length
      ? shown
      : [make("p", { class: "label" }, "A conversation in this model's format has no command of one line.")]),
  );
}

/** The place for a side's answer, with its model's name above. */
function heading(side) {
  return make("h2", { id: `${side}-name` }, byId(side).value || "…");
}

function showEmpty(side) {
  const place = byId(`${side}-answer`);
  place.classList.remove("writing");
  const shown = mode() === "chat" ? turns[side].map(turn) : [];
  place.replaceChildren(
    heading(side),
    ...(shown.length ? shown : [make("p", { class: "given" }, "What it writes appears here.")]),
  );
}

function turn({ role, content }) {
  return make(
    "div",
    { class: "turn" },
    make("p", { class: "who" }, role === "user" ? "You" : "Model"),
    make("p", { class: "text" }, content),
  );
}

async function write(side, prompt) {
  const place = byId(`${side}-answer`), chat = mode() === "chat", model = byId(side).value;
  const messages = conversation(side, prompt);
  const text = make("p", { class: "text" }), written = document.createTextNode("");
  if (chat) {
    turns[side] = messages;
    place.replaceChildren(
      heading(side),
      ...messages.map(turn),
      make("div", { class: "turn" }, make("p", { class: "who" }, "Model"), text),
    );
  } else {
    text.append(make("span", { class: "given" }, prompt));
    place.replaceChildren(heading(side), text);
  }
  text.append(written);
  const figures = make("p", { class: "count" });
  place.append(figures);
  place.classList.add("writing");
  place.setAttribute("aria-busy", "true");
  const started = performance.now();
  let usage;
  try {
    await postStream(
      chat ? "/v1/chat/completions" : "/v1/completions",
      {
        model,
        ...(chat ? { messages } : { prompt }),
        ...options(),
        stream: true,
        stream_options: { include_usage: true },
      },
      (chunk) => {
        usage = chunk.usage ?? usage;
        written.data += chunk.choices[0]?.text ?? chunk.choices[0]?.delta?.content ?? "";
      },
      controller.signal,
    );
  } catch (error) {
    if (error.name !== "AbortError") {
      place.append(make("p", { class: "notice bad", role: "alert" }, error.message));
    }
  } finally {
    place.classList.remove("writing");
    place.removeAttribute("aria-busy");
    const seconds = (performance.now() - started) / 1000;
    figures.textContent = usage
      ? `${count(usage.completion_tokens)} tokens in ${seconds.toFixed(1)} s; ${
        count(usage.prompt_tokens)
      } read, ${count(usage.prompt_tokens_details.cached_tokens)} of them from memory`
      : "stopped";
    if (chat) turns[side] = [...messages, { role: "assistant", content: written.data }];
  }
}

async function go() {
  if (controller || !byId("form").reportValidity()) return;
  const prompt = byId("prompt").value;
  if (mode() === "chat" && !prompt.trim()) return byId("prompt").focus();
  controller = new AbortController();
  byId("go").disabled = true;
  byId("stop").disabled = false;
  showCommands();
  const same = byId("left").value === byId("right").value;
  byId("right-answer").hidden = same;
  if (mode() === "chat") byId("prompt").value = "";
  await Promise.all((same ? ["left"] : SIDES).map((side) => write(side, prompt)));
  controller = undefined;
  byId("go").disabled = false;
  byId("stop").disabled = true;
}

function changeMode() {
  const chat = mode() === "chat";
  byId("prompt-label").textContent = chat ? "Your message" : "Text to go on from";
  byId("go").textContent = chat ? "Send" : "Write";
  byId("new").hidden = !chat;
  controller?.abort();
  SIDES.forEach(showEmpty);
}

function fill(select, preferred) {
  const before = select.value;
  select.replaceChildren(
    ...models.map(({ name, isBase }) =>
      make("option", { value: name }, isBase ? `${name} (the base)` : name)
    ),
  );
  const wanted = models.some(({ name }) => name === before) ? before : preferred;
  if (wanted) select.value = wanted;
}

async function start() {
  try {
    const { models: found, sizes } = await getJson("/api/playground");
    models = found;
    byId("sizes").textContent = `${count(sizes.layers)} layers of ${count(sizes.channels)} channels, ${
      count(sizes.vocabulary)
    } tokens`;
    const asked = new URLSearchParams(location.search).get("model");
    fill(byId("left"), models[0]?.name);
    fill(byId("right"), models.find(({ name }) => name === asked)?.name ?? models.at(-1)?.name);
    byId("right-answer").hidden = byId("left").value === byId("right").value;
    tell(
      "problem",
      asked && !models.some(({ name }) => name === asked) &&
        `“${asked}” is not among these models, as it was made for another base: start the server with that base as --load_model to talk to it.`,
    );
    SIDES.forEach(showEmpty);
    showCommands();
  } catch (error) {
    tell("problem", error.message);
  }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
byId("form").addEventListener("input", showCommands);
byId("form").addEventListener("change", ({ target }) => {
  if (target.name === "mode") changeMode();
  else if (target.tagName === "SELECT") {
    turns[target.id] = [];
    byId("right-answer").hidden = byId("left").value === byId("right").value;
    showEmpty(target.id);
  }
  showCommands();
});
byId("stop").addEventListener("click", () => controller?.abort());
byId("new").addEventListener("click", () => {
  controller?.abort();
  turns.left = turns.right = [];
  SIDES.forEach(showEmpty);
  showCommands();
  byId("prompt").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") controller?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    go();
  }
});
start();
