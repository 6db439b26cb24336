/**
 * The products of a decomposition on an engine. One place in its memory serves all weights of a shape, and so do the programs.
 *
 * @module
 */
import type { Engine } from "../../kernels/engine.ts";
import { Graph, Variable } from "../../kernels/graph.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import { assign } from "../../kernels/ops/update/op.ts";
import { compile } from "../../kernels/plan.ts";
import type { Noise } from "../method.ts";
import { decompose, type Decomposition, directions, type Sizes, type WantedProduct } from "./svd.ts";

/** Computes products with the weight that was put in last. */
interface Products {
  put(weight: Float32Array): void;
  times(wanted: WantedProduct): Promise<Float32Array>;
}

/** Decomposes weights, one after another, on an engine. */
export class EngineProducts implements Disposable {
  readonly #engine: Engine;
  readonly #held = new DisposableStack();
  readonly #shapes = new Map<string, Products>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** The leading part of W [rows, columns]. @throws RangeError as {@link decompose} */
  async decompose(weight: Float32Array, sizes: Sizes, noise: Noise): Promise<Decomposition> {
    const key = [sizes.rows, sizes.columns, directions(sizes)].join();
    let products = this.#shapes.get(key);
    if (!products) this.#shapes.set(key, products = await this.#prepare(sizes));
    products.put(weight);
    const work = decompose(sizes, noise);
    let state = work.next();
    while (!state.done) state = work.next(await products.times(state.value));
    return state.value;
  }

  async #prepare(sizes: Sizes): Promise<Products> {
    const { rows, columns } = sizes, q = directions(sizes), engine = this.#engine;
    const hold = (name: string, shape: number[]) => {
      const variable = new Variable(name, shape);
      engine.allocate(variable);
      this.#held.defer(() => engine.free(variable));
      return variable;
    };
    const wide = Math.min(rows, columns), long = Math.max(rows, columns);
    const W = hold("weight", [rows, columns]), X = hold("directions", [q, wide]);
    const program = async (back: boolean) => {
      const graph = new Graph(), out = hold("products", [q, back ? wide : long]);
      const there = matmul(graph, graph.use(X), graph.use(W), { transposeB: rows >= columns });
      assign(graph, out, back ? matmul(graph, there, graph.use(W), { transposeB: rows < columns }) : there);
      return { out, executable: this.#held.use(await engine.load(compile(graph, engine))) };
    };
    const both = await program(true), one = await program(false);
    return {
      put: (weight) => engine.write(W, weight),
      async times({ X: content, back }) {
        engine.write(X, content);
        const { executable, out } = back ? both : one;
        executable.run();
        return await engine.read(out);
      },
    };
  }

  [Symbol.dispose](): void {
    this.#held.dispose();
  }
}
