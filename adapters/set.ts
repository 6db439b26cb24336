/**
 * Several adapters for one model, by name: which of them are in use, and in which order they stack.
 *
 * @module
 */
import type { ModelConfig } from "../rwkv/config.ts";
import { type Adapter, AdapterError } from "./adapter.ts";
import { loadAdapter } from "./file.ts";
import type { AdapterHints } from "./method.ts";
import { weightedSum } from "./sum.ts";

/** Adapters by name. Each keeps its own method and settings; none is in use until it is chosen. */
export class AdapterSet {
  readonly #adapters = new Map<string, Adapter>();
  #used: readonly string[] = [];
  #enabled = true;

  /** Names of all, in the order in which they came. */
  get names(): string[] {
    return [...this.#adapters.keys()];
  }

  /** Names of those in use, in stacking order; none while they are disabled. */
  get used(): readonly string[] {
    return this.#enabled ? this.#used : [];
  }

  /** The adapters in use, in stacking order. */
  get adapters(): Adapter[] {
    return this.used.map((name) => this.#adapters.get(name)!);
  }

  /** The adapter of a name. @throws AdapterError that lists the names there are */
  get(name: string): Adapter {
    const adapter = this.#adapters.get(name);
    if (adapter) return adapter;
    throw new AdapterError(
      `There is no adapter named "${name}": ${
        this.names.length ? `there are ${this.names.join(", ")}` : "the set is empty"
      }`,
    );
  }

  /** Takes an adapter in, without using it. @throws AdapterError if the name is taken */
  add(name: string, adapter: Adapter): void {
    if (this.#adapters.has(name)) {
      throw new AdapterError(
        `An adapter named "${name}" is there already: choose another name, or remove it first`,
      );
    }
    this.#adapters.set(name, adapter);
  }

  /** Takes an adapter in from its file or PEFT directory. @throws FormatError, AdapterError */
  load(name: string, path: string, hints: AdapterHints = {}): void {
    this.add(name, loadAdapter(path, hints));
  }

  /** Forgets an adapter, in use or not. @throws AdapterError if there is none of the name */
  remove(name: string): void {
    this.get(name);
    this.#adapters.delete(name);
    this.#used = this.#used.filter((other) => other !== name);
  }

  /** Uses these from now on, and no others; several stack in this order. @throws AdapterError for a name twice, or of none */
  use(...names: readonly string[]): void {
    names.forEach((name) => this.get(name));
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw new AdapterError(`The adapter "${twice}" is named twice: leave one out`);
    this.#used = [...names];
    this.#enabled = true;
  }

  /** Uses none, until {@link enable} or {@link use}. */
  disable(): void {
    this.#enabled = false;
  }

  /** Uses those again that were in use before. */
  enable(): void {
    this.#enabled = true;
  }

  /**
   * Takes in the weighted sum of adapters under a name of its own, without using it.
   * @param weights by name
   * @throws AdapterError if a sum of them would not be exact: see `weightedSum`
   */
  sum(
    name: string,
    weights: Readonly<Record<string, number>>,
    model: { readonly config: ModelConfig },
  ): void {
    const terms = Object.entries(weights).map(([name, weight]) => ({ adapter: this.get(name), weight }));
    this.add(name, weightedSum(model.config, terms));
  }
}

/** One adapter, several in stacking order, or those of a set that are in use. */
export type AdapterChoice = Adapter | readonly Adapter[] | AdapterSet;

/** How the conversations were written that the last of several adapters learnt; undefined where none learnt any. */
export function promptFormatOf(adapters: readonly Adapter[]): string | undefined {
  return adapters.findLast(({ promptFormat }) => promptFormat !== undefined)?.promptFormat;
}

/** The adapters of a choice, in stacking order. */
export function adaptersOf(choice: AdapterChoice | undefined): readonly Adapter[] {
  if (choice === undefined) return [];
  if (choice instanceof AdapterSet) return choice.adapters;
  return Array.isArray(choice) ? choice as readonly Adapter[] : [choice as Adapter];
}
