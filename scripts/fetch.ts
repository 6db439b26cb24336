/**
 * Fetches models and vocabularies from the Hugging Face Hub: `deno task fetch`.
 *
 * @module
 */
import { hubPath, isHubName } from "../formats/hub.ts";
import { OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import { file, helpText, saidBy } from "./flags.ts";
import { fetchWanted, HUB, wantedBy } from "./hub.ts";

const USAGE =
  `Fetches files from the Hugging Face Hub beforehand. Other commands fetch what they are told to use, by the same names.

  deno task fetch --load_model hf:owner/repo/model.pth
  deno task fetch --load_model hf:owner/repo/model.pth --vocab hf:owner/repo/rwkv_vocab_v20230424.txt
  deno task run_bone --load_model hf:owner/repo/model.pth --data_file text.jsonl --proj_dir runs/mine

The size is asked for first, and fetching it has to be agreed to. A download that broke off goes on where it was. Files are kept in
the folder models of this program. Of a model in several files, the index brings the others with it; a World model brings the World
vocabulary. A token for repositories that need one is taken from HF_TOKEN.`;

const FLAGS = {
  loadModel: file("model, as hf:owner/repo/file or hf:owner/repo@revision/file"),
  vocab: file("World vocabulary"),
  ...HUB,
};

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const said = saidBy(FLAGS, args);
  if (said === undefined) {
    console.log(helpText(USAGE, { "Flags": FLAGS }));
    return 0;
  }
  const given = [...said.get("loadModel") ?? [], ...said.get("vocab") ?? []];
  if (given.length === 0) throw new OptionError("Say what to fetch: --load_model hf:owner/repo/file");
  const local = given.find((name) => !isHubName(name));
  if (local !== undefined) throw new OptionError(`${local} is no name of the Hub: those begin with hf:`);
  work.begun = true;
  const { names } = await fetchWanted(wantedBy(FLAGS, said));
  for (const name of names) console.log(`${name} is here: ${hubPath(name)}`);
  return 0;
}

if (import.meta.main) await runCommand(main);
