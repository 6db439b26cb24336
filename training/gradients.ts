/**
 * The loss of one batch and its gradients, for checking a model or an adapter against another implementation.
 *
 * @module
 */
import { type AdapterChoice, adaptersOf } from "../adapters/set.ts";
import { attachAll, wireAdapter } from "../adapters/wiring.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { backward } from "../kernels/gradient.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import type { Model } from "../rwkv/model.ts";
import { forwardV7 } from "../rwkv/v7.ts";

/** A batch to differentiate. */
export interface GradientOptions {
  /** [B][T + 1]: inputs are all but the last, targets all but the first. */
  readonly tokens: readonly ArrayLike<number>[];
  /** [B][T] over targets: counted where not 0. All count where it is not given. */
  readonly mask?: readonly ArrayLike<number>[];
  /** [B][T] over inputs: not 0 at the first token of each document, where several share a row. One document a row else. */
  readonly starts?: readonly ArrayLike<number>[];
  /** Adapters to read the model with: one, several in stacking order, of which the last trains, or a set's. */
  readonly adapter?: AdapterChoice;
  /** Which gradients: the adapter's tensors that train, or the model's weights and the adapter's. Default: the adapter's where there is one. */
  readonly parameters?: "all" | "adapter";
  /** Compute blocks again in the backward pass instead of keeping them. */
  readonly recompute?: boolean;
}

/**
 * Mean cross-entropy over the counted targets, without L2Wrap, and its gradients by name as in files.
 * @throws RangeError if rows differ in length, a token is outside the vocabulary, or no target counts
 */
export async function computeGradients(
  model: Model,
  options: GradientOptions,
): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const { engine, config } = model;
  const { tokens, mask, starts, recompute = false } = options;
  const adapters = adaptersOf(options.adapter), adapter = adapters.at(-1);
  const { parameters = adapter ? "adapter" : "all" } = options;
  const B = tokens.length, T = (tokens[0]?.length ?? 0) - 1;
  const counted = checkBatch(tokens, mask, starts, config.vocabulary);
  if (parameters === "adapter" && !adapter) {
    throw new RangeError("Gradients of the adapter were asked for, but none was given");
  }

  const variables: Variable[] = [];
  const hold = (variable: Variable, content?: ArrayBufferView) => {
    engine.allocate(variable, content);
    variables.push(variable);
    return variable;
  };
  using attached = attachAll(adapters, model);
  try {
    const flat = (f: (b: number, t: number) => number) =>
      Array.from({ length: B * T }, (_, i) => f(Math.floor(i / T), i % T));
    const inputs = hold(
      new Variable("inputs", [B * T, 1], "i32"),
      Int32Array.from(flat((b, t) => tokens[b]![t]!)),
    );
    const targets = hold(
      new Variable("targets", [B * T, 1], "i32"),
      Int32Array.from(flat((b, t) => tokens[b]![t + 1]!)),
    );
    const weight = (b: number, t: number) => (mask ? mask[b]![t] ? 1 : 0 : 1) / counted;
    const weights = hold(new Variable("weights", [B * T, 1]), Float32Array.from(flat(weight)));

    const keep = starts && hold(
      new Variable("keep", [B * T, 1]),
      Float32Array.from(flat((b, t) => starts[b]![t] ? 0 : 1)),
    );

    const graph = new Graph();
    const wiring = wireAdapter(graph, model, attached);
    const { hidden } = forwardV7(wiring, graph.use(inputs), {
      T,
      recompute,
      keep: keep && graph.use(keep),
    });
    const head = wiring.weight("head.weight");
    const wanted = new Map(attached.at(-1)?.variables);
    const own = adapter?.parametersOn(config);
    for (const name of wanted.keys()) if (own?.get(name)?.frozen) wanted.delete(name);
    if (parameters === "all") {
      for (const name of model.shapes.keys()) if (!wanted.has(name)) wanted.set(name, model.weight(name)!);
    }
    const headTrains = wanted.has("head.weight");
    const loss = linearCrossEntropy(graph, hidden, head, graph.use(targets), graph.use(weights), {
      headTrains,
    });
    const gradients = backward(graph, loss, [...wanted.values()].map((variable) => graph.use(variable)));
    const lossOut = hold(new Variable("loss", [1]));
    assign(graph, lossOut, loss);
    const outputs = [...wanted].map(([name, variable], i) => {
      const output = hold(new Variable(`gradient of ${name}`, variable.shape));
      if (gradients[i]) assign(graph, output, gradients[i]);
      return [name, output] as const;
    });

    using executable = await engine.load(compile(graph, engine));
    executable.run();
    const result = new Map<string, Float32Array>();
    for (const [name, output] of outputs) result.set(name, await engine.read(output));
    const [value] = await engine.read(lossOut);
    return { loss: value!, gradients: result };
  } finally {
    variables.forEach((variable) => engine.free(variable));
  }
}

/** Number of counted targets. @throws RangeError as said above */
function checkBatch(
  tokens: readonly ArrayLike<number>[],
  mask: readonly ArrayLike<number>[] | undefined,
  starts: readonly ArrayLike<number>[] | undefined,
  V: number,
): number {
  const length = tokens[0]?.length ?? 0;
  if (length < 2) throw new RangeError("A batch needs at least one row of two tokens");
  let counted = 0;
  tokens.forEach((row, b) => {
    if (row.length !== length) {
      throw new RangeError(`Row ${b} has ${row.length} tokens where row 0 has ${length}`);
    }
    for (let t = 0; t < length; t++) {
      const token = row[t]!;
      if (!Number.isInteger(token) || token < 0 || token >= V) {
        throw new RangeError(`Token ${token} in row ${b} is outside the vocabulary of ${V}`);
      }
    }
    if (mask && mask[b]?.length !== length - 1) {
      throw new RangeError(`The mask's row ${b} must have ${length - 1} entries, one for each target`);
    }
    if (starts && starts[b]?.length !== length - 1) {
      throw new RangeError(`The starts' row ${b} must have ${length - 1} entries, one for each input`);
    }
    for (let t = 0; t < length - 1; t++) if (!mask || mask[b]![t]) counted++;
  });
  if (!counted) throw new RangeError("The mask counts no target: there is nothing to learn from");
  return counted;
}
