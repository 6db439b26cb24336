/**
 * Hugging Face PEFT directories, read: `adapter_config.json` beside `adapter_model.safetensors` (or `.bin`).
 *
 * Modules keep the names that they have in the model that PEFT wrapped, except that those of an RWKV-7 model get the official names,
 * so that an adapter made on either kind of file fits both. Every tensor is used, or an error lists the rest.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { toFloat32 } from "../../formats/dtype.ts";
import { readSmallText } from "../../formats/json_file.ts";
import { openTensorFile, type TensorFile } from "../../formats/tensor_file.ts";
import { officialName } from "../../rwkv/names.ts";
import { Adapter, AdapterError, type HostTensor } from "../adapter.ts";
import type { Settings } from "../method.ts";
import { asOfficial, transposed } from "../transpose.ts";
import { parsePeftConfig, type PeftConfig, valueAt } from "./config.ts";
import { type Dialect, dialectOf } from "./dialect.ts";
import { CONFIG_FILE, PEFT_FILES, WEIGHT_FILES } from "./files.ts";

/** What training leaves in the folder of a run. */
const RUN_ADAPTER = "adapter.pth";
/** What PEFT's wrappers put before the name of every module. */
const WRAPPER = "base_model.model.";

/**
 * The PEFT directory that a path means: itself, or the one that a file of it lies in; undefined where it means none.
 * @throws AdapterError for a folder that holds no adapter, with what it holds instead
 */
export function peftFolder(path: string): string | undefined {
  const status = existsSync(path) ? Deno.statSync(path) : undefined;
  if (status?.isFile) {
    const folder = dirname(path), isPart = PEFT_FILES.includes(basename(path));
    return isPart && existsSync(join(folder, CONFIG_FILE)) ? folder : undefined;
  }
  if (!status?.isDirectory) return undefined;
  if (existsSync(join(path, CONFIG_FILE))) return path;
  const below = [...Deno.readDirSync(path)].map(({ name }) => name).filter((name) =>
    existsSync(join(path, name, CONFIG_FILE))
  );
  if (existsSync(join(path, RUN_ADAPTER))) {
    throw new AdapterError(`Cannot load ${path}: it is the folder of a run: name ${join(path, RUN_ADAPTER)}`);
  }
  throw new AdapterError(
    below.length
      ? `Cannot load ${path}: it holds the adapters ${below.sort().join(", ")}; name one of these folders`
      : `Cannot load ${path}: it is a folder without ${CONFIG_FILE}, so it is not a PEFT adapter`,
  );
}

/**
 * Loads a PEFT directory.
 * @throws FormatError, AdapterError
 */
export function loadPeft(folder: string): Adapter {
  const configPath = join(folder, CONFIG_FILE);
  const config = parsePeftConfig(readSmallText(configPath), configPath);
  using file = openTensorFile(weightsIn(folder));
  try {
    return adapterFrom(config, file);
  } catch (error) {
    // What a method says of settings that cannot be.
    throw error instanceof RangeError
      ? new AdapterError(`Cannot load ${configPath}: ${error.message}`)
      : error;
  }
}

/** The file of a PEFT directory's tensors. @throws AdapterError where there is none */
export function weightsIn(folder: string): string {
  const weights = WEIGHT_FILES.map((name) => join(folder, name)).find((path) => existsSync(path));
  if (weights !== undefined) return weights;
  throw new AdapterError(`Cannot load ${folder}: it holds no ${WEIGHT_FILES.join(" or ")}`);
}

/** An embedding is a linear layer the other way round: W' = W + s · (B A)ᵀ, so that Aᵀ is our B, and Bᵀ our A. */
const EMBEDDING: ReadonlyMap<string, string> = new Map([
  ["lora_embedding_A", "lora_B"],
  ["lora_embedding_B", "lora_A"],
]);

/** A module of the wrapped model with the tensors that PEFT added to it, by our names for them. */
type Modules = Map<string, Map<string, HostTensor>>;

function adapterFrom(config: PeftConfig, file: TensorFile): Adapter {
  const dialect = dialectOf(config);
  const { modules, others } = sorted(file, dialect);
  if (!modules.size) {
    throw new AdapterError(
      `Cannot load ${file.path}: it holds no tensor that a ${config.type} adapter adds to a module`,
    );
  }
  // Some names, such as lm_head, are those of other models as well.
  const isRwkv7 = modules.keys().some((module) => /\d/.test(module) && officialName(module) !== undefined);
  const known = (name: string) => (isRwkv7 ? officialName(name) : undefined) ?? name;
  const tensors = new Map<string, HostTensor>(), perSite = new Map<string, Settings>();
  const put = (name: string, tensor: HostTensor) => {
    if (tensors.has(name)) {
      throw new AdapterError(`Cannot load ${file.path}: two of its tensors mean ${name}`);
    }
    tensors.set(name, tensor);
  };
  for (const [module, added] of modules) {
    const missing = dialect.tensors.filter((name) => !added.has(name));
    if (missing.length) {
      throw new AdapterError(
        `Cannot load ${file.path}: ${module} has no ${missing.join(" and no ")} beside its others`,
      );
    }
    const site = known(module);
    perSite.set(site, settingsOf(config, dialect, module, added, file.path));
    for (const name of dialect.tensors) put(`${site}.${name}`, added.get(name)!);
  }
  for (const [name, tensor] of others) {
    const own = known(name), isOfficial = name.endsWith(own);
    put(own, isOfficial ? tensor : asOfficial(own, tensor));
  }
  const [settings] = perSite.values() as Iterable<Settings> as [Settings];
  const differs = [...perSite].filter(([, own]) => JSON.stringify(own) !== JSON.stringify(settings));
  const targets = { target_modules: [...perSite.keys()] };
  const fanInFanOut = config.type === "LORA" && config.fanInFanOut;
  return new Adapter(
    ...[dialect.method, settings!, tensors, undefined, new Map(differs), targets] as const,
    ...[undefined, undefined, fanInFanOut] as const,
  );
}

/** Sorts the tensors of a file by module; what belongs to none was saved or trained whole. */
function sorted(file: TensorFile, dialect: Dialect): { modules: Modules; others: Map<string, HostTensor> } {
  const modules: Modules = new Map(), others = new Map<string, HostTensor>(), unknown: string[] = [];
  for (const { name, dtype, shape } of file.tensors.values()) {
    const full = (file.prefix + name).replace(WRAPPER, ""),
      tensor = { shape, data: toFloat32(file.readBytes(name), dtype) };
    const [, module, key] = /^(.*?)\.((?:bone_|miss_|lora_).*)$/.exec(full) ?? [];
    if (module === undefined) {
      // The infixes are those of PEFT's modules in memory, which some savers leave in.
      others.set(full.replace(/\.modules_to_save(\.default)?\./, ".").replace(".base_layer.", "."), tensor);
      continue;
    }
    const theirs = key!.replace(/\.default(?=\.|$)/, "").replace(/\.weight$/, "");
    const ours = dialect.names.get(EMBEDDING.get(theirs) ?? theirs);
    if (ours === undefined) unknown.push(file.prefix + name);
    else {
      const turned = EMBEDDING.has(theirs) && shape.length === 2 ? transposed(tensor) : tensor;
      modules.set(module, (modules.get(module) ?? new Map()).set(ours, turned));
    }
  }
  if (unknown.length) {
    const shown = unknown.slice(0, 5).join(", "),
      more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
    throw new AdapterError(
      `Cannot load ${file.path}: its ${CONFIG_FILE} describes no adapter with the tensors ${shown}${more}`,
    );
  }
  return { modules, others };
}

/** Settings at a module, with shapes that must be those of the configuration. */
function settingsOf(
  config: PeftConfig,
  dialect: Dialect,
  module: string,
  added: ReadonlyMap<string, HostTensor>,
  path: string,
): Settings {
  const r = config.type === "LORA" ? valueAt(config.rankPattern, module, config.r) : config.r;
  const alpha = config.type === "LORA" ? valueAt(config.alphaPattern, module, config.alpha) : undefined;
  for (const [name, fits] of dialect.shapes(r)) {
    const { shape } = added.get(name)!;
    if (
      fits.length === shape.length && fits.every((extent, i) => extent === undefined || extent === shape[i])
    ) continue;
    const wanted = fits.map((extent) => extent ?? "any").join(", ");
    throw new AdapterError(
      `Cannot load ${path}: the ${name} of ${module} is [${shape}] where its ${CONFIG_FILE} wants [${wanted}]` +
        (shape.length === 3 || fits.length === 3
          ? '; init_weights must be "bat" where it has three dimensions'
          : ""),
    );
  }
  return dialect.method.configure(dialect.settings(r, alpha));
}
