/**
 * Fetches models and vocabularies from the Hugging Face Hub: `deno task fetch`. It alone may use the network, and only there.
 *
 * @module
 */
import { fetchFromHub, isHubName } from "../formats/hub.ts";
import { OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import { helpText, parseFlags, text, toggle } from "./flags.ts";

const USAGE = `Fetches files from the Hugging Face Hub, so that other commands can use them by the same names.

  deno task fetch --load_model hf:owner/repo/model.pth
  deno task fetch --load_model hf:owner/repo/model.pth --vocab hf:owner/repo/rwkv_vocab_v20230424.txt
  deno task run_bone --load_model hf:owner/repo/model.pth --data_file text.jsonl --proj_dir runs/mine

The size is asked for first, and fetching it has to be agreed to. A download that broke off goes on where it was. Files are kept in
the folder models of this program. A token for repositories that need one is taken from HF_TOKEN.`;

const FLAGS = {
  loadModel: text("NAME", "model, as hf:owner/repo/file or hf:owner/repo@revision/file"),
  vocab: text("NAME", "World vocabulary"),
  yes: toggle("agree to the sizes beforehand"),
  hubUrl: text("URL", "another Hub, as a mirror; Deno has to be given the permission to reach it"),
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
  const { loadModel, vocab, yes = false, hubUrl } = values;
  const names = [loadModel, vocab].filter((name) => name !== undefined);
  if (names.length === 0) throw new OptionError("Say what to fetch: --load_model hf:owner/repo/file");
  const local = names.find((name) => !isHubName(name));
  if (local !== undefined) throw new OptionError(`${local} is no name of the Hub: those begin with hf:`);
  for (const name of names) {
    let shown = -Infinity, declined: string | undefined;
    const path = await fetchFromHub(name, {
      accessToken: token(),
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
  }
  return 0;
}

/** A token where there is one and the environment may be read. */
function token(): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: "HF_TOKEN" });
  return state === "granted" ? Deno.env.get("HF_TOKEN") || undefined : undefined;
}

function sizeOf(bytes: number): string {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

if (import.meta.main) await runCommand(main);
