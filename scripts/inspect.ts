/**
 * Says what a file is: `deno task inspect FILE`.
 *
 * @module
 */
import {
  type AdapterSummary,
  inspect,
  type Inspection,
  misfit,
  type ModelSummary,
} from "../adapters/inspect.ts";
import { isHubName, localPath } from "../formats/hub.ts";
import { OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import { file, helpText, parseFlags, saidBy, toggle } from "./flags.ts";
import { HINTS, hintsFrom } from "./hint_flags.ts";
import { HUB, type Wanted, wantedBy } from "./hub.ts";

const USAGE = `Says what a model or an adapter is: version, sizes, method, ranks, dtypes, and what it fits.

  deno task inspect model.pth
  deno task inspect runs/mine/adapter.pth --base_model model.pth

FILE is a .pth or safetensors file, the index of several, a model's folder, or a Hugging Face PEFT directory.`;

const FLAGS = {
  baseModel: file("says whether the adapter fits this model"),
  ...HINTS,
  json: toggle("everything as JSON"),
  ...HUB,
};

/** The command. @returns the exit code */
export function main(args: readonly string[], work: Work): Promise<number> {
  const { path, flags } = split(args);
  const { values, help } = parseFlags(FLAGS, flags);
  if (help) {
    console.log(helpText(USAGE, { "Flags": FLAGS }));
    return Promise.resolve(0);
  }
  if (path === undefined) throw new OptionError("Name the file first: deno task inspect FILE");
  const { baseModel, json = false } = values;
  const hints = hintsFrom(values);
  const found = inspect(localPath(path), hints);
  work.begun = true;
  const problem = baseModel === undefined
    ? undefined
    : found.adapter
    ? misfit(localPath(path), baseModel, hints)
    : "it is no adapter";
  if (json) {
    const plain = (_: string, value: unknown) => value instanceof Map ? Object.fromEntries(value) : value;
    const verdict = baseModel === undefined
      ? {}
      : { fitsBase: problem === undefined, ...(problem ? { problem } : {}) };
    console.log(JSON.stringify({ ...found, ...verdict }, plain, 2));
    return Promise.resolve(0);
  }
  for (const [label, text] of lines(found)) console.log(`${`${label}:`.padEnd(14)}${text}`);
  if (baseModel !== undefined) {
    console.log(problem ? `Does not fit ${baseModel}: ${problem}` : `Fits ${baseModel}`);
  }
  return Promise.resolve(0);
}

const number = (value: number) => value.toLocaleString("en-US");

function* lines(found: Inspection): Generator<readonly [string, string]> {
  const { path, format, files, model, adapter, dtypes } = found;
  yield [
    "File",
    `${path}, ${format === "pth" ? "torch (.pth)" : format}${files > 1 ? `, ${files} files` : ""}`,
  ];
  yield [
    "Content",
    `${number(found.tensors)} tensors, ${number(found.parameters)} numbers, ${size(found.bytes)}`,
  ];
  if (!found.tensors) return;
  yield [
    "dtype",
    [...dtypes].map(([dtype, count]) => dtypes.size > 1 ? `${dtype} (${count})` : dtype).join(", "),
  ];
  if (!adapter && !model?.version && found.tensors) yield ["Names", `${found.first.join(", ")}, …`];
  if (found.prefix) yield ["Prefix", `every name begins with ${found.prefix}`];
  if (model) yield* modelLines(model);
  if (adapter) yield* adapterLines(adapter);
}

function size(bytes: number): string {
  return bytes < 1e6
    ? `${(bytes / 1e3).toFixed(1)} kB`
    : bytes < 1e9
    ? `${(bytes / 1e6).toFixed(1)} MB`
    : `${(bytes / 1e9).toFixed(2)} GB`;
}

function* modelLines(model: ModelSummary): Generator<readonly [string, string]> {
  const { version, layers, channels, ffn, heads, vocabulary, ranks } = model;
  const size = model.size ? `, the size that RWKV calls ${model.size}` : "";
  yield ["Model", version ? `${version} with ${model.names} names${size}` : "no RWKV model"];
  const sizes = [
    layers !== undefined && `${layers} layers`,
    channels !== undefined && `${number(channels)} channels`,
    heads && `${heads[0]} heads of ${heads[1]}`,
    ffn !== undefined && `channel mix of ${number(ffn)}`,
    vocabulary !== undefined && `vocabulary of ${number(vocabulary)}`,
  ].filter((text) => text);
  if (sizes.length) yield ["Sizes", sizes.join(", ")];
  if (ranks) yield ["Ranks", Object.entries(ranks).map(([name, rank]) => `${name} ${rank}`).join(", ")];
  if (model.hasState) yield ["State", "it begins every text with a tuned state"];
  if (version && model.problem) yield ["Use", model.problem];
}

function* adapterLines(adapter: AdapterSummary): Generator<readonly [string, string]> {
  const { method, origin, settings, ranks, layers, weights, originals, base, fits, problem } = adapter;
  yield ["Adapter", `${method ?? "of a method that the file does not tell"} (${origin})`];
  const shown = Object.entries(settings).filter(([name]) => name !== "r").map(([name, value]) =>
    `${name} ${value}`
  );
  const rank = ranks && (ranks[0] === ranks[1] ? `r ${ranks[0]}` : `r ${ranks[0]} to ${ranks[1]}`);
  if (rank || shown.length) yield ["Settings", [rank, ...shown].filter((text) => text).join(", ")];
  if (layers.size) yield ["Layers", [...layers].map(([name, count]) => `${name} (${count})`).join(", ")];
  if (weights.length) {
    const more = weights.length > 3 ? ` and ${weights.length - 3} more` : "";
    const kept = !originals
      ? ""
      : `; what ${originals === weights.length ? "they were" : `${originals} of them were`} is kept`;
    yield ["Weights", `${weights.slice(0, 3).join(", ")}${more}${kept}`];
  }
  const sizes = [
    fits.layers > 0 && `at least ${fits.layers} layers`,
    fits.channels !== undefined && `${number(fits.channels)} channels`,
    fits.ffn !== undefined && `a channel mix of ${number(fits.ffn)}`,
  ].filter((text) => text);
  if (sizes.length) {
    yield ["Fits", `models of ${sizes.join(", ")}${fits.size ? `, such as RWKV's ${fits.size}` : ""}`];
  }
  if (base) yield ["Made for", `the model of SHA-256 ${base}`];
  if (problem) yield ["Unknown", problem];
}

/** The file comes first, then flags. */
function split(args: readonly string[]): { path: string | undefined; flags: readonly string[] } {
  const [path, ...flags] = args[0] === "--" ? args.slice(1) : args;
  return path === undefined || path.startsWith("-") ? { path: undefined, flags: args } : { path, flags };
}

/** What is named of the Hub. */
function wanted(args: readonly string[]): Wanted {
  const { path, flags } = split(args), { names, ...rest } = wantedBy(FLAGS, saidBy(FLAGS, flags));
  return { names: path !== undefined && isHubName(path) ? [path, ...names] : names, ...rest };
}

if (import.meta.main) await runCommand(main, { wanted });
