/**
 * The two sets of names of RWKV-7: BlinkDL's official ones, and those of Hugging Face models made by flash-linear-attention.
 *
 * Linear layers are the same in both. The low-rank pairs are linear layers only in the second set, so they lie transposed there,
 * and its vectors are [C] where the official ones are [1, 1, C].
 *
 * @module
 */

/** Official modules outside the blocks, and what Hugging Face calls them. */
const OUTSIDE: readonly (readonly [string, string])[] = [
  ["emb", "model.embeddings"],
  ["head", "lm_head"],
  ["ln_out", "model.norm"],
];

/** Official modules and tensors in a block, and what Hugging Face calls them in a layer. */
const INSIDE: readonly (readonly [string, string])[] = [
  ["ln0", "pre_norm"],
  ["ln1", "attn_norm"],
  ["ln2", "ffn_norm"],
  ["att.receptance", "attn.r_proj"],
  ["att.key", "attn.k_proj"],
  ["att.value", "attn.v_proj"],
  ["att.output", "attn.o_proj"],
  ["att.ln_x", "attn.g_norm"],
  ...[..."rwkvag"].map((stream) => [`att.x_${stream}`, `attn.x_${stream}`] as const),
  ...[..."wavg"].flatMap((name) => [
    [`att.${name}1`, `attn.${name}_lora.lora.0.weight`] as const,
    [`att.${name}2`, `attn.${name}_lora.lora.2.weight`] as const,
  ]),
  ...[..."wav"].map((name) => [`att.${name}0`, `attn.${name}_lora.lora.2.bias`] as const),
  ["att.k_k", "attn.k_k"],
  ["att.k_a", "attn.k_a"],
  ["att.r_k", "attn.r_k"],
  ["ffn.x_k", "ffn.x_k"],
  ["ffn.key", "ffn.key"],
  ["ffn.value", "ffn.value"],
];

/** Renames what stands before `.weight` or `.bias`, or the whole. */
function renamed(name: string, table: ReadonlyMap<string, string>): string | undefined {
  const whole = table.get(name);
  if (whole !== undefined) return whole;
  const module = /^(.*)(\.(?:weight|bias))$/.exec(name);
  const other = module && table.get(module[1]!);
  return other === undefined || other === null ? undefined : other + module![2]!;
}

const toHuggingFace = { outside: new Map(OUTSIDE), inside: new Map(INSIDE) };
const swapped = (pairs: readonly (readonly [string, string])[]) =>
  new Map(pairs.map(([official, other]) => [other, official]));
const toOfficial = { outside: swapped(OUTSIDE), inside: swapped(INSIDE) };

/**
 * The official name of a module or tensor that has Hugging Face's name for it, or the official name already, whatever wrapper's
 * `model.` stands before it; undefined for one of any other model.
 */
export function officialName(name: string): string | undefined {
  const bare = name.replace(/^(_forward_module\.|module\.|model\.)+/, "");
  const official = /^blocks\.(\d+)\.(.+)$/.exec(bare);
  if (official) return renamed(official[2]!, toHuggingFace.inside) === undefined ? undefined : bare;
  const layer = /^layers\.(\d+)\.(.+)$/.exec(bare);
  if (layer) {
    const inside = renamed(layer[2]!, toOfficial.inside);
    return inside === undefined ? undefined : `blocks.${layer[1]}.${inside}`;
  }
  if (renamed(bare, toHuggingFace.outside) !== undefined) return bare;
  return renamed(bare, toOfficial.outside) ?? renamed(`model.${bare}`, toOfficial.outside);
}

/** Hugging Face's name of a module or tensor with an official name; undefined for any other. */
export function huggingFaceName(name: string): string | undefined {
  const block = /^blocks\.(\d+)\.(.+)$/.exec(name);
  if (!block) return renamed(name, toHuggingFace.outside);
  const inside = renamed(block[2]!, toHuggingFace.inside);
  return inside === undefined ? undefined : `model.layers.${block[1]}.${inside}`;
}

/** Whether a tensor with this official name lies transposed under its Hugging Face name. */
export function isTransposed(official: string): boolean {
  return /\.att\.[wavg][12]$/.test(official);
}
