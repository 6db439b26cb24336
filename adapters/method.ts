/**
 * The hook: what a method of adapting a model says of itself, and the registry where methods enter.
 *
 * @module
 */
import type { Engine } from "../kernels/engine.ts";
import type { Graph, Tensor } from "../kernels/graph.ts";
import type { ModelConfig, Site } from "../rwkv/config.ts";
import type { Noise } from "../rwkv/initialise.ts";
import type { Targets } from "./targets.ts";

export type { Noise, Site };

/** Settings of a method, as they are kept in files: plain JSON. */
export type Settings = Readonly<Record<string, unknown>>;

/** A tensor that a method adds. */
export interface AdapterParameter {
  /** Its extents. */
  readonly shape: readonly number[];
  /**
   * Its first content; zeros where it is not given.
   * @param weight reads the base weight of the site, f32 [out, in]
   */
  initial?(noise: Noise, weight: () => Float32Array): Float32Array;
  /** Multiplies the learning rate; 1 where it is not given. */
  readonly rate?: number;
  /** Whether it keeps its first content instead of training. */
  readonly frozen?: boolean;
  /** Whether it follows from the base weight alone, so that an adapter may come without it: frozen, and `initial` needs no noise. */
  readonly derived?: boolean;
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
  /** The layer without this adapter, but with those that were stacked before it: [M, in] → [M, out]. */
  base(x: Tensor): Tensor;
  /** The frozen weight, [out, in], in the storage of its file; for a method that reads it, that of `base`. */
  readonly weight: Tensor;
  /** This adapter's tensors at the site. */
  readonly parameters: Readonly<Record<string, Tensor>>;
  /** While training, x with a share of its elements set to zero and the others enlarged to match; else x itself. */
  dropout(x: Tensor, share: number): Tensor;
}

/** What an adapted weight is made from, as tensors. */
export type AdapterWeight<S extends Settings> = Pick<
  AdapterForward<S>,
  "graph" | "site" | "settings" | "weight" | "parameters"
>;

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

/** First contents that are computed on an engine: see {@link AdapterMethod.initialiser}. */
export interface AdapterInitialiser<S extends Settings> extends Disposable {
  /**
   * The first contents of all tensors at a site, by name.
   * @param call.weight the base weight of the site, f32 [out, in]
   * @throws RangeError, a clause on the weight, where they cannot be had
   */
  tensors(call: {
    readonly site: Site;
    readonly settings: S;
    readonly noise: Noise;
    readonly weight: Float32Array;
  }): Promise<Readonly<Record<string, Float32Array>>>;
}

/** An addition to a weight as a product of thin matrices, B·A. */
export interface LowRank {
  /** [R, in] */
  readonly A: Float32Array;
  /** [out, R] */
  readonly B: Float32Array;
  /** R */
  readonly r: number;
}

/** A file whose method is to be found out. */
export interface UnnamedFile {
  /** The site in question; undefined where the file holds no tensor of any linear layer. */
  readonly site: string | undefined;
  /** Shapes of the tensors of every site, by the site's name and the tensor's. */
  readonly sites: ReadonlyMap<string, Readonly<Record<string, readonly number[]>>>;
  /** Names of all tensors. */
  readonly names: readonly string[];
}

/** A method: Bone, LoRA, or one of your own. Register it with {@link registerAdapter}. */
export interface AdapterMethod<S extends Settings = Settings> {
  /** Its name, as in `--peft`. */
  readonly name: string;
  /** Checks settings and fills in defaults. @throws RangeError in one sentence */
  configure(given: Settings): S;
  /** The tensors added at a site. @throws RangeError if the settings do not fit it */
  parameters(site: Site, settings: S): Readonly<Record<string, AdapterParameter>>;
  /**
   * For a method whose first contents take long to compute: what computes them on an engine, which a run then starts from instead of
   * each tensor's `initial`.
   */
  initialiser?(engine: Engine): AdapterInitialiser<S>;
  /** Refuses what no adapter should be made with at a site, though files may have it. @throws RangeError in one sentence */
  checkFresh?(site: Site, settings: S): void;
  /** Weights of the model that are the method's own and train with it, by name, such as the initial WKV state. */
  weights?(config: ModelConfig, settings: S): ReadonlyMap<string, AdapterParameter>;
  /** The adapted layer: [M, in] → [M, out]. */
  forward(call: AdapterForward<S>): Tensor;
  /** Whether {@link forward} reads the weight itself. Among several adapters, those that do stand nearest to the base weight. */
  readsWeight?(settings: S): boolean;
  /** The adapted weight as a tensor, f32 [out, in]: for a method that reads the weight itself. */
  weight?(call: AdapterWeight<S>): Tensor;
  /** The weight that does the same without the adapter, [out, in]. */
  merge(call: AdapterMerge<S>): Float32Array;
  /**
   * The weight as it was before {@link merge}, up to rounding.
   * @throws RangeError in one sentence where it cannot be had back
   */
  unmerge?(call: AdapterMerge<S>): Float32Array;
  /** Whether what merging adds is linear in the tensors, so that adapters with equal settings add up tensor by tensor. */
  readonly isLinear?: boolean;
  /** What merging adds as a product of thin matrices: only for methods that add the same whatever the weight is. */
  lowRank?(call: Omit<AdapterMerge<S>, "weight">): LowRank;
  /**
   * Settings for the tensors of one site in a file that holds none; undefined if they are not this method's.
   * @param shapes by tensor name: `{ bone: [64, 2048] }`; empty where the file holds no tensor of any linear layer
   * @param hints what the person says of the file
   * @param file the rest of the file, which may settle what one site leaves open
   * @throws RangeError if they are, but a hint is missing that the settings need: a clause that follows the file's name
   */
  recognise(
    shapes: Readonly<Record<string, readonly number[]>>,
    hints: AdapterHints,
    file: UnnamedFile,
  ): S | undefined;
}

/** What a file may leave unsaid. */
export interface AdapterHints {
  /** Alpha of a LoRA whose file does not hold it. */
  readonly loraAlpha?: number;
  /** The file of a PiSSA's first tensors, `init_pissa.pth`. */
  readonly loraInit?: string;
  /** Whether the blocks of a BAT are chosen by input block (RWKV-PEFT's) or by output block (PEFT's). */
  readonly batAxis?: "in" | "out";
  /** The linear layers that the adapter sits on, where its file does not say and it lacks some. */
  readonly targets?: Targets;
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
