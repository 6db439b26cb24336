/**
 * The run folder: where it is, what it says of its run, and what may change when a run goes on.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { FormatError } from "../formats/format_error.ts";
import type { JsonValue } from "../formats/json.ts";
import { readJsonFile } from "../formats/json_file.ts";
import { removeLeftovers } from "./checkpoint.ts";
import { flag, OptionError, type TrainOptions, type TrainSettings } from "./options.ts";
import { withoutPeftNames } from "./peft_names.ts";
import { requireInside } from "./run_boundary.ts";
import { checkedSettings } from "./run_config.ts";
import { LOCK_FILE, RunLock } from "./run_lock.ts";

/** Version of `config.json`. */
export const RUN_VERSION = 1;

/** Everything that `config.json` of a run holds. */
export interface RunConfig {
  /** {@link RUN_VERSION} */
  readonly version: number;
  /** Every option in effect. */
  readonly settings: TrainSettings;
  /** Fingerprint of the base model. */
  readonly model: string;
  /** SHA-256 of the text. */
  readonly data: string;
  /** SHA-256 of the text to measure on, where it is one of its own. */
  readonly evalData?: string;
}

/**
 * Takes a run folder that exists for this run alone, and makes it safe to write in: see `RunLock` and `requireInside`.
 *
 * @throws OptionError if another run is at work in it, or a link leads out of it
 */
export function holdRun(path: string): RunLock {
  const lock = RunLock.take(path);
  try {
    requireInside(path);
    removeLeftovers(path);
    return lock;
  } catch (error) {
    lock[Symbol.dispose]();
    throw error;
  }
}

/** @throws OptionError if a folder that exists is not to be replaced by a new run, or holds anything but a run */
export function requireReplaceable(path: string, force: boolean | undefined): void {
  if (!force) {
    throw new OptionError(
      `The run folder ${path} exists: name another with --proj_dir, or replace it with --force`,
    );
  }
  if (isEmptyRun(path) || existsSync(join(path, "config.json"))) return;
  throw new OptionError(
    `The folder ${path} is not replaced, as it has no config.json and so is not a run folder: name another with --proj_dir`,
  );
}

/** Whether a folder holds nothing but its lock. */
export function isEmptyRun(path: string): boolean {
  return [...Deno.readDirSync(path)].every(({ name }) => name === LOCK_FILE);
}

/** @throws Error if a run's folder is no longer where it was: made again by a save, it would lack the run's description */
export function requireThere(path: string): void {
  if (existsSync(join(path, "config.json"))) return;
  throw new Error(`The run folder ${path} was taken away while the run was at work: start it again`);
}

/** Removes everything in a run folder that is held, but for its lock. */
export function emptyRun(path: string): void {
  for (const { name } of Deno.readDirSync(path)) {
    if (name !== LOCK_FILE) Deno.removeSync(join(path, name), { recursive: true });
  }
}

/** What a run folder says of its run. @throws OptionError if it is none, or says it wrongly */
export function readRun(path: string): RunConfig {
  const unusable = (why: string) => new OptionError(`Cannot resume ${path}: its config.json ${why}`);
  const { version, settings, model, data, evalData } = readConfig(path);
  if (version !== RUN_VERSION) throw unusable(`has version ${JSON.stringify(version)}, not ${RUN_VERSION}`);
  const isText = (value: unknown) => typeof value === "string";
  if (!isText(model) || !isText(data) || !(evalData === undefined || isText(evalData))) {
    throw unusable("does not say what it began with");
  }
  const read = { version, settings: checkedSettings(settings, unusable), model, data };
  return evalData === undefined ? read : { ...read, evalData };
}

function readConfig(path: string): { [key: string]: JsonValue } {
  let config: JsonValue;
  try {
    config = readJsonFile(join(path, "config.json"));
  } catch (error) {
    if (error instanceof FormatError) {
      throw new OptionError(
        `Cannot resume ${path}: its config.json is not whole (${error.reason}), so start a new run`,
      );
    }
    throw new OptionError(`Cannot resume ${path}: it has no config.json, so it is not a run folder`);
  }
  if (typeof config === "object" && config !== null && !Array.isArray(config)) return config;
  throw new OptionError(
    `Cannot resume ${path}: its config.json is not whole (it is no object), so start a new run`,
  );
}

/** Settings with absolute paths, so that a run can be resumed and merged from any folder. */
export function placed(settings: TrainSettings): TrainSettings {
  const absolute = (path: string) => path && resolve(path);
  const { loadModel, dataFile, evalFile, boneConfig, loraConfig, pissaConfig, vocab } = settings;
  return {
    ...settings,
    loadModel: absolute(loadModel),
    dataFile: absolute(dataFile),
    boneConfig: { ...boneConfig, bone_load: absolute(boneConfig.bone_load ?? "") },
    loraConfig: { ...loraConfig, lora_load: absolute(loraConfig.lora_load ?? "") },
    pissaConfig: {
      ...pissaConfig,
      pissa_load: absolute(pissaConfig.pissa_load ?? ""),
      pissa_init: absolute(pissaConfig.pissa_init ?? ""),
    },
    ...(vocab === undefined ? {} : { vocab: absolute(vocab) }),
    ...(evalFile === undefined ? {} : { evalFile: absolute(evalFile) }),
  };
}

/** What may change when a run goes on: nothing that the steps depend on. */
const CHANGEABLE = ["maxSteps", "engine", "earlyStop", "keep", "saveSteps", "epochSave"] as const;

/** A resumed run's settings: its own, with the few that may change. */
export function resumedSettings(settings: TrainSettings, said: TrainOptions): TrainSettings {
  const options = withoutPeftNames({ peft: settings.peft, ...said });
  const free: (keyof TrainOptions)[] = ["resume", "projDir", "force", ...CHANGEABLE];
  const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || free.includes(name as keyof TrainOptions)) continue;
    const kept = settings[name as keyof TrainSettings];
    // Settings of a method may be given in part.
    const given = typeof kept === "object" && !Array.isArray(kept) ? { ...kept, ...value as object } : value;
    const samePath = typeof value === "string" && typeof kept === "string" && resolve(value) === kept;
    if (!same(given, kept) && !samePath) {
      throw new OptionError(
        `Cannot change ${flag(name)} on resuming: the run has ${
          JSON.stringify(kept)
        }, so leave it out or start a new run`,
      );
    }
  }
  const changed = CHANGEABLE.flatMap((name) => options[name] === undefined ? [] : [[name, options[name]]]);
  return { ...settings, ...Object.fromEntries(changed) };
}

/** @throws OptionError if model or text are not those that the run began with */
export function requireSameInputs(previous: RunConfig, now: RunConfig, run: string): void {
  if (previous.model !== now.model) {
    throw new OptionError(
      `Cannot resume ${run}: the model ${now.settings.loadModel} is not the one that it began with`,
    );
  }
  if (previous.evalData !== now.evalData) {
    throw new OptionError(
      `Cannot resume ${run}: the text ${now.settings.evalFile}, which it is measured on, has changed since it began`,
    );
  }
  if (previous.data !== now.data) {
    throw new OptionError(
      `Cannot resume ${run}: the text ${now.settings.dataFile} has changed since it began`,
    );
  }
}
