/**
 * What trains: parameters in packs with their gradients and moments, all f32, grouped by how they train.
 *
 * @module
 */
import { Adapter } from "../adapters/adapter.ts";
import { adapterShape } from "../adapters/wiring.ts";
import type { Engine } from "../kernels/engine.ts";
import { Variable } from "../kernels/graph.ts";
import type { AdamWGroup } from "../kernels/ops/optimizer/op.ts";
import type { ModelConfig } from "../rwkv/config.ts";

/** Largest pack in bytes: well within the smallest binding limit that devices have. */
const PACK_BYTES = 96 * 1024 * 1024;

/** The kinds of content that a trainable has: itself and AdamW's moments. */
export const KINDS = ["p", "m", "v"] as const;
type Kind = typeof KINDS[number];

/** One trained tensor and where its parts lie. */
interface Trainable {
  readonly name: string;
  readonly shape: readonly number[];
  readonly p: Variable;
  readonly g: Variable;
  readonly m: Variable;
  readonly v: Variable;
}

/** The trained tensors of a run, on an engine. */
export class Trainables {
  readonly groups: AdamWGroup[] = [];
  readonly #tensors = new Map<string, Trainable>();
  readonly #frozen = new Map<string, Variable>();
  readonly #wholes: Variable[] = [];

  /**
   * @param adapter holds the tensors to train: an adapter's, or all of a model's weights
   * @param options.layerwise att.w0 learns twice as fast, as in the official trainer
   */
  constructor(
    adapter: Pick<Adapter, "tensors">,
    config: ModelConfig,
    readonly engine: Engine,
    options: { layerwise: boolean },
  ) {
    const groups = new Map<string, { rate: number; decay: number; names: string[][]; bytes: number }>();
    const parameters = adapter instanceof Adapter ? adapter.parametersOn(config) : undefined;
    for (const [name, { shape, data }] of adapter.tensors) {
      const { rate: own = 1, frozen = false } = parameters?.get(name) ?? {};
      if (frozen) {
        const variable = new Variable(name, adapterShape(name, shape, config));
        this.engine.allocate(variable, data);
        this.#frozen.set(name, variable);
        continue;
      }
      const rate = options.layerwise && name.endsWith("att.w0") ? 2 * own : own;
      // Norms, mixes, initial states and the low-rank pairs are never decayed: matrices named .weight and an adapter's own are.
      const matrix = shape.filter((extent) => extent > 1).length >= 2;
      const decay = matrix && !/\.att\.([wavg][12]|r_k|time_state)$/.test(name) ? 1 : 0;
      const key = `${rate} ${decay}`;
      const group = groups.get(key) ?? { rate, decay, names: [], bytes: Infinity };
      groups.set(key, group);
      if (group.bytes + data.byteLength > PACK_BYTES) {
        group.names.push([]);
        group.bytes = 0;
      }
      group.names.at(-1)!.push(name);
      group.bytes += data.byteLength;
    }
    for (const { rate, decay, names } of groups.values()) {
      for (const members of names) this.#pack(members, adapter, config, rate, decay);
    }
  }

  #pack(
    names: readonly string[],
    adapter: Pick<Adapter, "tensors">,
    config: ModelConfig,
    rate: number,
    decay: number,
  ): void {
    const specs = names.map((name) => ({
      name,
      shape: adapterShape(name, adapter.tensors.get(name)!.shape, config),
    }));
    const [p, g, m, v] = ["parameters", "gradients", "first moments", "second moments"].map((what) => {
      const pack = Variable.pack(what, specs);
      this.engine.allocate(pack.whole);
      this.#wholes.push(pack.whole);
      return pack;
    }) as [Pack, Pack, Pack, Pack];
    names.forEach((name, i) => {
      const { shape, data } = adapter.tensors.get(name)!;
      this.#tensors.set(name, {
        name,
        shape,
        p: p.parts[i]!,
        g: g.parts[i]!,
        m: m.parts[i]!,
        v: v.parts[i]!,
      });
      this.engine.write(p.parts[i]!, data);
    });
    this.groups.push({ p: p.whole, g: g.whole, m: m.whole, v: v.whole, rate, decay });
  }

  /** Variables of the parameters by name. */
  get parameters(): Map<string, Variable> {
    return new Map(this.#tensors.values().map(({ name, p }) => [name, p]));
  }

  /** Variables of all tensors that were given, those that an adapter holds without training them included. */
  get variables(): Map<string, Variable> {
    return new Map([...this.#frozen, ...this.parameters]);
  }

  /** Shapes of the parameters by name, as in files. */
  get shapes(): Map<string, readonly number[]> {
    return new Map(this.#tensors.values().map(({ name, shape }) => [name, shape]));
  }

  /** The variable that a parameter's gradient is added up in. */
  gradient(name: string): Variable {
    return this.#tensors.get(name)!.g;
  }

  /** Content of one kind by name, in the shapes of files. */
  async read(kind: Kind): Promise<Map<string, { shape: readonly number[]; data: Float32Array }>> {
    const wholes = new Map<Variable, Float32Array>();
    for (const group of this.groups) wholes.set(group[kind], await this.engine.read(group[kind]));
    return new Map(
      this.#tensors.values().map((tensor) => {
        const { pack, byteOffset } = tensor[kind].within!;
        const size = tensor.shape.reduce((a, b) => a * b, 1);
        return [tensor.name, {
          shape: tensor.shape,
          data: wholes.get(pack)!.slice(byteOffset / 4, byteOffset / 4 + size),
        }];
      }),
    );
  }

  /** Sets the content of one kind of one tensor. */
  write(kind: Kind, name: string, data: Float32Array): void {
    this.engine.write(this.#tensors.get(name)![kind], data);
  }

  /** Releases the engine's memory. */
  dispose(): void {
    for (const variable of [...this.#wholes, ...this.#frozen.values()]) this.engine.free(variable);
  }
}

type Pack = { whole: Variable; parts: Variable[] };
