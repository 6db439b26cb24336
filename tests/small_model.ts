/**
 * The small RWKV-7 model of the golden values (two layers, two heads of 64, a vocabulary of 97) as a file, on an engine, and as
 * the graph of a training step.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { Adapter } from "../adapters/adapter.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { attach, wireAdapter } from "../adapters/wiring.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, sizeOf, Variable } from "../kernels/graph.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { linearSites, type ModelConfig } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { Session } from "../rwkv/session.ts";
import { forwardV7 } from "../rwkv/v7.ts";
import { computeGradients } from "../training/gradients.ts";

const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));

/** The golden values; names are explained where they are used. */
export const golden = openTensorFile(fixture("rwkv7_small.safetensors"));

/** The recurrence alone. */
export const goldenWkv7 = openTensorFile(fixture("wkv7_op.safetensors"));

/** The same model's weights rounded to bf16, as torch saves them. */
export const BF16_PATH = fixture("rwkv7_small_bf16.pth");

const folder = Deno.makeTempDirSync({ prefix: "wishbone-test-" });
Deno.test.afterAll(() => {
  golden.close();
  goldenWkv7.close();
  Deno.removeSync(folder, { recursive: true });
});

/** A path for a file of this name that is removed after the tests. */
export function temporaryPath(name: string): string {
  return `${folder}/${name}`;
}

/** The weights as a file of their own. */
export const MODEL_PATH = temporaryPath("small.safetensors");
writeTensorFile(MODEL_PATH, {
  format: "safetensors",
  tensors: [...golden.tensors.values()].filter(({ name }) => name.startsWith("weight.")).map((info) => ({
    ...info,
    name: info.name.slice("weight.".length),
  })),
  read: ({ name }) => golden.readBytes(`weight.${name}`),
});

/** The model on an engine. */
export function smallModel(engine: Engine): Model {
  return Model.load(MODEL_PATH, engine);
}

/** Rows of `width` numbers of a golden tensor. */
export function goldenRows(name: string, width: number): ArrayLike<number>[] {
  const bytes = golden.readBytes(name);
  const all = golden.tensors.get(name)!.dtype === "I32"
    ? new Int32Array(bytes.buffer)
    : golden.readFloat32(name);
  return Array.from({ length: all.length / width }, (_, row) => all.subarray(row * width, (row + 1) * width));
}

/** The golden tensors whose names begin so, by the rest of their names. */
export function goldenUnder(prefix: string): Map<string, { shape: readonly number[]; data: Float32Array }> {
  const found = [...golden.tensors.values()].filter(({ name }) => name.startsWith(prefix));
  return new Map(
    found.map(({ name, shape }) => [name.slice(prefix.length), { shape, data: golden.readFloat32(name) }]),
  );
}

/** What golden gradients are there for: every weight, or a method's parameters. */
const GOLDEN_METHODS = {
  full: undefined,
  bone: ["bone", { r: 32 }],
  bat_row: ["bat", { r: 32, axis: "in" }],
  bat_col: ["bat", { r: 32, axis: "out" }],
  lora: ["lora", { r: 8, alpha: 16, rslora: false }],
  state: ["state", {}],
} as const;

/** Their names, as golden tensors have them. */
export const GOLDEN_KINDS = Object.keys(GOLDEN_METHODS) as (keyof typeof GOLDEN_METHODS)[];

/** The small model's loss and gradients on an engine, for the tokens of the golden ones. */
export async function goldenRun(
  engine: Engine,
  kind: keyof typeof GOLDEN_METHODS,
  recompute: boolean,
): ReturnType<typeof computeGradients> {
  using model = smallModel(engine);
  const [method, settings] = GOLDEN_METHODS[kind] ?? [];
  const adapter = method && new Adapter(adapterMethod(method), settings, goldenUnder(`${kind}.param.`));
  const [tokens, mask] = [goldenRows("tokens", 41), goldenRows("mask", 40)];
  return await computeGradients(model, { tokens, mask, recompute, ...(adapter ? { adapter } : {}) });
}

/** A Bone adapter of rank `r` on every linear layer. */
export function boneAdapter(config: ModelConfig, r: number, number: () => number): Adapter {
  const tensors = linearSites(config).map(({ name, out }) => {
    const data = Float32Array.from({ length: r * out }, number);
    return [`${name}.bone`, { shape: [r, out], data }] as const;
  });
  return new Adapter(adapterMethod("bone"), { r }, new Map(tensors));
}

/** A training step's forward and backward pass over two rows of T tokens, with every gradient kept in a variable. */
export function trainingGraph(
  model: Model,
  options: { T?: number; adapter?: boolean; recompute?: boolean } = {},
): Graph {
  const { T = 20, adapter = false, recompute = false } = options;
  const graph = new Graph(), M = 2 * T;
  using attachment = attach(boneAdapter(model.config, 8, () => 0), model);
  const wiring = adapter ? wireAdapter(graph, model, attachment) : model.wire(graph);
  const tokens = graph.use(new Variable("tokens", [M, 1], "i32"));
  const targets = graph.use(new Variable("targets", [M, 1], "i32"));
  const { hidden } = forwardV7(wiring, tokens, { T, recompute });
  const weights = graph.use(new Variable("weights", [M, 1]));
  const head = wiring.weight("head.weight");
  const loss = linearCrossEntropy(graph, hidden, head, targets, weights, { headTrains: !adapter });
  const wanted = adapter
    ? [...attachment.variables.values()]
    : [...model.shapes.keys()].map((name) => model.weight(name)!);
  const gradients = backward(graph, loss, wanted.map((variable) => graph.use(variable)));
  gradients.forEach((gradient, i) => {
    const { name, shape } = wanted[i]!;
    if (gradient) assign(graph, new Variable(`gradient of ${name}`, [sizeOf(shape)]), gradient);
  });
  assign(graph, new Variable("loss", [1]), loss);
  return graph;
}

/** Logits of the model, with an adapter or without, after each of sixteen tokens. */
export async function logitsOf(model: Model, adapter?: Adapter): Promise<Float32Array> {
  using attachment = adapter && attach(adapter, model);
  const wire = (graph: Graph) => attachment ? wireAdapter(graph, model, attachment) : model.wire(graph);
  const reading = new Session(model.config, wire, model.engine);
  try {
    return await reading.feed(
      Array.from({ length: 16 }, (_, i) => (7 * i + 3) % model.config.vocabulary),
      "all",
    );
  } finally {
    reading.dispose();
  }
}
