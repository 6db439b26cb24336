/**
 * The hook: what a method of adapting a linear layer says of itself, and the registry where methods enter.
 *
 * @module
 */
import type { Graph, Tensor } from "../kernels/graph.ts";
import type { Site } from "../rwkv/config.ts";
import type { Noise } from "../rwkv/initialise.ts";

export type { Noise, Site };

/** Settings of a method, as they are kept in files: plain JSON. */
export type Settings = Readonly<Record<string, unknown>>;

/** A tensor that a method adds at a site. */
export interface AdapterParameter {
  /** Its extents. */
  readonly shape: readonly number[];
  /** Its first content; zeros where it is not given. */
  initial?(noise: Noise): Float32Array;
}

/** What a method's expression is made from. */
export interface AdapterForward<S extends Settings> {
  /** The graph to build on. */
  readonly graph: Graph;
  /** The linear layer. */
  readonly site: Site;
  /** The checked settings. */
  readonly settings: S;
  /** Input of the linear layer, [M, in]. */
  readonly x: Tensor;
  /** The layer without this adapter: [M, in] → [M, out]. */
  base(x: Tensor): Tensor;
  /** The frozen weight, [out, in], in the storage of its file. */
  readonly weight: Tensor;
  /** This adapter's tensors at the site. */
  readonly parameters: Readonly<Record<string, Tensor>>;
}

/** What a merge is made from: f32, row-major. */
export interface AdapterMerge<S extends Settings> {
  /** The linear layer. */
  readonly site: Site;
  /** The checked settings. */
  readonly settings: S;
  /** [out, in]; not to be changed. */
  readonly weight: Float32Array;
  /** This adapter's tensors at the site. */
  readonly parameters: Readonly<Record<string, Float32Array>>;
}

/** A method: Bone, LoRA, or one of your own. Register it with {@link registerAdapter}. */
export interface AdapterMethod<S extends Settings = Settings> {
  /** Its name, as in `--peft`. */
  readonly name: string;
  /** Checks settings and fills in defaults. @throws RangeError in one sentence */
  configure(given: Settings): S;
  /** The tensors added at a site. @throws RangeError if the settings do not fit it */
  parameters(site: Site, settings: S): Readonly<Record<string, AdapterParameter>>;
  /** The adapted layer: [M, in] → [M, out]. */
  forward(call: AdapterForward<S>): Tensor;
  /** The weight that does the same without the adapter, [out, in]. */
  merge(call: AdapterMerge<S>): Float32Array;
  /**
   * Settings for the tensors of one site in a file that holds none; undefined if they are not this method's.
   * @param shapes by tensor name: `{ bone: [64, 2048] }`
   * @param hints what the person says of the file
   * @throws RangeError in one sentence if they are, but a hint is missing that the settings need
   */
  recognise(shapes: Readonly<Record<string, readonly number[]>>, hints: AdapterHints): S | undefined;
}

/** What a file may leave unsaid. */
export interface AdapterHints {
  /** Alpha of a LoRA whose file does not hold it. */
  readonly loraAlpha?: number;
}

const methods = new Map<string, AdapterMethod>();

/** Makes a method available under its name. @throws RangeError if the name is taken by another */
export function registerAdapter<S extends Settings>(method: AdapterMethod<S>): void {
  const known = methods.get(method.name);
  if (known && known !== method as unknown as AdapterMethod) {
    throw new RangeError(`Cannot register adapter "${method.name}": the name is taken`);
  }
  methods.set(method.name, method as unknown as AdapterMethod);
}

/** The method of a name. @throws RangeError that lists the names there are */
export function adapterMethod(name: string): AdapterMethod {
  const method = methods.get(name);
  if (!method) throw new RangeError(`Unknown adapter "${name}": there are ${[...methods.keys()].join(", ")}`);
  return method;
}

/** All methods. */
export function adapterMethods(): readonly AdapterMethod[] {
  return [...methods.values()];
}
