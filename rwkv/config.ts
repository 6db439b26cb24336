/**
 * What a model is, read from the names and shapes of its tensors alone.
 *
 * @module
 */

/** Sizes of an RWKV-7 model. */
export interface ModelConfig {
  /** RWKV version. */
  readonly version: 7;
  /** L */
  readonly layers: number;
  /** C */
  readonly channels: number;
  /** H */
  readonly heads: number;
  /** N */
  readonly headSize: number;
  /** F */
  readonly ffn: number;
  /** V */
  readonly vocabulary: number;
  /** Widths of the low-rank pairs. v is 0 in a model of one layer without it. */
  readonly ranks: { readonly w: number; readonly a: number; readonly v: number; readonly g: number };
  /** Whether layer 0 carries the unused v0, v1 and v2 as well. */
  readonly firstLayerHasV: boolean;
  /** Whether the file holds an initial WKV state, as state tuning leaves it. */
  readonly hasState?: boolean;
}

/** A file is not a model that can be used: one sentence with what was found. */
export class ModelError extends Error {
  /** The class of the error. */
  override readonly name = "ModelError";
}

type Shapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;

/** Which family the names belong to, for models that are not RWKV-7. */
function otherFamily(tensors: Shapes): string | undefined {
  const has = (name: string) => tensors.has(name);
  if (has("blocks.0.att.time_maa_x")) return "an RWKV-6 model";
  if (has("blocks.0.att.time_decay") && has("blocks.0.att.gate.weight")) return "an RWKV-5 model";
  if (has("blocks.0.att.time_decay")) return "an RWKV-4 or RWKV-5 model";
  if (has("model.layers.0.attn.r_proj.weight") || has("layers.0.attn.r_proj.weight")) {
    return "a model with Hugging Face names";
  }
  const names = [...tensors.keys()];
  if (names.some((name) => /\.(bone|disha|miss_block|bone_block|lora_A|lora_B)(\.weight)?$/.test(name))) {
    return "an adapter, not a model";
  }
  return undefined;
}

/**
 * Reads the sizes of an RWKV-7 model and checks that every tensor is there in its shape.
 * @param tensors names and shapes, as in the file
 * @param path names the file in errors
 * @throws ModelError
 */
export function readConfig(tensors: Shapes, path: string): ModelConfig {
  if (!tensors.has("blocks.0.att.r_k")) {
    const found = otherFamily(tensors);
    throw new ModelError(
      found
        ? `Cannot use ${path}: it is ${found}; give an RWKV-7 model with the official names`
        : `Cannot use ${path}: it is not an RWKV model (no tensor "blocks.0.att.r_k" among its ${tensors.size})`,
    );
  }
  const shapeOf = (name: string): readonly number[] => {
    const tensor = tensors.get(name);
    if (!tensor) {
      throw new ModelError(`Cannot use ${path}: tensor "${name}" is missing, so the model is incomplete`);
    }
    return tensor.shape;
  };
  let layers = 0;
  while (tensors.has(`blocks.${layers}.att.r_k`)) layers++;
  const [vocabulary = 0, channels = 0] = shapeOf("emb.weight");
  const [heads = 0, headSize = 0] = shapeOf("blocks.0.att.r_k");
  const vLayer = layers > 1 ? 1 : 0;
  const config: ModelConfig = {
    version: 7,
    layers,
    channels,
    heads,
    headSize,
    vocabulary,
    ffn: shapeOf("blocks.0.ffn.key.weight")[0] ?? 0,
    ranks: {
      w: shapeOf("blocks.0.att.w1")[1] ?? 0,
      a: shapeOf("blocks.0.att.a1")[1] ?? 0,
      v: layers > 1
        ? shapeOf(`blocks.${vLayer}.att.v1`)[1] ?? 0
        : tensors.get("blocks.0.att.v1")?.shape[1] ?? 0,
      g: shapeOf("blocks.0.att.g1")[1] ?? 0,
    },
    firstLayerHasV: tensors.has("blocks.0.att.v0"),
    ...(tensors.has("blocks.0.att.time_state") ? { hasState: true } : {}),
  };
  for (const [name, wanted] of weightShapes(config)) {
    const found = shapeOf(name);
    if (found.length !== wanted.length || found.some((extent, i) => extent !== wanted[i])) {
      throw new ModelError(
        `Cannot use ${path}: tensor "${name}" has shape [${found}] where [${wanted}] follows from the others`,
      );
    }
  }
  if (heads * headSize !== channels) {
    throw new ModelError(
      `Cannot use ${path}: ${heads} heads of ${headSize} do not make ${channels} channels`,
    );
  }
  return config;
}

/**
 * Every tensor of a model with its shape in the file, in the official order: readers of merged files depend on that order.
 * Linear layers are [out, in]; the low-rank pairs are [in, out].
 */
export function weightShapes(config: ModelConfig): Map<string, number[]> {
  const { layers, channels: C, heads, headSize, ffn, vocabulary, ranks, firstLayerHasV } = config;
  const shapes = new Map<string, number[]>([["emb.weight", [vocabulary, C]]]);
  const vector = [1, 1, C];
  for (let layer = 0; layer < layers; layer++) {
    const block = `blocks.${layer}`;
    const add = (name: string, shape: number[]) => shapes.set(`${block}.${name}`, shape);
    const addNorm = (name: string) => (add(`${name}.weight`, [C]), add(`${name}.bias`, [C]));
    addNorm("ln1");
    addNorm("ln2");
    if (layer === 0) addNorm("ln0");
    for (const stream of "rwkvag") add(`att.x_${stream}`, vector);
    add("att.w0", vector);
    add("att.r_k", [heads, headSize]);
    add("att.w1", [C, ranks.w]);
    add("att.w2", [ranks.w, C]);
    add("att.a1", [C, ranks.a]);
    add("att.a2", [ranks.a, C]);
    add("att.a0", vector);
    add("att.g1", [C, ranks.g]);
    add("att.g2", [ranks.g, C]);
    if (layer > 0 || firstLayerHasV) {
      add("att.v2", [ranks.v, C]);
      add("att.v1", [C, ranks.v]);
      add("att.v0", vector);
    }
    add("att.k_k", vector);
    add("att.k_a", vector);
    for (const linear of ["receptance", "key", "value", "output"]) add(`att.${linear}.weight`, [C, C]);
    addNorm("att.ln_x");
    if (config.hasState) add("att.time_state", [heads, headSize, headSize]);
    add("ffn.x_k", vector);
    add("ffn.key.weight", [ffn, C]);
    add("ffn.value.weight", [C, ffn]);
  }
  shapes.set("ln_out.weight", [C]);
  shapes.set("ln_out.bias", [C]);
  shapes.set("head.weight", [vocabulary, C]);
  return shapes;
}

/** The WKV state that each layer may begin from instead of zeros, [H, N value, N key], by the names that RWKV-PEFT gives it. */
export function stateShapes({ layers, heads: H, headSize: N }: ModelConfig): Map<string, number[]> {
  return new Map(Array.from({ length: layers }, (_, layer) => [stateName(layer), [H, N, N]]));
}

/** Name of a layer's initial WKV state. */
export function stateName(layer: number): string {
  return `blocks.${layer}.att.time_state`;
}

/** A linear layer that an adapter can sit on. */
export interface Site {
  /** Name without `.weight`: `blocks.3.att.key`. */
  readonly name: string;
  /** Index of its block. */
  readonly layer: number;
  /** Input channels. */
  readonly in: number;
  /** Output channels. */
  readonly out: number;
}

/** The linear layers that adapters sit on, as RWKV-PEFT has them: r, k, v, o of the time mix and both of the channel mix. */
export function linearSites(config: ModelConfig): Site[] {
  const { layers, channels: C, ffn } = config;
  return Array.from({ length: layers }, (_, layer) => [
    ...["receptance", "key", "value", "output"].map((linear) => ({
      name: `blocks.${layer}.att.${linear}`,
      layer,
      in: C,
      out: C,
    })),
    { name: `blocks.${layer}.ffn.key`, layer, in: C, out: ffn },
    { name: `blocks.${layer}.ffn.value`, layer, in: ffn, out: C },
  ]).flat();
}

/** Weights that only a matrix product or a lookup reads: they keep 16-bit storage. All others are f32 on an engine. */
export function isMatrix(name: string): boolean {
  return /^(emb|head)\.weight$|\.(receptance|key|value|output)\.weight$|\.att\.[wavg][12]$/.test(name);
}
