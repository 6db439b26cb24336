/**
 * Fetches models and vocabularies from the Hugging Face Hub: `deno task fetch`. It alone may use the network, and only there.
 *
 * @module
 */
import { fetchFromHub, isHubName } from "../formats/hub.ts";
import { RandomAccessFile } from "../formats/random_access_file.ts";
import { INDEX_ENDING, readShardIndex } from "../formats/shard_index.ts";
import { OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import { helpText, parseFlags, text, toggle } from "./flags.ts";

const USAGE = `Fetches files from the Hugging Face Hub, so that other commands can use them by the same names.

  deno task fetch --load_model hf:owner/repo/model.pth
  deno task fetch --load_model hf:owner/repo/model.pth --vocab hf:owner/repo/rwkv_vocab_v20230424.txt
  deno task run_bone --load_model hf:owner/repo/model.pth --data_file text.jsonl --proj_dir runs/mine

The size is asked for first, and fetching it has to be agreed to. A download that broke off goes on where it was. Files are kept in
the folder models of this program. Of a model in several files, the index brings the others with it. A token for repositories that need
one is taken from HF_TOKEN.`;

const FLAGS = {
  loadModel: text("NAME", "model, as hf:owner/repo/file or hf:owner/repo@revision/file"),
  vocab: text("NAME", "World vocabulary"),
  yes: toggle("agree to the sizes beforehand"),
  hubUrl: text(
    "URL",
    "a mirror of the Hub, such as https://hf-mirror.com; without it HF_ENDPOINT, or the Hub itself. Others than these two need a permission of Deno's",
  ),
};

/** Milliseconds between lines of progress. */
const INTERVAL = 5000;

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(FLAGS, args);
  if (help) {
    console.log(helpText(USAGE, { "Flags": FLAGS }));
    return 0;
  }
  const { loadModel, vocab, yes = false, hubUrl = environment("HF_ENDPOINT") } = values;
  const names = [loadModel, vocab].filter((name) => name !== undefined);
  if (names.length === 0) throw new OptionError("Say what to fetch: --load_model hf:owner/repo/file");
  const local = names.find((name) => !isHubName(name));
  if (local !== undefined) throw new OptionError(`${local} is no name of the Hub: those begin with hf:`);
  for (const name of names) {
    let shown = -Infinity, declined: string | undefined;
    const path = await fetchFromHub(name, {
      accessToken: environment("HF_TOKEN"),
      ...(hubUrl === undefined ? {} : { hubUrl }),
      confirm: ({ bytes, have, path }) => {
        work.begun = true;
        const rest = have ? `, of which ${sizeOf(have)} are here` : "";
        const question = `${name} is ${sizeOf(bytes)}${rest}, and goes to ${path}.`;
        if (yes) return console.error(question), true;
        if (!Deno.stdin.isTerminal()) declined = `${question} Say --yes to fetch it`;
        else if (!confirm(`${question} Fetch it?`)) declined = `${name} was not fetched`;
        return declined === undefined;
      },
      onProgress: (bytes, all) => {
        if (bytes < all && performance.now() - shown < INTERVAL) return;
        shown = performance.now();
        console.error(`${sizeOf(bytes)} of ${sizeOf(all)}`);
      },
    });
    if (path === undefined) {
      console.error(declined);
      return 2;
    }
    console.log(`${name} is here: ${path}`);
    if (name.endsWith(INDEX_ENDING)) names.push(...filesOfIndex(name, path));
  }
  return 0;
}

/** Names of the files that an index of a model in several speaks of. */
function filesOfIndex(name: string, path: string): string[] {
  using index = new RandomAccessFile(path);
  const folder = name.slice(0, name.lastIndexOf("/"));
  return [...readShardIndex(index).keys()].map((file) => `${folder}/${file}`);
}

/** A variable of the environment, where it is set and may be read. */
function environment(variable: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  return state === "granted" ? Deno.env.get(variable) || undefined : undefined;
}

function sizeOf(bytes: number): string {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

if (import.meta.main) await runCommand(main);
