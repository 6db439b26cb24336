/**
 * Adapters in files: this project's own, RWKV-PEFT's `.pth` of every era, and Hugging Face PEFT's directories.
 *
 * @module
 */
import { writeTensorFile } from "../formats/tensor_file.ts";
import { quoted } from "../formats/text.ts";
import { Adapter, AdapterError, type HostTensor } from "./adapter.ts";
import type { AdapterHints, AdapterMethod, Settings } from "./method.ts";
import { decodeOriginals, encodeOriginals, ORIGINALS } from "./originals.ts";
import { loadPeft, peftFolder } from "./peft/read.ts";
import { adapterMethod, adapterMethods } from "./registry.ts";
import { modernise, readTensors } from "./rwkv_peft.ts";
import type { Targets } from "./targets.ts";

/** Tensors that a message names. */
const SHOWN = 5;

/** Version of the description that saved adapters carry. */
const DESCRIPTION_VERSION = 1;

/** Saves an adapter as `.pth` or safetensors, after the extension of the path. @throws if the path exists and `force` is not set */
export function saveAdapter(adapter: Adapter, path: string, options: { force?: boolean } = {}): void {
  const { method, settings, base, tensors, overrides, targets, promptFormat, originals, fanInFanOut } =
    adapter;
  const description = JSON.stringify({
    version: DESCRIPTION_VERSION,
    method: method.name,
    settings,
    base,
    ...(overrides.size ? { overrides: Object.fromEntries(overrides) } : {}),
    promptFormat,
    ...(Object.keys(targets).length ? { targets } : {}),
    ...(fanInFanOut ? { fanInFanOut } : {}),
  });
  writeTensorFile(path, {
    format: path.endsWith(".pth") ? "pth" : "safetensors",
    tensors: [...tensors].map(([name, { shape }]) => ({ name, shape, dtype: "F32" })),
    read: ({ name }) => {
      const { data } = tensors.get(name)!;
      return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    },
    metadata: new Map([
      ["wishbone", description],
      ...(originals.size ? [[ORIGINALS, encodeOriginals(originals)] as const] : []),
    ]),
    force: options.force,
  });
}

/**
 * Loads an adapter from a `.pth` or safetensors file with keys `<site>.<tensor>`, or from a PEFT directory.
 * The method and its settings come from the description in the file, or else from the names and shapes.
 * @throws FormatError, AdapterError
 */
export function loadAdapter(path: string, hints: AdapterHints = {}): Adapter {
  const folder = peftFolder(path);
  if (folder !== undefined) return loadPeft(folder);
  const read = readTensors(path), { tensors, metadata } = read;
  const known = described(metadata.get("wishbone"), path);
  const { method, settings, base, overrides, targets = hints.targets, promptFormat, fanInFanOut } = known ??
    recognised(tensors, path, modernise(read, path, hints));
  const kept = metadata.get(ORIGINALS), originals = kept === undefined ? undefined : decodeOriginals(kept);
  if (kept !== undefined && !originals) {
    throw new AdapterError(
      `Cannot load ${path}: what it keeps of its base model's weights (${ORIGINALS}) is malformed`,
    );
  }
  return new Adapter(
    ...[method, settings, tensors, base, overrides, targets, promptFormat, originals, fanInFanOut] as const,
  );
}

type Description = {
  method: AdapterMethod;
  settings: Settings;
  base?: string;
  overrides?: ReadonlyMap<string, Settings>;
  targets?: Targets;
  promptFormat?: string;
  fanInFanOut?: boolean;
};

/** The description that a file carries, which may be anybody's; undefined where there is none. */
function described(text: string | undefined, path: string): Description | undefined {
  if (text === undefined) return undefined;
  const unusable = (why: string) => new AdapterError(`Cannot load ${path}: its description ${why}`);
  let description: unknown;
  try {
    description = JSON.parse(text);
  } catch {
    throw unusable("is not JSON");
  }
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isObject(description)) throw unusable("is not an object");
  const { version, method, settings, base, overrides = {}, targets, promptFormat, fanInFanOut } = description;
  if (version !== DESCRIPTION_VERSION) {
    throw unusable(`has version ${JSON.stringify(version)}, and this Wishbone reads ${DESCRIPTION_VERSION}`);
  }
  if (typeof method !== "string" || !isObject(settings)) throw unusable("names no method and settings");
  if (!isObject(overrides) || !Object.values(overrides).every(isObject)) {
    throw unusable("has no list of overrides");
  }
  if (targets !== undefined && !isObject(targets)) throw unusable("has targets that are no object");
  return {
    ...configured(method, settings, overrides as Record<string, Settings>, unusable),
    ...(typeof base === "string" && base ? { base } : {}),
    ...(targets ? { targets: targets as Targets } : {}),
    ...(typeof promptFormat === "string" ? { promptFormat } : {}),
    fanInFanOut: fanInFanOut === true,
  };
}

/** A site and a tensor at it that is not the site's own weight; `__proto__` would be no entry but a prototype. */
export const SITE_TENSOR =
  /^(blocks\.\d{1,6}\.(?:att|ffn)\.(?:receptance|key|value|output|gate))\.(?!weight$|bias$|__proto__$)(.+)$/;

/** A method with its settings, as a description names them. */
function configured(
  name: string,
  settings: Settings,
  overrides: Readonly<Record<string, Settings>>,
  unusable: (why: string) => AdapterError,
): Pick<Description, "method" | "settings" | "overrides"> {
  try {
    const method = adapterMethod(name);
    return {
      method,
      settings: method.configure(settings),
      overrides: new Map(
        Object.entries(overrides).map(([site, settings]) => [site, method.configure(settings)]),
      ),
    };
  } catch (error) {
    if (error instanceof RangeError) throw unusable(`cannot be used: ${error.message.slice(0, 300)}`);
    throw error;
  }
}

function recognised(
  tensors: ReadonlyMap<string, HostTensor>,
  path: string,
  hints: AdapterHints,
): Description {
  const sites = new Map<string, Record<string, readonly number[]>>();
  for (const [name, { shape }] of tensors) {
    const match = SITE_TENSOR.exec(name);
    if (!match) continue;
    let site = sites.get(match[1]!);
    if (!site) sites.set(match[1]!, site = {});
    site[match[2]!] = shape;
  }
  const names = [...tensors.keys()];
  const found: { site: string; method: AdapterMethod; settings: Settings }[] = [];
  for (const [site, shapes] of sites.size ? sites : [["", {}] as const]) {
    const candidates = adapterMethods().flatMap((method) => {
      try {
        const settings = method.recognise(shapes, hints, { site: site || undefined, sites, names });
        return settings ? [{ method, settings }] : [];
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        throw new AdapterError(`Cannot load ${path}: ${error.message}`);
      }
    });
    if (!site && !candidates.length) {
      throw new AdapterError(
        `Cannot load ${path}: it holds no adapter tensors such as "blocks.0.att.key.bone"`,
      );
    }
    if (candidates.length !== 1) {
      const entries = Object.entries(shapes), more = entries.length - SHOWN;
      const listed = entries.slice(0, SHOWN).map(([name, shape]) => `${quoted(name)} [${shape}]`).join(", ") +
        (more > 0 ? ` and ${more} more` : "");
      const names = candidates.map(({ method }) => method.name).join(" and ") ||
        "no method that is registered";
      throw new AdapterError(`Cannot load ${path}: ${names} could have made ${listed} at ${site}`);
    }
    found.push({ site, ...candidates[0]! });
  }
  const { method, settings } = found[0]!;
  const other = found.find((site) => site.method !== method);
  if (other) {
    throw new AdapterError(
      `Cannot load ${path}: its layers are of different methods, ${method.name} and, at ${other.site}, ${other.method.name}`,
    );
  }
  const differs = found.filter((site) => JSON.stringify(site.settings) !== JSON.stringify(settings));
  return { method, settings, overrides: new Map(differs.map(({ site, settings }) => [site, settings])) };
}
