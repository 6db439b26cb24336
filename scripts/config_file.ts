/**
 * `--config FILE`: the flags of a command in a YAML file, by the same names and read by the same table. What stands on the
 * command line comes first; what a command does not know is an error.
 *
 * @module
 */
import { type CommandLine, type Flags, parseFlags, readValue, saidBy, text, type Values } from "./flags.ts";
import type { FlagsSaid } from "./yaml_flags.ts";

/** The flag itself. */
export const CONFIG = {
  config: text("FILE", "flags in a YAML file, as ctx_len: 512; those given here come first"),
};

/** Reads a command line, and the file that it may name. @throws OptionError in one sentence */
export async function parseWithConfig<F extends Flags>(
  flags: F,
  args: readonly string[],
): Promise<CommandLine<F> & { readonly config?: string }> {
  const { values: { config, ...values }, help } = parseFlags({ ...flags, ...CONFIG }, args);
  if (config === undefined) return { values: values as Values<F>, help };
  const path = config as string, fromFile: Record<string, unknown> = {};
  for (const [option, { texts, name }] of await readConfig(path, flags)) {
    const value = readValue(flags[option]!, texts, name);
    if (value !== undefined) fromFile[option] = value;
  }
  return { values: { ...fromFile, ...values } as Values<F>, help, config: path };
}

/** The words that were given for each flag on a command line, or else in the file that it may name; see {@link saidBy}. */
export async function saidWithConfig(
  flags: Flags,
  args: readonly string[],
): Promise<Map<string, string[]> | undefined> {
  const said = saidBy({ ...flags, ...CONFIG }, args), path = said?.get("config")?.[0];
  if (said === undefined || path === undefined) return said;
  const fromFile = [...await readConfig(path, flags)].map(([option, { texts }]) => [option, texts] as const);
  return new Map([...fromFile, ...said]);
}

/** Reads the file, for which alone the parser is loaded: it takes long. */
async function readConfig(path: string, flags: Flags): Promise<FlagsSaid> {
  const { readYamlFlags } = await import("./yaml_flags.ts");
  return readYamlFlags(path, flags);
}
