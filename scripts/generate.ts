/**
 * Text from a model: `deno task generate`.
 *
 * @module
 */
import { generate, loadAdapter, Model, PROMPT_FORMATS } from "../mod.ts";
import { promptFormatOf } from "../adapters/set.ts";
import { PROMPT_FORMAT } from "../rwkv/prompt_format.ts";
import { ENGINES } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { EXAMPLE } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import { giveUpNativeCode } from "./confine.ts";
import { choice, file, files, helpText, parseFlags, real, saidBy, text, whole } from "./flags.ts";
import { HINTS, hintsFrom } from "./hint_flags.ts";
import { HUB, wantedBy } from "./hub.ts";
import { printable } from "./progress.ts";

const USAGE = `Text that follows a prompt.

  deno task generate --load_model model.pth --prompt "Dear diary, "`;

const FLAGS = {
  loadModel: file("model, .pth or .safetensors; without it the bundled one"),
  adapter: files("adapters to use with it, unmerged; several stack in this order"),
  ...HINTS,
  prompt: text("TEXT", "what the text begins with, or what the user says"),
  promptFormat: text(
    "NAME",
    `how the prompt is written out: ${
      Object.keys(PROMPT_FORMATS).join(", ")
    }, or a template; without it, as adapter or model were taught`,
  ),
  system: text("TEXT", "comes before the user's words"),
  tokens: whole("tokens at most"),
  temperature: real("0 takes the likeliest token every time"),
  topP: real("draw from the fewest likeliest tokens that hold this share"),
  seed: whole("another number, another text"),
  engine: choice(ENGINES, "what to compute on"),
  vocab: file("World vocabulary; without it, rwkv_vocab_v20230424.txt beside the model"),
  ...HUB,
};

const DEFAULTS = {
  prompt: "The ",
  tokens: 256,
  temperature: 1,
  topP: 0.85,
  seed: 42,
  engine: "auto",
} as const;

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(FLAGS, args);
  if (help) {
    const shown = (value: unknown) => value === undefined ? undefined : JSON.stringify(value);
    console.log(
      helpText(USAGE, { "Flags": FLAGS }, (option) => shown(DEFAULTS[option as keyof typeof DEFAULTS])),
    );
    return 0;
  }
  const {
    loadModel = EXAMPLE.model,
    adapter: adapterPaths = [],
    engine: choice,
    ...options
  } = {
    ...DEFAULTS,
    ...values,
  };
  const hints = hintsFrom(values);
  await giveUpNativeCode({ choice: choice });
  const adapter = await Promise.all(adapterPaths.map((path) => loadAdapter(path, hints)));
  const { engine, reason } = await chooseEngine(choice);
  console.error(reason);
  using model = Model.load(loadModel, engine);
  const pieces = generate(model, { ...options, adapter });
  const write = writer();
  const stored = promptFormatOf(adapter) ?? model.file.metadata.get(PROMPT_FORMAT);
  const isPlain = (options.promptFormat ?? stored ?? "plain") === "plain";
  if (!isPlain && options.promptFormat === undefined) console.error(`Prompt format: ${stored}`);
  // Of a conversation the answer is shown, of a text all.
  const before = isPlain ? options.prompt : undefined;
  let isFirst = true;
  for await (const piece of pieces) {
    work.begun = true;
    write(isFirst ? before === undefined ? piece.trimStart() : before + piece : piece);
    if (before !== undefined || piece.trim() !== "") isFirst = false;
  }
  write((isFirst ? before ?? "" : "") + "\n");
  engine.dispose();
  return 0;
}

/** Writes to stdout at once; control characters as they are only where stdout is no terminal. */
function writer(): (text: string) => void {
  const safe = Deno.stdout.isTerminal() ? printable : (text: string) => text;
  const encoder = new TextEncoder();
  return (text) => {
    const bytes = encoder.encode(safe(text));
    for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
  };
}

/** What is named of the Hub. */
const wanted = (args: readonly string[]) => wantedBy(FLAGS, saidBy(FLAGS, args));

if (import.meta.main) await runCommand(main, { wanted });
