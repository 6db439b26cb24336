/**
 * Adapters on an engine, and how a graph reaches a model through them.
 *
 * Several adapters on one layer stack: first those that read the weight itself (BAT by output block, DoRA), in the order in
 * which they are given, then all others, likewise. What one computes is the base of the next, exactly as if each were merged
 * before the next is put on.
 *
 * @module
 */
import { type Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { dropout } from "../kernels/ops/dropout/op.ts";
import { linearSites, type ModelConfig, type Site, stateShapes, weightShapes } from "../rwkv/config.ts";
import { graphShape, type Model } from "../rwkv/model.ts";
import type { Wiring } from "../rwkv/v7.ts";
import { type Adapter, AdapterError, checkFits, withDerived } from "./adapter.ts";
import { mergedWeight } from "./merge.ts";

/** An adapter on an engine: a variable for each of its tensors. */
export interface Attachment {
  readonly adapter: Adapter;
  readonly variables: ReadonlyMap<string, Variable>;
}

/**
 * Puts an adapter on the engine of a model.
 * @param below those that stack below it, from the lowest up
 * @throws AdapterError if it does not fit the model
 */
export function attach(
  given: Adapter,
  { config, engine, file }: Model,
  below: readonly Adapter[] = [],
): Attachment & Disposable {
  checkFits(given, config);
  const adapter = withDerived(
    given,
    config,
    (site) =>
      below.reduce<Float32Array>(
        (weight, lower) => mergedWeight(lower, site, weight),
        file.readFloat32(`${site.name}.weight`),
      ),
  );
  const variables = new Map<string, Variable>();
  for (const [name, { shape, data }] of adapter.tensors) {
    const variable = new Variable(name, adapterShape(name, shape, config), "f32");
    engine.allocate(variable, data);
    variables.set(name, variable);
  }
  return {
    adapter,
    variables,
    [Symbol.dispose]: () => variables.forEach((variable) => engine.free(variable)),
  };
}

/** Puts adapters on the engine of a model, in stacking order. @throws AdapterError if one does not fit the model */
export function attachAll(adapters: readonly Adapter[], model: Model): readonly Attachment[] & Disposable {
  using held = new DisposableStack();
  const entries = adapters.map((adapter) => ({ adapter })), order = stackingOrder(entries);
  const attached = entries.map((entry) => {
    const below = order.slice(0, order.indexOf(entry)).map(({ adapter }) => adapter);
    return held.use(attach(entry.adapter, model, below));
  });
  // That two bring the same weight is heard before anything is built.
  broughtWeights(attached, model.config);
  const kept = held.move();
  return Object.assign(attached, { [Symbol.dispose]: () => kept.dispose() });
}

/** The shape that graphs use for a tensor of an adapter. */
export function adapterShape(name: string, shape: readonly number[], config: ModelConfig): readonly number[] {
  return weightShapes(config).has(name) || stateShapes(config).has(name) ? graphShape(name, shape) : shape;
}

/** The order in which adapters stack on a layer. */
export function stackingOrder<T extends { readonly adapter: Adapter }>(attached: readonly T[]): T[] {
  return [
    ...attached.filter(({ adapter }) => readsWeight(adapter)),
    ...attached.filter(({ adapter }) => !readsWeight(adapter)),
  ];
}

function readsWeight({ method, settings }: Adapter): boolean {
  return method.readsWeight?.(settings) ?? false;
}

/** The weights that adapters bring. @throws AdapterError if two bring the same, which no order can settle */
function broughtWeights(attached: readonly Attachment[], config: ModelConfig): Map<string, Variable> {
  const weights = weightShapes(config), states = stateShapes(config);
  const brought = new Map<string, Variable>();
  for (const { adapter, variables } of attached) {
    for (const [name, variable] of variables) {
      if (!weights.has(name) && !states.has(name)) continue;
      if (brought.has(name)) {
        throw new AdapterError(
          `Two of the adapters bring "${name}", the second of them ${adapter.method.name}: use one of them at a time`,
        );
      }
      brought.set(name, variable);
    }
  }
  return brought;
}

/** One layer on the way up its stack. */
interface Layer {
  apply(x: Tensor): Tensor;
  weight(): Tensor;
}

/**
 * How a graph reaches a model with adapters.
 * @param attached one, or several in the order in which they stack
 * @param options.seed i32 [1], changed for every micro-batch: given while training, where adapters may drop inputs out
 * @throws AdapterError if two adapters bring the same weight
 */
export function wireAdapter(
  graph: Graph,
  model: Pick<Model, "config" | "wire">,
  attached: Attachment | readonly Attachment[],
  options: { seed?: Tensor | undefined } = {},
): Wiring {
  const all = Array.isArray(attached) ? attached as readonly Attachment[] : [attached as Attachment];
  const base = model.wire(graph, broughtWeights(all, model.config));
  const sites = new Map(linearSites(model.config).map((site) => [site.name, site]));
  const stack = stackingOrder(all);
  const linear = (name: string, x: Tensor) => {
    const site = sites.get(name)!;
    let layer: Layer = {
      apply: (x) => base.linear(name, x),
      weight: () => base.weight(`${name}.weight`),
    };
    stack.forEach((attachment, i) => {
      layer = adapted(graph, site, attachment, layer, { ...options, salt: `${i} ${name}` });
    });
    return layer.apply(x);
  };
  return { ...base, linear };
}

/** A layer with one more adapter, or as it is where the adapter does not sit on it. */
function adapted(
  graph: Graph,
  site: Site,
  { adapter, variables }: Attachment,
  below: Layer,
  { seed, salt }: { seed?: Tensor | undefined; salt: string },
): Layer {
  const { method } = adapter;
  const names = Object.keys(adapter.parametersAt(site));
  if (!names.length) return below;
  const parameters = Object.fromEntries(
    names.map((name) => [name, graph.use(variables.get(`${site.name}.${name}`)!)]),
  );
  const call = { graph, site, settings: adapter.settingsAt(site.name), parameters };
  return {
    apply: (x) =>
      method.forward({
        ...call,
        x,
        base: below.apply,
        get weight() {
          return below.weight();
        },
        dropout: (x, share) => seed && share > 0 ? dropout(graph, x, seed, { share, salt }) : x,
      }),
    // Nothing that reads the weight stands above what does not.
    weight: () => readsWeight(adapter) ? method.weight!({ ...call, weight: below.weight() }) : below.weight(),
  };
}
